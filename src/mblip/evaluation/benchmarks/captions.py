"""Captions with references: xFlickrCo, XM3600 and MSCOCO, recognised by the layout of the file.

xFlickrCo (IGLUE; Flickr30K research only, COCO CC BY 4.0): JSON lines ``{"sentences": ["..."], "id": "1007129816",
"img_path": "1007129816.jpg"}``. XM3600 (CC BY 4.0): JSON lines ``{"image/key": "...", "sw": {"caption": ["..."]}, ...}``.
MSCOCO (CC BY 4.0): ``captions_val2014.json`` ``{"images": [...], "annotations": [{"image_id": 1, "caption": "..."}]}``, or
Karpathy's ``dataset_coco.json`` ``{"images": [{"cocoid": 1, "filename": "...", "split": "test", "sentences": [{"raw":
"..."}]}]}``, or his ``dataset_flickr30k.json``, which has no ``cocoid``; both with their test split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.benchmark import CAPTION, Benchmark, Item, Options, Scored, begins_with
from mblip.evaluation.json_files import Row, image_name, read_kept, read_values, rows, take, take_id
from mblip.evaluation.metric import CIDER, Metric
from mblip.evaluation.metrics.captions import caption_scores
from mblip.evaluation.metrics.ngrams import METRICS, ORDERS
from mblip.evaluation.metrics.segmentation import default_segmenter, segmenter_scheme
from mblip.evaluation.released import is_released
from mblip.languages import find_language

_XM3600_LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "hi", "hr", "hu", "id", "it", "iw",
    "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
_ONE_IMAGE = (
    "CIDEr over one image is 0 by definition, whatever the caption: only words that some images lack have a weight; "
    "score more images together"
)
_XM3600_MARK = '"image/key"'


def read(path: Path, language: str) -> list[Item]:
    """The images of a file with their references in a language."""
    values = read_kept(path, _without_forms) if begins_with(path, _XM3600_MARK) else read_values(path)
    first = values[0]
    if is_released(values):
        raise InputError(f"{path} holds no reference captions; give the file beside it that has _coco_ in its name")
    if isinstance(first, dict) and "annotations" in first:
        return list(_coco(first, path))
    if isinstance(first, dict) and "dataset" in first:
        return list(_karpathy(first, path))
    if isinstance(first, dict) and "image/key" in first:
        items = [item for where, row in rows(values, path) for item in _xm3600(row, language, where)]
        if not items:
            raise InputError(
                f"{path} has no captions in {language!r}; its languages are {', '.join(_languages(first))}"
            )
        return items
    return [_xflickrco(row, where) for where, row in rows(values, path)]


def _without_forms(row: Any) -> Any:
    """Drop other forms of the captions, which are most of XM3600's 100 MB; the file is read for 36 languages."""
    if not isinstance(row, dict):
        return row
    return {
        name: {"caption": value["caption"]} if isinstance(value, dict) and "caption" in value else value
        for name, value in row.items()
    }


def _xflickrco(row: Row, where: str) -> Item:
    image = take_id(row, "img_path", where)
    return Item(image, (image,), "", _texts(row, "sentences", where))


def _xm3600(row: Row, language: str, where: str) -> Iterator[Item]:
    code = find_language(language).code_in("xm3600")
    if code in row:  # not every image has captions in every language
        key = take_id(row, "image/key", where)
        yield Item(key, (f"{key}.jpg",), "", _texts(take(row, code, dict, where), "caption", f"{where}, {code}"))


def _languages(row: Row) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, dict)]


def _coco(data: Row, path: Path) -> Iterator[Item]:
    references: dict[str, list[str]] = {}
    for where, row in rows(take(data, "annotations", list, str(path)), path):
        references.setdefault(take_id(row, "image_id", where), []).append(take(row, "caption", str, where))
    images = take(data, "images", list, str(path)) if "images" in data else []
    named = [row for _, row in rows(images, path, "image")]
    files = {str(row["id"]): str(row.get("file_name", row["id"])) for row in named if "id" in row}
    for image, texts in references.items():
        yield Item(image, (files.get(image, image),), "", tuple(texts))


