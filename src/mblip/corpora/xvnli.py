"""SNLI-VE and XVNLI: does a sentence follow from a Flickr30K photo?

Licence: SNLI CC BY-SA 4.0. Download: https://github.com/necla-ml/SNLI-VE (English), IGLUE for the others.

Raw record, a JSON line::

    {"Flikr30kID": "759822302", "captionID": "759822302.jpg#2", "pairID": "759822302.jpg#2r1c",
     "sentence1": "A man in a blue shirt ...", "sentence2": "He carries the paper on his head.",
     "gold_label": "contradiction", "annotator_labels": ["contradiction"]}

(official SNLI-VE has ``Flickr30K_ID``) becomes one ``entailment`` example: the photo, ``sentence2`` as hypothesis, and
yes, no or maybe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mblip.corpora.json_stream import BadRow, Row, Text, make_examples, take_id, take_text, take_texts
from mblip.schema import Drop, Example
from mblip.storage import read_jsonl

LICENCE = "CC-BY-SA-4.0"
ANSWERS = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}


def read(source: str, path: Path, first_annotator: bool = False) -> Iterator[Example | Drop]:
    """Yield the pairs of a file.

    Args:
        source: First part of the ids.
        path: A file of JSON lines.
        first_annotator: Use the first of ``annotator_labels``, as the original did, instead of ``gold_label``, which is
            "-" if the annotators did not agree (such pairs are left out).
    """

    def make(row: Row) -> Iterator[Text | Drop]:
        name = take_text(row, "pairID")
        label = take_texts(row, "annotator_labels")[0] if first_annotator else take_text(row, "gold_label")
        if label == "-":
            yield Drop(f"{source}/{name}", source, "no gold label", take_text(row, "sentence2"), "entailment")
            return
        if label not in ANSWERS:
            raise BadRow(f"the label must be one of {', '.join(ANSWERS)} or -, not {label!r}")
        photo = take_id(row, "Flikr30kID" if "Flikr30kID" in row else "Flickr30K_ID").removesuffix(".jpg")
        texts = {"hypothesis": take_text(row, "sentence2"), "answer": ANSWERS[label]}
        yield Text(name, "entailment", (f"{photo}.jpg",), texts)

    return make_examples(source, LICENCE, path, read_jsonl(path), make)
