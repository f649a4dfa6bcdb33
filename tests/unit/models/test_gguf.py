"""A GGUF file as the language model: what is read equals what was written, and what cannot be read is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests import checkpoints, gguf_files
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import ModelSection
from mblip.errors import InputError, ResourceError
from mblip.models import add_lora, build_model, load_vision_llm, save_run
from mblip.models.export import export_model
from mblip.models.gguf import convert_gguf
from mblip.models.gguf_files import find_gguf
from mblip.models.locate import find_local, locate_language_model
from mblip.models.model_check import check_model
from mblip.models.skeleton import container_config

TEXTS = ["Caption in German: ein Haus", "two dogs, three cats", "собака и кошка", "犬\n猫  ist"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mblip" / "gguf"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stored", ["F32", "F16", "Q8_0"])
def test_logits_and_tokens_are_those_of_the_model_that_was_written(stored: str, tied: bool, tmp_path: Path) -> None:
    wanted = gguf_files.llama(tmp_path / "source", tied)
    file = gguf_files.write_gguf(wanted, tmp_path / "model.gguf", stored)
    folder = locate_language_model(file)
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert found.config.tie_word_embeddings is tied
    before, after = (AutoTokenizer.from_pretrained(where) for where in (tmp_path / "source", folder))
    for text in TEXTS:
        ids = before(text, return_tensors="pt")["input_ids"]
        assert after(text, return_tensors="pt")["input_ids"].tolist() == ids.tolist()
        assert after.decode(ids[0]) == before.decode(ids[0])
        torch.testing.assert_close(found(ids).logits, wanted(ids).logits, rtol=1e-5, atol=1e-5)
    assert (after.eos_token_id, after.bos_token_id) == (before.eos_token_id, before.bos_token_id)
    kept = {"F32": "float32", "F16": "float16", "Q8_0": "float32"}[stored]
    assert json.loads((folder / "config.json").read_text())["dtype"] == kept


def test_a_file_is_converted_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_files.write_gguf(gguf_files.llama(tmp_path / "source"), tmp_path / "model.gguf")
    shape = locate_language_model(file, weights=False)
    assert not list(shape.glob("*.safetensors"))
    folder = locate_language_model(str(file))
    assert folder.parent == shape.parent == cache
    (tmp_path / "folder").mkdir()
    moved = file.rename(tmp_path / "folder" / "another name.GGUF")
    monkeypatch.setattr("mblip.models.gguf._convert", None)
    assert locate_language_model(moved) == locate_language_model(tmp_path / "folder") == folder
    assert locate_language_model(moved, weights=False) == folder


def test_a_run_stands_on_the_file(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "source"
    file = gguf_files.write_gguf(gguf_files.llama(source), tmp_path / "model.gguf")
    eyes = checkpoints.blip2(tmp_path / "eyes")
    vlm = build_model(eyes, file, seed=1)
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "mblip.json").read_text())["bases"]["llm"]
    assert described["id"] == str(file)
    config = container_config(ModelSection(vision=str(eyes), llm=str(file)))
    assert config.text_config.model_type == "llama"
    assert container_config(ModelSection(run=str(tmp_path / "run"))).text_config.hidden_size == gguf_files.WIDTH
    for folder in cache.iterdir():  # what was converted may be deleted at any time
        folder.rename(tmp_path / folder.name)
    again = load_vision_llm(tmp_path / "run")
    batch = {name: torch.ones(1, 3, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(again.language_model(**batch).logits, vlm.language_model(**batch).logits)
    assert check_model(tmp_path / "run").problems == []
    export_model(tmp_path / "run", tmp_path / "exported")
    assert load_vision_llm(tmp_path / "exported").language_model.config.model_type == "llama"
    gguf_files.write_gguf(gguf_files.llama(source, tied=True), file)
    with pytest.raises(InputError, match="trained on another llm checkpoint"):
        load_vision_llm(tmp_path / "run")
    file.unlink()
    with pytest.raises(InputError, match="which is missing"):
        load_vision_llm(tmp_path / "run")


def test_the_doctor_looks_at_a_file(tmp_path: Path) -> None:
    file = gguf_files.write_gguf(gguf_files.llama(tmp_path / "source"), tmp_path / "model.gguf")
    report = check_model(file)
    assert (report.kind, report.problems, report.path) == ("language model", [], str(file))
    for name in (file, tmp_path / "only"):
        (tmp_path / "only").mkdir(exist_ok=True)
        (tmp_path / "only" / "x.gguf").write_bytes(file.read_bytes())
        result = CliRunner().invoke(app, ["doctor", str(name)])
        assert result.exit_code == 0 and "language model" in result.output
        assert f"parameters: llm {report.facts['parameters']['llm']:,}\n" in result.output


def test_what_is_no_language_model_of_one_file_is_refused(tmp_path: Path) -> None:
    model = gguf_files.llama(tmp_path / "source")
    whole = gguf_files.write_gguf(model, tmp_path / "whole.gguf")
    (tmp_path / "several").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "several" / name).write_bytes(whole.read_bytes())
    with pytest.raises(InputError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\): name one"):
        locate_language_model(tmp_path / "several")
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "model-00001-of-00002.gguf"
    part.write_bytes(whole.read_bytes())
    for where in (part, part.parent):
        with pytest.raises(InputError, match="one of 2 parts of a model"):
            locate_language_model(where)
    (tmp_path / "text.gguf").write_text("not this")
    with pytest.raises(InputError, match="not a GGUF file"):
        locate_language_model(tmp_path / "text.gguf")
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + (1).to_bytes(4, "little") + whole.read_bytes()[8:])
    with pytest.raises(InputError, match="GGUF of version 1"):
        locate_language_model(tmp_path / "old.gguf")
    with pytest.raises(InputError, match=r"bert.gguf .*(transformers does not read|writes no text)"):
        locate_language_model(gguf_files.write_gguf(model, tmp_path / "bert.gguf", architecture="bert"))
    with pytest.raises(InputError, match=r"a GGUF file, which holds only a language model: name it in model.llm"):
        find_local(whole)
    with pytest.raises(InputError, match=r"there is no checkpoint folder 'models/none.gguf'"):
        locate_language_model("models/none.gguf")
    assert find_gguf(tmp_path / "source") is None


@pytest.mark.parametrize(
    ("architecture", "said", "says"),
    [
        ("clip", {}, "holds the image encoder of a vision-language model, not a language model: name the file of its"),
        ("clip", {"general.type": "mmproj"}, "holds the image encoder of a vision-language model"),
        ("llama", {"general.type": "adapter"}, "holds a LoRA adapter, not a language model: merge it"),
        ("imatrix", {}, "holds an importance matrix"),
        ("llama", {"general.type": "vocab"}, "holds something of the type 'vocab', not a language model"),
        ("llama", {"split.count": 3}, "is one of 3 parts of a model"),  # renamed, so that its name does not say it
        ("llama", {"llama.attention.causal": False}, "writes no text: its attention is not causal"),
    ],
)
def test_gguf_files_of_something_else_are_told_by_what_they_say(
    architecture: str, said: dict[str, object], says: str, tmp_path: Path, cache: Path
) -> None:
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "other.gguf", architecture=architecture, said=said)
    for weights in (False, True):
        with pytest.raises(InputError, match=f"other.gguf.* {says}"):
            locate_language_model(file, weights)
    assert not list(cache.iterdir())
    whole = {"general.type": "model", "split.count": 1, "llama.attention.causal": True}
    locate_language_model(gguf_files.write_gguf(model, tmp_path / "whole.gguf", said=whole))


@pytest.mark.parametrize("kept", [0.999, 0.6, 0.2, 0.01, 9])
def test_a_damaged_file_leaves_nothing_behind(kept: float, tmp_path: Path, cache: Path) -> None:
    whole = gguf_files.write_gguf(gguf_files.llama(tmp_path / "source"), tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(InputError, match=r"cut.gguf is damaged, or cut off"):
        convert_gguf(cut)
    assert not list(cache.glob("*"))


def test_a_setting_of_another_type_is_damage(tmp_path: Path, cache: Path) -> None:
    file = gguf_files.write_gguf(gguf_files.llama(tmp_path / "whole"), tmp_path / "typed.gguf")
    key, whole, fraction = b"tokenizer.ggml.padding_token_id", b"\x04\0\0\0", b"\x06\0\0\0"  # UINT32, FLOAT32
    before = file.read_bytes()
    assert before.count(key + whole) == 1
    file.write_bytes(before.replace(key + whole, key + fraction))
    with pytest.raises(InputError, match=r"typed.gguf is damaged, or cut off"):
        locate_language_model(file)


def test_a_whole_file_is_not_called_damaged(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a tokeniser, and a machine without memory."""
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "model.gguf")

    def no_memory(file: Path) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("mblip.models.gguf._stored_type", no_memory)
    with pytest.raises(ResourceError, match=r"model.gguf: out of memory while it is converted"):
        convert_gguf(file)
    monkeypatch.setattr("gguf.GGUFWriter.add_tokenizer_model", lambda *args: None)
    bare = gguf_files.write_gguf(model, tmp_path / "bare.gguf")
    with pytest.raises(InputError, match=r"bare.gguf holds no tokeniser .*take the model's safetensors"):
        convert_gguf(bare)
    assert not list(cache.glob("*-transformers-*"))


