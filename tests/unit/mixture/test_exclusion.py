"""Evaluation images are found under any of their names and never reach the mix."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.errors import InputError
from mblip.mixture import build_mix
from mblip.mixture.exclusion import evaluation_images, image_identity
from mblip.schema import Instruction
from mblip.storage import ShardReader, read_drops


@pytest.mark.parametrize(("key", "identity"), [
    ("val2014/COCO_val2014_000000391895.jpg", "coco 391895"),
    ("train2017/000000391895.jpg", "coco 391895"),
    ("000000391895", "coco 391895"),
    ("1007129816.jpg", "1007129816"),
    ("n161313.jpg", "n161313"),
    ("2354786", "2354786"),
])  # fmt: skip
def test_identity(key: str, identity: str) -> None:
    assert image_identity(key) == identity


def _files(folder: Path) -> dict[str, Path]:
    contents = {
        "ids.txt": "000000000001.jpg\n\nn7\n",
        "karpathy.json": json.dumps({"images": [
            {"filename": "COCO_val2014_000000000002.jpg", "split": "test"},
            {"filename": "COCO_train2014_000000000003.jpg", "split": "train"},
        ]}),
        "coco.json": json.dumps({"images": [{"id": 4, "file_name": "COCO_val2014_000000000004.jpg"}]}),
        "xgqa.json": json.dumps({"20": {"imageId": "n5", "question": "?"}}),
        "gqa.json": json.dumps([{"img_id": "n6", "sent": "?"}]),
        "flickr.jsonl": json.dumps({"img_path": "1007129816.jpg", "sentences": []}) + "\n",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_text(content)
    return {name: folder / name for name in contents}


def test_layouts(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert evaluation_images(tuple(map(str, files.values()))) == {
        "coco 1", "n7", "coco 2", "coco 4", "n5", "n6", "1007129816",
    }  # fmt: skip
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match=r"empty.txt lists no image"):
        evaluation_images((str(tmp_path / "empty.txt"),))
    with pytest.raises(InputError, match="cannot read"):
        evaluation_images((str(tmp_path / "missing.txt"),))


def test_real_files(bench: Path) -> None:
    iglue = bench / "e-bug__iglue/datasets"
    found = evaluation_images((
        str(iglue / "xFlickrCO/annotations/en/test.jsonl"), str(iglue / "gqa/annotations/testdev.json"),
        str(bench / "_derived/coco/dataset_coco.sample400.json"), str(iglue / "XVNLI/annotations/en/test.jsonl"),
    ))  # fmt: skip
    assert "coco 414071" in found and "759822302" in found
    assert sum(name.startswith("coco ") for name in found) > 1000


def test_mix_without_them(tmp_path: Path) -> None:
    rows = [{"image": f"train2014/COCO_train2014_{n:012d}.jpg", "text": f"picture {n}"} for n in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ids.txt").write_text("\n".join(f"{n:012d}" for n in range(5)))
    options = {
        "path": str(tmp_path / "own.jsonl"), "columns": {"image": "image", "caption": "text"}, "task": "caption",
        "licence": "CC0-1.0",
    }  # fmt: skip
    source = SourceSection(name="own", reader="table", options=options, translate=False)
    recipe = DataRecipe(title="t", sources=(source,), exclude_images=(str(tmp_path / "ids.txt"),))
    manifest = build_mix(recipe, tmp_path / "mix")
    assert (manifest.rows, manifest.drops) == (15, {"evaluation image": 5})
    numbers = {int(row.images[0][-16:-4]) for row in ShardReader(tmp_path / "mix", Instruction)}
    assert numbers == set(range(5, 20))
    assert all(drop.reason == "evaluation image" and drop.language == "en" for drop in read_drops(tmp_path / "mix"))


def test_a_split_of_many_images_is_never_held_whole(tmp_path: Path) -> None:
    """Karpathy's file is larger than a mix may take of memory, and every worker reads it."""
    image = {"split": "test", "sentences": ["x" * 2000] * 5}
    peaks = []
    for count in (1000, 5000):  # files of 10 and 50 MB
        path = tmp_path / f"{count}.json"
        with path.open("w") as file:
            file.write('{"images": [')
            for number in range(count):
                file.write("," * (number > 0) + json.dumps(image | {"filename": f"COCO_val2014_{number:012d}.jpg"}))
            file.write('], "dataset": "coco"}')
        tracemalloc.start()
        assert len(evaluation_images((str(path),))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (4 << 20)
