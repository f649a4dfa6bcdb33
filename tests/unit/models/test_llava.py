"""Eyes of any kind behind an MLP: what may be named as eyes, what becomes of it, and prompts with a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests import checkpoints, llava_checkpoints
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
    ViTMAEConfig,
)

from mblip import load_model
from mblip.errors import InputError
from mblip.models import add_lora, build_model, load_vision_llm, save_run
from mblip.models.export import export, probe
from mblip.models.model_check import check_model
from mblip.models.quantize import Quantization, quantization_of
from mblip.processing.framing import ChatFrame

PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8)) for i in range(3)]
PROMPTS = ["what is in the house", "Caption in German:", "how many red dog"]
BEAMS: dict[str, Any] = {"num_beams": 5, "max_new_tokens": 6}


def with_template(folder: Path, template: str = llava_checkpoints.CHAT) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("eyes", llava_checkpoints.TOWERS)
def test_a_tower_of_its_own_before_a_language_model(eyes: str, tmp_path: Path) -> None:
    tower, llm = llava_checkpoints.tower(tmp_path / "eyes", eyes), checkpoints.llm(tmp_path / "llm", "qwen3")
    assert check_model(tower).kind == "image encoder"
    assert check_model(tower).is_usable
    vlm = build_model(vision=tower, llm=llm, bridge="mlp", dtype="fp32", seed=3)
    has_class = eyes in ("clip", "dinov2")
    assert vlm.container.tokens_per_image == llava_checkpoints.PATCHES
    assert vlm.model.config.vision_feature_select_strategy == ("default" if has_class else "full")
    assert vlm.model.config.vision_feature_layer == (-2 if has_class else -1)
    stored, held = AutoModel.from_pretrained(tower).state_dict(), vlm.container.vision.state_dict()
    assert stored.keys() == held.keys()
    assert all(torch.equal(held[name], value) for name, value in stored.items())
    ours = vlm.generate(PICTURES, PROMPTS, **BEAMS)
    export(vlm, tmp_path / "stock")
    assert check_model(tmp_path / "stock").problems == []
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    assert type(stock) is LlavaForConditionalGeneration
    for picture, prompt, answer in zip(PICTURES, PROMPTS, ours, strict=True):
        inputs = processor(images=picture, text=f"<image>\n{prompt}", return_tensors="pt")
        ids = stock.generate(**inputs, **BEAMS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(ids, skip_special_tokens=True).strip() == answer


@pytest.mark.parametrize("projection", ["keep", "random"])
def test_the_eyes_of_a_llava_without_its_language_model(projection: Any, tmp_path: Path) -> None:
    source = llava_checkpoints.llava(tmp_path / "today", "clip", "llama")
    folder = llava_checkpoints.of_2023(tmp_path / "llava", source)
    for file in folder.glob("*.safetensors"):  # reading a weight of its language model would fail
        state = {name: value for name, value in load_file(file).items() if not name.startswith("language_model")}
        save_file(state, file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if not k.startswith("language_model")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    vlm = build_model(folder, checkpoints.llm(tmp_path / "llm", "mistral"), projection=projection, dtype="fp32")
    first = AutoModelForImageTextToText.from_pretrained(source).model
    for name, value in first.vision_tower.state_dict().items():
        assert torch.equal(vlm.container.vision.state_dict()[name], value)
    same = torch.equal(vlm.container.projection.weight, first.multi_modal_projector.linear_2.weight)
    assert same == (projection == "keep")
    assert vlm.model.config.vision_feature_layer == -2
    with pytest.raises(InputError, match=r"width 32, for which .* use projection=random"):
        build_model(folder, checkpoints.llm(tmp_path / "wide", "llama", hidden_size=40), projection="keep")


@pytest.mark.parametrize("bias", [True, False])
def test_the_eyes_of_a_blip2_behind_an_mlp(bias: bool, tmp_path: Path) -> None:
    """Its vision model is transformers' ViT by other names: every layer gives what it gave in BLIP-2, also in an export."""
    blip2, llm = checkpoints.blip2(tmp_path / "blip2", "t5"), checkpoints.llm(tmp_path / "llm", "qwen3")
    if not bias:
        config = json.loads((blip2 / "config.json").read_text())
        edit(blip2, vision_config=config["vision_config"] | {"qkv_bias": False})
        state = load_file(blip2 / "model.safetensors")
        kept = {name: value for name, value in state.items() if not name.endswith("qkv.bias")}
        assert len(state) - len(kept) == 2
        save_file(kept, blip2 / "model.safetensors", metadata={"format": "pt"})
    vlm = build_model(blip2, llm, bridge="mlp", dtype="fp32")
    assert vlm.model.config.vision_feature_layer == -1
    assert vlm.container.tokens_per_image == llava_checkpoints.PATCHES
    pixels = vlm.pixels(PICTURES)
    whole = load_vision_llm(blip2, dtype="fp32").container.vision
    with torch.no_grad():
        found, wanted = (tower(pixels, output_hidden_states=True) for tower in (vlm.container.vision, whole))
    for ours, theirs in zip(found.hidden_states, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.last_hidden_state, wanted.last_hidden_state, rtol=1e-6, atol=1e-6)
    before = probe(vlm)
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    torch.testing.assert_close(probe(load_vision_llm(tmp_path / "run", dtype="fp32")), before, rtol=1e-5, atol=1e-5)
    export(vlm, tmp_path / "stock")
    torch.testing.assert_close(probe(load_vision_llm(tmp_path / "stock", dtype="fp32")), before, rtol=1e-5, atol=1e-5)
    assert build_model(blip2, llm).container.model_type == "blip-2"


