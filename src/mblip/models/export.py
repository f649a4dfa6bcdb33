"""Export a model to the stock format, which loads anywhere without this package."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from mblip.errors import InputError
from mblip.mixture.templates import load_templates
from mblip.models.checkpoint import read_json, writing
from mblip.models.load import load_vision_llm
from mblip.models.locate import locate
from mblip.models.lora import merge_lora
from mblip.models.origin import Origin
from mblip.models.quantize import Quantization, check_kind, quantization_of, unquantize
from mblip.models.runs import DESCRIPTION, read_description
from mblip.models.vision_llm import VisionLLM
from mblip.processing.framing import ChatFrame, template_with_images
from mblip.storage import atomic_folder, write_json

_PROMPTS = ("Caption in English:", "Question: What is in the picture? Answer in German:", "Name the object in Swahili:")
_ANSWERS = ("a dog on the street", "ein Hund", "mbwa")


def export_model(name: str | Path, folder: Path, quantization: Quantization | None = None) -> float | None:
    """Load a model by its name and write it in the stock format.

    Args:
        name: Run directory, checkpoint directory or Hub id.
        folder: The folder to write; it must not exist.
        quantization: Write the language model's weights as they are after this quantisation, which a run that was trained
            so has seen, instead of those of its base.

    Returns:
        The relative error of the logits against the model as it was trained, if that was quantised; else None.

    Raises:
        InputError: The folder exists, or the model cannot be loaded.
    """
    _check_new(folder)
    run = locate(name)
    trained_on = check_kind(read_description(run).trained_on) if (run / DESCRIPTION).is_file() else None
    reference = None
    if trained_on and quantization is None:
        reference = probe(load_vision_llm(name, quantization=trained_on))
    return export(load_vision_llm(name, quantization=quantization), folder, reference)


def export(vlm: VisionLLM, folder: Path, reference: Tensor | None = None) -> float | None:
    """Write a model of the stock class with its processor, generation settings and model card.

    LoRA is merged and quantised layers are dequantised, in the model itself. The folder appears complete or not at all.

    Args:
        vlm: The model.
        folder: The folder to write; it must not exist.
        reference: Logits from :func:`probe` of the model that is exported; by default those of the model as it is now,
            if it is quantised.

    Returns:
        The relative error of the logits against the reference; None without a reference.

    Raises:
        InputError: The folder exists.
    """
    _check_new(folder)
    origin, quantization = vlm.origin, quantization_of(vlm.language_model)
    if reference is None and quantization != "none":
        reference = probe(vlm)
    merge_lora(vlm)
    unquantize(vlm.language_model, vlm.llm.dtype)
    error = None if reference is None else float((probe(vlm) - reference).norm() / reference.norm())
    if not vlm.is_encoder_decoder:
        vlm.model.config.answer_separator = vlm.layout_for(False).separator
    if vlm.container.images_in_text:
        vlm.model.config.chat_prompts = vlm.chats
    if vlm.chats:
        _take_parts(vlm)
    vlm.model.generation_config = vlm.language_model.generation_config
    with atomic_folder(folder) as partial, writing(folder):
        vlm.model.save_pretrained(partial)
        _say_start(partial / "config.json", vlm)
        _say_dtype(partial / "config.json", vlm)
        vlm.processor.save_pretrained(partial)
        vlm.language_model.generation_config.save_pretrained(partial)
        card = model_card(folder.name, vlm, origin, quantization, error)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return error


def _take_parts(vlm: VisionLLM) -> None:
    """Let a template of texts alone take images as parts of a turn too, as the model card and stock pipelines pass them."""
    frame = vlm.layout_for(True).frame
    assert isinstance(frame, ChatFrame)
    if not frame.takes_parts:
        template = template_with_images(frame.template, frame.image_token)
        vlm.processor.chat_template = vlm.tokenizer.chat_template = template


def probe(vlm: VisionLLM) -> Tensor:
    """Logits [answer tokens, vocabulary] for three fixed texts about a fixed picture."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = Image.fromarray(
        np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], 2)
    )
    batch = {name: value.to(vlm.device) for name, value in vlm.layout.pairs(_PROMPTS, _ANSWERS, [1, 1, 1]).items()}
    index = torch.zeros(len(_PROMPTS), 1, dtype=torch.long, device=vlm.device)
    return vlm.logits({**batch, "image_features": vlm.encode([picture]), "image_index": index}).float().cpu()


