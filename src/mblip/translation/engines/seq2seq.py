"""What CTranslate2 and transformers share: how NLLB and MADLAD are told the languages, and their tokenisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mblip.endpoint import one_line
from mblip.errors import InputError
from mblip.languages import Profile, find_language
from mblip.translation.engines.base import Result, Untranslated, collect

LICENCE = "CC-BY-NC-4.0 for NLLB-200, Apache-2.0 for MADLAD-400"


class Vocabulary:
    """The tokeniser of an NLLB or MADLAD checkpoint; which of the two follows from the language tokens it has.

    Args:
        path: A folder or Hub id with the tokeniser.
        profile: ``original`` translates into the codes of the original mBLIP, such as Traditional Chinese.

    Raises:
        InputError: There is no tokeniser, or one with neither's language tokens.
    """

    def __init__(self, path: str, profile: Profile) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
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
        """Of the official weights of this kind."""
        return "CC-BY-NC-4.0 (NLLB-200)" if self.kind == "nllb" else "Apache-2.0 (MADLAD-400)"

    def token(self, language: str) -> str | None:
        """The token that stands for a language (mC4 code), or None if the model lacks it."""
        row = find_language(language).in_profile(self._profile)
        token = row.nllb if self.kind == "nllb" else row.madlad
        return token if token in self._known else None

    def encode(self, texts: list[str], source: str, target: str) -> list[list[int]]:
        """Token numbers of texts with the marks of their languages.

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
        """The text of generated tokens, None if there is none; ``cut off`` if the model did not come to the end.

        An output that is many times as long as its text is a loop, not a translation that lacks its end: it is left to
        the filters, which say so.

        Args:
            tokens: What was generated, with its end token where there is one.
            asked: Tokens of the source text.
            limit: Tokens that could be generated.
        """
        end = self.tokenizer.eos_token_id
        ended = end in tokens[1:] or tokens[-1:] == [end]  # NLLB's decoder also begins with that token
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if not ended and limit <= 8 * asked + 32:
            return Untranslated("cut off", one_line(text))
        return text or None


class Seq2SeqEngine(ABC):
    """An engine on an NLLB or MADLAD checkpoint; how the checkpoint is run is what its kinds add.

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
        """See :func:`~mblip.translation.engines.base.stream`; nothing is translated into a language that the model lacks."""
        mark = self._vocabulary.token(target)
        if mark is None:
            yield from ((number, None) for number in range(len(texts)))
            return
        yield from self._stream_rows(self._vocabulary.encode(list(texts), source, target), mark, done)

    @abstractmethod
    def _stream_rows(self, rows: list[list[int]], mark: str, done: Container[int]) -> Iterator[tuple[int, Result]]:
        """Translate rows of token numbers; each result comes with the number of its row, in any order.

        Args:
            rows: Texts with the marks of their languages.
            mark: The token of the language to translate into.
            done: Rows that need no translation; they may come again with their batch.
        """


def lacking(languages: Sequence[str], options: Mapping[str, Any], profile: Profile) -> list[str]:
    """The languages that a checkpoint's tokeniser has no mark for; all of them where it has none for English."""
    if not options.get("model"):  # which opening the engine will say
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
    """Divide rows, in an order, into batches of at most so many tokens (padding counted), or of one row."""
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
    """Sizes and dates of a model's files, by which another model of the same name is noticed; empty for one on the Hub."""
    folder = Path(model)
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return " ".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)
