"""Any image-text-to-text model of Hugging Face, with its own processor and, if it has one, chat template.

Models without a template (InstructBLIP, PaliGemma) get the prompt unchanged. Their processors differ in where they put
image tokens of a padded text, so only prompts of equal length, which need no padding, run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image

from mblip.errors import InputError, ResourceError, counted
from mblip.evaluation.answerers import identity
from mblip.evaluation.answerers.base import NoAnswer, OpenImage, RequestGroup
from mblip.models.generation import Request
from mblip.models.locate import revision_of
from mblip.storage.folders import check_files

_DTYPES = {"": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}
# Exceptions of third-party processors and models that cannot take an input.
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError, TemplateError)


class HuggingFaceAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`.

    Args:
        name: Name of the model.
        folder: The checkpoint's folder.
        dtype: ``fp32``, ``bf16``, or empty for the type that it was saved in.
        batch_size: Number of texts that run together.
        device: The device to load to.

    Raises:
        InputError: The model cannot be loaded.
    """

    kind = "huggingface"

    def __init__(self, name: str, folder: Path, dtype: str, batch_size: int, device: Any = None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from mblip.models.checkpoint import fingerprint

        if dtype not in _DTYPES:
            raise InputError(f"unknown precision {dtype!r}; use fp32 or bf16")
        check_files(folder)
        try:
            # The backend is named, because backends give different pixels and the default depends on torchvision.
            self._processor = AutoProcessor.from_pretrained(folder, backend="pil")
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=_DTYPES[dtype])
        except (OSError, ImportError, *_REFUSALS) as error:
            raise InputError(f"{name} does not load as an image-text-to-text model: {_sentence(error)}") from error
        for part in ("tokenizer", "image_processor"):
            if not hasattr(self._processor, part):
                kind = type(self._processor).__name__
                raise InputError(
                    f"{name}: its processor ({kind}) has no {part}; copy the checkpoint with all its files"
                )
        self._processor.tokenizer.padding_side = "left"
        if self._processor.tokenizer.pad_token is None:
            self._processor.tokenizer.pad_token = self._processor.tokenizer.eos_token
        self._model = (model if device is None else model.to(device)).eval()
        self._batch_size = batch_size
        self._template = getattr(self._processor, "chat_template", None)
        self._answered = False
        self.model = name
        self.identity: dict[str, Any] = {
            "fingerprint": fingerprint(folder),
            "revision": revision_of(folder),
            "dtype": str(model.dtype).removeprefix("torch."),
            "configuration": identity.of_configuration(model.config),
            **identity.of_processor(self._processor),
            "chat template": identity.digest(self._template) if self._template else "none, the prompt as it is",
        }

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The benchmark's settings with those of ``generation_config.json``; never sampled."""
        return identity.effective(self._model.generation_config, wanted)

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Try several pictures, because some processors and templates take only one."""
        if len(request.images) == 1:
            return ""
        if not self._template:
            return (
                f"{self.model} has no chat template, so it takes one picture per prompt, not {len(request.images)}; "
                "add chat_template.jinja to ask it"
            )
        pictures = {key: open_image(key) for key in request.images}
        try:
            self._inputs([request], pictures)
        except _REFUSALS as error:
            number = counted(len(request.images), "picture")
            return f"the processor of {self.model} does not take {number} per prompt: {_sentence(error)}"
        return ""

    def answers(
        self, groups: Sequence[RequestGroup], open_image: OpenImage
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """See the protocol; texts of similar length run together.

        Raises:
            InputError: The model cannot answer a single request of the first batch.
        """
        for group in groups:
            for batch in self._batches(group.requests):
                pictures = {key: open_image(key) for key in dict.fromkeys(key for r in batch for key in r.images)}
                yield from zip(batch, self._answer(batch, pictures, group.decoding), strict=True)

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Always raises: only mblip's models score given answers."""
        raise InputError(f"{self.model} cannot score candidates, only mblip's models can; use generation")

    def _batches(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        if self._template:
            runs = [sorted(requests, key=lambda request: (-len(request.images), -len(request.prompt), request.images))]
        else:
            runs = self._alike(requests)
        for run in runs:
            for start in range(0, len(run), self._batch_size):
                yield run[start : start + self._batch_size]

    def _answer(
        self, batch: Sequence[Request], pictures: Mapping[str, Image.Image], decoding: Mapping[str, Any]
    ) -> list[str | NoAnswer]:
        """The answers of a batch; if the processor or model refuses it, each request is tried alone."""
        try:
            return list(self._generate(batch, pictures, decoding))
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{self.model}: {counted(len(batch), 'text')} at a time do not fit into memory; lower --batch-size"
            ) from error
        except _REFUSALS as error:
            failed = error
        found: list[str | NoAnswer] = []
        for request in batch if len(batch) > 1 else ():
            try:
                found += self._generate([request], pictures, decoding)
            except _REFUSALS as error:
                found.append(NoAnswer(f"{self.model} cannot be asked this: {_sentence(error)}"))
        if found and not all(isinstance(answer, NoAnswer) for answer in found):
            return found
        if self._answered or len(batch[0].images) > 1:  # it has answered others, or might with one picture
            return [NoAnswer(f"{self.model} cannot be asked this: {_sentence(failed)}")] * len(batch)
        needs = "" if self._template else " has no chat template and cannot use the prompt alone"
        remedy = (
            "if it wants image tokens in its prompts, add chat_template.jinja" if needs else "look at its processor"
        )
        raise InputError(f"{self.model}{needs or ' cannot be asked'} ({_sentence(failed)}); {remedy}") from failed

    def _generate(
        self, batch: Sequence[Request], pictures: Mapping[str, Image.Image], decoding: Mapping[str, Any]
    ) -> list[str]:
        inputs = self._inputs(batch, pictures).to(self._model.device)
        inputs = {
            name: value.to(self._model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }
        tokenizer = self._processor.tokenizer
        asked = identity.asked_for(self._model.generation_config, decoding)
        with torch.inference_mode():
            ids = self._model.generate(**inputs, **asked, pad_token_id=tokenizer.pad_token_id)
        prompt = inputs["input_ids"]
        if torch.equal(ids[:, : prompt.shape[1]], prompt):  # a decoder-only model returns the prompt too
            ids = ids[:, prompt.shape[1] :]
        self._answered = True
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _inputs(self, batch: Sequence[Request], pictures: Mapping[str, Image.Image]) -> Any:
        return (self._chats if self._template else self._prompts)(batch, pictures)

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
        # The padding is for a second tokeniser, as of InstructBLIP's Q-Former.
        return self._processor(images=images, text=texts, padding=True, return_tensors="pt")

    def _alike(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Group requests by their prompts' number of tokens, the longest first."""
        rows = self._processor.tokenizer([request.prompt for request in requests])["input_ids"]
        lengths = [len(row) for row in rows]
        order = sorted(range(len(requests)), key=lambda place: (-lengths[place], requests[place].images))
        return [[requests[place] for place in places] for _, places in groupby(order, key=lengths.__getitem__)]


def _sentence(error: BaseException) -> str:
    """An error's message on one line of limited length; its class name if it has no message."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said:.200}" if said else type(error).__name__