def _karpathy(data: Row, path: Path) -> Iterator[Item]:
    for where, row in rows(take(data, "images", list, str(path)), path):
        if take(row, "split", str, where) == "test":
            sentences = take(row, "sentences", list, where)
            texts = tuple(take(sentence, "raw", str, at) for at, sentence in rows(sentences, path))
            image = take(row, "filename", str, where)
            yield Item(take_id(row, "cocoid", where) if "cocoid" in row else image, (image,), "", texts)


def _texts(row: Row, name: str, where: str) -> tuple[str, ...]:
    texts = take(row, name, list, where)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: {name!r} must be a list of captions, not {texts!r}")
    return tuple(texts)


def score(items: Sequence[Item], answers: Sequence[str], options: Options, metrics: Sequence[str] = METRICS) -> Scored:
    """BLEU-1..4, ROUGE-L and CIDEr as in pycocoevalcap, with document frequencies of the scored items.

    Texts outside English are normalised to NFC, as in mBLIP; English results equal pycocoevalcap's to the last digit.
    """
    segmenter = options.segmenter or default_segmenter(options.language)
    references = [item.gold for item in items]
    nfc = options.language != "en"
    scores = caption_scores(answers, references, options.language, segmenter, nfc, metrics)
    notes: dict[str, Any] = {
        "segmenter": segmenter_scheme(segmenter, options.language),
        "normaliser": "NFC, PTB" if nfc else "PTB",
        **({"bleu": scores.bleu_counts} if scores.bleu_counts else {}),
        **({"remark": _ONE_IMAGE} if "CIDEr" in metrics and len(items) == 1 else {}),
    }
    # BLEU is not a mean over images.
    per_item = {name: values for name, values in scores.per_image.items() if not name.startswith("Bleu")}
    return Scored(scores.total, items, per_item, notes)


BENCHMARK = Benchmark(
    name="captions",
    languages=("de", "en", "es", "id", "ja", "ru", "tr", "zh"),
    files=(
        "{code}/test.jsonl",
        "captions.jsonl",
        "captions_val2014.json",
        "dataset_coco.json",
        "dataset_flickr30k.json",
    ),
    read=read,
    prompt="Caption in {language}: ",
    decoding=CAPTION,
    score=score,
    metrics=(CIDER, *(Metric(f"Bleu_{order}") for order in ORDERS), Metric("ROUGE_L")),
    mark='"(?:sentences|image/key|images|annotations)"',  # XVNLI's files are called test.jsonl too
    is_about_images=True,
    answer_keys=("caption", "text", "answer"),
    normal_id=image_name,
)
_COCO_IMAGES = ("coco/val2014", "coco/images/val2014", "coco/images", "val2014", "images")
XFLICKRCO = dataclasses.replace(
    BENCHMARK,
    name="xflickrco",
    files=("annotations/{code}/test.jsonl", "{code}/test.jsonl", "flickr/*_coco_{code}.json"),
    mark='"(?:sentences|images|annotations)"',
    images=("flickr30k/images", "flickr30k-images", *_COCO_IMAGES),
    tells_language=True,
    source=(
        "captions: github.com/e-bug/iglue, datasets/xFlickrCO; images: Flickr30K, on request from "
        "https://shannon.cs.illinois.edu/DenotationGraph, and COCO's val2014.zip"
    ),
)
XM3600 = dataclasses.replace(  # scored only by CIDEr, as in the paper
    BENCHMARK,
    score=partial(score, metrics=("CIDEr",)),
    metrics=(CIDER,),
    name="xm3600",
    files=("captions.jsonl", "xm3600_coco_{code}.json"),
    languages=_XM3600_LANGUAGES,
    mark=f'{_XM3600_MARK}|"(?:images|annotations)"',
    images=("xm3600/images", "crossmodal-3600/images", "images"),
    tells_language=True,
    source="https://google.github.io/crossmodal-3600 (captions.jsonl and the archive of images)",
)
COCO = dataclasses.replace(
    BENCHMARK,
    name="coco",
    files=("dataset_coco.json", "captions_val2014.json"),
    languages=("en",),
    images=_COCO_IMAGES,
    tells_language=True,
    source=(
        "https://cs.stanford.edu/people/karpathy/deepimagesent (dataset_coco.json, whose test split is used) or COCO's "
        "annotations_trainval2014.zip; images: COCO's val2014.zip"
    ),
)

BENCHMARKS = (BENCHMARK, XFLICKRCO, XM3600, COCO)
