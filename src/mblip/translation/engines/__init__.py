"""Translation engines behind one small protocol."""

from mblip.translation.engines.base import ENGINES, Engine, open_engine

__all__ = ["ENGINES", "Engine", "open_engine"]
