"""What a benchmark is: where its items come from, how a model is asked, and how its answers are scored."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mblip.errors import InputError, nearest
from mblip.evaluation.metric import Metric
from mblip.languages import find_language
from mblip.storage import ImageStore

# Beam search with 5 beams everywhere; the lengths follow the kind of answer (protocol of the paper).
SHORT_ANSWER: Mapping[str, Any] = {"num_beams": 5, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1.0}
CAPTION: Mapping[str, Any] = {"num_beams": 5, "max_new_tokens": 50, "min_new_tokens": 1, "length_penalty": 1.0}
LONG_CAPTION: Mapping[str, Any] = {
    "num_beams": 5, "max_new_tokens": 256, "min_new_tokens": 1, "length_penalty": 1.0, "repetition_penalty": 1.5
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a model is asked.

    Attributes:
        id: The benchmark's own identifier; what predictions are matched by.
        images: Keys of its pictures, in order.
        text: The question, statement or hypothesis; empty for captions.
        gold: What the answer is scored against, in the benchmark's own form.
        candidates: The answers there are to this item, where each has its own.
        asked: What stands for ``{text}`` in the prompt, where that is not the text alone.
    """

    id: str
    images: tuple[str, ...]
    text: str
    gold: Any
    candidates: tuple[str, ...] = ()
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How answers are scored: a named variant of the metric, the language (mC4 code) and the word segmenter."""

    variant: str = ""
    language: str = "en"
    segmenter: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Metrics with what they were made from.

    Attributes:
        metrics: Values by name, in the units that the benchmark declares.
        items: What was scored; their number is the denominator.
        per_item: Values of metrics that are means over the items, as fractions, [items]; for intervals and tests.
        notes: What the score's fingerprint says about it.
    """

    metrics: dict[str, float]
    items: Sequence[Item]
    per_item: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """Some of a benchmark's items, as another file says.

    Attributes:
        files: Where that file lies below a root, as in :attr:`Benchmark.files`.
        choose: The items of all that it chooses, in its order.
    """

    files: tuple[str, ...]
    choose: Callable[[Sequence[Item], Path], list[Item]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: As in the command line.
        languages: mC4 codes it has.
        files: Where its annotations lie below a root, for a language; the first that exists is read, but a pattern must not
            leave a choice between names. ``{code}`` is the code the benchmark's files use. Empty where its items are made,
            not read.
        read: Items of an annotation file in a language.
        prompt: What the model is told about an item, in the paper's words: ``{text}`` is the item's, ``{language}`` the
            language's English name.
        decoding: Generation settings of the paper.
        score: Metrics of answers, one for each item.
        metrics: All that it measures, the one that stands for it first; a score need not have each.
        english_files: Where those in English lie instead, where they lie elsewhere.
        choice: Which of the items are asked, where another file says so.
        mark: A pattern found near the beginning of its files that others of the same name lack.
        images: Folders below a root (or tars of these names) that its pictures may be in; or an image store ``SCHEME:NAME``.
        candidates: The answers there are, where there are few; what candidate scoring chooses from.
        english: The benchmark that stands for its English, where that is another one.
        tells_language: Whether answers are sentences in the language asked for, so that their language can be told.
        source: Where annotations and pictures are to be had.
        variants: Names of the ways to score, the default first.
        id_keys: Fields of a prediction that name its item, before those of all benchmarks
            (:mod:`mblip.evaluation.predictions`).
        answer_keys: Fields of a prediction that hold the answer, likewise.
        is_about_images: Whether an item is a picture, so that predictions name it by the picture's number or file.
        normal_id: How identifiers are brought to one spelling.
        extra: Whether predictions for items that are not in the data are passed over (xGQA) instead of refused.
        partial: Whether the data may have items without a prediction (CHAIR, whose data are a look-up table).
        optional: Whether an item needs no prediction because none could be right.
        kind: The task that an item is of, where a benchmark has several: a limit takes as many pictures of each.
        path: The annotations themselves, where they are a person's own file.
        parts: All files of them, where there are several.
        own_pictures: The store of pictures that stand in the annotations.
        chooses: Whether each item has candidates of its own.
    """

    name: str
    languages: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[Path, str], list[Item]]
    prompt: str
    decoding: Mapping[str, Any]
    score: Callable[[Sequence[Item], Sequence[str], Options], Scored]
    metrics: tuple[Metric, ...]
    variants: tuple[str, ...] = ("default",)
    id_keys: tuple[str, ...] = ()
    answer_keys: tuple[str, ...] = ()
    is_about_images: bool = False
    normal_id: Callable[[str], str] = str
    extra: bool = False
    partial: bool = False
    optional: Callable[[Item], bool] = lambda item: False
    kind: Callable[[Item], str] = lambda item: ""
    english_files: tuple[str, ...] = ()
    choice: Choice | None = None
    mark: str = ""
    images: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    english: str = ""
    tells_language: bool = False
    source: str = ""
    path: Path | None = None
    parts: tuple[Path, ...] = ()
    own_pictures: ImageStore | None = None
    chooses: bool = False

    @property
    def is_made(self) -> bool:
        """Whether its items and pictures are made, so that it reads no files."""
        return not self.files

    @property
    def yes_or_no(self) -> bool:
        """Whether every answer is a yes or a no, so that 1 and 0 in a file of predictions mean them."""
        return self.candidates == ("yes", "no")

    def find(self, root: Path, language: str, listing: Sequence[Path] | None = None) -> Path:
        """The annotation file in ``root`` (or ``root`` itself, if it is a file or nothing is read).

        Args:
            root: Where to look.
            language: mC4 code.
            listing: What :func:`list_annotations` found below the root, where it is asked more than once.

        Raises:
            InputError: There is none, or several of which any could be meant.
        """
        if self.path:
            return self.path
        if root.is_file() or self.is_made:
            return root
        if not root.is_dir():
            raise InputError(f"{root} does not exist; give the annotation file, or a folder that holds it")
        code = find_language(language).code_in(self.name)
        patterns = self.english_files if self.english_files and language == "en" else self.files
        names = [pattern.format(code=code) for pattern in patterns]
        paths = list_annotations(root) if listing is None else listing
        found = self._first(names, self.mark, root, paths)
        if found is None:
            raise InputError(f"{root} holds no {self.name} annotations in {language!r}: looked for {', '.join(names)}")
        return found

    def find_choice(self, root: Path, listing: Sequence[Path]) -> Path | None:
        """The file below ``root`` that says which items are asked; None where all are.

        Raises:
            InputError: There is none, or several of which any could be meant.
        """
        if self.choice is None:
            return None
        found = self._first(self.choice.files, "", root, listing)
        if found is None:
            names = ", ".join(self.choice.files)
            raise InputError(
                f"{root} lacks the file that says which items of {self.name} are asked: looked for {names}"
            )
        return found

    def _first(self, names: Sequence[str], mark: str, root: Path, listing: Sequence[Path]) -> Path | None:
        for name in names:
            found = [p for p in listing if p.match(name) and (not mark or begins_with(p, mark))]
            several = sorted({path.name for path in found})
            if len(several) > 1:  # splits, of which none is meant more than another
                raise InputError(
                    f"{root} holds {len(several)} files that may be the {self.name} annotations: {', '.join(several[:8])}; "
                    "give the one that is meant"
                )
            if found:
                return found[0]
        return None

    def choose_variant(self, name: str) -> str:
        """A variant by name, the default for an empty one.

        Raises:
            InputError: There is no such variant.
        """
        if name and name not in self.variants:
            raise InputError(f"{self.name} has no variant {name!r}{nearest(name, self.variants)}")
        return name or self.variants[0]


def gold_texts(gold: Any) -> tuple[str, ...]:
    """What a person would read as the right answers."""
    if isinstance(gold, bool):
        return ("yes" if gold else "no",)
    if isinstance(gold, str):
        return (gold,)
    return tuple(dict.fromkeys(str(entry["answer"]) if isinstance(entry, dict) else str(entry) for entry in gold))


def list_annotations(root: Path) -> list[Path]:
    """The JSON files below a folder, in the order of their names; links to folders are followed."""
    seen: set[str] = set()
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        found += [Path(folder) / file for file in files if file.endswith((".json", ".jsonl"))]
    return sorted(found)


def begins_with(path: Path, mark: str) -> bool:
    """Whether a pattern is found near the beginning of a file."""
    try:
        with path.open("rb") as file:
            return re.search(mark.encode(), file.read(1 << 14)) is not None
    except OSError:
        return False


def mean_accuracy(right: Sequence[bool | float]) -> tuple[float, NDArray[np.float64]]:
    """Accuracy in percent, and the values it is the mean of."""
    values = np.array(right, dtype=np.float64)
    return 100 * (float(values.sum()) / len(values)), values
