"""Models that answer a benchmark's questions: mblip's, Hugging Face's, an endpoint, or a dummy for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.answerers.base import Answerer, NoAnswer, OpenImage, RequestGroup
from mblip.evaluation.answerers.dummy import DummyAnswerer

__all__ = ["Answerer", "NoAnswer", "OpenImage", "RequestGroup", "load_answerer"]

DUMMY = "dummy"
OUR_KINDS = ("blip-2", "llava")
"""Kinds of complete checkpoints that are evaluated like mblip's own models."""


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
        name: An mblip model (see :func:`mblip.models.load.load_vision_llm`), any image-text-to-text checkpoint of
            Hugging Face, ``dummy``, or with ``endpoint`` the name of its model.
        endpoint: Base of an OpenAI-compatible API, such as ``http://localhost:8000/v1``; its key is read from the
            environment variable ``OPENAI_API_KEY``.
        quantization: ``none``, ``int8`` or ``nf4``, for the language model of mblip's models.
        dtype: ``fp32`` or ``bf16``; by default the type that it was saved in.
        batch_size: Number of texts that run together, or of parallel requests to an endpoint.
        extra_body: Additional fields of every request to an endpoint; a field that is None is removed.
        device: The device to load to.
        chat: Whether a LLaVA's prompts use its language model's chat template; None for the way it was trained.

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
    from mblip.models.locate import find_model, locate
    from mblip.models.runs import DESCRIPTION

    folder = find_model(name) or locate(name)
    is_run = (folder / DESCRIPTION).is_file()
    config = folder / "config.json"
    if not is_run and config.is_file() and read_json(config).get("model_type") not in OUR_KINDS:
        if quantization != "none":
            raise InputError(f"{name} is not an mblip model: quantise it first, and name the quantised checkpoint")
        if chat is not None:
            raise InputError(f"{name} always uses its own chat template: leave --chat out")
        from mblip.evaluation.answerers.huggingface import HuggingFaceAnswerer

        return HuggingFaceAnswerer(name, folder, dtype, batch_size, device)
    from mblip.evaluation.answerers.mblip import MblipAnswerer

    return MblipAnswerer(name, Path(folder), quantization, dtype, batch_size, device, chat)
