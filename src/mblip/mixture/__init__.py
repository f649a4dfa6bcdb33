"""From examples to instructions: templates, the mix, its plan and its card."""

from mblip.mixture.card import write_card
from mblip.mixture.exporting import export_mix
from mblip.mixture.mix import build_mix, mix_hash
from mblip.mixture.plan import check_samples, plan_mix, plan_what_is_there
from mblip.mixture.templates import Templates, load_templates

__all__ = [
    "Templates",
    "build_mix",
    "check_samples",
    "export_mix",
    "load_templates",
    "mix_hash",
    "plan_mix",
    "plan_what_is_there",
    "write_card",
]