def model_card(
    title: str, vlm: VisionLLM, origin: Origin | None, quantization: Quantization, error: float | None
) -> str:
    """The README of an export, in the Hub's format.

    Args:
        title: Title of the page.
        vlm: The model in the state that is written.
        origin: The checkpoints that it was made from.
        quantization: The quantisation that its language model's weights were dequantised from.
        error: See :func:`export`.
    """
    bases = {part: base for part, base in (origin.bases.items() if origin else ())}
    hub = [base.id for base in bases.values() if not Path(base.id).is_absolute()]
    header = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": [vlm.container.model_type, "mblip", "multilingual"],
        **({"base_model": hub} if hub else {}),
    }
    made = [
        f"- {part}: `{base.shown}`" + (f", revision `{base.revision}`" if base.revision else "")
        for part, base in bases.items()
    ]
    if origin and (origin.adapters or origin.attached):
        made.append(f"- LoRA adapters merged into the language model: {len(origin.adapters) + bool(origin.attached)}")
    if quantization != "none":
        made.append(f"- the language model's weights are dequantised from {quantization}")
    if error is not None:
        made.append(f"- relative error of the logits against the quantised model that was trained: {error:.2e}")
    config = vlm.model.config
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {title}

A multilingual vision-language model: {vlm.container.eyes_name} with a `{config.text_config.model_type}` language model,
in the stock format of transformers. An image takes {vlm.container.tokens_per_image} tokens of a prompt; the processor
adds them. The licences of the models that it was made from apply.

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained("."), AutoProcessor.from_pretrained(".", backend="pil")
{_usage(vlm)}

## Made from

{chr(10).join(made) or "- not recorded"}
"""


def _usage(vlm: VisionLLM) -> str:
    """Stock code that asks the model, after its first lines, and advice on prompts."""
    prompt = _caption_prompt(vlm.model.config)
    if not vlm.container.images_in_text:
        # A decoder-only model repeats the prompt before its answer.
        cut = "" if vlm.is_encoder_decoder else '[:, inputs["input_ids"].shape[1] :]'
        start = ""
        if getattr(vlm.model.config, "start_token", None) == "first" and vlm.layout.start_tokens:
            count = vlm.container.tokens_per_image
            start = f"""
# The model was trained with the token that begins a text before the image; the processor puts it after.
ids = inputs["input_ids"]
inputs["input_ids"] = ids[:, [{count}, *range({count}), *range({count + 1}, ids.shape[1])]]"""
        return f"""inputs = processor(images=Image.open("photo.jpg"), text="{prompt}", return_tensors="pt"){start}
answer = model.generate(**inputs, num_beams=5, max_new_tokens=50){cut}
print(processor.batch_decode(answer, skip_special_tokens=True)[0])
```

Name the language in the prompt: without a prompt (`processor(images=...)` alone) the model answers, as stock BLIP-2
does, but was not trained to. BLIP-2's processor has no chat template: give pipelines `images` and `text`, not
messages."""
    if not vlm.chats:
        return f"""inputs = processor(images=Image.open("photo.jpg"), text="<image>\\n{prompt}", return_tensors="pt")
ids = model.generate(**inputs, num_beams=5, max_new_tokens=50)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(ids, skip_special_tokens=True)[0])
```

Name the language in the prompt. `<image>` and a line break come before it."""
    return f"""said = [{{"type": "image", "image": Image.open("photo.jpg")}}, {{"type": "text", "text": "{prompt}"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": said}}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
ids = model.generate(**inputs, num_beams=5, max_new_tokens=50)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(ids, skip_special_tokens=True)[0])
```

Name the language in the prompt. The model was trained with this chat template."""


def _caption_prompt(config: Any) -> str:
    """A caption prompt that the model was trained on if it records one, else that of the benchmarks."""
    names = getattr(config, "prompt_templates", None) or ()
    with suppress(InputError):  # the user's template file is gone
        for task, template in (*load_templates(tuple(names)).english(), *load_templates(("benchmarks",)).english()):
            if task == "caption":
                return template.prompt.replace("{language}", "German")
    return "Caption in German:"


def _say_start(file: Path, vlm: VisionLLM) -> None:
    """Set ``text_config.bos_token_id``, with which the stock class begins an empty prompt.

    If the tokeniser has no such token (mT5), an empty text is the end token alone, as in BLIP-2 with Flan-T5.
    """
    config, tokenizer = read_json(file), vlm.processor.tokenizer
    text = config["text_config"]
    found = (text.get("bos_token_id"), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    start = next((token for token in found if token is not None), None)
    write_json(file, {**config, "text_config": {**text, "bos_token_id": start}})


def _say_dtype(file: Path, vlm: VisionLLM) -> None:
    """Let the stock class load the export in the language model's type, not in the fp32 of the trained parts."""
    dtype = str(vlm.llm.dtype).removeprefix("torch.")
    write_json(file, {**read_json(file), "dtype": dtype})


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder} already exists: name a new folder")