FAMILY: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration, "clip", {}),
    "llava_onevision": (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, "siglip", {}),
    "vipllava": (VipLlavaConfig, VipLlavaForConditionalGeneration, "clip", {"vision_feature_layers": [-2, 1]}),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_the_eyes_of_the_llava_family(kind: str, tmp_path: Path) -> None:
    config, model, eyes, settings = FAMILY[kind]
    text = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=100)
    vision, *_ = llava_checkpoints.TOWERS[eyes]
    source = model(config(vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=99, **settings))
    source.save_pretrained(tmp_path / "eyes")
    llava_checkpoints.TOWERS["siglip"][3].save_pretrained(tmp_path / "eyes")
    llm = checkpoints.llm(tmp_path / "llm", "qwen3")
    vlm = build_model(tmp_path / "eyes", llm, dtype="fp32")
    held = vlm.container.vision.state_dict()
    assert all(torch.equal(held[name], value) for name, value in source.model.vision_tower.state_dict().items())
    assert vlm.container.tokens_per_image == llava_checkpoints.PATCHES
    if kind == "vipllava":  # with a norm between tower and MLP, without which the MLP would be another
        assert llava_checkpoints.mlp(vlm).linear_1.in_features == 48
        with pytest.raises(InputError, match=r"no plain two-layer MLP \(projector_layernorm"):
            build_model(tmp_path / "eyes", llm, projection="keep")
    else:
        kept = build_model(tmp_path / "eyes", llm, projection="keep", dtype="fp32").container.projection
        assert torch.equal(kept.weight, source.model.multi_modal_projector.linear_2.weight)


def test_layers_and_strategy_by_choice(tmp_path: Path) -> None:
    tower, llm = llava_checkpoints.tower(tmp_path / "eyes", "clip"), checkpoints.llm(tmp_path / "llm", "qwen3")
    settings: dict[str, Any] = {"vision_feature_layer": [1, -1], "vision_feature_select_strategy": "full"}
    vlm = build_model(tower, llm, dtype="fp32", **settings)
    assert vlm.container.tokens_per_image == llava_checkpoints.PATCHES + 1
    assert llava_checkpoints.mlp(vlm).linear_1.in_features == 2 * 24
    add_lora(vlm, 2, 4, 0.0)
    save_run(vlm, tmp_path / "run")
    again = load_vision_llm(tmp_path / "run", dtype="fp32")
    assert again.generate(PICTURES, PROMPTS, **BEAMS) == vlm.generate(PICTURES, PROMPTS, **BEAMS)
    with pytest.raises(InputError, match="vision_feature_layer 7 is not among the 3 layers"):
        build_model(tower, llm, vision_feature_layer=7)


