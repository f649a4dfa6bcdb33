"""A language model in two halves: transformers' LLaVA holds its base and its output head apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from mblip.errors import InputError
from mblip.models.language_model import LanguageModel

# What a language model does to its logits beside the head; the stock container takes the head's output as it is.
_FACTORS: Mapping[str, Any] = {"logit_scale": 1.0, "logits_scaling": 1.0, "final_logit_softcapping": None}
# The table that the stock container ties its head to.
_TABLE = "embed_tokens"


def fold_factors(language_model: Any) -> None:
    """Fold into the output head the factor that a language model multiplies its logits by (Cohere, Granite).

    The stock container takes the head's output as it is. A tied head becomes a table of its own.

    Raises:
        InputError: The language model bounds its logits (Gemma 2), or has a bias in its head: no stock container does.
    """
    llm = LanguageModel.of(language_model)
    kind = language_model.config.model_type
    if llm.softcap is not None:
        raise InputError(
            f"a {kind} language model bounds its logits, which transformers' LLaVA does not do: take another, such as Gemma 3"
        )
    if llm.head.bias is not None:
        raise InputError(
            f"the output head of a {kind} language model has a bias, which transformers' LLaVA has not: take another"
        )
    factor = llm.logit_scale
    table = getattr(language_model.base_model, _TABLE, None)
    tied = llm.head.weight is llm.embeddings.weight
    if factor != 1.0 or (tied and table is not llm.embeddings):
        llm.head.weight = nn.Parameter(llm.head.weight.detach() * factor, requires_grad=False)
        language_model.config.tie_word_embeddings = False
    say_no_factor(language_model.config)


def say_no_factor(config: Any) -> None:
    """Write into a configuration that its logits are what the head gives, as the stock container has it."""
    for name, value in _FACTORS.items():
        if hasattr(config, name):
            setattr(config, name, value)


def check_causal(text_config: Any, what: str) -> None:
    """Whether a configuration is a causal language model's; ``what`` begins the message.

    Raises:
        InputError: It is not.
    """
    if text_config.is_encoder_decoder or type(text_config) not in AutoModelForCausalLM._model_mapping:
        kind = "reads with an encoder" if text_config.is_encoder_decoder else "is not a causal one"
        raise InputError(
            f"{what} ({text_config.model_type}) {kind}, and transformers' LLaVA holds causal language models alone: put it "
            "behind the Q-Former of a BLIP-2 (bridge=qformer), or take a causal one"
        )


def base_of(language_model: Any, kind: type) -> Any:
    """The base of a whole language model, which the stock container holds without the head.

    Raises:
        InputError: It is not of the class that the container makes.
    """
    base = language_model.base_model
    if type(base) is not kind:
        raise InputError(
            f"transformers' LLaVA cannot hold a {language_model.config.model_type} language model: take another"
        )
    return base


def causal_view(model: Any) -> Any:
    """A ``...ForCausalLM`` that holds the very modules of a stock container: what changes inside one changes in both.

    Raises:
        InputError: The language model has weights beside base and head.
    """
    config = model.config.text_config = model.model.language_model.config
    with torch.device("meta"), no_init_weights():
        view = AutoModelForCausalLM.from_config(config)
    base_of(view, type(model.model.language_model))
    setattr(view, view.base_model_prefix, model.model.language_model)
    view.set_output_embeddings(model.lm_head)
    view.config = config
    view.eval()
    view.train(model.training)
    own = {id(value) for value in model.parameters()}
    left = [name for name, value in view.named_parameters() if id(value) not in own]
    if left:
        raise InputError(
            f"a {config.model_type} language model has {left[0]}, for which transformers' LLaVA has no place"
        )
    return view
