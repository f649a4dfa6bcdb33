"""The image placeholder in tokeniser and embedding table, and the special tokens that generation needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import GenerationConfig

from mblip.errors import InputError

IMAGE_TOKEN = "<image>"
NO_END = "the language model's tokeniser has no end token (eos_token); answers could not end"


def place_image_token(language_model: Any, tokenizer: Any) -> int:
    """Add the ``<image>`` token to the tokeniser and return its id.

    The token takes an unused embedding row if there is one (mT0 has 12, BLOOMZ 200); else the table grows by one row. A
    separate output head keeps its rows unchanged, and its new row is their mean, so that the placeholder is never the
    likeliest token. Transformers' own resizing would tie mT5's head to the table.
    """
    if IMAGE_TOKEN in tokenizer.get_vocab():
        tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
        index = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        if index < language_model.get_input_embeddings().num_embeddings:
            return index
    else:
        tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
        index = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    if index >= language_model.get_input_embeddings().num_embeddings:
        _grow(language_model, index + 1)
    return index


def check_image_token(config: Any, tokenizer: Any, folder: Any) -> int:
    """The id of a checkpoint's image placeholder.

    Raises:
        InputError: The id is outside the embedding table, or belongs to an ordinary word.
    """
    index = int(config.image_token_index)
    if not 0 <= index < config.text_config.get_text_config().vocab_size:
        raise InputError(f"{folder}: image_token_index {index} is outside the language model's vocabulary")
    token = tokenizer.convert_ids_to_tokens(index) if index < len(tokenizer) else None
    if token is not None and index not in tokenizer.added_tokens_decoder and index not in tokenizer.all_special_ids:
        raise InputError(
            f"{folder}: image_token_index {index} is already used by the word {token!r}; set it to the id of "
            f"{IMAGE_TOKEN}"
        )
    return index


def end_tokens(language_model: Any) -> list[int]:
    """The ids that end an answer according to the configuration, possibly none."""
    return listed(language_model.config.get_text_config().eos_token_id)


def listed(named: int | list[int] | None) -> list[int]:
    """The ids in a setting that may name one, several or none."""
    return [] if named is None else named if isinstance(named, list) else [named]


def check_end_tokens(ends: Iterable[int], rows: int, folder: Any) -> None:
    """Check that the tokens that end an answer are in the vocabulary; the model could not give others.

    Args:
        ends: Their ids.
        rows: Size of the language model's vocabulary.
        folder: The checkpoint's folder, for the message.

    Raises:
        InputError: One is not.
    """
    for token in ends:
        if not 0 <= token < rows:
            raise InputError(
                f"{folder}: the end token {token} (eos_token_id in config.json, generation_config.json or the tokeniser) is "
                f"outside the language model's vocabulary of {rows}, so answers could not end: set eos_token_id to the id "
                "of the tokeniser's end token"
            )


def end_token(language_model: Any, tokenizer: Any) -> int:
    """The id that answers are trained to end with: the tokeniser's if it ends generation, else the one that does.

    BLIP-2 with OPT, for example, ends its answers with a line break, which is not its tokeniser's end token.
    """
    known = end_tokens(language_model)
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in known else known[0])


def end_as_the_tokenizer(language_model: Any, tokenizer: Any) -> None:
    """Let a newly built model, which has learnt no end token yet, end answers with the tokeniser's.

    Raises:
        InputError: The tokeniser has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(NO_END)
    if tokenizer.eos_token_id not in end_tokens(language_model):
        language_model.config.get_text_config().eos_token_id = tokenizer.eos_token_id


def stop_as_generation_does(language_model: Any) -> None:
    """Let answers also end with the tokens in the checkpoint's generation settings, such as the end of a chat turn.

    If the configuration names one end token and the generation settings several, each of them ends an answer.
    """
    config, known = language_model.config.get_text_config(), end_tokens(language_model)
    more = [token for token in listed(language_model.generation_config.eos_token_id) if token not in known]
    if more:
        config.eos_token_id = [*known, *more]


def align_special_tokens(language_model: Any, tokenizer: Any) -> None:
    """Add missing special tokens from the tokeniser to the configuration, and let generation use it alone.

    A stock checkpoint has no generation settings for its language model, so an export would lose those of the language
    model's ``generation_config.json`` (sampling, temperatures). They are dropped from the start.

    Raises:
        InputError: Neither configuration nor tokeniser has an end token.
    """
    config = language_model.config.get_text_config()
    if not end_tokens(language_model):
        end_as_the_tokenizer(language_model, tokenizer)
    if config.pad_token_id is None:
        end = end_token(language_model, tokenizer)
        config.pad_token_id = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    language_model.generation_config = GenerationConfig.from_model_config(language_model.config)


def _grow(language_model: Any, rows: int) -> None:
    """Resize the embedding table, and only add rows to a separate head."""
    table, head = language_model.get_input_embeddings(), language_model.get_output_embeddings()
    tied = head.weight is table.weight
    grown = nn.Embedding(rows, table.embedding_dim, device="meta")
    grown.weight = _with_mean_rows(table.weight, rows)
    if getattr(table, "padding_idx", None) is not None:
        grown.padding_idx = table.padding_idx
    for name, module in list(language_model.named_modules()):
        for child, value in list(module.named_children()):
            if value is table or (isinstance(value, nn.Embedding) and value.weight is table.weight):
                setattr(language_model.get_submodule(name), child, grown)
    head.weight = grown.weight if tied else _with_mean_rows(head.weight, rows)
    if head.bias is not None:
        head.bias = _with_mean_rows(head.bias, rows)
    head.out_features = rows
    language_model.config.get_text_config().vocab_size = rows
    for module in language_model.modules():
        if getattr(module, "vocab_size", None) is not None and isinstance(module.vocab_size, int):
            module.vocab_size = rows


def _with_mean_rows(weight: nn.Parameter, rows: int) -> nn.Parameter:
    mean = weight.detach().float().mean(0, keepdim=True).to(weight.dtype)
    added = mean.expand(rows - len(weight), *weight.shape[1:])
    return nn.Parameter(torch.cat([weight.detach(), added]), requires_grad=weight.requires_grad)
