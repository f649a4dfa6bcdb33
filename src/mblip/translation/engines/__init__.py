"""Translation engines behind one small protocol."""

from mblip.translation.engines.base import ENGINES, Engine, check_engine, engine_licence, open_engine

__all__ = ["ENGINES", "Engine", "check_engine", "engine_licence", "open_engine"]
