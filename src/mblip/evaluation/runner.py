"""Runs a model over a benchmark's items; answers go to a file as they come, so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mblip.evaluation.benchmarks.scenes import GENERATION, NAME, SceneItem
from mblip.models.mblip import VisionLLM, evaluating
from mblip.schema import Prediction
from mblip.storage import ImageStore, JsonlAppender, read_records

Progress = Callable[[int, int], None]


def run_scenes(
    vlm: VisionLLM,
    items: Sequence[SceneItem],
    store: ImageStore,
    predictions: Path,
    batch: int = 256,
    progress: Progress = lambda done, total: None,
) -> dict[str, str]:
    """Answer every item; returns item id -> answer.

    Items are taken in the order of their prompts' lengths, so that a batch pads little; each picture of a batch is
    encoded once.
    """
    answers: dict[str, str] = {}
    if predictions.exists():
        answers = {row.id: row.answer for row in read_records(predictions, Prediction)}
    waiting = sorted((item for item in items if item.id not in answers), key=lambda item: (item.task, len(item.prompt)))
    appender = JsonlAppender(predictions)
    with torch.inference_mode(), evaluating(vlm):
        for start in range(0, len(waiting), batch):
            chunk = waiting[start : start + batch]
            for item, answer in zip(chunk, _answer(vlm, chunk, store, GENERATION), strict=True):
                answers[item.id] = answer
                appender.append(Prediction(item.id, NAME, item.language, (item.image,), item.prompt, answer))
            progress(min(start + batch, len(waiting)), len(waiting))
    return {item.id: answers[item.id] for item in items}


def _answer(vlm: VisionLLM, chunk: Sequence[SceneItem], store: ImageStore, generation: dict[str, Any]) -> list[str]:
    keys = list(dict.fromkeys(item.image for item in chunk))
    place = {key: row for row, key in enumerate(keys)}
    features = vlm.encode_images(vlm.pixels([store.get(key) for key in keys]))
    index = torch.tensor([[place[item.image]] for item in chunk], device=vlm.device)
    return vlm.decode(vlm.generate_ids([item.prompt for item in chunk], features, index, **generation))
