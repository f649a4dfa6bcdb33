r"""LLaVA-Instruct: long descriptions (``detail_23k``) and talk about an image (``conversation_58k``).

Licence: CC BY-NC 4.0 (made with GPT-4; OpenAI's terms). Download:
https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K.

Raw record::

    {"id": "000000033471", "image": "000000033471.jpg", "conversations": [
        {"from": "human", "value": "What are the colors of the bus in the image?\n<image>"},
        {"from": "gpt", "value": "The bus in the image is white and red."}, ...]}

becomes one ``description`` example (detail), or one ``conversation`` example per turn (conversation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    hash_text,
    image_name,
    make_examples,
    stream_rows,
    take,
    take_id,
    take_text,
    take_texts,
)
from mblip.corpora.vqav2 import COCO_TRAIN_KEY
from mblip.schema import Drop, Example

LICENCE = "CC-BY-NC-4.0"


def read(
    source: str,
    path: Path,
    task: Literal["description", "conversation"],
    image_key: str = COCO_TRAIN_KEY,
    most_sentences: int = 3,
    instructions: bool = False,
    text_only: bool = False,
) -> Iterator[Example | Drop]:
    """Yield the turns of a file.

    Args:
        source: First part of the ids.
        path: ``detail_23k.json``, ``conversation_58k.json`` or others of their layout, ``.json`` or ``.jsonl``. A
            repeated id gets the row's number, as in ``33471@812``.
        task: ``description`` keeps only the answer (see ``instructions``), ``conversation`` keeps question and answer.
        image_key: Pattern of image keys, with the COCO number in the name (``000000033471.jpg``, with or without a
            folder and ``COCO_train2014_`` before it); ``{image}`` is the unchanged name, for files with other images.
        most_sentences: A conversation's answers with more full stops are left out, as in the paper.
        instructions: Keep the request for a description too, as ``instruction``. It is translated and used as the
            prompt by the templates ``llava``, as in the original.
        text_only: Keep the turns of rows without an image, which LLaVA's larger mixes have, as ``text`` examples.
    """
    seen: set[int] = set()

    def make(numbered: tuple[int, Row]) -> Iterator[Text | Drop]:
        position, row = numbered
        named = row.get("image") if isinstance(row, dict) else None
        names = take_texts(row, "image") if isinstance(named, list) else [take_text(row, "image")] if named else []
        images = tuple(_image_key(image_key, name) for name in names)
        turns = take(row, "conversations", list)
        if not turns or len(turns) % 2:
            raise BadRow(f"'conversations' must be pairs of question and answer, not {len(turns)} turns")
        talk = take_id(row, "id") if isinstance(row.get("id"), int | str) and row["id"] != "" else f"row{position}"
        if hash_text(talk) in seen:  # LLaVA's mixes use the ids of images, which have several conversations
            talk = f"{talk}@{position}"
        seen.add(hash_text(talk))
        for number in range(0, len(turns), 2):
            name = f"{talk}-{number // 2}"
            question, answer = _turn(turns[number], "human"), _turn(turns[number + 1], "gpt")
            if not images and text_only:
                yield Text(name, "text", (), {"prompt": question, "answer": answer})
            elif not images:
                yield Drop(f"{source}/{name}", source, "no image", question)
            elif task == "description":
                asked = {"instruction": question} if instructions else {}
                yield Text(name, task, images, asked | {"description": answer})
            elif answer.count(".") > most_sentences:
                yield Drop(f"{source}/{name}", source, "long answer", f"{answer.count('.')} full stops", task)
            else:
                yield Text(name, task, images, {"question": question, "answer": answer})

    return make_examples(source, LICENCE, path, enumerate(stream_rows(path), start=1), make)


def _turn(turn: Row, speaker: str) -> str:
    if take_text(turn, "from") != speaker:
        raise BadRow(f"expected a turn of {speaker!r}, not of {turn['from']!r}")
    text = take_text(turn, "value").replace("<image>", "").strip()
    if not text:
        raise BadRow(f"a turn of {speaker!r} is blank")
    return text


def _image_key(image_key: str, name: str) -> str:
    number = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", PurePosixPath(name).stem)
    if "{image_id" in image_key and not number:
        raise BadRow(f"'image' {name!r} is not a photo of COCO; set image_key to '{{image}}'")
    return image_name(image_key, image=name, image_id=int(number[1]) if number else 0)
