import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests import checkpoints
from tests.parity.test_stock_checkpoints import assert_equal_answers
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    Blip2ForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    pipeline,
)

from mblip.errors import InputError
from mblip.models import add_lora, build_model, load_vision_llm
from mblip.models.export import export
from mblip.models.reading import load_language_model
from mblip.nano.scenes import Scene, render

PICTURES = [render(Scene(((concept, 0),), 5)) for concept in ("fox", "owl", "anchor")]
PROMPTS = ["Name the object in German:", "Caption in Swahili:", "Name the object in Thai:"]


@pytest.mark.parametrize("lora", [False, True])
def test_an_exported_model_says_the_same_in_stock_code(tmp_path: Path, lora: bool) -> None:
    vlm = build_model("nano:nano-blip2-en", "nano:nano-mlm", dtype="fp32", seed=3)
    if lora:
        assert add_lora(vlm, 4, 8, 0.0) == 43  # 3 encoder layers of 7 linear layers, 2 decoder layers of 11
        generator = torch.Generator().manual_seed(0)
        for name, parameter in vlm.language_model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05, generator=generator)
    ours = vlm.generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=6)
    export(vlm, tmp_path / "stock")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    assert type(model) is Blip2ForConditionalGeneration
    for picture, prompt, answer in zip(PICTURES, PROMPTS, ours, strict=True):
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        ids = model.generate(**inputs, num_beams=5, max_new_tokens=6)
        assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == answer
    assert (
        load_vision_llm(tmp_path / "stock", dtype="fp32").generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=6)
        == ours
    )
    with pytest.raises(InputError, match="already exists"):
        export(vlm, tmp_path / "stock")


@pytest.mark.parametrize(("family", "dtype"), [("mt5", "bf16"), ("bloom", "bf16"), ("bloom", "fp16")])
def test_an_export_in_half_precision_is_half_precision_in_stock_code(family: str, dtype: str, tmp_path: Path) -> None:
    """The trained parts are written in fp32, whatever the rest is, and do not make the stock class load all in fp32."""
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family), dtype=dtype)
    bridge = {name: value.clone() for name, value in vlm.model.qformer.state_dict().items()}
    export(vlm, tmp_path / "stock")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock")
    assert model.language_model.dtype is model.vision_model.dtype is vlm.language_model.dtype is not torch.float32
    assert_equal_answers(tmp_path / "stock", one_by_one=True)
    again = load_vision_llm(tmp_path / "stock", dtype=dtype).model.qformer.state_dict()
    assert all(torch.equal(again[name], value) for name, value in bridge.items())


# What people copy from BLIP-2's page on the Hub; each gives texts, one a picture.
SNIPPETS: dict[str, Callable[[Any, Any, Image.Image], Any]] = {
    "no prompt": lambda m, p, i: m.generate(**p(images=i, return_tensors="pt"), max_new_tokens=6),
    "no prompt, pixels alone": lambda m, p, i: m.generate(p(i, return_tensors="pt").pixel_values, max_new_tokens=6),
    "no prompt, several": lambda m, p, i: m.generate(**p(images=[i, i], return_tensors="pt"), max_new_tokens=6),
    "no prompt, half precision": lambda m, p, i: m.half().generate(
        **p(i, return_tensors="pt").to("cpu", torch.float16), max_new_tokens=6
    ),
    "question by place": lambda m, p, i: m.generate(
        **p(i, "Question: how many cats are there? Answer:", return_tensors="pt"), max_new_tokens=6
    ),
    "several with padding": lambda m, p, i: m.generate(
        **p(images=[i, i], text=["a photo of", "Question: what? Answer:"], padding=True, return_tensors="pt"),
        max_new_tokens=6,
    ),
    "sampling": lambda m, p, i: m.generate(
        **p(i, return_tensors="pt"), do_sample=True, top_p=0.9, num_beams=2, repetition_penalty=1.5, max_length=20
    ),
}


@pytest.mark.parametrize("family", ["mt5", "t5", "bloom", "opt", "qwen3", "gemma3"])
def test_stock_snippets_run_on_an_export(family: str, tmp_path: Path) -> None:
    export(
        build_model("nano:nano-blip2-en", checkpoints.llm(tmp_path / "llm", family), dtype="fp32"), tmp_path / "stock"
    )
    config = json.loads((tmp_path / "stock" / "config.json").read_text(encoding="utf-8"))
    assert type(config["text_config"]["bos_token_id"]) is int
    processor = AutoProcessor.from_pretrained(tmp_path / "stock", backend="pil")
    for name, snippet in SNIPPETS.items():
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock")
        texts = processor.batch_decode(snippet(model, processor, PICTURES[0]), skip_special_tokens=True)
        assert len(texts) == 1 + ("several" in name), name
        assert texts[0] == texts[-1] or "padding" in name


def test_stock_pipelines_run_on_an_export(tmp_path: Path) -> None:
    export(build_model("nano:nano-blip2-en", "nano:nano-mlm"), tmp_path / "stock")
    pipe = pipeline("image-text-to-text", model=str(tmp_path / "stock"))
    one = pipe(images=PICTURES[0], text="Caption in German:", max_new_tokens=6, return_full_text=False)
    several = pipe(images=PICTURES[:2], text=["a", "b"], batch_size=2, max_new_tokens=6)
    assert one[0]["generated_text"].strip()
    assert len(several) == 2


def test_a_head_that_the_class_would_scale_against_its_training(tmp_path: Path) -> None:
    """UMT5's class divides what the head sees by sqrt(width), as for a tied head, also where config.json says it is not."""
    eyes, llm = checkpoints.blip2(tmp_path / "eyes", "t5"), checkpoints.llm(tmp_path / "llm", "umt5")
    trained = AutoModelForSeq2SeqLM.from_pretrained(llm).eval()
    trained.config.tie_word_embeddings = False
    vlm = build_model(eyes, llm, dtype="fp32")
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 8, 9]])}
    with torch.no_grad():
        torch.testing.assert_close(vlm.language_model(**inputs).logits, trained(**inputs).logits, rtol=1e-5, atol=1e-5)
    export(vlm, tmp_path / "stock")
    assert_equal_answers(tmp_path / "stock")


def test_a_head_apart_that_the_class_itself_leaves_as_it_is(tmp_path: Path) -> None:
    """Switch Transformers scale by the tie too, but read from config.json that there is none."""
    folder = checkpoints.llm(tmp_path / "llm", "umt5")  # for its tokeniser
    sizes = json.loads((folder / "config.json").read_text())
    config = SwitchTransformersConfig(
        vocab_size=sizes["vocab_size"], d_model=16, d_ff=24, d_kv=8, num_layers=2, num_heads=2, num_experts=2,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    trained = SwitchTransformersForConditionalGeneration(config).eval()
    trained.save_pretrained(folder)
    model = load_language_model(folder, None)[0].eval()
    assert torch.equal(model.get_output_embeddings().weight, trained.get_output_embeddings().weight)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 8, 9]])}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, trained(**inputs).logits, rtol=1e-5, atol=1e-5)