@pytest.mark.parametrize(
    ("kind", "settings", "states"),
    [
        ("internvl_vision", {"image_size": [32, 32], "patch_size": [8, 8]}, 17),
        ("idefics3_vision", {}, 16),
        ("dinov3_vit", {"num_register_tokens": 4}, 21),
    ],
)
def test_towers_that_say_their_sizes_otherwise(
    kind: str, settings: dict[str, Any], states: int, tmp_path: Path
) -> None:
    """Sizes as lists, code that looks at the pixels' values, tokens beside the patches: equal to the tower alone."""
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    tower = AutoModel.from_config(AutoConfig.for_model(kind, **(sizes | settings))).eval()
    checkpoints.randomize(tower, 1)
    tower.save_pretrained(tmp_path / "eyes")
    llava_checkpoints.TOWERS["siglip"][3].save_pretrained(tmp_path / "eyes")
    llm = checkpoints.llm(tmp_path / "llm", "qwen3")
    choice: dict[str, Any] = {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}
    vlm = build_model(tmp_path / "eyes", llm, dtype="fp32", **choice)
    assert vlm.container.tokens_per_image == states
    pixels = vlm.pixels(PICTURES)
    with torch.no_grad():
        wanted = tower(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(vlm.container.vision_states(pixels), wanted)
    ours = vlm.generate(PICTURES, PROMPTS, max_new_tokens=6)
    export(vlm, tmp_path / "stock")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    inputs = processor(images=PICTURES[0], text=f"<image>\n{PROMPTS[0]}", return_tensors="pt")
    ids = stock.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(ids, skip_special_tokens=True).strip() == ours[0]


def test_a_tower_that_shuffles_patches_is_refused(tmp_path: Path) -> None:
    """A ViT-MAE leaves out other patches in every pass, so answers would differ from one to the next."""
    sizes = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
    }
    for ratio in (0.75, 0.0):
        AutoModel.from_config(ViTMAEConfig(**sizes, patch_size=8, mask_ratio=ratio)).save_pretrained(tmp_path / "eyes")
        with pytest.raises(InputError, match=r"patches at random in every pass \(mask_ratio\): use a ViT"):
            build_model(tmp_path / "eyes", checkpoints.llm(tmp_path / "llm", "qwen3"))


def test_what_goes_not_together_is_refused_in_a_sentence(tmp_path: Path) -> None:
    tower, llm = llava_checkpoints.tower(tmp_path / "eyes"), checkpoints.llm(tmp_path / "llm", "llama")
    blip2 = checkpoints.blip2(tmp_path / "blip2", "t5")
    with pytest.raises(
        InputError, match="reads with an encoder, but transformers' LLaVA holds only causal language models"
    ):
        build_model(tower, checkpoints.llm(tmp_path / "mt5", "mt5"))
    with pytest.raises(InputError, match="bridge=qformer needs the vision encoder of a BLIP-2"):
        build_model(tower, llm, bridge="qformer")
    with pytest.raises(InputError, match="are for bridge=mlp: leave them out"):
        build_model(blip2, llm, vision_feature_layer=-1)
    with pytest.raises(InputError, match="soft-caps its logits"):
        build_model(tower, checkpoints.llm(tmp_path / "gemma2", "gemma2"))
    with pytest.raises(InputError, match="BLIP-2 takes no chat template"):
        load_model(blip2).generate(PICTURES[:1], PROMPTS[:1], chat=True)


@pytest.mark.parametrize("family", ["bloom", "opt", "cohere"])
def test_heads_that_the_stock_class_cannot_tie_or_scale(family: str, tmp_path: Path) -> None:
    """BLOOM's and OPT's tables have names of their own, and Cohere multiplies its logits: the head becomes a table apart."""
    factor: dict[str, Any] = {"logit_scale": 0.25} if family == "cohere" else {}
    llm = checkpoints.llm(tmp_path / "llm", family, **factor)
    vlm = build_model(llava_checkpoints.tower(tmp_path / "eyes"), llm, dtype="fp32")
    trained = AutoTokenizer.from_pretrained(llm)(PROMPTS[0], return_tensors="pt")["input_ids"]
    wanted = AutoModelForCausalLM.from_pretrained(llm).eval()(trained).logits
    torch.testing.assert_close(
        vlm.language_model(trained).logits[..., : wanted.shape[-1]], wanted, rtol=1e-5, atol=1e-5
    )
    before = probe(vlm)
    export(vlm, tmp_path / "stock")
    torch.testing.assert_close(probe(load_vision_llm(tmp_path / "stock", dtype="fp32")), before, rtol=1e-5, atol=1e-5)


