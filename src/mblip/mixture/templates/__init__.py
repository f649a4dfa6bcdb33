"""Instruction templates, one YAML file a set: task -> prompts with the answer each wants."""

from mblip.mixture.templates.rendering import Template, Templates, load_templates, shipped_templates

__all__ = ["Template", "Templates", "load_templates", "shipped_templates"]
