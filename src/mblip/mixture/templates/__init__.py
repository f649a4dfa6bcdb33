"""Instruction templates, one YAML file per set: task -> prompts, each with its answer."""

from mblip.mixture.templates.rendering import Template, Templates, has_prompt, load_templates, shipped_templates
from mblip.mixture.templates.seen import describe_prompts, normal_prompt, was_seen

__all__ = [
    "Template",
    "Templates",
    "describe_prompts",
    "has_prompt",
    "load_templates",
    "normal_prompt",
    "shipped_templates",
    "was_seen",
]
