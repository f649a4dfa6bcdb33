"""An mblip model, asked through the generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mblip.evaluation.answerers import identity
from mblip.evaluation.answerers.base import OpenImage, RequestGroup
from mblip.models.generation import Generator, Request
from mblip.models.load import load_vision_llm
from mblip.storage import sha256_file

_SAMPLE = "Is there a dog? Answer in English:"


class MblipAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`; pictures are encoded once for benchmarks and languages.

    Args:
        name: Name of the model.
        folder: The checkpoint's folder.
        quantization: ``none``, ``int8`` or ``nf4``.
        dtype: ``fp32``, ``bf16``, or empty for the type that it was saved in.
        batch_size: Number of texts that run together.
        device: The device to load to.
        chat: Whether prompts use the language model's chat template; None for the way it was trained.

    Raises:
        InputError: The model cannot be loaded.
    """

    kind = "mblip"

    def __init__(
        self,
        name: str,
        folder: Path,
        quantization: str,
        dtype: str,
        batch_size: int,
        device: Any = None,
        chat: bool | None = None,
    ) -> None:
        chosen: Any = quantization if quantization != "none" else None
        vlm = load_vision_llm(name, quantization=chosen, dtype=dtype or None, device_map=device)
        layout = vlm.layout_for(chat)
        if vlm.container.images_in_text:  # set on the model, for everything that uses it later
            vlm.model.config.chat_prompts = vlm.chats if chat is None else chat
        self.model = name
        own = sorted([*folder.glob("*.safetensors"), *folder.glob("adapter*/**/*.safetensors")])
        origin = vlm.origin.bases if vlm.origin else {}
        self.identity: dict[str, Any] = {
            "bases": {part: {**asdict(base), "id": base.shown} for part, base in origin.items()},
            "weights": {file.relative_to(folder).as_posix(): sha256_file(file) for file in own}
            if (folder / "mblip.json").is_file()
            else {},
            "dtype": str(vlm.language_model.dtype).removeprefix("torch."),
            "quantization": quantization,
            # Both change a decoder-only model's answers; in older versions penalties counted the prompt too.
            **({} if vlm.is_encoder_decoder else {"answer_separator": layout.separator, "penalties": "answer"}),
            **({"chat template": vlm.chats} if vlm.container.images_in_text else {}),
            "configuration": identity.of_configuration(vlm.model.config),
            **identity.of_processor(vlm.processor),
            "prompt layout": identity.digest(layout.prompts([_SAMPLE], [1])["input_ids"].tolist()),
        }
        self._generation_config = vlm.language_model.generation_config
        self.trained_prompts: dict[str, Any] | None = getattr(vlm.model.config, "trained_prompts", None)
        self._generator = Generator(vlm, _not_yet, batch_size=batch_size)

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The benchmark's settings with those of the language model's ``generation_config.json``; never sampled."""
        return identity.effective(self._generation_config, wanted)

    def refusal(self, request: Request, open_image: OpenImage) -> str:
        """Always empty: it takes any number of pictures."""
        return ""

    def answers(self, groups: Sequence[RequestGroup], open_image: OpenImage) -> Iterator[tuple[Request, str]]:
        """See the protocol."""
        self._generator.open_image = open_image
        for group in groups:
            self._generator.generation = identity.asked_for(self._generation_config, group.decoding)
            yield from self._generator.answers(group.requests)

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Yield the candidate of the highest log-probability, summed over its tokens and the end token."""
        self._generator.open_image = open_image
        for request, scores in self._generator.candidates(requests, candidates):
            yield request, candidates[max(range(len(scores)), key=scores.__getitem__)]


def _not_yet(key: str) -> Any:
    raise AssertionError(f"the picture {key} is opened before any request")