def test_a_chat_template_writes_the_prompts(tmp_path: Path) -> None:
    folder = with_template(llava_checkpoints.llava(tmp_path / "model", "siglip", "qwen3"))
    model, stock = load_model(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    answers = {chat: model.generate(PICTURES, PROMPTS, chat=chat, **BEAMS) for chat in (None, True, False)}
    assert answers[None] == answers[True] != answers[False]
    for chat in (True, False):
        for picture, prompt, answer in zip(PICTURES, PROMPTS, answers[chat], strict=True):
            text = f"<s>user: <image>\n{prompt} assistant: " if chat else f"<image>\n{prompt}"
            inputs = processor(images=picture, text=text, return_tensors="pt", add_special_tokens=not chat)
            ids = stock.generate(**inputs, **BEAMS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            assert processor.decode(ids, skip_special_tokens=True).strip() == answer


PARTS = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
THINKING = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% "
    "endif %}"
)


@pytest.mark.parametrize(
    ("template", "written", "separator", "end"),
    [
        (PARTS, "USER: <image>\n<image>\nwho ASSISTANT:", " ", "</s>"),
        (
            THINKING,
            "<|turn|>user\n<image>\n<image>\nwho<|end|>\n<|turn|>assistant\n<think>\n\n</think>\n\n",
            "",
            "<|end|>",
        ),
        (llava_checkpoints.CHAT, "<s>user: <image>\n<image>\nwho assistant: ", "", "</s>"),
    ],
    ids=["parts", "thinking", "text"],
)
def test_templates_of_every_form(template: str, written: str, separator: str, end: str, tmp_path: Path) -> None:
    folder = llava_checkpoints.llava(tmp_path / "model", "siglip", "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.save_pretrained(folder)
    vlm = load_vision_llm(with_template(folder, template), dtype="fp32")
    frame = vlm.layout.frame
    assert frame is not None
    assert frame.write("who", 2) == written
    assert vlm.layout.separator == separator
    assert vlm.tokenizer.convert_ids_to_tokens(vlm.layout.end_token_id) == end
    row = vlm.layout.pairs(["who"], ["a dog"], [2])
    ids, labels = row["input_ids"][0].tolist(), row["labels"][0].tolist()
    assert ids.count(vlm.layout.image_token_id) == 2 * llava_checkpoints.PATCHES
    assert ids.count(vlm.tokenizer.bos_token_id) == 1
    assert labels[-1] == vlm.layout.end_token_id
    assert vlm.decode(torch.tensor([[one for one in labels if one != -100]])) == ["a dog"]
    # What is read before an answer is the same in training and in use.
    asked = vlm.layout.prompts(["who"], [2])["input_ids"][0].tolist()
    assert ids[: len(asked)] == asked
    assert set(labels[: len(asked)]) == {-100}
    cut = vlm.layout.pairs(["a dog the cat in house"], ["no"], [1], max_prompt_tokens=2)["input_ids"][0]
    assert "a dog" in vlm.tokenizer.decode(cut)
    assert "the" not in vlm.tokenizer.decode(cut)


def test_templates_that_show_no_images_are_refused(tmp_path: Path) -> None:
    folder = with_template(llava_checkpoints.llava(tmp_path / "model", "siglip", "llama"), "{{ messages[0]['role'] }}")
    model = load_model(folder)
    with pytest.raises(InputError, match=r"does not show what a user says with an image .* correct the template"):
        model.generate(PICTURES[:1], PROMPTS[:1])
    plain = model.generate(PICTURES[:1], PROMPTS[:1], chat=False)
    edit(folder, chat_prompts=False)  # the message's other remedy, for who sits at a shell
    assert load_model(folder).generate(PICTURES[:1], PROMPTS[:1]) == plain
    with pytest.raises(InputError, match="contains <image>, which marks an image"):
        model.generate(PICTURES[:1], ["what is <image>"], chat=False)


@pytest.mark.parametrize("container", ["llava", "blip2"])
def test_a_server_counts_what_is_read_and_refuses_placeholders_by_themselves(container: str, tmp_path: Path) -> None:
    """Not in a batch, which others are in."""
    if container == "llava":
        folder = with_template(llava_checkpoints.llava(tmp_path / "model", "siglip", "llama"))
    else:
        folder = checkpoints.blip2(tmp_path / "model", "t5")
    model = load_model(folder)
    bare = len(model.vlm.tokenizer("a dog")["input_ids"])
    assert model.count_tokens("a dog") >= bare + (4 if container == "llava" else 0)
    with pytest.raises(InputError, match="contains <image>, which marks an image"):
        model.count_tokens("what is <image>")


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def drop(folder: Path, part: str) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if part in name)
    save_file({key: value for key, value in state.items() if key != name}, file, metadata={"format": "pt"})


PROCESSOR = "processor_config.json"


def inner(folder: Path, name: str, part: str, **changes: Any) -> None:
    edit(folder, name, **{part: json.loads((folder / name).read_text())[part] | changes})


def drop_ends(folder: Path) -> None:
    inner(folder, "config.json", "text_config", eos_token_id=None)
    edit(folder, "generation_config.json", eos_token_id=None)
    edit(folder, "tokenizer_config.json", eos_token=None)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight of the MLP": (lambda f: drop(f, "linear_1.weight"), r"the weight .*linear_1\.weight is missing; copy"),
    "a weight of the tower": (lambda f: drop(f, "fc1.weight"), r"the weight .*fc1\.weight is missing; copy"),
    "the head": (lambda f: drop(f, "lm_head"), r"the weight .*lm_head\.weight is missing; copy"),
    "a layer": (lambda f: edit(f, vision_feature_layer=9), "9 is not among the 3 layers"),
    "a strategy": (lambda f: edit(f, vision_feature_select_strategy="half"), "cannot be read: .*select_strategy"),
    "an image token outside": (lambda f: edit(f, image_token_index=10**6), "outside the language model's vocabulary"),
    "an image token of nothing": (lambda f: edit(f, image_token_index=130), "no token with the id 130"),
    "an encoder": (lambda f: edit(f, text_config={"model_type": "t5"}), r"\(t5\) reads with an encoder"),
    "code": (lambda f: edit(f, auto_map={"AutoModel": "x.Y"}), "auto_map.*does not run"),
    "no language model": (lambda f: edit(f, text_config=None), "has no text_config"),
    "no vision model": (
        lambda f: edit(f, vision_config={}),
        "cannot be read|does not accept|has no image_size|images of",
    ),
    "more layers than the files": (
        lambda f: inner(f, "config.json", "text_config", num_hidden_layers=30),
        r"\d+ weights are missing",
    ),
    "an activation": (lambda f: edit(f, projector_hidden_act="half"), "'half' is not an activation function"),
    "patches of nothing": (lambda f: inner(f, "config.json", "vision_config", patch_size=0), "does not accept .*zero"),
    "images of another size": (
        lambda f: inner(f, PROCESSOR, "image_processor", crop_size={"height": 16, "width": 16}),
        "makes images of 16 x 16 pixels, but .* takes those of 32 .*set the processor's size and crop_size to 32",
    ),
    "colours that divide by nothing": (
        lambda f: inner(f, PROCESSOR, "image_processor", image_std=[0, 0, 0]),
        "not finite for a picture; set its image_mean and image_std",
    ),
    "a processor of text alone": (
        lambda f: (f / PROCESSOR).write_text('{"processor_class": "LlavaProcessor"}'),
        "has no image_processor, and there is no preprocessor_config.json",
    ),
    "a processor in a list": (lambda f: (f / PROCESSOR).write_text("[]"), "must hold one JSON object"),
    "generation settings": (
        lambda f: (f / "generation_config.json").write_text("{"),
        "generation_config.json is damaged",
    ),
    "an end that is no token": (
        lambda f: edit(f, "generation_config.json", eos_token_id="</s>"),
        "eos_token_id is '</s>', not the id of a token",
    ),
    "no end": (lambda f: drop_ends(f), "no end token"),
    "a template that raises": (
        lambda f: (f / "chat_template.jinja").write_text("{% for i in range(10**7) %}x{% endfor %}"),
        r"before it \(Range too big",
    ),
    "a template": (lambda f: (f / "chat_template.jinja").write_text("{% for"), "does not show what a user says"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_checkpoints_are_told_in_a_sentence(what: str, tmp_path: Path) -> None:
    folder = llava_checkpoints.llava(tmp_path / "model", "clip", "llama")
    damage, message = DAMAGES[what]
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder).generate(PICTURES[:1], PROMPTS[:1])
    assert re.search(message, " ".join(check_model(folder).problems))


def test_weights_that_give_no_numbers_are_told(tmp_path: Path) -> None:
    """A bridge that overflows, as of weights in fp16, would answer with nothing, or at random."""
    folder = llava_checkpoints.llava(tmp_path / "model", "clip", "llama")
    state = load_file(folder / "model.safetensors")
    state[next(name for name in state if "linear_2.weight" in name)] *= float("inf")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="not finite for a picture"):
        load_model(folder).generate(PICTURES[:1], PROMPTS[:1])


