"""Shared by the engines CTranslate2 and transformers: tokenisers and language tokens of NLLB and MADLAD."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mblip.endpoint import one_line
from mblip.errors import InputError
from mblip.languages import Profile, find_language
from mblip.storage.folders import check_files
from mblip.translation.engines.base import Result, Untranslated, collect

LICENCE = "CC-BY-NC-4.0 for NLLB-200, Apache-2.0 for MADLAD-400"


class Vocabulary:
    """The tokeniser of an NLLB or MADLAD checkpoint, recognised by its language tokens.

    Args:
        path: A folder or Hub id with the tokeniser.
        profile: ``original`` translates into the codes of the original mBLIP, such as Traditional Chinese.

    Raises:
        InputError: There is no tokeniser, or it has the language tokens of neither.
    """

    def __init__(self, path: str, profile: Profile) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            check_files(path)
            raise InputError(
                f"{path} holds no tokeniser ({str(error).splitlines()[0]}); copy the model's there"
            ) from error
        tokens = self.tokenizer.get_vocab()
        self.kind = "nllb" if "eng_Latn" in tokens else "madlad" if "<2en>" in tokens else ""
        if not self.kind:
            raise InputError(f"{path} is neither NLLB (no token eng_Latn) nor MADLAD (no token <2en>)")
        self._known, self._profile = tokens, profile

    @property
    def licence(self) -> str:
        """Licence of the official weights of this kind."""
        return "CC-BY-NC-4.0 (NLLB-200)" if self.kind == "nllb" else "Apache-2.0 (MADLAD-400)"

    def token(self, language: str) -> str | None:
        """The token of a language (mC4 code), or None if the model lacks it."""
        row = find_language(language).in_profile(self._profile)
        token = row.nllb if self.kind == "nllb" else row.madlad
        return token if token in self._known else None

    def encode(self, texts: list[str], source: str, target: str) -> list[list[int]]:
        """Token ids of texts, with language tokens.

        Raises:
            InputError: The model lacks the source language.
        """
        if self.kind == "madlad":
            tag = self.token(target)
            return list(self.tokenizer([f"{tag} {text}" for text in texts])["input_ids"])
        mark = self.token(source)
        if mark is None:
            raise InputError(f"the translation model lacks the source language {source!r}")
        self.tokenizer.src_lang = mark
        return list(self.tokenizer(texts)["input_ids"])

    def knows(self, source: str, target: str) -> bool:
        """Whether the model translates from one language into another."""
        return self.token(target) is not None and (self.kind == "madlad" or self.token(source) is not None)

    def decode(self, tokens: list[int], asked: int, limit: int) -> Result:
        """The text of generated tokens, None if it is empty; ``cut off`` if the model did not reach the end.

        An output that is many times as long as its source is a loop, and not a translation without its end: the filters
        reject it.

        Args:
            tokens: The generated tokens, with the end token if there is one.
            asked: Number of tokens of the source text.
            limit: Maximum number of generated tokens.
        """
        end = self.tokenizer.eos_token_id
        ended = end in tokens[1:] or tokens[-1:] == [end]  # NLLB's decoder also begins with the end token
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if not ended and limit <= 8 * asked + 32:
            return Untranslated("cut off", one_line(text))
        return text or None


class Seq2SeqEngine(ABC):
    """An engine with an NLLB or MADLAD checkpoint; subclasses run the checkpoint.

    Args:
        vocabulary: The checkpoint's tokeniser.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.licence = vocabulary.licence

    def knows(self, source: str, target: str) -> bool:
        """Whether the model has both languages."""
        return self._vocabulary.knows(source, target)

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[Result]:
        """See :class:`~mblip.translation.engines.base.Engine`."""
        return collect(self.stream(texts, source, target), len(texts))

    def stream(
        self, texts: Sequence[str], source: str, target: str, done: Container[int] = ()
    ) -> Iterator[tuple[int, Result]]:
        """See :func:`~mblip.translation.engines.base.stream`; languages that the model lacks give None."""
        mark = self._vocabulary.token(target)
        if mark is None:
            yield from ((number, None) for number in range(len(texts)))
            return
        yield from self._stream_rows(self._vocabulary.encode(list(texts), source, target), mark, done)

    @abstractmethod
    def _stream_rows(self, rows: list[list[int]], mark: str, done: Container[int]) -> Iterator[tuple[int, Result]]:
        """Translate rows of token ids; yields each result with the index of its row, in any order.

        Args:
            rows: Texts with language tokens.
            mark: Token of the target language.
            done: Rows that need no translation; they may come again with their batch.
        """


def lacking(languages: Sequence[str], options: Mapping[str, Any], profile: Profile) -> list[str]:
    """The languages without a token in a checkpoint's tokeniser; all of them if English has none."""
    if not options.get("model"):  # opening the engine reports it
        return []
    vocabulary = Vocabulary(str(options.get("tokenizer") or options["model"]), profile)
    return [code for code in languages if not vocabulary.knows("en", code)]


def share_words(model: Any) -> None:
    """Let the encoder and the decoder of a T5 embed words by the same weights, as every T5 does.

    Google's MADLAD has no ``shared.weight``. In transformers 5.17 the encoder embeds words by the output head then
    (transformers#48154), and the translations are nonsense.
    """
    if model.config.model_type != "t5":
        return
    encoder, decoder = model.encoder.embed_tokens, model.decoder.embed_tokens
    if not encoder.weight.equal(decoder.weight):
        words = (decoder if encoder.weight.equal(model.lm_head.weight) else encoder).weight
        model.shared.weight = encoder.weight = decoder.weight = words


def batches(rows: list[list[int]], tokens: int, order: list[int]) -> list[list[int]]:
    """Divide rows in the given order into batches of at most ``tokens`` tokens with padding, or of one row."""
    divided: list[list[int]] = []
    longest = 0
    for row in order:
        longest = max(longest, len(rows[row]))
        if not divided or longest * (len(divided[-1]) + 1) > tokens:
            divided.append([])
            longest = len(rows[row])
        divided[-1].append(row)
    return divided


def identity_of(model: str) -> str:
    """Sizes and dates of a model's files, to notice another model of the same name; empty for a Hub id."""
    folder = Path(model)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return " ".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)
