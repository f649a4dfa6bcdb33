"""Translate English examples into 96 languages."""

from mblip.translation.allocation import Allocation, allocate, apportion, check_languages, codes, plan_counts
from mblip.translation.engines import Engine, check_engine, open_engine
from mblip.translation.holdout import is_held_out
from mblip.translation.stage import translate_sources, untranslatable
from mblip.translation.translating import Translator

__all__ = [
    "Allocation",
    "Engine",
    "Translator",
    "allocate",
    "apportion",
    "check_engine",
    "check_languages",
    "codes",
    "is_held_out",
    "open_engine",
    "plan_counts",
    "translate_sources",
    "untranslatable",
]
