"""Templates in other languages: each prompt translated once a language, its fields kept or the translation left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mblip.mixture.templates.rendering import Template, Templates
from mblip.translation.filters import keeps_numbers

Translate = Callable[[list[str], str], dict[str, str | None]]


def translate_templates(templates: Templates, languages: Iterable[str], translate: Translate) -> list[Template]:
    """Translate every prompt into every language, the answer's language already named in it.

    Args:
        templates: The English ones.
        languages: mC4 codes; English is passed over.
        translate: Distinct English texts and a language -> a translation or None for each, as
            :meth:`mblip.translation.Translator.translate_texts` does.

    Returns:
        The translated templates; a prompt that lost a field or was not translated is not among them.
    """
    found: list[Template] = []
    for language in languages:
        if language == "en":
            continue
        filled = [(task, row, templates.name_language(row.prompt, language)) for task, row in templates.english()]
        results = translate(list(dict.fromkeys(prompt for _, _, prompt in filled)), language)
        for task, row, prompt in filled:
            translation = results[prompt]
            if translation and translation != prompt and keeps_numbers(prompt, translation):
                roles = row.prompt_roles
                found.append(Template(task, translation, row.answer, roles, row.answer_roles, language))
    return found
