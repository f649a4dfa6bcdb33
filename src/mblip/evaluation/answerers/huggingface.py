"""Any image-text-to-text model of Hugging Face, asked through its own processor and, where it has one, chat template.

Models without a template (InstructBLIP, PaliGemma) get the prompt as it is. Where their processors put image tokens before
a padded text differs, so that only prompts of one length run together there, which need no padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

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
        InputError: It cannot be loaded.
    """

    kind = "huggingface"

    def __init__(self, name: str, folder: Path, dtype: str, batch_size: int, device: Any = None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from mblip.models.checkpoint import fingerprint

        if dtype not in _DTYPES:
            raise InputError(f"unknown precision {dtype!r}; there are fp32 and bf16")
        try:
            self._processor = AutoProcessor.from_pretrained(folder, backend="pil")
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=_DTYPES[dtype])
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{name} does not load as an image-text-to-text model: {reason}") from error
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        self._model = (model if device is None else model.to(device)).eval()
        self._batch_size = batch_size
        self._has_template = bool(getattr(self._processor, "chat_template", None))
        self.model = name
        self.identity: dict[str, Any] = {
            "fingerprint": fingerprint(folder),
            "revision": revision_of(folder),
            "dtype": str(model.dtype).removeprefix("torch."),
            **({} if self._has_template else {"template": "none, the prompt as it is"}),
        }

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """What the benchmark wants; sampling, which a checkpoint may have on by default, is off."""
        return {**wanted, "do_sample": False}

    def answers(
        self, requests: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]
    ) -> Iterator[tuple[Request, str]]:
        """See the protocol; texts of about one length run together.

        Raises:
            InputError: The model has no chat template and cannot do with the prompt alone.
        """
        if self._has_template:
            order = sorted(requests, key=lambda request: (-len(request.images), -len(request.prompt), request.images))
            groups = [order]
        else:
            groups = self._alike(requests)
        for group in groups:
            for start in range(0, len(group), self._batch_size):
                batch = group[start : start + self._batch_size]
                yield from zip(batch, self._generate(batch, open_image, decoding), strict=True)

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Refused: only our models score given answers."""
        raise InputError(f"{self.model} cannot score candidates, which only mblip's models can; use generation")

    def _generate(self, batch: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]) -> list[str]:
        pictures = {key: open_image(key) for key in dict.fromkeys(key for r in batch for key in r.images)}
        inputs = (self._chats if self._has_template else self._prompts)(batch, pictures).to(self._model.device)
        inputs = {
            name: value.to(self._model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }
        tokenizer = self._processor.tokenizer
        try:
            with torch.inference_mode():
                ids = self._model.generate(**inputs, **decoding, pad_token_id=tokenizer.pad_token_id)
        except ValueError as error:
            if self._has_template:
                raise
            raise self._needs_template(error) from error
        prompt = inputs["input_ids"]
        if torch.equal(ids[:, : prompt.shape[1]], prompt):  # a decoder alone gives it back
            ids = ids[:, prompt.shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _chats(self, batch: Sequence[Request], pictures: Mapping[str, Image.Image]) -> Any:
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
        return self._processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip

    def _prompts(self, batch: Sequence[Request], pictures: Mapping[str, Image.Image]) -> Any:
        texts, images = [request.prompt for request in batch], [pictures[request.images[0]] for request in batch]
        try:
            # Padding is for a second tokeniser, such as InstructBLIP's Q-Former has.
            return self._processor(images=images, text=texts, padding=True, return_tensors="pt")
        except ValueError as error:
            raise self._needs_template(error) from error

    def _alike(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Requests whose prompts have the same number of tokens, the longest first."""
        several = next((request for request in requests if len(request.images) != 1), None)
        if several is not None:
            raise InputError(
                f"{self.model} has no chat template, so that it takes one picture a prompt, not {len(several.images)}; "
                "add chat_template.jinja or leave such benchmarks out"
            )
        rows = self._processor.tokenizer([request.prompt for request in requests])["input_ids"]
        lengths = [len(row) for row in rows]
        order = sorted(range(len(requests)), key=lambda place: (-lengths[place], requests[place].images))
        return [[requests[place] for place in places] for _, places in groupby(order, key=lengths.__getitem__)]

    def _needs_template(self, error: ValueError) -> InputError:
        reason = " ".join(str(error).split())
        return InputError(
            f"{self.model} has no chat template and cannot do with the prompt alone ({reason}); add chat_template.jinja"
        )
