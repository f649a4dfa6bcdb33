"""Checkpoints that cannot be used: one clear sentence each."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import checkpoints, gguf_files
from transformers import BertConfig

from mblip.config import ModelSection
from mblip.errors import InputError, MblipError, RemoteError, ResourceError
from mblip.models import build_model, load_vision_llm
from mblip.models.model_check import check_model
from mblip.models.reading import text_class
from mblip.models.runs import save_run
from mblip.models.skeleton import container_config

PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def refused(match: str, name: str | Path, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_vision_llm(name, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoints.blip2(tmp_path / "model", "mt5")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return checkpoints.published(tmp_path / "old")


def test_wrong_paths(tmp_path: Path, model: Path) -> None:
    refused("there is no checkpoint folder './nowhere'", "./nowhere")
    refused("is a file; name the folder", model / "config.json")
    refused("neither a model .config.json. nor a run", tmp_path)
    refused("nobody/nothing' is neither a folder nor", "nobody/nothing")
    refused("no checkpoint nano:nano-mlx .*did you mean 'nano-mlm'", "nano:nano-mlx")
    refused("is a 'mt5' checkpoint, not BLIP-2 or LLaVA; a language model goes under llm=", model / "llm")


@pytest.mark.parametrize("library", ["httpx", "httpx2"])  # of the Hub's client, by its version
def test_no_connection(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip(library)

    def unreachable(*_: Any, **__: Any) -> Any:
        raise client.ConnectError("Name or service not known")  # as the Hub's client passes it on

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.list_repo_files", unreachable)
    with pytest.raises(RemoteError, match=r"nobody/nothing' is neither .* \(ConnectError\): check the spelling"):
        load_vision_llm("nobody/nothing")


def test_what_the_hub_refuses_is_told_from_what_fails_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for raised, kind in (
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
        (_Answered(404), InputError),
        (_Answered(401), InputError),
        (_Answered(503), RemoteError),
        (_Answered(429), RemoteError),
        (ValueError("no name of a repository"), InputError),
        (ConnectionError("no route"), RemoteError),
    ):
        monkeypatch.setattr("huggingface_hub.list_repo_files", partial(_raise, raised))
        with pytest.raises(MblipError, match="nobody/nothing") as found:
            load_vision_llm("nobody/nothing")
        assert type(found.value) is kind, raised


class _Answered(OSError):
    """An error of the Hub's client, which carries the response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


def _raise(error: Exception, *_: Any, **__: Any) -> Any:
    raise error


@pytest.mark.parametrize("safetensors", [True, False])
def test_half_a_shard_set(tmp_path: Path, safetensors: bool) -> None:
    folder = checkpoints.published(tmp_path / "model", safetensors=safetensors, shards=3)
    missing = sorted(folder.glob("*-00002-of-00003.*"))[0]
    missing.unlink()
    refused(rf"lacks {missing.name} \(1 of 3 shards are missing\)", folder)
    for file in folder.glob("*-of-00003.*"):
        file.unlink()
    refused("3 of 3 shards are missing", folder)
    for file in folder.glob("*.index.json"):
        file.unlink()
    refused("holds no weights", folder)


@pytest.mark.parametrize("safetensors", [True, False])
def test_a_cut_shard(tmp_path: Path, safetensors: bool) -> None:
    folder = checkpoints.published(tmp_path / "model", safetensors=safetensors)
    shard = sorted(folder.glob("*-00002-of-00002.*"))[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    refused(f"{shard.name} is damaged", folder)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("this must never be printed",)


def test_pickles_of_more_than_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints.published(tmp_path / "model", safetensors=False, shards=1)
    file = folder / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "harm": Harmful()}, file)
    refused("pickle that holds more than tensors and is refused; use safetensors", folder)
    file.write_bytes(pickle.dumps(Harmful()))
    refused("pytorch_model.bin", folder)
    torch.save({"state_dict": state, "step": 3}, file)
    refused("does not map names to tensors", folder)
    assert "never be printed" not in capsys.readouterr().out


def test_files_of_an_older_torch_are_read(tmp_path: Path) -> None:
    folder = checkpoints.published(tmp_path / "model", safetensors=False, shards=1)
    before = load_vision_llm(folder).generate([PICTURE], ["Caption"], max_new_tokens=4)
    file = folder / "pytorch_model.bin"
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    assert load_vision_llm(folder).generate([PICTURE], ["Caption"], max_new_tokens=4) == before


def test_remote_code(model: Path) -> None:
    edit(model / "config.json", lambda data: data.update(auto_map={"AutoModel": "evil.Model"}))
    (model / "evil.py").write_text("raise SystemExit('ran')")
    refused(r"code that comes with the checkpoint \(auto_map\), which mblip does not run", model)
    edit(model / "llm" / "config.json", lambda data: data.update(auto_map={"AutoConfig": "evil.C"}, model_type="evil"))
    with pytest.raises(
        InputError, match=r"needs code that comes with the checkpoint \(auto_map\), which mblip does not run"
    ):
        build_model("nano:nano-blip2-en", model / "llm")


