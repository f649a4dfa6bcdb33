"""Check whether a prompt was seen in training, word for word, ignoring blanks, case and the content of fields."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mblip.languages import BENCHMARK_LANGUAGES, LANGUAGES

_FIELD = re.compile(r"\{\w*\}|⟨\w*⟩")
_LANGUAGE = "⟨language⟩"  # replaces {language} and any language's name; other fields become {}


def normal_prompt(prompt: str) -> str:
    """Normalise a prompt: collapse blanks, lower the case, and replace languages and other fields by placeholders.

    ``Short answer in English:``, ``short  answer in {language}:`` and ``Short answer in Farsi: `` are one prompt, and so are
    ``Question: {question}`` and ``Question: {text}``.
    """
    text = unicodedata.normalize("NFC", prompt).replace("{language}", _LANGUAGE)
    text = _names().sub(_LANGUAGE, text)
    text = _FIELD.sub(lambda field: field[0] if field[0] == _LANGUAGE else "{}", text)
    return " ".join(text.split()).casefold()


def describe_prompts(
    by_task: Mapping[str, Sequence[str]], tasks: Iterable[str] = (), before: Any = None
) -> dict[str, Any]:
    """Describe the prompts that a model was trained on, to be saved with it.

    Args:
        by_task: The prompts of its mix, from the manifest; empty if that does not list them.
        tasks: The tasks of the training; empty for all.
        before: The description of the model that training starts from; None for a model that was never trained on
            instructions. An empty dictionary stands for a model with unknown prompts.

    Returns:
        ``prompts``, and whether they are ``complete``, which is all that the model has seen.
    """
    wanted = set(tasks) or set(by_task)
    found = {prompt for task, prompts in by_task.items() if task in wanted for prompt in prompts}
    held: Mapping[str, Any] = before if before is not None else {"prompts": [], "complete": True}
    return {
        "prompts": sorted(found | set(held.get("prompts", ()))),
        "complete": bool(by_task) and bool(held.get("complete", False)),
    }


def was_seen(prompt: str, trained: Mapping[str, Any] | None, texts: Iterable[str] = ()) -> bool | None:
    """Whether a prompt of the evaluation was seen in training.

    Args:
        prompt: The benchmark's prompt, with ``{text}``.
        trained: See :func:`describe_prompts`; None for a model without this description.
        texts: The texts for ``{text}``. They count if the prompt has no other words; each must then read like a prompt
            of the training.

    Returns:
        None if it is unknown.
    """
    if trained is None:
        return None
    wanted = normal_prompt(prompt)
    known = {normal_prompt(text) for text in trained.get("prompts", ())}
    if wanted == "{}":
        patterns = [_pattern(text) for text in known]
        texts = list(texts)
        found = bool(texts) and all(any(p.fullmatch(normal_prompt(text)) for p in patterns) for text in texts)
    else:
        found = wanted in known
    return True if found else (False if trained.get("complete") else None)


def _pattern(normal: str) -> re.Pattern[str]:
    return re.compile(re.escape(normal).replace(re.escape("{}"), ".+"), re.DOTALL)


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    names = {_LANGUAGE}
    for language in (*LANGUAGES.values(), *BENCHMARK_LANGUAGES.values()):
        names |= {language.name, language.original_name, *language.original_benchmark_names.values()}
    ordered = sorted(map(re.escape, filter(None, names)), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(ordered)})(?!\w)", re.IGNORECASE)
