"""Any image-text-to-text model of Hugging Face, asked through its own processor and chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mblip.errors import InputError
from mblip.evaluation.answerers.base import OpenImage
from mblip.models.generation import Request
from mblip.models.locate import revision_of

_DTYPES = {"": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}


class HuggingFaceAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`.

    Args:
        name: As it was named.
        folder: Where it lies.
        dtype: ``fp32``, ``bf16``, or empty for what it was saved in.
        batch_size: Texts that run together.
        device: Where to.

    Raises:
        InputError: It cannot be loaded, or has no chat template.
    """

    kind = "huggingface"

    def __init__(self, name: str, folder: Path, dtype: str, batch_size: int, device: Any = None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from mblip.models.checkpoint import fingerprint

        if dtype not in _DTYPES:
            raise InputError(f"unknown precision {dtype!r}; there are fp32 and bf16")
        try:
            self._processor = AutoProcessor.from_pretrained(folder)
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=_DTYPES[dtype])
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{name} does not load as an image-text-to-text model: {reason}") from error
        if not getattr(self._processor, "chat_template", None):
            raise InputError(
                f"{name} has no chat template, so that nobody knows how to ask it; add chat_template.jinja"
            )
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        self._model = (model if device is None else model.to(device)).eval()
        self._batch_size = batch_size
        self.model = name
        self.identity: dict[str, Any] = {
            "fingerprint": fingerprint(folder),
            "revision": revision_of(folder),
            "dtype": str(model.dtype).removeprefix("torch."),
        }

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the benchmark wants; sampling, which a checkpoint may have on by default, is off."""
        return {**wanted, "do_sample": False}

    def answers(
        self, requests: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]
    ) -> Iterator[tuple[Request, str]]:
        """See the protocol; texts of about one length run together."""
        order = sorted(requests, key=lambda request: (-len(request.images), -len(request.prompt), request.images))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            yield from zip(batch, self._generate(batch, open_image, decoding), strict=True)

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Refused: only our models score given answers."""
        raise InputError(f"{self.model} cannot score candidates, which only mblip's models can; use generation")

    def _generate(self, batch: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]) -> list[str]:
        pictures = {key: open_image(key) for key in dict.fromkeys(key for r in batch for key in r.images)}
        chats = [
            [{
                "role": "user",
                "content": [
                    *({"type": "image", "image": pictures[key]} for key in request.images),
                    {"type": "text", "text": request.prompt},
                ],
            }]
            for request in batch
        ]  # fmt: skip
        inputs = self._processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device)  # fmt: skip
        inputs = {
            name: value.to(self._model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }
        tokenizer = self._processor.tokenizer
        with torch.inference_mode():
            ids = self._model.generate(**inputs, **decoding, pad_token_id=tokenizer.pad_token_id)
        if not self._model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