UNSAID = {
    "llama.block_count": "does not say its llama.block_count, .* convert the model to GGUF again",
    "llama.embedding_length": "does not say its llama.embedding_length",
    "llama.attention.head_count": "does not say its llama.attention.head_count",
    "llama.feed_forward_length": "does not say its llama.feed_forward_length",
    "tokenizer.ggml.merges": "holds the words of its tokeniser without tokenizer.ggml.merges, .* convert the model",
}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("key", UNSAID)
def test_what_a_file_does_not_say_is_not_guessed(key: str, weights: bool, tmp_path: Path, cache: Path) -> None:
    """Neither for training nor for a plan, which reads no weights."""
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "model.gguf", unsaid=(key,))
    with pytest.raises(InputError, match=f"model.gguf {UNSAID[key]}"):
        locate_language_model(file, weights=weights)
    assert not list(cache.glob("*-transformers-*"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [(1, r"says 1 layer \(llama.block_count\) and holds 2"), (3, "weights are missing, .*layers.2.input_layernorm")],
)
def test_another_number_of_layers_than_the_file_holds(layers: int, message: str, tmp_path: Path) -> None:
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "model.gguf", said={"llama.block_count": layers})
    with pytest.raises(InputError, match=f"model.gguf:? .*{message}"):
        locate_language_model(file)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("llama.context_length", 0), ("llama.embedding_length", 0), ("llama.rope.freq_base", float("nan")),
        ("llama.rope.freq_base", 0.0), ("llama.attention.layer_norm_rms_epsilon", -1.0),
        ("llama.attention.layer_norm_rms_epsilon", float("inf")),
    ],
)  # fmt: skip
def test_a_number_that_no_model_has_is_damage(
    setting: str, value: float, weights: bool, tmp_path: Path, cache: Path
) -> None:
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "model.gguf", said={setting: value})
    with pytest.raises(InputError, match=rf"model.gguf is damaged \({setting} is {value}\)"):
        locate_language_model(file, weights=weights)
    assert not list(cache.glob("*-transformers-*"))


def test_a_missing_tensor_is_told(tmp_path: Path, cache: Path) -> None:
    model = gguf_files.llama(tmp_path / "source")
    file = gguf_files.write_gguf(model, tmp_path / "model.gguf", left_out="blk.1.ffn_up.weight")
    with pytest.raises(
        InputError, match=r"model.gguf: the weight .*layers.1.mlp.up_proj.weight is missing; .* take the model"
    ):
        convert_gguf(file)
    assert not list(cache.glob("*"))


def test_the_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_files.write_gguf(gguf_files.llama(tmp_path / "source"), tmp_path / "model.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need the package gguf: pip install 'mblip\[gguf\]'"):
        locate_language_model(file)