def stock_answers(folder: Path, **generation: Any) -> list[str]:
    """Answers of the stock class, whose processor gets the image as a part of a turn."""
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    answers = []
    for picture, prompt in zip(PICTURES, PROMPTS, strict=True):
        turn = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]}
        inputs = processor.apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = stock.generate(**inputs, **generation, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True).strip())
    return answers


def test_an_export_with_a_template_takes_messages(tmp_path: Path) -> None:
    """As the stock processor is given them, an image as a part of a turn; and the choice is kept."""
    llm = with_template(checkpoints.llm(tmp_path / "llm", "qwen3"))
    vlm = build_model(llava_checkpoints.tower(tmp_path / "eyes"), llm, dtype="fp32")
    ours = vlm.generate(PICTURES, PROMPTS, **BEAMS)
    assert ours != vlm.generate(PICTURES, PROMPTS, chat=False, **BEAMS)
    export(vlm, tmp_path / "stock")
    assert stock_answers(tmp_path / "stock", **BEAMS) == ours
    assert load_model(tmp_path / "stock").generate(PICTURES, PROMPTS, **BEAMS) == ours
    vlm.model.config.chat_prompts = False
    export(vlm, tmp_path / "plain")
    plain = load_model(tmp_path / "plain")
    assert not plain.vlm.chats
    assert plain.generate(PICTURES, PROMPTS, chat=True, **BEAMS) == ours


