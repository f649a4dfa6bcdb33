"""ImageNet with the human-curated labels of Babel-ImageNet: naming, and presence of objects.

Licence: ImageNet for non-commercial research; Babel-ImageNet's labels come from BabelNet (CC BY-NC-SA 4.0). Download:
https://image-net.org (folders ``n01440764/*.JPEG`` of train), https://github.com/gregor-ge/Babel-ImageNet
(``babel_imagenet.json``), and the list of English class names that CLIP uses.

Raw records: a folder of images for each class, in the order of their names, and an object

    {"DE": [[0, 1, 2, ...], ["Schleie", "Goldfisch", "Weißer Hai", ...]], ...}

of class numbers and labels by language. Each pass over the languages (the paper has eight) uses every class that a
language has a label for once, each time with a new image, and makes a ``naming`` example (``answer``) and a
``presence`` example (``question``, and yes or no). The languages are those that mT5 was trained on, with the same
number of passes for all: the published 295,856 examples are eight times 36,982 labels. So a language has a weight by
its number of labels, and not by its share of mC4. The labels are in their languages already: set ``translate`` to
false.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.json_stream import first_character, stream_fields, stream_json
from mblip.errors import InputError
from mblip.languages import LANGUAGES, YES_NO, exact_language
from mblip.schema import Drop, Example
from mblip.storage.folders import is_picture

LICENCE = "ImageNet terms (non-commercial); CC-BY-NC-SA-4.0 (labels)"

_UNTRUE = 0.5
_NEIGHBOUR = 0.5


def read(
    source: str,
    folder: Path,
    labels: Path,
    english: Path,
    passes: int = 8,
    tasks: tuple[str, ...] = ("naming", "presence"),
    seed: int = 0,
) -> Iterator[Example | Drop]:
    """Yield ``passes`` passes over the languages.

    Args:
        source: First part of the ids.
        folder: Folder with a folder for each class.
        labels: ``babel_imagenet.json``.
        english: A JSON list of the English names, in the order of the classes (Babel-ImageNet has none), or Keras'
            ``imagenet_class_index.json``.
        passes: Number of examples of each class in each language.
        tasks: ``naming``, ``presence`` or both.
        seed: Seed of the choice of images and questions.

    Raises:
        InputError: Classes and names do not match, or a label has no class.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of classes such as n01440764")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = _read_english(english)
    if len(classes) != len(names):
        raise InputError(
            f"{folder} has {len(classes)} classes, but {english} names {len(names)}; both must belong to the same set"
        )
    table = {"en": dict(enumerate(names))} | _read_labels(labels, len(classes))
    return _examples(source, folder, classes, table, passes, tasks, random.Random(f"{source} {seed}"))


def _examples(
    source: str,
    folder: Path,
    classes: list[str],
    table: dict[str, dict[int, str]],
    passes: int,
    tasks: tuple[str, ...],
    draw: random.Random,
) -> Iterator[Example | Drop]:
    unused: dict[int, list[str]] = {}
    for number in range(passes):
        for language in (code for code in LANGUAGES if code in table):
            for label, name in table[language].items():
                row = f"{number}-{language}-{label}"
                if label not in unused:
                    files = sorted(path.name for path in (folder / classes[label]).iterdir())
                    unused[label] = [file for file in files if is_picture(file)]
                    draw.shuffle(unused[label])
                if not unused[label]:
                    yield Drop(f"{source}/{row}", source, "no image left", classes[label], "naming", language)
                    continue
                image = f"{classes[label]}/{unused[label].pop()}"
                asked, answer = _question(draw, table[language], label)
                yes_no = YES_NO.get(language, YES_NO["en"])[answer]
                texts = {"naming": {"answer": name}, "presence": {"question": asked, "answer": yes_no}}
                answering = language if language in YES_NO else "en"
                languages = {"naming": {"answer": language}, "presence": {"question": language, "answer": answering}}
                for task in tasks:
                    yield Example(
                        f"{source}/{row}-{task}", source, task, (image,), texts[task], languages[task], LICENCE
                    )


def _question(draw: random.Random, labels: dict[int, str], label: int) -> tuple[str, int]:
    """The label to ask for, and 0 for yes or 1 for no; half of the wrong labels are of a neighbouring class."""
    others = [other for other in labels if labels[other] != labels[label]]
    if not others or draw.random() >= _UNTRUE:
        return labels[label], 0
    if draw.random() < _NEIGHBOUR:
        return labels[min(others, key=lambda other: (abs(other - label), other))], 1
    return labels[draw.choice(others)], 1


def _read_english(path: Path) -> list[str]:
    """English names in the order of the classes; an index has them with underscores, beside the folders."""
    if first_character(path) == "{":
        rows = dict(stream_fields(path))
        try:
            names = [rows[str(number)][1].replace("_", " ") for number in range(len(rows))]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(
                f'{path} is neither a list of names nor an index {{"0": ["n01440764", "tench"], ...}}'
            ) from error
    else:
        names = list(stream_json(path))
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: the name of class {number} must be a text, not {name!r}")
    return names


def _read_labels(path: Path, classes: int) -> dict[str, dict[int, str]]:
    """Labels by mC4 code and class, for the languages of the table."""
    table: dict[str, dict[int, str]] = {}
    for code, value in stream_fields(path):
        named = exact_language(code)
        if named is None:  # of its 298 languages, tags would merge some (SH and SR)
            continue
        language = named.code
        lists = isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value)
        if not lists or len(value[0]) != len(value[1]):
            raise InputError(f"{path}: {code!r} must hold two lists of equal length, class numbers and labels")
        if language not in LANGUAGES:
            continue
        for number, label in zip(*value, strict=True):
            if not (type(number) is int and 0 <= number < classes):
                raise InputError(f"{path}: {code!r} labels class {number!r}, but there are {classes} classes")
            if not isinstance(label, str):
                raise InputError(f"{path}: {code!r} has the label {label!r} for class {number}, which is not a text")
        table[language] = dict(zip(value[0], value[1], strict=True))
    return table
