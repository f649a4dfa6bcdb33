"""Instruction templates, one YAML file a set: task -> prompts with the answer each wants."""

from mblip.mixture.templates.rendering import AS_IT_IS, Template, Templates, load_templates, shipped_templates
from mblip.mixture.templates.seen import describe_prompts, normal_prompt, was_seen

__all__ = [
    "AS_IT_IS",
    "Template",
    "Templates",
    "describe_prompts",
    "load_templates",
    "normal_prompt",
    "shipped_templates",
    "was_seen",
]