def test_an_image_token_that_is_a_word(model: Path) -> None:
    edit(model / "config.json", lambda data: data.update(image_token_index=7))
    refused(r"image_token_index 7 is already used by the word '.+'; set it to the id of <image>", model)
    edit(model / "config.json", lambda data: data.update(image_token_index=100_000))
    refused("image_token_index 100000 is outside the language model's vocabulary", model)


def test_a_prompt_with_the_image_token(model: Path) -> None:
    with pytest.raises(InputError, match="contains <image>, which marks an image"):
        load_vision_llm(model).generate([PICTURE], ["what is <image>"])


def test_a_blip2_checkpoint_of_another_size(model: Path, old: Path) -> None:
    edit(model / "config.json", lambda data: data["qformer_config"].update(hidden_size=24))
    refused(r"weights are of another size than the configuration says, the first is", model)
    with pytest.raises(InputError, match=r"qformer.* is \[.*20.*\] but its config.json says \[.*24.*\]"):
        build_model(model, model / "llm")
    edit(old / "preprocessor_config.json", lambda data: data.update(size={"height": 224, "width": 224}))
    refused("pictures, the vision model takes 32x32", old)


def test_a_projection_of_another_width(tmp_path: Path, model: Path) -> None:
    wide = checkpoints.llm(tmp_path / "wide", "llama", hidden_size=64)
    with pytest.raises(
        InputError, match=r"projection=keep needs a language model of width 32, .*has 64; use projection=random"
    ):
        build_model(model, wide, projection="keep")
    assert build_model(model, wide).llm.hidden_size == 64


def test_a_language_model_whose_embeddings_are_narrow(tmp_path: Path, model: Path) -> None:
    narrow = checkpoints.llm(tmp_path / "narrow", "opt", word_embed_proj_dim=16)
    with pytest.raises(
        InputError, match="embeddings have the width 16, but the layers 32; this language model cannot take"
    ):
        build_model(model, narrow)


def test_what_is_no_language_model(model: Path) -> None:
    with pytest.raises(InputError, match="is a blip-2 checkpoint, which is not a language model alone"):
        build_model(model, model)
    with pytest.raises(InputError, match="is a 'mt5' checkpoint, not BLIP-2"):
        build_model(model / "llm", model / "llm")
    encoder = shutil.copytree(model / "llm", model / "encoder")
    edit(encoder / "config.json", lambda c: c.update(architectures=["MT5EncoderModel"], is_encoder_decoder=False))
    masked = shutil.copytree(model / "llm", model / "masked")
    edit(masked / "config.json", lambda c: (c.clear(), c.update(architectures=["BertForMaskedLM"], model_type="bert")))
    for folder, kind in ((encoder, "MT5EncoderModel"), (masked, "BertForMaskedLM")):
        with pytest.raises(InputError, match=rf"{folder.name} \({kind}\) writes no text: name a causal"):
            build_model(model, folder)
        with pytest.raises(InputError, match=rf"{folder.name} \({kind}\) writes no text: name a causal"):
            container_config(ModelSection(vision=str(model), llm=str(folder)))
    for kind, classes in (("xlm-roberta", ["XLMRobertaModel"]), ("bert", None)):  # such as sentence embeddings
        (masked / "config.json").write_text(json.dumps({"model_type": kind, "architectures": classes}))
        with pytest.raises(InputError, match=r"masked \(.*\) writes no text: name a causal"):
            build_model(model, masked)
    assert text_class(BertConfig(is_decoder=True), "a BERT that was trained to write")
    bare = model / "bare"
    gguf_files.llama(bare)
    weights = load_file(bare / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "lm_head.weight"}, bare / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight is missing; copy the checkpoint again"):
        build_model(model, bare)
    edit(bare / "config.json", lambda c: c.update(architectures=["LlamaModel"]))
    with pytest.raises(InputError, match="names LlamaModel, which has no output head: take the checkpoint of a model"):
        build_model(model, bare)
    adapter = model / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter holds a LoRA adapter without its model: merge it into the model"):
        build_model(model, adapter)
    run = model / "run"
    run.mkdir()
    (run / "mblip.json").write_text("{}")
    for parts in ((run, model / "llm"), (model, run)):
        with pytest.raises(InputError, match=rf"run is a run, .* continue from it with model\.run={run}"):
            build_model(*parts)


def test_a_tokeniser_without_an_end(model: Path) -> None:
    edit(model / "llm" / "tokenizer_config.json", lambda data: data.pop("eos_token"))
    with pytest.raises(InputError, match="no end token"):
        build_model(model, model / "llm")
    for file in (model / "llm").glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match="has no tokeniser: none of"):
        build_model(model, model / "llm")


def test_types_that_do_not_work(model: Path) -> None:
    refused("dtype 'fp8' is unknown; it is one of fp32, bf16, fp16", model, dtype="fp8")
    refused("a mt5 language model overflows in fp16; use bf16 or fp32", model, dtype="fp16")


