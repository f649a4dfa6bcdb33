"""Translate templates: each prompt once per language; a translation that loses a field is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from mblip.config import FilterSection
from mblip.languages import Profile
from mblip.mixture.templates.rendering import Template, Templates
from mblip.schema import Drop
from mblip.translation.filters import rejection

Translate = Callable[[list[str], str], dict[str, str | None]]

SOURCE = "templates"
"""Source name of dropped prompts, which are not examples and do not count in a plan."""

_FIELD = re.compile(r"\{([^{}]*)\}")


def translate_templates(
    templates: Templates,
    languages: Iterable[str],
    translate: Translate,
    filters: FilterSection | None = None,
    profile: Profile = "correct",
) -> tuple[list[Template], list[Drop]]:
    """Translate every prompt into every language, with the answer's language already filled in.

    A prompt without words of its own, such as ``{question}``, is skipped: it is the same in every language. The
    translator gets numbers for fields, ``{1}`` for ``{question}``, because it would translate a word in braces.

    Args:
        templates: The English templates.
        languages: mC4 codes; English is skipped.
        translate: Distinct English texts and a language -> a translation or None for each, like
            :meth:`mblip.translation.Translator.translate_texts`.
        filters: Filters for the words around the fields; by default those that are on by default.
        profile: As in :func:`mblip.translation.filters.rejection`.

    Returns:
        The translated templates, and a drop for each that is left out.
    """
    filters = filters or FilterSection()
    found: list[Template] = []
    drops: list[Drop] = []
    for language in languages:
        if language == "en":
            continue
        numbered = [
            (task, row, *_number_fields(templates.name_language(row.prompt, language)))
            for task, row in templates.english()
            if _has_words(row.prompt)
        ]
        results = translate(list(dict.fromkeys(prompt for _, _, prompt, _ in numbered)), language)
        for number, (task, row, prompt, names) in enumerate(numbered):
            result = results[prompt] or ""
            problem = _problem(filters, prompt, result, language, profile)
            if problem:
                detail = f"{prompt} -> {result}" if result else prompt
                drops.append(Drop(f"{SOURCE}/{language}/{task}-{number}", SOURCE, f"prompt: {problem}", detail))
                continue
            found.append(
                Template(task, _name_fields(result, names), row.answer, row.prompt_roles, row.answer_roles, language)
            )
    return found, drops


def _has_words(prompt: str) -> bool:
    return any(character.isalpha() for character in _FIELD.sub("", prompt.replace("{language}", "x")))


def _number_fields(prompt: str) -> tuple[str, list[str]]:
    """Replace the fields of a prompt by ``{1}``, ``{2}``, ...; returns the prompt and the names of the fields."""
    names = list(dict.fromkeys(_FIELD.findall(prompt)))
    return _FIELD.sub(lambda field: f"{{{names.index(field[1]) + 1}}}", prompt), names


def _name_fields(prompt: str, names: list[str]) -> str:
    return _FIELD.sub(lambda field: f"{{{names[int(field[1]) - 1]}}}", prompt)


def _problem(filters: FilterSection, prompt: str, result: str, language: str, profile: Profile) -> str:
    if not result:
        return "no translation"
    if result == prompt:
        return "copied source"
    words = _FIELD.sub("", result)
    if Counter(_FIELD.findall(prompt)) != Counter(_FIELD.findall(result)) or "{" in words or "}" in words:
        return "lost field"
    return rejection(filters, _FIELD.sub("", prompt), words, language, profile)
