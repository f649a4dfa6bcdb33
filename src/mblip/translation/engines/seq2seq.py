"""What CTranslate2 and transformers share: how NLLB and MADLAD are told the languages, and their tokenisers."""

from __future__ import annotations

from typing import Any

from mblip.errors import InputError
from mblip.languages import Profile, find_language

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

    def decode(self, tokens: list[int]) -> str | None:
        """The text of generated tokens, None if there is none."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return text or None
