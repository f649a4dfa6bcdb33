"""One adapter for any language model of transformers, causal or encoder-decoder.

Hidden states come from the model's own base model, so the output head runs only on the tokens that need it. Nothing is
registered on the model: several threads may score with and generate from one model at once, as long as it is in
evaluation mode (:func:`eval_mode` switches the mode for all threads).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.modeling_outputs import BaseModelOutput

from mblip.errors import InputError
from mblip.models.loss import loss_sum, squashed_logits, token_losses
from mblip.processing.text import IGNORED

# Names of the argument for keys and values in transformers: from 5.24 on, and before.
CACHE_NAMES = ("cache", "past_key_values")
# Largest relative difference of two computations of the same logits: rounding in bf16 stays below, another formula does
# not.
SAME = 0.03


class LanguageModel:
    """A language model and its output head.

    Args:
        model: A ``...ForCausalLM`` or ``...ForConditionalGeneration`` of transformers; it is wrapped, not copied.
    """

    is_encoder_decoder: bool

    def __init__(self, model: Any) -> None:
        self.model = model

    @staticmethod
    def of(model: Any) -> CausalLanguageModel | Seq2SeqLanguageModel:
        """The adapter for a model of either kind."""
        return Seq2SeqLanguageModel(model) if model.config.is_encoder_decoder else CausalLanguageModel(model)

    @property
    def config(self) -> Any:
        """The configuration of the text layers."""
        return self.model.config.get_text_config()

    @property
    def embeddings(self) -> nn.Embedding:
        """The table of input embeddings."""
        table: nn.Embedding = self.model.get_input_embeddings()
        return table

    @property
    def head(self) -> nn.Linear:
        """The output head."""
        head: nn.Linear = self.model.get_output_embeddings()
        return head

    @property
    def hidden_size(self) -> int:
        """Hidden size of the language model."""
        return int(self.embeddings.embedding_dim)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the input embeddings, which inputs must have."""
        return self.embeddings.weight.dtype

    @property
    def softcap(self) -> float | None:
        """Soft cap of the logits, softcap * tanh(logits / softcap), if the model has one (Gemma 2)."""
        cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        return cap

    @property
    def lora_layers(self) -> list[tuple[str, Any]]:
        """The layers with LoRA, with their names in the model."""
        peft = sys.modules.get("peft.tuners.lora")  # if it was never imported, no layer is of its classes
        return [(n, m) for n, m in self.model.named_modules() if peft and isinstance(m, peft.LoraLayer)]

    @cached_property
    def logit_scale(self) -> float:
        """The factor between ``head(hidden_states)`` and the logits before their soft cap.

        Configurations name a factor after the head (``logit_scale``, ``logits_scaling``). T5 kinds with a tied head
        also scale the hidden states by ``1 / sqrt(hidden_size)``. No configuration says so for all of them, so the
        model's own logits for one prompt are compared with ours.

        Raises:
            InputError: Neither explains the model's logits.
        """
        named = getattr(self.config, "logit_scale", None) or 1.0
        after = float(named) / float(getattr(self.config, "logits_scaling", None) or 1.0)
        weight = self.head.weight
        if weight.is_meta or isinstance(weight, FakeTensor):  # without values there are no logits to compare
            return after
        with torch.no_grad(), eval_mode(self.model):
            hidden, logits = self._probe()
            if not logits.isfinite().all():  # damaged weights; training reports them
                return after
            for before in (1.0, self.hidden_size**-0.5):
                if is_close(self.logits(hidden, after * before), logits):
                    return after * before
        raise InputError(
            f"the {self.config.model_type} language model does more to its logits than scale and soft-cap them, so its "
            "loss would be wrong here: use another language model"
        )

    def logits(self, hidden_states: Tensor, scale: float | None = None) -> Tensor:
        """Logits [tokens, vocabulary] in fp32 of hidden states [tokens, width]; not chunked, so for few tokens."""
        return squashed_logits(self._scaled(hidden_states, scale), self.head.weight, self.head.bias, self.softcap)

    def loss_sum(self, hidden_states: Tensor, targets: Tensor) -> Tensor:
        """Summed negative log-likelihood of targets [tokens] (nats, fp32) under hidden states [tokens, width].

        All logits are never in memory at once, see :mod:`mblip.models.loss`.
        """
        return loss_sum(self._scaled(hidden_states), self.head.weight, self.head.bias, targets, self.softcap)

    def token_losses(self, hidden_states: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target [tokens] (nats, fp32), without gradients."""
        return token_losses(self._scaled(hidden_states), self.head.weight, self.head.bias, targets, self.softcap)

    def _scaled(self, hidden_states: Tensor, scale: float | None = None) -> Tensor:
        scale = self.logit_scale if scale is None else scale
        hidden_states = hidden_states if scale == 1.0 else hidden_states * scale
        return hidden_states.to(self.head.weight.dtype)

    def _probe(self) -> tuple[Tensor, Tensor]:
        """Hidden states [tokens, width] and the model's own logits [tokens, vocabulary] for one short prompt."""
        raise NotImplementedError


class CausalLanguageModel(LanguageModel):
    """A decoder-only model, such as BLOOMZ."""

    is_encoder_decoder = False

    @property
    def base(self) -> Any:
        """The model without its output head."""
        base = self.model.base_model
        return self.model.get_decoder() if base is self.model else base

    @cached_property
    def takes_positions(self) -> bool:
        """Whether the model takes ``position_ids``."""
        return "position_ids" in inspect.signature(self.base.forward).parameters

    def hidden_states(
        self, inputs_embeds: Tensor, attention_mask: Any, position_ids: Tensor | None = None, cache: Any = None
    ) -> Tensor:
        """The states that the output head reads [texts, tokens, width].

        Args:
            inputs_embeds: [texts, tokens, width].
            attention_mask: [texts, tokens], which includes the tokens in the cache; or, with ``position_ids``, any mask
                that the model takes.
            position_ids: [texts, tokens]; by default counted from the mask, so that padding has no position.
            cache: Keys and values of earlier tokens; the new ones are added.

        Raises:
            InputError: The model ignored the cache.
        """
        inputs: dict[str, Any] = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        if cache is not None:
            inputs[cache_name(self.base)] = cache
        if self.takes_positions:
            if position_ids is None:
                position_ids = (attention_mask.cumsum(1) - 1).clamp_(min=0)[:, -inputs_embeds.shape[1] :]
            inputs["position_ids"] = position_ids
        hidden: Tensor = self.base(**inputs, use_cache=cache is not None)[0]
        # A model that ignores the cache would continue as if it had read nothing.
        if cache is not None and cache.get_seq_length() != attention_mask.shape[1]:
            raise InputError(
                f"{type(self.model).__name__} keeps no keys and values of the prompt: answers cannot be scored after "
                "it; let it generate instead"
            )
        return hidden

    def _probe(self) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.embeddings.weight.device)
        embedded, mask = self.embeddings(ids), torch.ones_like(ids)
        hidden = self.hidden_states(embedded, mask)
        logits = self.model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).logits
        return hidden.flatten(0, 1), logits.flatten(0, 1)


