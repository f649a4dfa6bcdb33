"""English Examples -> Examples in 96 languages."""

from mblip.translation.allocation import Allocation, allocate, apportion, check_languages, codes, plan_counts
from mblip.translation.engines import Engine, check_engine, open_engine
from mblip.translation.holdout import never_shown
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
    "never_shown",
    "open_engine",
    "plan_counts",
    "translate_sources",
    "untranslatable",
]
