"""Data roots in the benchmarks' own layouts, with a few rows of our own and generated pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mblip.evaluation.benchmark import Benchmark
from mblip.nano.images import SceneStore
from mblip.nano.scenes import sample_scene
from mblip.nano.words import load_lexicon

XGQA = {
    "en": {
        "1": ("Is there a dog?", "n1", "yes"),
        "2": ("What is red?", "n1", "ball"),
        "3": ("What is it?", "n2", "cat"),
    },
    "de": {
        "1": ("Ist da ein Hund?", "n1", "yes"),
        "2": ("Was ist rot?", "n1", "ball"),
        "3": ("Was ist es?", "n2", "cat"),
    },
}
MARVL = ("Kuna mbwa wawili", "Hakuna paka")
XM3600 = {
    "00aa": {"sw": "Mbwa kwenye nyasi.", "he": "כלב על הדשא."},
    "00bb": {"sw": "Paka wawili wamelala.", "he": "שני חתולים."},
}


def write(path: Path, data: Any) -> Path:
    """JSON, or JSON lines where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = data if path.suffix == ".jsonl" else [data]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def xgqa(root: Path, languages: Iterable[str] = ("en", "de")) -> None:
    for code in languages:
        rows = {number: {"question": q, "imageId": image, "answer": a} for number, (q, image, a) in XGQA[code].items()}
        write(root / f"xGQA/annotations/zero_shot/testdev_balanced_questions_{code}.json", rows)


def xvnli(root: Path, language: str = "fr") -> None:
    labels = ["entailment", "contradiction", "neutral", "-"]
    rows = [
        {"gold_label": label, "sentence1": "x", "sentence2": f"Il y a {n} chiens.", "captionID": "7.jpg#0",
         "pairID": f"7.jpg#{n}", "Flikr30kID": "7"}
        for n, label in enumerate(labels)
    ]  # fmt: skip
    write(root / f"XVNLI/annotations/{language}/test.jsonl", rows)


def marvl(root: Path) -> None:
    rows = [
        {"id": f"sw-{n}", "language": "sw", "concept": "80-Kalamu", "caption": text, "left_img": f"80-{n}.jpg",
         "right_img": f"80-{n + 1}.jpg", "label": n == 0}
        for n, text in enumerate(MARVL)
    ]  # fmt: skip
    write(root / "marvl/zero_shot/annotations/marvl-sw.jsonl", rows)


def nlvr2(root: Path) -> None:
    rows = [
        {"identifier": f"dev-1-{n}-0", "sentence": "There are two dogs.", "label": label}
        for n, label in enumerate(["True", "False"])
    ]
    write(root / "nlvr2/annotations/dev.jsonl", rows)


def xflickrco(root: Path, language: str = "de") -> None:
    rows = [
        {"sentences": ["Ein Hund auf der Wiese."], "id": "11", "img_path": "11.jpg"},
        {"sentences": ["Zwei Katzen schlafen auf dem Sofa."], "id": 7, "img_path": "COCO_val2014_000000000007.jpg"},
    ]
    write(root / f"xFlickrCO/annotations/{language}/test.jsonl", rows)


def xm3600(root: Path) -> None:
    rows = [
        {"image/key": key, "image/locale": "sw", **{code: {"caption": [text]} for code, text in texts.items()}}
        for key, texts in XM3600.items()
    ]
    write(root / "xm3600/captions.jsonl", rows)


def maxm(root: Path, language: str = "fr") -> None:
    pair = {"question": "Qu'est-ce ?", "answers": ["chien"], "processed_answers": ["chien"], "is_collection": False}
    pairs = [{"question_id": f"q{n}", **pair} for n in range(2)]
    data = {"dataset": "maxm", "annotations": [{"image_id": "00aa", "image_url": "", "qa_pairs": pairs}]}
    write(root / f"maxm/maxm_v1_{language}.json", data)


def vqa(root: Path) -> None:
    answers = [{"answer": "dog", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    rows = [{"question_id": 70 + n, "image_id": 7, "answers": answers} for n in range(2)]
    questions = [{"question_id": 70 + n, "image_id": 7, "question": "What is it?"} for n in range(2)]
    write(root / "vqa/v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": rows})
    write(root / "vqa/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})


def coco(root: Path) -> None:
    sentences = [{"raw": "A dog on the grass."}, {"raw": "A brown dog. "}]
    images = [
        {"cocoid": 7, "filepath": "val2014", "filename": "COCO_val2014_000000000007.jpg", "split": split,
         "sentences": sentences}
        for split in ("test", "train")
    ]  # fmt: skip
    write(root / "coco/dataset_coco.json", {"images": images, "dataset": "coco"})


def pope(root: Path, names: Mapping[str, str]) -> None:
    for name, image in names.items():
        rows = [
            {"question_id": n, "image": image, "text": f"Is there a {word} in the image?", "label": label}
            for n, (word, label) in enumerate([("dog", "yes"), ("cat", "no")], start=1)
        ]
        path = root / f"pope/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        # SEEM's files are lists, COCO's are lines.
        text = json.dumps(rows, indent=4) if "seem" in name else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text)


def chair(root: Path) -> None:
    rows = [{"image": "COCO_val2014_000000000007.jpg", "objects": ["dog"]}]
    write(root / "pope/coco_ground_truth_segmentation.json", rows[0])


def babel_imagenet(root: Path) -> None:
    write(root / "babel_imagenet/babel_imagenet.json", {"DE": [[0, 1], ["Schleie", "Goldfisch"]]})
    write(root / "babel_imagenet/english.json", ["tench", "goldfish"])
    for number, name in enumerate(["n01440764", "n01443537"]):
        picture(root / f"babel_imagenet/val/{name}/a.JPEG", number)


def everything(root: Path) -> Path:
    """Every benchmark, in one or two languages each."""
    for make in (xgqa, xvnli, marvl, nlvr2, xflickrco, xm3600, maxm, vqa, coco, chair, babel_imagenet):
        make(root)
    image = "COCO_val2014_000000000007.jpg"
    kinds = ("random", "popular", "adversarial")
    pope(root, {f"coco_pope_{kind}": image for kind in kinds})
    pope(root, {f"aokvqa_pope_seem_{kind}": image for kind in kinds})
    pope(root, {f"gqa_pope_seem_{kind}": "n1.jpg" for kind in kinds})
    return root


def picture(path: Path, seed: int) -> None:
    """A scene of two emoji in place of a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = sample_scene(np.random.default_rng(seed), 2, list(load_lexicon().concepts))
    SceneStore().get(scene.key).save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")


def pictures(root: Path, benchmark: Benchmark, language: str, limit: int | None = None) -> list[Path]:
    """The pictures that a benchmark's items ask for (of its first images), made where they are looked for first."""
    items = benchmark.read(benchmark.find(root, language), language)
    groups = list(dict.fromkeys(item.images for item in items))[:limit]
    paths = [root / benchmark.images[0] / key for key in dict.fromkeys(key for keys in groups for key in keys)]
    for number, path in enumerate(paths):
        if not path.exists():
            picture(path, number)
    return paths
