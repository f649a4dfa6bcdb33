"""The records between steps: Example -> Instruction -> Prediction -> Score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Example:
    """One row of a raw corpus, in any language, before it becomes an instruction.

    Attributes:
        id: Unique over all sources, ``source/row``.
        source: The corpus, as in the manifest.
        task: The task, by which the mixture's templates are looked up.
        images: Keys into an image store, one or more, in the order of the text.
        texts: Text by role: caption, question, answer, rationale, hypothesis, ...
        languages: mC4 language code of each role in ``texts``.
        licence: SPDX identifier or the source's own words.
    """

    id: str
    source: str
    task: str
    images: tuple[str, ...]
    texts: dict[str, str]
    languages: dict[str, str]
    licence: str


@dataclass(slots=True)
class Instruction:
    """A training text: a prompt about one or more images, and its answer."""

    id: str
    source: str
    task: str
    images: tuple[str, ...]
    prompt: str
    answer: str
    prompt_language: str
    answer_language: str


@dataclass(slots=True)
class Drop:
    """A record that a step has dropped, with the reason that is counted and saved in the exclusion file.

    Attributes:
        task: Task of the example, if it is known.
        language: Language to which the example was allocated, so that plan = rows + drops for every language.
    """

    id: str
    source: str
    reason: str
    detail: str = ""
    task: str = ""
    language: str = ""


@dataclass(slots=True)
class Prediction:
    """One answer of a model to one benchmark item; a line of ``predictions.jsonl``."""

    id: str
    benchmark: str
    language: str
    images: tuple[str, ...]
    prompt: str
    answer: str


@dataclass(slots=True)
class Score:
    """The metrics of one benchmark in one language, with their fingerprint.

    Attributes:
        metrics: Values by name, in the units that the benchmark declares: ``accuracy`` in percent, all others as
            fractions.
        n: Number of scored items (the denominator).
        fingerprint: Data file hash, prompt, decoding, normaliser, segmenter, versions.
        ci95: 95 % confidence intervals (bootstrap over images) of the metrics that are means over items, in their
            units.
        protocol: ``generation``, ``candidates`` (the likeliest of given answers), or ``predictions`` for a file of
            unknown origin.
        language_fidelity: Share of answers in the requested language; None if answers are too short, or if no detector
            separates the language from its neighbours.
    """

    benchmark: str
    language: str
    metrics: dict[str, float]
    n: int
    fingerprint: dict[str, Any]
    ci95: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocol: str = "generation"
    language_fidelity: float | None = None
