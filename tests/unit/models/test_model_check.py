"""What the doctor says of checkpoints and runs, whole and broken, without loading them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import checkpoints
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.models import add_lora, load_vision_llm, save_run
from mblip.models.model_check import check_model


@pytest.mark.parametrize("family", ["mt5", "bloom"])
def test_whole_checkpoints_have_no_problem(family: str, tmp_path: Path) -> None:
    today = check_model(checkpoints.blip2(tmp_path / "today", family))
    assert (today.kind, today.problems) == ("vision-LLM", [])
    assert today.facts["parameters"].keys() == {"vision", "queries", "qformer", "projection", "llm"}
    for safetensors in (True, False):
        old = check_model(checkpoints.published(tmp_path / f"old{safetensors}", family, safetensors=safetensors))
        assert (old.kind, old.problems) == ("vision-LLM of 2023's layout", [])
        assert old.facts["output head"] == "not tied to the embeddings"
        assert old.facts["image token"].startswith("none; 12 embedding rows")
        assert old.facts["weights"].startswith(f"2 {'safetensors' if safetensors else 'bin'} files")
    text = check_model(checkpoints.llm(tmp_path / "llm", family))
    assert (text.kind, text.problems) == ("language model", [])
    assert text.facts["parameters"]["llm"] == today.facts["parameters"]["llm"]


@pytest.mark.parametrize(
    ("unused", "told"),
    [
        (2, "2 embedding rows belong to no token"),
        (1, "1 embedding row belongs to no token"),
        (0, "0 embedding rows belong to no token"),
        (-1, "no embedding row is free; 1 token of the tokeniser has none"),
    ],
)
def test_rows_that_are_free_for_an_image_token(unused: int, told: str, tmp_path: Path) -> None:
    report = check_model(checkpoints.llm(tmp_path / "llm", "llama", unused_rows=unused))
    assert report.facts["image token"] == told


def test_a_run_and_what_it_stands_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = checkpoints.blip2(tmp_path / "base", "mt5")
    vlm = load_vision_llm(base)
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    report = check_model(tmp_path / "run")
    assert report.is_usable
    assert report.kind == "run"
    assert report.facts["adapters"] == 1
    monkeypatch.chdir(tmp_path)
    assert check_model("run").is_usable  # by a relative path too
    (tmp_path / "run" / "adapter" / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in check_model(tmp_path / "run").problems[0]
    base.rename(tmp_path / "gone")
    assert "which is missing" in check_model(tmp_path / "run").problems[0]


@pytest.mark.parametrize("name", ["query_tokens", "language_model.lm_head.weight", "qformer.layernorm.bias"])
def test_a_missing_weight_is_found_in_the_headers(name: str, tmp_path: Path) -> None:
    report = check_model(checkpoints.published(tmp_path / "model", without=(name,)))
    assert not report.is_usable
    assert f"the weight {name} is missing; copy" in report.problems[0]


def test_any_name_of_a_tied_weight_will_do(tmp_path: Path) -> None:
    names = ("language_model.shared.weight", "language_model.decoder.embed_tokens.weight")
    assert check_model(checkpoints.published(tmp_path / "model", without=names)).is_usable


def test_the_folder_of_an_adapter_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert result.exit_code == 1 and "holds a LoRA adapter without its model" in " ".join(result.output.split())


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "neither a model" in check_model(tmp_path / "empty").problems[0]
    assert "no checkpoint folder" in check_model(tmp_path / "nowhere").problems[0]
    folder = checkpoints.published(tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "lacks model-00002-of-00002.safetensors" in check_model(folder).problems[0]
    (folder / "tokenizer.json").unlink()
    assert "no tokeniser" in check_model(folder).problems[0]