def test_an_export_of_a_llava_whose_template_takes_texts_alone_takes_messages_too(tmp_path: Path) -> None:
    """As its model card says, though the checkpoint that it was made of did not."""
    folder = llava_checkpoints.llava(tmp_path / "model", "siglip", "llama", chat=llava_checkpoints.CHAT)
    vlm = load_vision_llm(folder, dtype="fp32")
    frame = vlm.layout.frame
    assert isinstance(frame, ChatFrame)
    assert not frame.takes_parts
    ours = vlm.generate(PICTURES, PROMPTS, max_new_tokens=6)
    export(vlm, tmp_path / "stock")
    assert stock_answers(tmp_path / "stock", max_new_tokens=6) == ours
    assert load_model(tmp_path / "stock").generate(PICTURES, PROMPTS, max_new_tokens=6) == ours


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_with_tower_and_mlp_untouched(kind: Quantization, tmp_path: Path) -> None:
    folder = llava_checkpoints.llava(tmp_path / "model", "clip", "llama")
    whole, packed = load_vision_llm(folder, dtype="fp32"), load_vision_llm(folder, dtype="fp32", quantization=kind)
    assert quantization_of(packed.language_model) == kind
    for part in ("vision", "projector"):
        wanted = getattr(whole.container, part).state_dict()
        found = getattr(packed.container, part).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert torch.equal(packed.llm.head.weight, whole.llm.head.weight)
    assert add_lora(packed, 4, 8, 0.0) == 14
    batch: dict[str, Any] = packed.layout.pairs(PROMPTS, ["a", "b", "c"], [1, 1, 1])
    batch |= {"pixel_values": packed.pixels(PICTURES), "image_index": torch.arange(3)[:, None]}
    packed(batch)["loss"].backward()
    learnt = [value for name, value in packed.named_parameters() if "lora_B" in name]
    assert all(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in learnt)
    error = (probe(packed) - probe(whole)).norm() / probe(whole).norm()
    assert 0 < float(error) < 1
