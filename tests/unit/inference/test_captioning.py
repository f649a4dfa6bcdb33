"""Captions of folders and tables: which pictures, each encoded once, each exactly once after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests import checkpoints

from mblip.cli.caption import _in_columns
from mblip.errors import InputError
from mblip.inference.caption_file import CaptionFile
from mblip.inference.captioning import caption_pictures
from mblip.inference.finding import find_pictures as find
from mblip.inference.predictor import Predictor, load_model
from mblip.inference.resolve import choose_model
from mblip.models.vision_llm import VisionLLM
from mblip.storage import UnreadableImage


def find_pictures(places: list[str], column: str = "image") -> list[str]:
    """What is found, of which nothing is skipped."""
    found = find(places, column)
    assert found.skipped == []
    return [str(picture) for picture in found.pictures]


QUICK: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_model(checkpoints.blip2(tmp_path_factory.mktemp("blip2"), "mt5"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, one of them below, and a text that says it is a picture."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        name = f"below/{number:02}.JPG" if number == 11 else f"{number:02}.png"
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("not to be captioned")
    return folder


def test_pictures_are_found_in_folders_patterns_and_tables(folder: Path, tmp_path: Path) -> None:
    everything = find_pictures([str(folder)])
    assert len(everything) == 13
    assert str(folder / "below/11.JPG") in everything
    assert find_pictures([str(folder), str(folder / "00.png"), str(folder)]) == everything
    assert find_pictures([f"{folder}/0*.png"]) == [str(folder / f"0{number}.png") for number in range(10)]
    expected = [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")]
    (tmp_path / "t.jsonl").write_text('{"image": "a.png"}\n{"image": "sub/b.png", "more": 1}\n')
    (tmp_path / "t.csv").write_text("\ufefffile,title\na.png,x\nsub/b.png,y\n", encoding="utf-8")
    import pyarrow as pa

    pq.write_table(pa.table({"image": ["a.png", "sub/b.png"]}), tmp_path / "t.parquet")
    assert find_pictures([str(tmp_path / "t.jsonl")]) == expected
    assert find_pictures([str(tmp_path / "t.csv")], "file") == expected
    assert find_pictures([str(tmp_path / "t.parquet")]) == expected


def test_one_picture_named_in_two_ways_is_captioned_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_pictures(["00.png", "./00.png", "./0[0]*.png", ".//00.png"]) == ["00.png"]


def test_names_with_control_characters_stay_on_one_line_of_the_screen() -> None:
    assert _in_columns(["a\n\tb\x1b[2J\x9b.png", "fa", "می\u200cخواهم 👩\u200d👧"]) == (
        "a\\n\\tb\\x1b[2J\\x9b.png\tfa\tمی\u200cخواهم 👩\u200d👧"
    )


def test_a_name_that_is_not_utf8_is_told_and_the_rest_done(model: Predictor, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "00.png", tmp_path / "猫 1.png")
    shutil.copy(folder / "00.png", tmp_path / os.fsdecode(b"caf\xe9.png"))
    bad, good = caption_pictures(model, "m", find_pictures([str(tmp_path)]), ["sw"], **QUICK)
    assert isinstance(bad, UnreadableImage)
    assert "'" + str(tmp_path) + r"/caf\udce9.png' cannot be used: its name is not UTF-8: rename it" in str(bad)
    assert isinstance(good, list)
    assert good[0].image == str(tmp_path / "猫 1.png")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.jsonl", '{"imag": "a.png"}', "no column 'image'; did you mean 'imag'"),
        ("t.jsonl", '{"image": 7}', "this should be the path of a picture, not 7"),
        ("t.jsonl", "{", "not valid JSON"),
        ("t.csv", "a,b\n1,2\n", "no column 'image'"),
        ("t.parquet", "PAR1", "damaged or not a Parquet file"),
        ("gone.png", None, "there is no picture, folder or table"),
        ("*.gone", None, "names no picture"),
        ("empty", "folder", "names no picture"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        find_pictures([str(tmp_path / name)])


def test_each_picture_is_encoded_once_for_all_languages(
    model: Predictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = VisionLLM.encode

    def counted(self: VisionLLM, images: Any) -> object:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(VisionLLM, "encode", counted)
    found = find_pictures([str(folder)])
    results = list(caption_pictures(model, "m", found, ["sw", "de", "ja"], batch_size=9, **QUICK))
    assert sum(encoded) == 12
    broken = [result for result in results if isinstance(result, UnreadableImage)]
    assert [error.key for error in broken] == [str(folder / "broken.jpg")]
    rows = [row for result in results if isinstance(result, list) for row in result]
    assert [(row.image, row.language) for row in rows] == [
        (picture, code) for picture in found if "broken" not in picture for code in ("sw", "de", "ja")
    ]


def test_captions_of_many_are_those_of_one(model: Predictor, folder: Path) -> None:
    found = [path for path in find_pictures([str(folder)]) if "broken" not in path]
    results = caption_pictures(model, "m", found, ["sw", "zh"], max_new_tokens=6)
    rows = [row for result in results if isinstance(result, list) for row in result]
    assert len(rows) == 24
    assert [row.caption for row in rows] == [
        model.caption(path, code, max_new_tokens=6) for path in found for code in ("sw", "zh")
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_gone_on_with_the_captions_are_those_of_a_run_that_was_never_stopped(
    model: Predictor, folder: Path, tmp_path: Path, ending: str
) -> None:
    found, codes = [p for p in find_pictures([str(folder)]) if "broken" not in p], ["sw", "de", "ja"]
    path, whole = tmp_path / f"captions.{ending}", tmp_path / "whole.jsonl"

    def run(to: Path, resume: bool, stop_after: int = 10**9) -> int:
        file = CaptionFile(to, "m", resume)
        pictures = 0
        for result in caption_pictures(model, "m", found, codes, file.done, 6, **QUICK):
            assert isinstance(result, list)
            file.add(result)
            pictures += 1
            if pictures == stop_after:
                return pictures  # as a kill leaves it: nothing closed, nothing finished
        file.finish()
        return pictures

    run(whole, resume=False)
    assert run(path, resume=False, stop_after=5) == 5
    assert run(path, resume=True) == 7
    if ending == "jsonl":
        assert path.read_bytes() == whole.read_bytes()
        return
    with path.open(encoding="utf-8", newline="", errors="replace") as file:
        rows = list(csv.DictReader(file)) if ending == "csv" else pq.read_table(path).to_pylist()
    assert rows == [json.loads(line) for line in whole.read_text().splitlines()]
    assert run(path, resume=True) == 0


def test_no_model_is_chosen_for_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mblip.inference.resolve._at_hand", lambda name: False)
    with pytest.raises(InputError, match=r"Gregor/mblip-mt0-xl \(downloads .* or mblip quickstart, then"):
        choose_model()
    run = tmp_path / "runs/quickstart/multilingual-1"
    run.mkdir(parents=True)
    (run / "mblip.json").write_text("{}")
    with pytest.raises(InputError, match="or --model runs/quickstart/multilingual-1"):
        choose_model()
    assert choose_model(str(run)) == str(run)
    monkeypatch.setattr("mblip.inference.resolve._at_hand", lambda name: True)
    assert choose_model() == "Gregor/mblip-mt0-xl"
