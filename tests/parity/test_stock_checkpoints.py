"""Whatever the stock class saves is answered as the stock class answers it: families, tokenisers, modes, end tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import checkpoints
from transformers import AutoModelForImageTextToText, AutoProcessor, Blip2Processor, ByT5Tokenizer
from transformers.image_transforms import convert_to_rgb
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mblip.models import load_vision_llm

BEAMS: dict[str, Any] = {"num_beams": 5, "max_new_tokens": 8, "do_sample": False}
PROMPTS = ["a dog", "Question: what is in the house and the tree? Short answer in English:", "Caption in German:", ""]

# transformers 5.17 drops a picture's transparency. Later releases lay the picture on white, as mblip always does.
STOCK_LAYS_ON_WHITE = np.array(convert_to_rgb(Image.new("RGBA", (1, 1)))).flatten().tolist() == [255, 255, 255]


def on_white(image: Image.Image) -> Image.Image:
    """A picture without transparency that any release of transformers reads as mblip reads the picture itself."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    colour = Image.fromarray(noise.integers(0, 255, (40, 30, 3), dtype=np.uint8))
    layered = Image.fromarray(noise.integers(0, 255, (33, 35, 4), dtype=np.uint8))
    grey, palette = colour.convert("L"), colour.quantize(16)
    see_through = colour.quantize(16)
    see_through.info["transparency"] = 3
    return [
        colour,
        layered,
        layered.convert("LA"),
        grey,
        palette,
        see_through,
        grey.convert("1"),
        colour.convert("CMYK"),
    ]


def stock_answers(folder: Path, images: list[Image.Image], prompts: list[str]) -> list[str]:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    texts = []
    for image, prompt in zip(images, prompts, strict=True):
        seen = image if STOCK_LAYS_ON_WHITE else on_white(image)
        inputs = processor(images=seen, text=prompt, return_tensors="pt").to(model.dtype)
        with torch.no_grad():
            ids = model.generate(**inputs, **BEAMS)
        if not model.language_model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
    return texts


def assert_equal_answers(folder: Path, one_by_one: bool = False) -> None:
    images = pictures()
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(len(images))]
    wanted = stock_answers(folder, images, prompts)
    model = load_vision_llm(folder)
    if one_by_one:
        pairs = zip(images, prompts, strict=True)
        assert [model.generate([image], [prompt], **BEAMS)[0] for image, prompt in pairs] == wanted
    else:
        assert model.generate(images, prompts, **BEAMS) == wanted
    assert len(set(wanted)) > 2, "the answers must differ, or nothing is compared"


@pytest.mark.parametrize(
    "family", ["mt5", "opt", "llama", "mistral", "qwen2", "gemma", "gemma2", "cohere", "bloom", "umt5"]
)
def test_pictures_of_every_mode_with_prompts_of_unequal_lengths(family: str, tmp_path: Path) -> None:
    assert_equal_answers(checkpoints.blip2(tmp_path / "model", family))


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("mt5", torch.bfloat16), ("t5", torch.bfloat16), ("bloom", torch.bfloat16), ("llama", torch.bfloat16),
     ("gemma3", torch.bfloat16), ("bloom", torch.float16), ("llama", torch.float16)],
)  # fmt: skip
def test_every_part_in_the_type_it_was_stored_in(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """One by one, since the padding of a batch changes the last bits of half precision."""
    folder = checkpoints.blip2(tmp_path / "model", family)
    AutoModelForImageTextToText.from_pretrained(folder).to(dtype).save_pretrained(folder)
    assert_equal_answers(folder, one_by_one=True)
    asked = load_vision_llm(folder, dtype=dtype).model
    assert asked.language_model.dtype is dtype
    assert {asked.qformer.dtype, asked.query_tokens.dtype, asked.language_projection.weight.dtype} == {torch.float32}


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_tokeniser_of_bytes_which_needs_no_files(family: str, tmp_path: Path) -> None:
    folder = checkpoints.blip2(tmp_path / "model", family, unused_rows=400)
    for file in folder.glob("token*"):
        file.unlink()
    image_processor = AutoProcessor.from_pretrained(
        checkpoints.blip2(tmp_path / "other", "t5"), backend="pil"
    ).image_processor
    processor = Blip2Processor(image_processor, ByT5Tokenizer(), num_query_tokens=checkpoints.QUERIES)
    processor.save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["image_token_index"] = processor.tokenizer.convert_tokens_to_ids("<image>")
    config["text_config"] |= {"eos_token_id": 1, "pad_token_id": 0}
    file.write_text(json.dumps(config))
    # Rows beyond the tokeniser's cannot be decoded by it; no answer may use them.
    model = AutoModelForImageTextToText.from_pretrained(folder)
    head = model.language_model.get_output_embeddings()
    with torch.no_grad():
        head.weight[len(processor.tokenizer) :] = head.weight[5]
    model.save_pretrained(folder)
    assert not list(folder.glob("tokenizer.json"))
    assert_equal_answers(folder)


@pytest.mark.parametrize("family", ["mt5", "opt"])
def test_answers_end_where_the_checkpoint_says(family: str, tmp_path: Path) -> None:
    """BLIP-2 with OPT ends its answers with a line break, not with what its tokeniser calls the end."""
    folder = checkpoints.blip2(tmp_path / "model", family)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    ends = load_vision_llm(folder).generate_ids(
        ["a dog"], torch.zeros(0, checkpoints.QUERIES, checkpoints.WIDTH), torch.full((1, 1), -1)
    )
    config["text_config"]["eos_token_id"] = int(ends[0, 2])
    file.write_text(json.dumps(config))
    model = load_vision_llm(folder)
    assert model.layout.end_token_id == int(ends[0, 2]) != model.tokenizer.eos_token_id
    assert model.layout.targets(["a"], ["dog"])[0][-1] == model.layout.end_token_id
    assert_equal_answers(folder)


def test_a_tokeniser_that_ends_every_text_before_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    families = {**checkpoints.FAMILIES, "llama": (*checkpoints.FAMILIES["llama"][:3], "unigram")}
    monkeypatch.setattr(checkpoints, "FAMILIES", families)
    assert_equal_answers(checkpoints.blip2(tmp_path / "model", "llama"))


def test_every_stock_processor_is_loaded_with_the_backend_by_name(root: Path) -> None:
    """Left to itself transformers takes torchvision's where it is installed, whose pixels differ."""
    files = [*root.glob("src/**/*.py"), *root.glob("tests/**/*.py"), *root.glob("benchmarks/*.py")]
    loads = re.compile(r"Auto(?:Image)?Processor\.from_pretrained\((?:[^()]|\([^()]*\))*\)")
    found = [(file, load) for file in files for load in loads.findall(file.read_text(encoding="utf-8"))]
    assert len(found) > 8
    assert [(file.name, load) for file, load in found if 'backend="pil"' not in load] == []


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_pixels_are_those_of_pillow_whatever_is_installed(family: str, tmp_path: Path) -> None:
    folder = checkpoints.blip2(tmp_path / "model", family)
    vlm, stock = load_vision_llm(folder), AutoProcessor.from_pretrained(folder, backend="pil")
    assert type(vlm.processor.image_processor) is type(stock.image_processor) is BlipImageProcessorPil
    for picture in pictures():
        ours = vlm.pixels([picture])
        assert torch.equal(ours, stock(images=on_white(picture), return_tensors="pt")["pixel_values"])
        itself = torch.equal(ours, stock(images=picture, return_tensors="pt")["pixel_values"])
        assert itself == (STOCK_LAYS_ON_WHITE or on_white(picture) is picture)
