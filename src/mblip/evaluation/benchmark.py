"""The definition of a benchmark: its items, its prompts, and the scoring of answers."""

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

# The paper's protocol: 5 beams everywhere, lengths by the kind of answer.
SHORT_ANSWER: Mapping[str, Any] = {"num_beams": 5, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1.0}
CAPTION: Mapping[str, Any] = {"num_beams": 5, "max_new_tokens": 50, "min_new_tokens": 1, "length_penalty": 1.0}
LONG_CAPTION: Mapping[str, Any] = {
    "num_beams": 5, "max_new_tokens": 256, "min_new_tokens": 1, "length_penalty": 1.0, "repetition_penalty": 1.5
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One question or task for a model.

    Attributes:
        id: The benchmark's own identifier, by which predictions are matched.
        images: Keys of its pictures, in order.
        text: The question, statement or hypothesis; empty for captions.
        gold: The reference for the answer, in the benchmark's own form.
        candidates: The possible answers, if each item has its own.
        asked: The text for ``{text}`` in the prompt, if it differs from ``text``.
        place: The file and row that it was read from, if a benchmark counts rows.
    """

    id: str
    images: tuple[str, ...]
    text: str
    gold: Any
    candidates: tuple[str, ...] = ()
    asked: str = ""
    place: str = ""

    def place_in(self, annotations: Path | str) -> str:
        """Its place for messages: file and row, or its id in the annotations."""
        return self.place or f"{annotations}, item {self.id}"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of scoring: a named variant of the metric, the language (mC4 code) and the word segmenter."""

    variant: str = ""
    language: str = "en"
    segmenter: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Metrics, and the values they are computed from.

    Attributes:
        metrics: Values by name, in the units that the benchmark declares.
        items: The scored items; their number is the denominator.
        per_item: Values of metrics that are means over the items, as fractions, [items]; for intervals and tests.
        notes: Entries for the score's fingerprint.
    """

    metrics: dict[str, float]
    items: Sequence[Item]
    per_item: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of a benchmark's items by another file.

    Attributes:
        files: Path of that file below a root, as in :attr:`Benchmark.files`.
        choose: Selects the items, in the order of that file.
    """

    files: tuple[str, ...]
    choose: Callable[[Sequence[Item], Path], list[Item]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: Name of the benchmark on the command line.
        languages: mC4 codes of its languages.
        files: Paths of its annotations in a language below a root. The first that exists is read, and a pattern must
            match one name only. ``{code}`` is the code that the benchmark's files use. Empty if its items are
            generated.
        read: Reads the items of an annotation file in a language.
        prompt: The paper's prompt: ``{text}`` is the item's text, ``{language}`` the English name of the language.
        decoding: Generation settings of the paper.
        score: Computes the metrics of answers, one answer per item.
        metrics: All its metrics, the main one first; a score may lack some.
        english_files: Paths of its English annotations, if they differ.
        choice: The choice of items, if another file makes one.
        mark: A pattern near the beginning of its files that files of the same name from elsewhere lack.
        images: Folders below a root (or tars of these names) that may have its pictures; or an image store
            ``SCHEME:NAME``.
        candidates: The possible answers, if they are few; candidate scoring chooses from them.
        english: The benchmark that serves as its English part, if that is another one.
        tells_language: Whether answers are sentences in the requested language, so that their language can be
            identified.
        source: Address of annotations and pictures.
        variants: Names of the ways to score, the default first.
        id_keys: Fields of a prediction that name its item, before those of all benchmarks
            (:mod:`mblip.evaluation.predictions`).
        image_keys: Fields of a prediction that name its picture, before those of all benchmarks.
        answer_keys: Fields of a prediction that hold the answer, before those of all benchmarks.
        is_about_images: Whether an item is a picture, so that predictions name it by the picture's number or file.
        normal_id: Normalises identifiers.
        extra: Whether predictions for items that are not in the data are ignored (xGQA) instead of refused.
        partial: Whether the data may have items without a prediction (CHAIR, whose data are a look-up table).
        optional: Whether an item needs no prediction because none could be right.
        kind: Returns the task of an item, if a benchmark has several; a limit takes equally many pictures of each.
        path: The annotation file itself, if it is the user's own.
        parts: All annotation files, if there are several.
        own_pictures: The store of pictures inside the annotations.
        chooses: Whether each item has candidates of its own.
        by_language: Whether its rows name their language, so that predictions that name another one are ignored.
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
    image_keys: tuple[str, ...] = ()
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
    by_language: bool = False

    @property
    def is_made(self) -> bool:
        """Whether its items and pictures are made, so that it reads no files."""
        return not self.files

    @property
    def yes_or_no(self) -> bool:
        """Whether every answer is yes or no, so that 1 and 0 in a file of predictions mean yes and no."""
        return self.candidates == ("yes", "no")

    def find(self, root: Path, language: str, listing: Sequence[Path] | None = None) -> Path:
        """The annotation file in ``root`` (or ``root`` itself, if it is a file or nothing is read).

        Args:
            root: The folder to search.
            language: mC4 code.
            listing: Result of :func:`list_annotations` for the root, to reuse it.

        Raises:
            InputError: There is no such file, or several that match.
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
        """The file below ``root`` that chooses the items; None if all are asked.

        Raises:
            InputError: There is no such file, or several that match.
        """
        if self.choice is None:
            return None
        found = self._first(self.choice.files, "", root, listing)
        if found is None:
            names = ", ".join(self.choice.files)
            raise InputError(f"{root} lacks the file that chooses the items of {self.name}: looked for {names}")
        return found

    def _first(self, names: Sequence[str], mark: str, root: Path, listing: Sequence[Path]) -> Path | None:
        for name in names:
            found = [p for p in listing if p.match(name) and (not mark or begins_with(p, mark))]
            several = sorted({path.name for path in found})
            if len(several) > 1:  # for example splits
                raise InputError(
                    f"{root} holds {len(several)} files that may be the {self.name} annotations: "
                    f"{', '.join(several[:8])}; name one of them"
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
    """The reference answers for display."""
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
        if real in seen:  # a circular link
            folders.clear()
            continue
        seen.add(real)
        found += [Path(folder) / file for file in files if file.endswith((".json", ".jsonl"))]
    return sorted(found)


def begins_with(path: Path, mark: str) -> bool:
    """Whether a file has a pattern near its beginning."""
    try:
        with path.open("rb") as file:
            return re.search(mark.encode(), file.read(1 << 14)) is not None
    except OSError:
        return False


def mean_accuracy(right: Sequence[bool | float]) -> tuple[float, NDArray[np.float64]]:
    """Accuracy in percent, and the values that it averages."""
    values = np.array(right, dtype=np.float64)
    return 100 * (float(values.sum()) / len(values)), values
