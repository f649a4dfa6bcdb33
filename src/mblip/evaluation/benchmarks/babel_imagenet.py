"""Babel-ImageNet: name the object in the picture, by human-curated names in 96 languages (Geigle et al. 2023).

Licence: ImageNet for non-commercial research; labels CC BY-NC-SA 4.0 (BabelNet). ``babel_imagenet.json``: ``{"DE": [[0, 1,
...], ["Schleie", "Goldfisch", ...]], ...}``, class numbers and labels by language. English, which it lacks, is read from
``english.json`` beside it, a list of the 1,000 names. Images are ImageNet's validation set in a folder for each class
(``val/n01440764/*.JPEG``) beside it; the model names the first image of each class.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from mblip.errors import InputError
from mblip.evaluation.benchmark import SHORT_ANSWER, Benchmark, Item, Options, Scored, mean_accuracy
from mblip.evaluation.json_files import read_object, read_values
from mblip.evaluation.metric import ACCURACY
from mblip.languages import LANGUAGES, exact_language
from mblip.storage.folders import is_picture

_FOLDER = "val"
_ENGLISH = "english.json"


def read(path: Path, language: str) -> list[Item]:
    """The classes that have a name in a language, each with its first image."""
    folder = path.with_name(_FOLDER)
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    if not classes:
        raise InputError(
            f"{folder} has no folders of classes such as n01440764; unpack ImageNet's validation set there"
        )
    labels = _labels(path, language)
    items = []
    for number, label in labels.items():
        if not 0 <= number < len(classes):
            raise InputError(f"{path} names class {number} in {language!r}, but {folder} has {len(classes):,} classes")
        name = classes[number]
        images = sorted(file.name for file in (folder / name).iterdir() if is_picture(file.name))
        image = f"{name}/{images[0]}" if images else f"{name}/*.JPEG"
        items.append(Item(str(number), (image,), "", label))
    return items


def _labels(path: Path, language: str) -> dict[int, str]:
    if language == "en":
        names = read_values(path.with_name(_ENGLISH))
        return {number: str(name) for number, name in enumerate(names)}
    table = read_object(path)
    found = next(
        (value for code, value in table.items() if (named := exact_language(code)) and named.code == language), None
    )
    if found is None:
        raise InputError(f"{path} has no labels in {language!r}")
    match found:
        case [[*numbers], [*names]] if len(numbers) == len(names) and all(isinstance(n, int) for n in numbers):
            return dict(zip(numbers, map(str, names), strict=True))
    raise InputError(f"{path}: {language!r} must hold two lists of equal length, class numbers and labels")


def score(items: Sequence[Item], answers: Sequence[str], options: Options) -> Scored:
    """Accuracy: the answer equals the label, except for case, Unicode form and a period at the end."""
    pairs = zip(items, answers, strict=True)
    accuracy, values = mean_accuracy([_normal(answer) == _normal(item.gold) for item, answer in pairs])
    return Scored({"accuracy": accuracy}, items, {"accuracy": values}, {"normaliser": "NFC, case, period"})


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip().removesuffix(".").casefold()


BENCHMARK = Benchmark(
    name="babel_imagenet",
    languages=tuple(LANGUAGES),
    files=("babel_imagenet.json",),
    read=read,
    prompt="Name the main object in {language}:",
    decoding=SHORT_ANSWER,
    score=score,
    metrics=(ACCURACY,),
    images=("babel_imagenet/val", "val"),
    source=(
        "github.com/gregor-ge/Babel-ImageNet (babel_imagenet.json; english.json is a list of the 1,000 English names), "
        "https://image-net.org (validation set in class folders, as val/ beside it)"
    ),
)

BENCHMARKS = (BENCHMARK,)
