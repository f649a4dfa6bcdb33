"""NLLB-200 and MADLAD-400 through transformers: any unconverted checkpoint, slower than CTranslate2."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from typing import Any, Literal

from mblip.devices import choose_device
from mblip.errors import InputError
from mblip.languages import Profile
from mblip.storage.folders import check_files
from mblip.translation.engines.base import Result, Untranslated, retry_in_halves
from mblip.translation.engines.seq2seq import LICENCE as LICENCE
from mblip.translation.engines.seq2seq import Seq2SeqEngine, Vocabulary, batches, identity_of, share_words
from mblip.translation.engines.seq2seq import lacking as lacking


class TransformersEngine(Seq2SeqEngine):
    """A checkpoint of transformers; see :func:`open_engine`."""

    def __init__(
        self,
        model: str,
        device: str,
        dtype: str,
        beams: int,
        batch_tokens: int,
        max_tokens: int,
        sort: bool,
        profile: Profile,
    ) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM

        super().__init__(Vocabulary(model, profile))
        self._device = choose_device(device)
        try:
            self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=getattr(torch, dtype))
        except (OSError, ValueError, KeyError) as error:
            check_files(model)
            raise InputError(f"transformers cannot load {model}: {str(error).splitlines()[0]}") from error
        share_words(self._model)
        self._model.to(self._device).eval()
        self._beams, self._batch_tokens, self._max_tokens, self._sort = beams, batch_tokens, max_tokens, sort
        self.name = f"transformers {model.rstrip('/').rpartition('/')[2]} ({dtype})"
        self.identity = identity_of(model) or str(getattr(self._model.config, "_commit_hash", "") or "")

    def _stream_rows(self, rows: list[list[int]], mark: str, done: Container[int]) -> Iterator[tuple[int, Result]]:
        """Translate batch by batch, sorted by length to reduce padding."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row])) if self._sort else list(range(len(rows)))
        forced = None
        if self._vocabulary.kind == "nllb":
            forced = self._vocabulary.tokenizer.convert_tokens_to_ids(mark)
        most = getattr(self._model.config, "max_position_embeddings", None) or sys.maxsize
        for row in (row for row in order if len(rows[row]) > most):
            yield row, Untranslated("no translation", f"{len(rows[row]):,} tokens; the model takes {most:,}")
        for batch in batches(rows, self._batch_tokens, [row for row in order if len(rows[row]) <= most]):
            if not all(row in done for row in batch):
                generated = retry_in_halves(
                    lambda part: self._generate(part, forced), [rows[row] for row in batch], RuntimeError
                )
                yield from zip(batch, generated, strict=True)

    def _generate(self, rows: Sequence[list[int]], forced: int | None) -> list[Result]:
        import torch

        batch = self._vocabulary.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], forced_bos_token_id=forced,
                num_beams=self._beams, max_new_tokens=self._max_tokens, max_length=None,
            )  # fmt: skip
        return [
            self._vocabulary.decode(found, len(row), self._max_tokens)
            for row, found in zip(rows, tokens.tolist(), strict=True)
        ]


def open_engine(
    model: str,
    device: Literal["cpu", "cuda", "auto"] = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    beams: int = 5,
    batch_tokens: int = 4096,
    max_tokens: int = 256,
    sort: bool = True,
    profile: Profile = "correct",
) -> TransformersEngine:
    """Open a checkpoint.

    Args:
        model: Folder or Hub id, such as ``facebook/nllb-200-distilled-600M`` or ``google/madlad400-3b-mt``.
        device: ``cpu``, ``cuda``, or ``auto`` for what is available.
        dtype: Type of the weights. MADLAD gives wrong results in float16: use bfloat16 or float32.
        beams: Number of beams.
        batch_tokens: Tokens per batch, padding included.
        max_tokens: Maximum tokens of a translated sentence.
        sort: Put texts of similar length into one batch.
        profile: ``original`` for the codes of the original mBLIP.

    Raises:
        InputError: There is no such checkpoint, or it is neither NLLB nor MADLAD.
        ResourceError: CUDA is requested, but there is no such device.
    """
    return TransformersEngine(model, device, dtype, beams, batch_tokens, max_tokens, sort, profile)
