"""Log-probabilities of given answers; images and prompt are read once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from mblip.errors import InputError
from mblip.models.language_model import CausalLanguageModel, Seq2SeqLanguageModel, eval_mode
from mblip.models.speedups.shared_prefix import Prefixes, heads_of, inputs, is_worth_it
from mblip.models.vision_llm import VisionLLM
from mblip.processing.images import Picture
from mblip.processing.prompts import check_text
from mblip.processing.text import IGNORED, pad_rows

# (row of each answer's prompt [answers], answer ids [answers, tokens]) -> predicting states [answers, tokens, width].
States = Callable[[Tensor, Tensor], Tensor]


def score_answers(
    vlm: VisionLLM,
    prompts: Sequence[str],
    image_features: Tensor,
    image_index: Tensor,
    answers: Sequence[str],
    rows: int = 64,
    image_keys: Sequence[Hashable] | None = None,
    prefixes: Prefixes | None = None,
) -> Tensor:
    """Log-probability of each answer to each prompt [prompts, answers].

    An encoder-decoder's encoder runs once per prompt, and the decoder reads its states for every answer. A decoder-only
    model reads image and prompt once, and every answer continues from copies of their keys and values.

    Args:
        vlm: The model, in evaluation mode.
        prompts: The prompts.
        image_features: [images, queries, width].
        image_index: [prompts, images of a prompt], rows of ``image_features``; -1 where a prompt has fewer.
        answers: The answers to score, each with its end token.
        rows: Number of answers that run together.
        image_keys: See :meth:`VisionLLM.generate_ids`.
        prefixes: See :meth:`VisionLLM.generate_ids`.

    Returns:
        Natural logarithms in fp32, summed over the tokens of an answer and its end token.
    """
    scores = torch.zeros(len(prompts) * len(answers))
    with torch.no_grad():
        counts = (image_index >= 0).sum(1).tolist()
        batch = {name: value.to(vlm.device) for name, value in vlm.layout.prompts(prompts, counts).items()}
        embedded = vlm.embed(batch["input_ids"], image_features, image_index)
        targets = [row for prompt in prompts for row in vlm.layout.targets([prompt] * len(answers), answers)]
        if vlm.is_encoder_decoder:
            states = _read_by_encoder(vlm, embedded, batch["attention_mask"])
        else:
            seen = image_keys or [tuple(row) for row in image_index.tolist()]
            heads = heads_of(batch["input_ids"], batch["attention_mask"], vlm.layout.image_token_id, seen)
            longest = {"max_new_tokens": max(map(len, targets), default=0)}
            shares = "shared_prefix" in vlm.speedups
            if shares and is_worth_it(vlm.llm, heads, batch["attention_mask"], prefixes, longest):
                given = inputs(vlm.llm, embedded, batch["attention_mask"], heads, 1, prefixes)
                states = _read_by_decoder(vlm, given["inputs_embeds"], *_cache_and_mask(given))
            else:
                empty = DynamicCache(config=vlm.language_model.config)
                states = _read_by_decoder(vlm, embedded, empty, batch["attention_mask"])
        owners = torch.arange(len(prompts), device=vlm.device).repeat_interleave(len(answers))
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            labels = pad_rows(targets[part], IGNORED).to(vlm.device)
            scores[part] = -vlm.text_losses(states(owners[part], labels), labels)[0].cpu()
    return scores.view(len(prompts), len(answers))


def score_candidates(
    vlm: VisionLLM, images: Picture | Sequence[Picture], prompt: str, answers: Sequence[str]
) -> list[float]:
    """Log-probability (natural, summed over the tokens and the end token) of each answer to a prompt about images.

    Raises:
        InputError: A picture cannot be read, or the prompt or an answer is no text.
    """
    check_text(prompt)
    if isinstance(answers, str | bytes):
        raise InputError(f"the answers are one text, {answers!r:.100}: give a list of texts")
    for answer in answers:
        check_text(answer, "answer")
    if not answers:
        return []
    group: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
    index = torch.arange(len(group), device=vlm.device)[None]
    with eval_mode(vlm):
        found: list[float] = score_answers(vlm, [prompt], vlm.encode(group), index, answers)[0].tolist()
    return found


def _read_by_encoder(vlm: VisionLLM, embedded: Tensor, mask: Tensor) -> States:
    llm = vlm.llm
    assert isinstance(llm, Seq2SeqLanguageModel)
    encoded = llm.encode(embedded, mask)

    def states(owners: Tensor, labels: Tensor) -> Tensor:
        given = llm.decoder_input_ids(labels, vlm.layout.pad_token_id)
        return llm.hidden_states(given, encoded[owners], mask[owners])

    return states


def _cache_and_mask(given: dict[str, Any]) -> tuple[Any, Tensor]:
    return next(value for value in given.values() if isinstance(value, Cache)), given["attention_mask"]


def _read_by_decoder(vlm: VisionLLM, embedded: Tensor, read: Any, mask: Tensor) -> States:
    """Score answers after prompts [prompts, tokens, width], whose first tokens may be in the cache already."""
    llm = vlm.llm
    assert isinstance(llm, CausalLanguageModel)
    words = embedded[:, read.get_seq_length() :]
    last = llm.hidden_states(words, mask, cache=read)[:, -1:]  # rows are padded on the left

    def states(owners: Tensor, labels: Tensor) -> Tensor:
        first = last[owners]
        if labels.shape[1] == 1:
            return first
        cache = copy.deepcopy(read)
        cache.batch_select_indices(owners)
        given = labels[:, :-1]
        present = given != IGNORED
        words = llm.embeddings(given.masked_fill(~present, vlm.layout.pad_token_id))
        rest = llm.hidden_states(words, torch.cat([mask[owners], present.to(mask.dtype)], dim=1), cache=cache)
        return torch.cat([first, rest], dim=1)

    return states
