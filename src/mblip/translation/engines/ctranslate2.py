"""NLLB-200 and MADLAD-400 through CTranslate2: the fast way on a CPU (int8) and on a GPU.

Convert a checkpoint once::

    mblip data engine nllb-1.3b --to nllb-1.3b-int8

CTranslate2's own command converts NLLB as well; MADLAD it converts wrongly beside transformers 5
(:mod:`mblip.translation.engines.converting`).

NLLB's weights are CC BY-NC 4.0, MADLAD's Apache 2.0.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Literal

from mblip.errors import InputError, ResourceError
from mblip.languages import Profile
from mblip.translation.engines.base import Result, retry_in_halves
from mblip.translation.engines.seq2seq import LICENCE as LICENCE
from mblip.translation.engines.seq2seq import Seq2SeqEngine, Vocabulary, batches, identity_of
from mblip.translation.engines.seq2seq import lacking as lacking

_BATCHES = 4  # in one call; CTranslate2 works on some of them at a time where it has several workers


class CTranslate2Engine(Seq2SeqEngine):
    """A converted checkpoint; see :func:`open_engine`."""

    def __init__(
        self,
        model: str,
        tokenizer: str,
        device: str,
        compute_type: str,
        beams: int,
        batch_tokens: int,
        max_tokens: int,
        threads: int,
        profile: Profile,
    ) -> None:
        try:
            import ctranslate2
        except ImportError as error:
            raise InputError("the engine needs CTranslate2; pip install 'mblip[translate]'") from error
        if not (Path(model) / "model.bin").is_file():
            raise InputError(
                f"{model} is not a CTranslate2 model (no model.bin); convert one: mblip data engine nllb-1.3b --to {model}"
            )
        super().__init__(Vocabulary(tokenizer or model, profile))
        if device == "cuda" and not ctranslate2.get_cuda_device_count():
            raise ResourceError("there is no CUDA device for device=cuda: set device=cpu, or run on a machine with one")
        try:
            self._translator = ctranslate2.Translator(model, device, compute_type=compute_type, intra_threads=threads)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"CTranslate2 cannot load {model}: {error}") from error
        self._beams, self._batch_tokens, self._max_tokens = beams, batch_tokens, max_tokens
        self.name = f"ctranslate2 {Path(model).name} ({self._translator.compute_type})"
        self.identity = identity_of(model)

    def _stream_rows(self, rows: list[list[int]], mark: str, done: Container[int]) -> Iterator[tuple[int, Result]]:
        """Translate batches sorted by length; a row that is longer than the model's positions is not translated."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for block in batches(rows, _BATCHES * self._batch_tokens, order):
            if not all(row in done for row in block):
                found = retry_in_halves(
                    lambda part: self._block(part, mark), [rows[row] for row in block], RuntimeError
                )
                yield from zip(block, found, strict=True)

    def _block(self, rows: Sequence[list[int]], mark: str) -> list[Result]:
        tokenizer = self._vocabulary.tokenizer
        results = self._translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(row) for row in rows],
            target_prefix=[[mark]] * len(rows) if self._vocabulary.kind == "nllb" else None,
            beam_size=self._beams, max_batch_size=self._batch_tokens, batch_type="tokens",
            max_input_length=0, max_decoding_length=self._max_tokens, return_end_token=True,
            min_decoding_length=0,  # a model may say nothing; made to speak, it invents
        )  # fmt: skip
        return [
            self._vocabulary.decode(tokenizer.convert_tokens_to_ids(result.hypotheses[0]), len(row), self._max_tokens)
            for row, result in zip(rows, results, strict=True)
        ]


def open_engine(
    model: str,
    tokenizer: str = "",
    device: Literal["cpu", "cuda", "auto"] = "auto",
    compute_type: str = "default",
    beams: int = 5,
    batch_tokens: int = 4096,
    max_tokens: int = 256,
    threads: int = 0,
    profile: Profile = "correct",
) -> CTranslate2Engine:
    """Open a converted checkpoint.

    Args:
        model: Folder with ``model.bin``.
        tokenizer: Folder or Hub id of the tokeniser, if it is not beside the model.
        device: ``cpu``, ``cuda``, or ``auto`` for what is available.
        compute_type: CTranslate2's type; by default the type of the conversion. MADLAD gives wrong results in float16.
        beams: Number of beams.
        batch_tokens: Tokens per batch.
        max_tokens: Maximum tokens of a translated sentence.
        threads: Threads on a CPU; 0 lets CTranslate2 choose.
        profile: ``original`` for the codes of the original mBLIP.

    Raises:
        InputError: CTranslate2 is not installed, the model is not converted, or there is no tokeniser.
        ResourceError: CUDA is requested, but there is no such device.
    """
    return CTranslate2Engine(model, tokenizer, device, compute_type, beams, batch_tokens, max_tokens, threads, profile)