class Seq2SeqLanguageModel(LanguageModel):
    """An encoder-decoder, such as mT0."""

    is_encoder_decoder = True

    def encode(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode prompts: [texts, tokens, width] -> [texts, tokens, width]."""
        encoded: Tensor = self.model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=attention_mask)[0]
        return encoded

    def hidden_states(
        self, decoder_input_ids: Tensor, encoded: Tensor, encoder_mask: Tensor, decoder_mask: Tensor | None = None
    ) -> Tensor:
        """The states that the output head reads [texts, answer tokens, width].

        Args:
            decoder_input_ids: [texts, answer tokens], see :meth:`decoder_input_ids`.
            encoded: Output of :meth:`encode` [texts, tokens, width].
            encoder_mask: [texts, tokens], or any mask that the decoder takes for the encoder's states.
            decoder_mask: [texts, answer tokens], or any mask that the decoder takes for the answer's tokens.
        """
        hidden: Tensor = self.model.get_decoder()(
            input_ids=decoder_input_ids,
            attention_mask=decoder_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=encoder_mask,
            use_cache=False,
        )[0]
        return hidden

    def decoder_input_ids(self, labels: Tensor, pad_token_id: int) -> Tensor:
        """The decoder's input for these labels [texts, answer tokens], shifted right; -100 becomes padding."""
        start = torch.full_like(labels[:, :1], self.model.config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORED, pad_token_id)

    def _probe(self) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.embeddings.weight.device)
        embedded, mask = self.embeddings(ids), torch.ones_like(ids)
        encoded = self.encode(embedded, mask)
        hidden = self.hidden_states(ids, encoded, mask)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded), attention_mask=mask, decoder_input_ids=ids,
            use_cache=False,
        ).logits  # fmt: skip
        return hidden.flatten(0, 1), logits.flatten(0, 1)


def cache_name(model: Any) -> str:
    """The name of a model's argument for keys and values of earlier tokens.

    Raises:
        InputError: It has no known one; under a wrong name they would be ignored silently.
    """
    known = inspect.signature(model.forward).parameters
    for name in CACHE_NAMES:
        if name in known:
            return name
    raise InputError(
        f"{type(model).__name__} takes no keys and values as {' or '.join(CACHE_NAMES)}: it, or this version of "
        "transformers, is not supported"
    )


def computes_by_tie(model: Any) -> bool:
    """Whether ``tie_word_embeddings`` changes a language model's computation (umT5), whether or not the head is tied.

    Such a setting must stay as it is.
    """
    if model.get_output_embeddings().weight.is_meta:
        return False
    language_model, before = LanguageModel.of(model), model.config.tie_word_embeddings
    with torch.no_grad(), eval_mode(model):
        found = []
        for tied in (True, False):
            model.config.tie_word_embeddings = tied
            found.append(language_model._probe()[1])
    model.config.tie_word_embeddings = before
    return not is_close(*found)


def is_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether two computations of the same values agree up to rounding."""
    found, wanted = found.float(), wanted.float()
    return bool((found - wanted).norm() <= SAME * wanted.norm())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and every module back into its own mode afterwards.

    A model that is already in evaluation mode is not touched, so threads may share it. Only one thread may use a model
    in training mode.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
