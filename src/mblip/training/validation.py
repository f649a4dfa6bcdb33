"""Validate during training: loss by task and language, and sample answers, on pictures held out of the mix."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.models.generation import Generator, Request
from mblip.models.language_model import eval_mode
from mblip.models.vision_llm import VisionLLM
from mblip.processing.collate import Collator
from mblip.processing.grouping import assign_micro_batches
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import ImageStore, UnreadableImage, atomic_write
from mblip.training.logs import AnsweredSample, OnLog, ValidationLog, read_log, read_validations
from mblip.training.tracking import Log

VALIDATION = "validation.jsonl"


class Validator:
    """Measures the model on the same texts each time, with complete pictures and no augmentation.

    Each call adds a :class:`~mblip.training.logs.ValidationLog` to ``validation.jsonl``.
    """

    def __init__(
        self,
        vlm: VisionLLM,
        recipe: TrainRecipe,
        held: tuple[list[Instruction], ImageStore],
        directory: Path,
        on_log: OnLog,
        *,
        writes: bool,
    ) -> None:
        """Choose the texts and check their pictures.

        Raises:
            InputError: None of the pictures can be read.
        """
        self._vlm, self._recipe, self._on_log, self._writes = vlm, recipe, on_log, writes
        self._path = directory / VALIDATION
        rows, self._store = held
        self._rows = [row for row in rows if self._readable(row)]
        self._left_out = len(rows) - len(self._rows)
        if rows and not self._rows:
            raise InputError(
                f"none of the pictures held out for validation can be read, such as {rows[0].images[0]!r}: repair the "
                "store, or set validate_every=0"
            )
        transform = TrainTransform.of(vlm.processor.image_processor, (1.0, 1.0), flip=False)
        self._collate = Collator(self._store, transform, vlm.layout, recipe.data)
        chosen = np.random.default_rng(recipe.seed).permutation(len(self._rows))[: recipe.samples]
        # Answers are generated outside the model's forward, where a sharded model has no full weights.
        self._samples = [self._rows[place] for place in chosen] if recipe.sharding == "none" else []

    def _readable(self, row: Instruction) -> bool:
        with contextlib.suppress(UnreadableImage):
            return all(self._store.get(key, 1) is not None for key in row.images)
        return False

    def has(self, step: int) -> bool:
        """Whether the log has a row of a step."""
        return self._path.exists() and any(row.step == step for row in read_validations(self._path))

    def __call__(self, step: int, log: Log) -> None:
        """Measure, write a row, and tell the tracker and the caller."""
        started = time.perf_counter()
        with torch.no_grad(), eval_mode(self._vlm):
            losses = self._losses()
            samples = self._answers()
        right = sum(sample.answer.casefold() == sample.reference.strip().casefold() for sample in samples)
        row = ValidationLog(
            step,
            losses["all"].get("", math.nan),
            len(self._rows),
            self._left_out,
            losses["by_task"],
            losses["by_language"],
            right / len(samples) if samples else None,
            samples,
            time.perf_counter() - started,
        )
        if not self._writes:
            return
        before = [old for old in read_log(self._path) if old["step"] < step] if self._path.exists() else []
        with atomic_write(self._path, "w") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*before, row.to_row()]))
        log.track({"validation/loss": row.loss}, step)
        for kind, held in (("by_task", row.by_task), ("by_language", row.by_language)):
            log.track({f"validation/{kind}/{name}": value for name, value in held.items()}, step)
        texts = [f"{sample.prompt} → {sample.answer} ({sample.reference})" for sample in row.samples]
        log.track({"validation/samples": "\n\n".join(texts)}, step)
        self._on_log(row)

    def _losses(self) -> dict[str, dict[str, float]]:
        """The loss in nats per token ``by_task`` and ``by_language``, and of ``all`` texts under an empty name."""
        sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        lengths = self._vlm.layout.lengths([row.prompt for row in self._rows], [row.answer for row in self._rows])
        [parts] = assign_micro_batches([row.images for row in self._rows], lengths, self._recipe.optim.micro_batch)
        for positions in parts:
            rows = [self._rows[position] for position in positions]
            batch = self._collate(rows, (0,)) or {}
            batch = {name: value.to(self._vlm.device) for name, value in batch.items()}
            with torch.autocast(self._vlm.device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
                found = self._vlm(batch, per_text=True)
            for row, loss, tokens in zip(
                rows, found["text_loss_sum"].tolist(), found["text_tokens"].tolist(), strict=True
            ):
                for key in (("by_task", row.task), ("by_language", row.answer_language), ("all", "")):
                    sums[key][0] += loss
                    sums[key][1] += tokens
        means = {key: total / max(tokens, 1) for key, (total, tokens) in sorted(sums.items())}
        return {kind: {n: v for (k, n), v in means.items() if k == kind} for kind in ("by_task", "by_language", "all")}

    def _answers(self) -> tuple[AnsweredSample, ...]:
        generator = Generator(self._vlm, self._store.get, max_new_tokens=_LONGEST_ANSWER)
        answers = generator.texts([Request(row.id, row.images, row.prompt) for row in self._samples])
        return tuple(
            AnsweredSample(row.id, row.answer_language, row.prompt, answer, row.answer)
            for row, answer in zip(self._samples, answers, strict=True)
        )


_LONGEST_ANSWER = 50  # tokens; enough to see what has been learnt