def test_a_checkpoint_stored_in_fp16_computes_in_bf16_where_fp16_overflows(tmp_path: Path) -> None:
    folder = checkpoints.published(tmp_path / "model", shards=1)
    file = folder / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    vlm = load_vision_llm(folder)
    assert vlm.language_model.dtype is torch.bfloat16
    assert torch.isfinite(vlm.logits({
        **vlm.layout.pairs(["Caption"], ["dog"], [1]), "pixel_values": vlm.pixels([PICTURE]), "image_index": torch.tensor([[0]])
    })).all()  # fmt: skip


def test_lengths_that_differ(model: Path) -> None:
    with pytest.raises(InputError, match="2 prompts for 1 image"):
        load_vision_llm(model).generate([PICTURE], ["a", "b"])


def test_a_batch_with_too_few_placeholders(model: Path) -> None:
    vlm = load_vision_llm(model)
    batch: dict[str, Any] = vlm.layout.pairs(["Caption", "what"], ["dog", "cat"], [1, 1])
    batch |= {"pixel_values": vlm.pixels([PICTURE]), "image_index": torch.tensor([[0], [0]])}
    batch["input_ids"][1, 0] = 5
    with pytest.raises(InputError, match="text 1 of the batch has 3 image tokens, but its 1 images take 4"):
        vlm(batch)


def test_damaged_configurations(model: Path) -> None:
    file = model / "config.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    refused("config.json is damaged", model)
    file.write_text("[]")
    refused("must hold one JSON object", model)
    for size in (70, 300):  # less than the image token's id, and more than there are rows
        config = json.loads(text)
        config["text_config"]["vocab_size"] = size
        file.write_text(json.dumps(config))
        refused("outside the language model's vocabulary" if size == 70 else "of another size", model)
    edit_type = {**json.loads(text), "text_config": {"model_type": "nobody"}}
    file.write_text(json.dumps(edit_type))
    refused("config.json", model)


@pytest.mark.parametrize("damage", ["{", "[]", '{"image_processor": 3}', '{"size": "large"}'])
def test_a_damaged_image_processor(damage: str, old: Path) -> None:
    (old / "preprocessor_config.json").write_text(damage)
    refused("old has no image processor that transformers can read|pictures, the vision model takes 32x32", old)
    assert any("old" in problem for problem in check_model(old).problems)


def test_a_token_without_an_embedding(model: Path) -> None:
    vlm = load_vision_llm(model)
    batch: dict[str, Any] = vlm.layout.pairs(["Caption", "what"], ["dog", "cat"], [1, 1])
    batch |= {"pixel_values": vlm.pixels([PICTURE]), "image_index": torch.tensor([[0], [0]])}
    words = (batch["input_ids"] != vlm.model.config.image_token_index).nonzero()
    batch["input_ids"][tuple(words[-1])] = 10**6
    with pytest.raises(InputError, match=r"the id 1000000, but .* \d+ embeddings; use the tokeniser that belongs"):
        vlm(batch)


@pytest.mark.parametrize(
    "kind", ["blip", "instructblip", "qwen2_vl", "paligemma", "idefics3", "git", "vision-encoder-decoder"]
)
def test_other_vision_language_models_are_told_that_eval_takes_them(kind: str, tmp_path: Path) -> None:
    """Wherever a checkpoint is named: as a model, as eyes, as a language model, to the doctor."""
    from transformers import AutoConfig

    if kind == "vision-encoder-decoder":
        parts: dict[str, Any] = {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}}
        AutoConfig.for_model(kind, **parts).save_pretrained(tmp_path)
    else:
        AutoConfig.for_model(kind).save_pretrained(tmp_path)
    eval_takes_it = f"is a '?{kind}'? checkpoint, a vision-language model, .*mblip eval can use it"
    refused(eval_takes_it, tmp_path)
    with pytest.raises(InputError, match=eval_takes_it):
        build_model(tmp_path, "nano:nano-mlm")
    with pytest.raises(InputError, match=eval_takes_it):
        build_model("nano:nano-blip2-en", tmp_path)
    for section in ({"run": tmp_path}, {"vision": tmp_path, "llm": "nano:nano-mlm"}):
        with pytest.raises(InputError, match=eval_takes_it):
            container_config(ModelSection(**{name: str(value) for name, value in section.items()}))
    report = check_model(tmp_path)
    assert report.kind == "vision-language model"
    assert "mblip eval can use it" in " ".join(report.problems)


@pytest.mark.parametrize("kind", ["clip", "vit", "whisper"])
def test_what_is_neither_is_told_so(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    refused(f"is a '{kind}' checkpoint, not BLIP-2", tmp_path)
    assert check_model(tmp_path).kind != "vision-language model"
    assert not check_model(tmp_path).is_usable


def test_the_language_model_of_a_run_is_fetched_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that does not have it yet: its fingerprint is that of the weights."""
    llm = checkpoints.llm(tmp_path / "llm", "llama")
    save_run(build_model(checkpoints.blip2(tmp_path / "eyes"), llm), tmp_path / "run")
    edit(tmp_path / "run" / "mblip.json", lambda run: run["bases"]["llm"].update(id="someone/llm"))
    bare = shutil.copytree(llm, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr("mblip.models.locate._from_hub", lambda name, weights: llm if weights else bare)
    assert load_vision_llm(tmp_path / "run").language_model.config.model_type == "llama"
