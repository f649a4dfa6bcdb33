"""NLLB-200 and MADLAD-400 through CTranslate2: the fast way on a CPU (int8) and on a GPU.

Convert a checkpoint once::

    ct2-transformers-converter --model facebook/nllb-200-distilled-1.3B --output_dir nllb-1.3b-int8
        --quantization int8 --copy_files tokenizer.json tokenizer_config.json

NLLB's weights are CC BY-NC 4.0, MADLAD's Apache 2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mblip.errors import InputError
from mblip.languages import Profile
from mblip.translation.engines.seq2seq import LICENCE as LICENCE
from mblip.translation.engines.seq2seq import Vocabulary


class CTranslate2Engine:
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
                f"{model} is no CTranslate2 model (no model.bin); convert one: ct2-transformers-converter --model NAME "
                f"--output_dir {model} --quantization int8 --copy_files tokenizer.json tokenizer_config.json"
            )
        self._vocabulary = Vocabulary(tokenizer or model, profile)
        try:
            self._translator = ctranslate2.Translator(model, device, compute_type=compute_type, intra_threads=threads)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"CTranslate2 cannot load {model}: {error}") from error
        self._beams, self._batch_tokens, self._max_tokens = beams, batch_tokens, max_tokens
        self.name = f"ctranslate2 {Path(model).name} ({self._translator.compute_type})"
        self.licence = self._vocabulary.licence

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """See :class:`~mblip.translation.engines.base.Engine`; CTranslate2 itself sorts by length into batches."""
        mark = self._vocabulary.token(target)
        if mark is None:
            return [None] * len(texts)
        to_tokens = self._vocabulary.tokenizer.convert_ids_to_tokens
        rows = [to_tokens(row) for row in self._vocabulary.encode(list(texts), source, target)]
        prefix = [[mark]] * len(rows) if self._vocabulary.kind == "nllb" else None
        results = self._translator.translate_batch(
            rows, target_prefix=prefix, beam_size=self._beams, max_batch_size=self._batch_tokens, batch_type="tokens",
            max_input_length=0, max_decoding_length=self._max_tokens,
        )  # fmt: skip
        to_numbers = self._vocabulary.tokenizer.convert_tokens_to_ids
        return [self._vocabulary.decode(to_numbers(result.hypotheses[0])) for result in results]


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
        tokenizer: Folder or Hub id of the tokeniser, where it is not beside the model.
        device: ``cpu``, ``cuda`` or whichever is there.
        compute_type: CTranslate2's; by default the type it was converted to. MADLAD is wrong in float16.
        beams: Width of the beam.
        batch_tokens: Tokens a batch.
        max_tokens: Longest translation of a sentence.
        threads: On a CPU; 0 lets CTranslate2 choose.
        profile: ``original`` for the codes of the original mBLIP.

    Raises:
        InputError: Not installed, not converted, or no tokeniser.
    """
    return CTranslate2Engine(model, tokenizer, device, compute_type, beams, batch_tokens, max_tokens, threads, profile)
