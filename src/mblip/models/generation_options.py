"""Options of transformers' ``generate`` as this package passes them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from mblip.errors import InputError

# Options that ``generate`` cannot follow here, with the value that asks for nothing, and why: the language model gets the
# prompt as embeddings, and gives one text for each.
_REFUSED: Mapping[str, tuple[Any, str]] = {
    "num_return_sequences": (1, "gives several answers per prompt: repeat the prompt instead"),
    "return_dict_in_generate": (False, "gives more than the answers: leave it out"),
    "guidance_scale": (1, "reads the prompt's words, and the language model gets embeddings: leave it out"),
}


def spell_out(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those of a ``generation_config`` among them spelled out, for code that looks at single options.

    Raises:
        InputError: An option gives something other than one answer per prompt, or needs the prompt as words.
    """
    options = dict(generation)
    if (config := options.pop("generation_config", None)) is not None:
        own = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
        own.pop("transformers_version", None)
        options = {**own, **options}
    for name, (neutral, why) in _REFUSED.items():
        if options.get(name) not in (None, neutral):
            raise InputError(f"{name} {why}")
    return options


def penalise_every_answer_token(generation: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Options of ``generate`` under which a repetition penalty counts every answer token of every text of a batch.

    If a decoder-only model gets embeddings, transformers skips as many of an answer's first tokens as its prompt has
    padding, so an answer would depend on its batch. Here the same penalty is passed as a logits processor.

    Args:
        generation: The options.
        default: The model's generation settings, for options that are not given.
    """
    penalty = generation.get("repetition_penalty")
    penalty = default.repetition_penalty if penalty is None else penalty
    if penalty in (None, 1.0):
        return dict(generation)
    processors = [*(generation.get("logits_processor") or ()), RepetitionPenaltyLogitsProcessor(float(penalty))]
    return {**generation, "repetition_penalty": 1.0, "logits_processor": LogitsProcessorList(processors)}
