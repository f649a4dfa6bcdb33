"""Split a language model into its base and its output head, as transformers' LLaVA holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from mblip.errors import InputError
from mblip.models.language_model import LanguageModel

# Settings that change logits after the head, with their neutral values: the stock container takes the head's output as
# it is.
_FACTORS: Mapping[str, Any] = {"logit_scale": 1.0, "logits_scaling": 1.0, "final_logit_softcapping": None}
# The table that the stock container ties its head to.
_TABLE = "embed_tokens"


def fold_factors(language_model: Any) -> None:
    """Fold a language model's logit factor (Cohere, Granite) into its output head.

    The stock container takes the head's output as it is. A tied head becomes a table of its own.

    Raises:
        InputError: The language model soft-caps its logits (Gemma 2) or has a bias in its head; the stock container has
            neither.
    """
    llm = LanguageModel.of(language_model)
    kind = language_model.config.model_type
    if llm.softcap is not None:
        raise InputError(
            f"a {kind} language model soft-caps its logits, which transformers' LLaVA cannot do: use another one, such as "
            "Gemma 3"
        )
    if llm.head.bias is not None:
        raise InputError(
            f"the output head of a {kind} language model has a bias, which transformers' LLaVA cannot hold: use another one"
        )
    factor = llm.logit_scale
    table = getattr(language_model.base_model, _TABLE, None)
    tied = llm.head.weight is llm.embeddings.weight
    if factor != 1.0 or (tied and table is not llm.embeddings):
        llm.head.weight = nn.Parameter(llm.head.weight.detach() * factor, requires_grad=False)
        language_model.config.tie_word_embeddings = False
    say_no_factor(language_model.config)


def say_no_factor(config: Any) -> None:
    """Set a configuration's logit factors to neutral, as the stock container applies none."""
    for name, value in _FACTORS.items():
        if hasattr(config, name):
            setattr(config, name, value)


def check_causal(text_config: Any, what: str) -> None:
    """Check that a configuration is a causal language model's; ``what`` begins the error message.

    Raises:
        InputError: It is not.
    """
    if text_config.is_encoder_decoder or type(text_config) not in AutoModelForCausalLM._model_mapping:
        kind = "reads with an encoder" if text_config.is_encoder_decoder else "is not a causal one"
        raise InputError(
            f"{what} ({text_config.model_type}) {kind}, but transformers' LLaVA holds only causal language models: "
            "use the Q-Former of a BLIP-2 (bridge=qformer), or a causal language model"
        )


def base_of(language_model: Any, kind: type) -> Any:
    """The base of a language model, which the stock container holds apart from the head.

    Raises:
        InputError: The base is not of the class that the container makes.
    """
    base = language_model.base_model
    if type(base) is not kind:
        raise InputError(
            f"transformers' LLaVA cannot hold a {language_model.config.model_type} language model: use another one"
        )
    return base


def causal_view(model: Any) -> Any:
    """A ``...ForCausalLM`` that shares its modules with a stock container: a change in one is a change in both.

    Raises:
        InputError: The language model has weights outside its base and head.
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
            f"a {config.model_type} language model has the weight {left[0]}, for which transformers' LLaVA has no place"
        )
    return view
