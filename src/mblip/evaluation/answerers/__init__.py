"""Whatever answers a benchmark's questions: our models, Hugging Face's, an endpoint, or a dummy that tests the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.answerers.base import Answerer, Group, NoAnswer, OpenImage
from mblip.evaluation.answerers.dummy import DummyAnswerer

__all__ = ["Answerer", "Group", "NoAnswer", "OpenImage", "load_answerer"]

DUMMY = "dummy"
OUR_KINDS = ("blip-2", "llava")
"""Whole checkpoints that are evaluated as mblip's own models are."""


def load_answerer(
    name: str,
    *,
    endpoint: str = "",
    quantization: str = "none",
    dtype: str = "",
    batch_size: int = 64,
    extra_body: Mapping[str, Any] = MappingProxyType({}),
    device: Any = None,
    chat: bool | None = None,
) -> Answerer:
    """Load a model to evaluate.

    Args:
        name: A vision-LLM of ours (see :func:`mblip.models.load.load_vision_llm`), any image-text-to-text checkpoint of
            Hugging Face, ``dummy``, or with ``endpoint`` the name that it calls its model by.
        endpoint: Base of an OpenAI-compatible API, such as ``http://localhost:8000/v1``; its key is read from the
            environment variable ``OPENAI_API_KEY``.
        quantization: ``none``, ``int8`` or ``nf4``, of our models' language model.
        dtype: ``fp32`` or ``bf16``; by default as it was saved.
        batch_size: Texts that run together, or requests under way at an endpoint.
        extra_body: Fields that every request to an endpoint has besides; one that is None is left out of it.
        device: Where to.
        chat: Of a LLaVA, whether prompts are written by its language model's chat template; None for as it was trained.

    Raises:
        InputError: There is no such model, or it cannot be loaded.
    """
    if chat is not None and (endpoint or name == DUMMY):
        raise InputError("--chat is for LLaVA models that run here; leave it out")
    if endpoint:
        from mblip.evaluation.answerers.openai import OpenAIAnswerer

        return OpenAIAnswerer(endpoint, name, min(batch_size, 32), extra_body)
    if extra_body:
        raise InputError("--extra-body adds to requests to an endpoint; name one with --endpoint, or leave it out")
    if name == DUMMY:
        return DummyAnswerer()
    from mblip.models.checkpoint import read_json
    from mblip.models.locate import locate
    from mblip.models.runs import DESCRIPTION

    folder = locate(name)
    is_run = (folder / DESCRIPTION).is_file()
    config = folder / "config.json"
    if not is_run and config.is_file() and read_json(config).get("model_type") not in OUR_KINDS:
        if quantization != "none":
            raise InputError(f"{name} is not a model of mblip: quantise it before, and give the quantised checkpoint")
        if chat is not None:
            raise InputError(f"{name} is asked by its own chat template: leave --chat out")
        from mblip.evaluation.answerers.huggingface import HuggingFaceAnswerer

        return HuggingFaceAnswerer(name, folder, dtype, batch_size, device)
    from mblip.evaluation.answerers.mblip import MblipAnswerer

    return MblipAnswerer(name, Path(folder), quantization, dtype, batch_size, device, chat)
