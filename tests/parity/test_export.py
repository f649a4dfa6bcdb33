from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Blip2ForConditionalGeneration

from mblip.errors import InputError
from mblip.models import add_lora, build_model, load_model
from mblip.models.export import export
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
    processor = AutoProcessor.from_pretrained(tmp_path / "stock")
    assert type(model) is Blip2ForConditionalGeneration
    for picture, prompt, answer in zip(PICTURES, PROMPTS, ours, strict=True):
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        ids = model.generate(**inputs, num_beams=5, max_new_tokens=6)
        assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == answer
    assert (
        load_model(tmp_path / "stock", dtype="fp32").generate(PICTURES, PROMPTS, num_beams=5, max_new_tokens=6) == ours
    )
    with pytest.raises(InputError, match="exists already"):
        export(vlm, tmp_path / "stock")
