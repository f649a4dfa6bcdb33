"""``mblip data engine``: a small checkpoint in NLLB's layout becomes an engine that translates as the checkpoint does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.translation.test_engines import TEXTS, _save_model, save_madlad
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
    assert "already holds a converted model" in str(again.exception)


def test_madlad_scores_words_as_its_checkpoint_does(tmp_path: Path) -> None:
    """Its output is not scaled, although transformers 5 says of every T5 that it is."""
    import torch

    save_madlad(tmp_path / "tiny")
    assert convert(tmp_path / "tiny", "--to", tmp_path / "fast", "--quantization", "float32").exit_code == 0
    fast: Any = open_engine(
        "ctranslate2", {"model": str(tmp_path / "fast"), "device": "cpu", "threads": 1, "max_tokens": 20}
    )
    slow: Any = open_engine("transformers", {"model": str(tmp_path / "tiny"), "device": "cpu", "max_tokens": 20})
    tokenizer = slow._vocabulary.tokenizer
    said = tokenizer("Ein Hund", add_special_tokens=False)["input_ids"]
    for row in slow._vocabulary.encode(TEXTS, "en", "de"):
        with torch.no_grad():
            logits = slow._model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[0, *said]])).logits[0]
        wanted = logits.log_softmax(-1)[range(len(said) + 1), [*said, tokenizer.eos_token_id]]
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in (row, said)]
        found = fast._translator.score_batch([tokens[0]], [tokens[1]])[0].log_probs
        torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-4, atol=1e-3)
    for language in ("de", "sw"):
        assert fast.translate(TEXTS, "en", language) == slow.translate(TEXTS, "en", language)


def test_a_model_that_says_nothing_translates_nothing_by_either_engine(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = []
    for sign in (1, -1):  # the end of the text is the likeliest word, or the least likely
        tiny, fast = tmp_path / f"tiny{sign}", tmp_path / f"fast{sign}"
        save_madlad(tiny)
        weights = load_file(tiny / "model.safetensors")
        weights["decoder.final_layer_norm.weight"][1:] = 0  # states have one number
        weights["lm_head.weight"][:] = 0
        weights["lm_head.weight"][2, 0] = 50.0 * sign
        save_file(weights, tiny / "model.safetensors", {"format": "pt"})
        assert convert(tiny, "--to", fast, "--quantization", "float32").exit_code == 0
        options = {"device": "cpu", "beams": 1, "max_tokens": 5}
        slow = open_engine("transformers", {"model": str(tiny), **options}).translate(["A dog."], "en", "de")
        found.append(slow == [None])
        if found[-1]:
            assert open_engine("ctranslate2", {"model": str(fast), **options}).translate(["A dog."], "en", "de") == slow
    assert any(found)


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
    refused("holds a 'bloom' model, not NLLB", other)
    (other / "config.json").write_text(json.dumps(config))
    (other / "model.safetensors").unlink()
    refused("has no weights", other)
    (other / "model.safetensors").write_bytes(b"no weights")
    refused("", other)


def test_a_folder_that_is_in_use_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty" in str(convert(checkpoint, "--to", tmp_path).exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
