"""Whether a prompt was seen in training: word for word, whatever its blanks, its case, and what stands in its fields."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mblip.languages import BENCHMARK_LANGUAGES, LANGUAGES

_FIELD = re.compile(r"\{\w*\}|⟨\w*⟩")
_LANGUAGE = "⟨language⟩"  # stands for {language} and for any language's name; other fields become {}


def normal_prompt(prompt: str) -> str:
    """A prompt without what may differ: runs of blanks are one, letters small, languages and other fields nameless.

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
    """What a model says of the prompts that it was trained on, to be kept with it.

    Args:
        by_task: Of its mix, as the manifest lists them; empty where that does not say.
        tasks: The tasks that are trained on; empty for all.
        before: What the model that training starts from says; None for one that was never trained on instructions.
            An empty dictionary stands for one that was, but does not say on which.

    Returns:
        ``prompts``, and whether these are ``complete``: all that the model has seen.
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
        prompt: As a benchmark asks it, with ``{text}``.
        trained: See :func:`describe_prompts`; None for a model that does not say.
        texts: What stands for ``{text}``. They are looked at where the prompt is nothing else, and each has to read like a
            prompt of the training.

    Returns:
        None where that is not known.
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
