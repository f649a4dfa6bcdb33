"""Translation engines behind one small protocol."""

from mblip.translation.engines.base import (
    ENGINES,
    Engine,
    Result,
    Untranslated,
    check_engine,
    engine_licence,
    lacking,
    open_engine,
    stream,
)

__all__ = [
    "ENGINES",
    "Engine",
    "Result",
    "Untranslated",
    "check_engine",
    "engine_licence",
    "lacking",
    "open_engine",
    "stream",
]
