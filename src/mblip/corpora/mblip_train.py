"""The training data released by the paper's authors: ``Gregor/mblip-train`` on the Hugging Face Hub.

Licence: each part keeps its source's own, translations are by NLLB-200 (CC-BY-NC-4.0). Download: ``mblip data download
mblip_train``, or https://huggingface.co/datasets/Gregor/mblip-train.

Raw record of a final file (``task_mix_v2_mt.json``, 963 MB, and the files that it was merged from), which is one JSON list::

    {"context": "Caption the image in Swahili.", "label": "Mbwa mweusi.", "image_id": "COCO_train2014_000000000009.jpg"}

whose prompts and answers are used unchanged. It stores neither source, task nor language.
:mod:`mblip.corpora.released_parts` finds the part of the mix that a row belongs to, and the source of its example is
``SOURCE/PART``. The language of the answer is the one in ``raw`` files, else the one that the prompt names, else the
one that lingua detects, else ``und``.

A ``*_raw.json`` file (before templates) holds the English name of the language in ``context``: alone for captions, before
``#`` and the question for VQA, before ``###`` and the caption for matching. Read as ``path``, its rows become examples with
a caption, or a question and its answer, for the ``paper`` templates.

In the question generation part, every row has another row's answer: its rows are left out unless
``question_generation`` is set.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mblip.corpora.json_stream import BadRow, Row, hash_text, image_name, stream_json, take
from mblip.corpora.named_language import language_called, named_language
from mblip.corpora.released_parts import BY_NAME, Part, PartTeller, picture_kind
from mblip.detecting import detect_languages, has_detector
from mblip.errors import InputError, nearest, quoted
from mblip.languages import LANGUAGES, UNDETERMINED
from mblip.schema import Drop, Example

_BLOCK = 4096  # rows whose languages are detected together
_DEFECT = "in the released files each row of this part has another row's answer; the option question_generation=true keeps them"
_WITHOUT_TEXT = ("caption", "description", "naming")  # tasks whose prompts contain no text of the row
_RAW = re.compile(r"\s*(###|#)\s*")
_SPLIT = re.compile(r"COCO_((?:train|val|test)20\d\d)_")
_TEMPLATE = re.compile(r"[^.?!:;。？！]*$")


@dataclass(frozen=True, slots=True)
class _Read:
    """A row whose languages may still be unknown.

    Attributes:
        number: Number of the row in the file, from 1.
        texts: Texts by role.
        languages: mC4 codes by role; empty codes must be detected.
    """

    number: int
    part: Part
    image: str
    texts: dict[str, str]
    languages: dict[str, str]


FOR_PICTURES = ("addresses",)
"""Options whose files are only needed to fetch pictures, and not to read the texts."""


def read(
    source: str,
    path: Path,
    raw: tuple[Path, ...] = (),
    addresses: Path | None = None,
    parts: dict[str, int] | None = None,
    question_generation: bool = False,
    detect: bool = True,
    coco_key: str = "{name}",
) -> Iterator[Example | Drop]:
    """Yield the rows of a final or raw file.

    Args:
        source: First part of the ids, followed by the number of the row, and of the sources.
        path: The file.
        raw: ``*_raw.json`` files of captions, which record the language, for rows with the same picture and caption.
        addresses: ``ccs_synthetic_filtered_large_2273005_raw.json``, the addresses of the web pictures; ``mblip data images``
            reads it, this function does not.
        parts: Numbers of rows of the parts, in the order of the file, to use instead of the prompts.
        question_generation: Keep the rows of that part too.
        detect: Detect unknown languages with lingua, if it is installed.
        coco_key: Pattern of COCO's image keys; ``{split}/{name}`` if its folders have kept their names.

    Raises:
        InputError: The file cannot be read, is cut off or is not a JSON list; or a part is unknown.
    """
    for name in parts or ():
        if name not in BY_NAME:
            raise InputError(
                f"source {source!r}: there is no part {name!r} of the released mix{nearest(name, BY_NAME)}"
            )
    teller = PartTeller(parts, _part_in_name(path))
    known = _Languages(raw)
    detecting = detect and has_detector()
    numbered = enumerate(stream_json(path), start=1)
    while block := list(islice(numbered, _BLOCK)):
        rows = [
            _read_row(number, row, path, source, teller, known, coco_key, question_generation) for number, row in block
        ]
        if detecting:
            rows = _detected(rows)
        for row in rows:
            if isinstance(row, Drop):
                yield row
                continue
            languages = {role: code or UNDETERMINED for role, code in row.languages.items()}
            name, part = f"{source}/{row.number}", row.part
            yield Example(name, f"{source}/{part.name}", part.task, (row.image,), row.texts, languages, part.licence)


def urls(addresses: Path | None = None, **_: Any) -> Iterator[tuple[str, str]]:
    """Image key and address of the web pictures, for ``mblip data images``.

    Raises:
        InputError: No list of addresses was named, or it cannot be read or is empty.
    """
    if addresses is None:
        raise InputError(
            "the released mix names its web pictures by file: set the option addresses to "
            "ccs_synthetic_filtered_large_2273005_raw.json of Gregor/mblip-train, which has their addresses"
        )
    found = 0
    for row in stream_json(addresses):
        fields = row if isinstance(row, dict) else {}
        key = next((fields[name] for name in ("jpg", "image_id", "image", "file_name") if name in fields), None)
        if isinstance(key, str) and key and isinstance(url := fields.get("url"), str) and url:
            found += 1
            yield key, url
    if not found:
        raise InputError(f"{addresses} has no row with 'jpg' (a file name) and 'url'; name the list of web pictures")


def _read_row(
    number: int,
    row: Any,
    path: Path,
    source: str,
    teller: PartTeller,
    known: _Languages,
    coco_key: str,
    question_generation: bool,
) -> _Read | Drop:
    try:
        prompt, answer, image = (take(row, name, str) for name in ("context", "label", "image_id"))
        for name, text in (("context", prompt), ("label", answer), ("image_id", image)):
            if not text.strip():
                raise BadRow(f"{name!r} is blank")
        if image.startswith("/") or ".." in image.split("/"):
            raise BadRow(f"'image_id' {quoted(image)} leads out of the folder of pictures")
        raw = raw_context(prompt)
        if raw:
            found = _of_raw(number, raw, answer, image, _part_in_name(path))
        else:
            part = teller.tell(image, prompt, answer)
            if part is None:
                raise BadRow("it comes after the last row that the option parts counts")
            spoken = known.find(image, answer) or named_language(prompt)
            found = _Read(number, part, image, {"prompt": prompt, "answer": answer}, _languages(part, prompt, spoken))
        if found.part.task == "question_generation" and not question_generation:
            return Drop(
                f"{source}/{number}", f"{source}/{found.part.name}", "question generation", _DEFECT, found.part.task
            )
        if split := _SPLIT.search(image):
            found = replace(found, image=image_name(coco_key, name=image, split=split[1]))
        return found
    except BadRow as error:
        return Drop(f"{path}, record {number}", source, "bad row", str(error))


def raw_context(context: str) -> tuple[str, str, str] | None:
    """Language, separator (``#``, ``###`` or none) and text of a raw row's context; None for a final file's prompt."""
    name, *rest = _RAW.split(context, maxsplit=1)
    code = language_called(name)
    if not code or (rest and not rest[1]):
        return None
    return (code, rest[0], rest[1]) if rest else (code, "", "")


def _of_raw(number: int, raw: tuple[str, str, str], label: str, image: str, hint: str) -> _Read:
    """A raw row as an example; labels of VQA and matching are English until they are translated."""
    code, sign, text = raw
    if not sign:
        part = BY_NAME["web_captions" if picture_kind(image) == "web" else "coco_captions"]
        return _Read(number, part, image, {"caption": label}, {"caption": code})
    part, role = BY_NAME[hint or "vqav2"], "question"
    if sign == "###":
        part, role = BY_NAME["web_matching"], "caption"
    return _Read(number, part, image, {role: text, "answer": label}, {"answer": "en", role: code})


def _languages(part: Part, prompt: str, spoken: str) -> dict[str, str]:
    """The languages of a final row, empty if they must be detected; the answer's comes first and is counted."""
    if not spoken:
        return {"answer": "", "prompt": ""}
    if part.task in _WITHOUT_TEXT:  # a prompt that names a language is in English
        return {"answer": spoken, "prompt": "en" if named_language(prompt) else spoken}
    # Question and answer of a row are in one language, except for answers that stayed English.
    return {"answer": spoken, "prompt": spoken if spoken != "en" else ""}


def _detected(rows: list[_Read | Drop]) -> list[_Read | Drop]:
    """Detect the unknown languages of the rows in a block."""
    wanted = [
        (place, role, row.texts[role] if role != "prompt" else _own_words(row.texts[role]))
        for place, row in enumerate(rows)
        if isinstance(row, _Read)
        for role, code in row.languages.items()
        if not code
    ]
    if not wanted:
        return rows
    codes: dict[int, dict[str, str]] = {}
    for (place, role, _), code in zip(wanted, detect_languages([text for _, _, text in wanted]), strict=True):
        codes.setdefault(place, {})[role] = code if code in LANGUAGES else ""
    for place, languages in codes.items():
        row = rows[place]
        assert isinstance(row, _Read)
        rows[place] = replace(row, languages={**row.languages, **languages})
    return rows


def _own_words(prompt: str) -> str:
    """A prompt without its last clause if that names a language; only the rest was translated."""
    clause = _TEMPLATE.search(prompt.rstrip(" :.?")) if named_language(prompt) else None
    rest = prompt[: clause.start()] if clause else ""
    return rest if len(rest) > 3 else prompt


def _part_in_name(path: Path) -> str:
    """The part in the name of a single file."""
    name = path.name.casefold()
    return "question_generation" if "vqg" in name or re.search(r"_g_(?:raw|mt)", name) else ""


class _Languages:
    """The languages of captions in raw files, by picture and caption, in nine bytes per row."""

    def __init__(self, paths: Iterable[Path]) -> None:
        hashes, numbers = array("Q"), array("B")
        codes = list(LANGUAGES)
        for row in chain.from_iterable(stream_json(path) for path in paths):
            context, label, image = _fields(row)
            raw = raw_context(context)
            if raw and not raw[1] and raw[0] in LANGUAGES:
                hashes.append(hash_text(f"{image}\0{label}"))
                numbers.append(codes.index(raw[0]))
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable") if hashes else np.empty(0, np.int64)
        self._hashes = np.frombuffer(hashes, np.uint64)[order] if hashes else np.empty(0, np.uint64)
        self._numbers = np.frombuffer(numbers, np.uint8)[order] if hashes else np.empty(0, np.uint8)
        self._codes = codes

    def find(self, image: str, caption: str) -> str:
        """The code; empty if the files lack the caption."""
        if not len(self._hashes):
            return ""
        wanted = np.uint64(hash_text(f"{image}\0{caption}"))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return ""
        return self._codes[int(self._numbers[place])]


def _fields(row: Row) -> tuple[str, str, str]:
    """Context, label and picture of a row; empty for missing ones."""
    found = [row.get(name) if isinstance(row, dict) else None for name in ("context", "label", "image_id")]
    context, label, image = (value if isinstance(value, str) else "" for value in found)
    return context, label, image
