"""Turn prompts and answers into token ids, in the layout for the kind of language model.

A row has the image placeholders (queries x images of that row), then the prompt (paper, section 3.1), or is written by
a frame (:mod:`mblip.processing.framing`). An encoder-decoder gets the answer as decoder labels; a decoder-only model
gets prompt and answer in one row, with the loss on the answer only. Differences between families are found through the
tokeniser, never by name.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mblip.errors import InputError
from mblip.processing.framing import Frame

IGNORED = -100
# A fast tokeniser stores the truncation of the current call, so two threads would get each other's.
_TOKENIZING = threading.Lock()


class TextLayout:
    """Makes token batches for one model.

    Args:
        tokenizer: The language model's tokeniser.
        image_token_id: Id of the placeholder.
        end_token_id: Id of the token that ends every answer.
        queries: Placeholders that one image takes.
        is_encoder_decoder: Which of the two layouts.
        separator: Text between prompt and answer of a decoder-only model; None to tokenise both as one line.
        frame: Text around prompts that contain their images; None if the images come before the prompt.
        start_first: Without a frame, put the tokeniser's start token before the images, not after them.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_token_id: int,
        end_token_id: int,
        queries: int,
        is_encoder_decoder: bool,
        separator: str | None = None,
        frame: Frame | None = None,
        start_first: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        own_end = frame.end_token_id if frame else None
        self.end_token_id = end_token_id if own_end is None else own_end
        self.queries = queries
        self.is_encoder_decoder = is_encoder_decoder
        self.frame = frame
        self._separator = separator
        self._start_first = start_first

    @property
    def pad_token_id(self) -> int:
        """The padding id; a model without one pads with its end token, under the attention mask."""
        pad = self.tokenizer.pad_token_id
        return int(self.end_token_id if pad is None else pad)

    @cached_property
    def separator(self) -> str:
        """The text between prompt and answer of a decoder-only model, as its checkpoint was trained.

        If the checkpoint does not record it: a blank if the tokeniser makes it part of the following word (byte-level
        BPE), and nothing if a word's first piece includes it (SentencePiece). Both give the ids of prompt and answer
        written as one line.
        """
        if self.frame is not None and self.frame.separator is not None:
            return self.frame.separator
        if self._separator is not None:
            return self._separator
        together = self._ids(["a: b"], special=False)[0]
        first, spaced = self._ids(["a:", " b"], special=False)
        return " " if first + spaced == together else ""

    def prompts(self, prompts: Sequence[str], images: Sequence[int]) -> dict[str, Tensor]:
        """Rows for generation; those of a decoder-only model are padded on the left.

        Args:
            prompts: The prompts, which are never cut.
            images: Number of images of each prompt.

        Returns:
            ``input_ids`` and ``attention_mask`` [texts, tokens].

        Raises:
            InputError: A prompt holds the image placeholder.
        """
        return self._padded(self._sources(prompts, images, None), left=not self.is_encoder_decoder)

    def pairs(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        images: Sequence[int],
        max_prompt_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        end_cut_answers: bool = False,
    ) -> dict[str, Tensor]:
        """Rows for training or scoring, padded on the right.

        Args:
            prompts: The prompts.
            answers: One answer per prompt; each ends with the end token, unless it had to be cut.
            images: Number of images of each prompt.
            max_prompt_tokens: Longer prompts are cut (placeholders do not count).
            max_answer_tokens: Longer answers are cut; the end token counts.
            end_cut_answers: See :meth:`targets`.

        Returns:
            ``input_ids`` and ``attention_mask`` [texts, tokens], and ``labels``: [texts, answer tokens] for an
            encoder-decoder, else aligned with ``input_ids``; -100 where nothing is supervised.

        Raises:
            InputError: A prompt holds the image placeholder.
        """
        sources = self._sources(prompts, images, max_prompt_tokens)
        targets = self.targets(prompts, answers, max_answer_tokens, end_cut_answers)
        if self.is_encoder_decoder:
            return {**self._padded(sources), "labels": pad_rows(targets, IGNORED)}
        rows = [source + target for source, target in zip(sources, targets, strict=True)]
        labels = [[IGNORED] * len(source) + target for source, target in zip(sources, targets, strict=True)]
        return {**self._padded(rows), "labels": pad_rows(labels, IGNORED)}

    def _sources(self, prompts: Sequence[str], images: Sequence[int], limit: int | None) -> list[list[int]]:
        if self.frame is not None:
            return self._framed(self.frame, prompts, images, limit)
        rows = self._ids(prompts, limit=limit)
        for row, prompt in zip(rows, prompts, strict=True):
            if self.image_token_id in row:
                raise self._holds_image_token(prompt)
        prefix = [self.image_token_id] * self.queries
        starts = len(self.start_tokens) if self._start_first else 0
        return [row[:starts] + prefix * count + row[starts:] for row, count in zip(rows, images, strict=True)]

    def _holds_image_token(self, prompt: str) -> InputError:
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        return InputError(f"the prompt {prompt!r} contains {token}, which marks an image; remove it")

    @cached_property
    def start_tokens(self) -> list[int]:
        """Ids of the tokens that the tokeniser puts before a text."""
        bare, whole = self._ids(["a"], special=False)[0], self._ids(["a"])[0]
        return whole[: next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)]

    def _framed(
        self, frame: Frame, prompts: Sequence[str], images: Sequence[int], limit: int | None
    ) -> list[list[int]]:
        """The ids of prompts as their frame writes them, with each placeholder repeated for the image's tokens."""
        texts = prompts if limit is None else [self._cut(prompt, limit) for prompt in prompts]
        written = [frame.write(text, count) for text, count in zip(texts, images, strict=True)]
        made = []
        for row, prompt, count in zip(self._ids(written, frame.adds_special_tokens), prompts, images, strict=True):
            if row.count(self.image_token_id) != count:
                raise self._holds_image_token(prompt)
            repeats = (self.queries if token == self.image_token_id else 1 for token in row)
            made.append([token for token, times in zip(row, repeats, strict=True) for _ in range(times)])
        return made

    def _cut(self, text: str, limit: int) -> str:
        """Cut a text to a number of tokens."""
        if len(text.encode("utf-8", "surrogatepass")) <= limit:  # a token is at least a byte
            return text
        ids = self._ids([text], special=False)[0]
        return text if len(ids) <= limit else str(self.tokenizer.decode(ids[:limit]))

    def _is_glued(self, prompt: str) -> bool:
        """Whether an answer follows its prompt without a separator."""
        if self.frame is not None and self.frame.separator is not None:
            return False  # the prompt ends with its own separator
        return not prompt or prompt[-1].isspace()

    def targets(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        limit: int | None = None,
        end_cut_answers: bool = False,
    ) -> list[list[int]]:
        """The ids of answers after their prompts, each with the end token, at most ``limit`` ids per answer.

        Args:
            prompts: The prompts.
            answers: One answer per prompt.
            limit: Maximum number of tokens; an answer that has to be cut has no end token.
            end_cut_answers: Give cut answers an end token, as the original does: the last of ``limit`` tokens for an
                encoder-decoder, and one more token for a decoder-only model.
        """
        texts = list(answers)
        if not self.is_encoder_decoder and self.separator:
            glued = [self._is_glued(prompt) for prompt in prompts]
            texts = [text if glue else self.separator + text for glue, text in zip(glued, texts, strict=True)]
        rows = self._ids(texts, special=False)
        if not end_cut_answers or limit is None:
            return [[*row, self.end_token_id][:limit] for row in rows]
        kept = limit - 1 if self.is_encoder_decoder else limit
        return [[*row[:kept], self.end_token_id] for row in rows]

    def lengths(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[int, ...]]:
        """Number of tokens of each text in each tensor that pads it, without special tokens.

        The tuples are (prompt, answer) for an encoder-decoder, and (sum of both,) for a decoder-only model.
        """
        sizes = [[len(row) for row in self._ids(texts, special=False)] for texts in (prompts, answers)]
        pairs = zip(*sizes, strict=True)
        return list(pairs) if self.is_encoder_decoder else [(sum(pair),) for pair in pairs]

    def _ids(self, texts: Sequence[str], special: bool = True, limit: int | None = None) -> list[list[int]]:
        with _TOKENIZING:
            rows: list[list[int]] = self.tokenizer(
                list(texts), add_special_tokens=special, truncation=limit is not None, max_length=limit,
                return_attention_mask=False, return_token_type_ids=False,
            )["input_ids"]  # fmt: skip
        return rows

    def _padded(self, rows: list[list[int]], left: bool = False) -> dict[str, Tensor]:
        mask = pad_rows([[1] * len(row) for row in rows], 0, left)
        return {"input_ids": pad_rows(rows, self.pad_token_id, left), "attention_mask": mask}


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Rows of ids as one tensor [rows, longest], padded with ``value`` on the right (or left)."""
    lengths = np.array([len(row) for row in rows])
    width = int(lengths.max(initial=0))
    columns = np.arange(width)
    filled = np.full((len(rows), width), value, dtype=np.int64)
    where = columns >= (width - lengths)[:, None] if left else columns < lengths[:, None]
    filled[where] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(filled)
