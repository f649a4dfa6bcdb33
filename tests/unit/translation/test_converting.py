"""``mblip data engine``: a small checkpoint in NLLB's layout becomes an engine that translates as the checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.translation.test_engines import TEXTS, _save_model
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.translation.engines import open_engine

pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nllb") / "tiny"
    _save_model(folder, "nllb")
    return folder


def convert(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["data", "engine", *map(str, arguments)])


def test_an_engine_from_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    made = convert(checkpoint, "--to", tmp_path / "float", "--quantization", "float32")
    assert made.exit_code == 0, made.output
    assert "NLLB-200 (CC-BY-NC-4.0 (NLLB-200))" in made.output and "translation.engine=ctranslate2" in made.output
    fast = open_engine("ctranslate2", {"model": str(tmp_path / "float"), "device": "cpu", "threads": 1})
    slow = open_engine("transformers", {"model": str(checkpoint), "device": "cpu"})
    for language in ("de", "sw", "ja"):
        assert fast.translate(TEXTS, "en", language) == slow.translate(TEXTS, "en", language)

    assert convert(checkpoint, "--to", tmp_path / "small").exit_code == 0
    small = open_engine("ctranslate2", {"model": str(tmp_path / "small"), "device": "cpu", "threads": 1})
    assert "int8" in small.name and len(small.translate(TEXTS, "en", "de")) == len(TEXTS)
    assert (tmp_path / "small/model.bin").stat().st_size < (tmp_path / "float/model.bin").stat().st_size / 2

    again = convert(checkpoint, "--to", tmp_path / "small")
    assert "holds a converted model already" in str(again.exception)


def test_what_cannot_be_converted(checkpoint: Path, tmp_path: Path) -> None:
    def refused(said: str, source: str | Path, *more: str) -> None:
        done = convert(source, "--to", tmp_path / "to", *more)
        assert isinstance(done.exception, InputError) and said in str(done.exception), done.exception
        assert not (tmp_path / "to").exists() and not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]

    refused("no type 'int9'; did you mean 'int8'", checkpoint, "--quantization", "int9")
    refused("there is no checkpoint 'nllb-60m'; did you mean 'nllb-600m'", "nllb-60m")
    refused("the Hub does not give the checkpoint", "nllb-600m")  # nobody may be asked here
    other = tmp_path / "other"
    other.mkdir()
    for path in checkpoint.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "bloom"}))
    refused("holds a 'bloom' model, and neither NLLB", other)
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").unlink()
    refused("has no weights", other)
    (other / "model.safetensors").write_bytes(b"no weights")
    refused("", other)


def test_a_folder_that_is_in_use_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty" in str(convert(checkpoint, "--to", tmp_path).exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
