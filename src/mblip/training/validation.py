"""Validation while training: the loss by task and language, and answers to look at, on pictures held out of the mix."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mblip.config import TrainRecipe
from mblip.errors import InputError
from mblip.models.generation import Generator, Request
from mblip.models.language_model import eval_mode
from mblip.models.vision_llm import VisionLLM
from mblip.processing.collate import Collator
from mblip.processing.grouping import deal
from mblip.processing.transforms import TrainTransform
from mblip.schema import Instruction
from mblip.storage import ImageStore, UnreadableImage, atomic_write
from mblip.training.tracking import Log, read_log

VALIDATION = "validation.jsonl"


class Validator:
    """Measures the model on the same texts each time; pictures whole, without augmentation.

    Rows of ``validation.jsonl``: step, ``loss`` in nats a token, the same ``by_task`` and ``by_language`` of the answer,
    how many ``texts`` it is of, how many are ``left_out`` since their picture cannot be read, and ``samples`` with the
    ``exact`` share of them that was answered word for word.
    """

    def __init__(
        self,
        vlm: VisionLLM,
        recipe: TrainRecipe,
        held: tuple[list[Instruction], ImageStore],
        directory: Path,
        on_log: Callable[[dict[str, Any]], None],
        *,
        writes: bool,
    ) -> None:
        """See the class.

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
                f"none of the pictures held out for validation can be read, such as {rows[0].images[0]!r}: mend the store, "
                "or set validate_every=0"
            )
        transform = TrainTransform.of(vlm.processor.image_processor, (1.0, 1.0), flip=False)
        self._collate = Collator(self._store, transform, vlm.layout, recipe.data)
        chosen = np.random.default_rng(recipe.seed).permutation(len(self._rows))[: recipe.samples]
        # Answers come from outside the model's forward, where a sharded one has no whole weights.
        self._samples = [self._rows[place] for place in chosen] if recipe.sharding == "none" else []

    def _readable(self, row: Instruction) -> bool:
        with contextlib.suppress(UnreadableImage):
            return all(self._store.get(key, 1) is not None for key in row.images)
        return False

    def __call__(self, step: int, log: Log) -> None:
        """Measure, write a row, and tell the tracker and the caller."""
        started = time.perf_counter()
        with torch.no_grad(), eval_mode(self._vlm):
            row = {"step": step, **self._losses(), **self._answers()}
        row["seconds"] = time.perf_counter() - started
        if not self._writes:
            return
        before = [old for old in read_log(self._path) if old["step"] < step] if self._path.exists() else []
        with atomic_write(self._path, "w") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*before, row]))
        numbers = {"loss": row["loss"]} | {f"{key}/{name}": v for key in _BY for name, v in row[key].items()}
        texts = [f"{s['prompt']} → {s['answer']} ({s['reference']})" for s in row["samples"]]
        log.track({f"validation/{name}": value for name, value in numbers.items()}, step)
        log.track({"validation/samples": "\n\n".join(texts)}, step)
        self._on_log({**row, "validation": True})

    def _losses(self) -> dict[str, Any]:
        sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        lengths = self._vlm.layout.lengths([row.prompt for row in self._rows], [row.answer for row in self._rows])
        [parts] = deal([row.images for row in self._rows], lengths, self._recipe.optim.micro_batch)
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
        grouped = {kind: {name: value for (k, name), value in means.items() if k == kind} for kind in _BY}
        return {
            "loss": means.get(("all", ""), float("nan")),
            "texts": len(self._rows),
            "left_out": self._left_out,
            **grouped,
        }

    def _answers(self) -> dict[str, Any]:
        generator = Generator(self._vlm, self._store.get, max_new_tokens=_LONGEST_ANSWER)
        answers = generator.texts([Request(row.id, row.images, row.prompt) for row in self._samples])
        samples = [
            {
                "id": row.id,
                "language": row.answer_language,
                "prompt": row.prompt,
                "answer": answer,
                "reference": row.answer,
            }
            for row, answer in zip(self._samples, answers, strict=True)
        ]
        right = sum(sample["answer"].casefold() == sample["reference"].strip().casefold() for sample in samples)
        return {"exact": right / len(samples) if samples else None, "samples": samples}


_BY = ("by_task", "by_language")
_LONGEST_ANSWER = 50  # tokens; enough to see what has been learnt
