"""Options of transformers' ``generate`` as this package passes them on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, NamedTuple

from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from mblip.errors import InputError, guess
from mblip.models.language_model import CACHE_NAMES

# Options that ``generate`` cannot follow here, with the value that asks for nothing, and why: the language model gets the
# prompt as embeddings, and gives one text for each.
_REFUSED: Mapping[str, tuple[Any, str]] = {
    "num_return_sequences": (1, "gives several answers per prompt: repeat the prompt instead"),
    "return_dict_in_generate": (False, "gives more than the answers: leave it out"),
    "guidance_scale": (1, "reads the prompt's words, and the language model gets embeddings: leave it out"),
}


class _Number(NamedTuple):
    """The numbers that an option may be."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False
    above: bool = False  # the least itself is excluded

    def __contains__(self, value: object) -> bool:
        kind = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        number = float(value)
        return (number > self.least if self.above else number >= self.least) and number <= self.most

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.least == -math.inf:
            return kind
        if self.most < math.inf:
            return (
                f"{kind} above {self.least:g}, at most {self.most:g}"
                if self.above
                else (f"{kind} from {self.least:g} to {self.most:g}")
            )
        return f"{kind} above {self.least:g}" if self.above else f"{kind}, {self.least:g} or more"


_COUNT, _SIZE, _SHARE = _Number(1, whole=True), _Number(0, whole=True), _Number(0, 1)
_COUNTS = ("num_beams", "max_new_tokens", "max_length")
# transformers ignores some values outside of these, and fails in the middle of its work on others.
_NUMBERS: Mapping[str, _Number] = {
    **dict.fromkeys(_COUNTS, _COUNT),
    **dict.fromkeys(
        ("top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), _SIZE
    ),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), _SHARE),
    **dict.fromkeys(("top_p", "typical_p"), _Number(0, 1, above=True)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "max_time"), _Number(0, above=True)),
    "temperature": _Number(0),
    "length_penalty": _Number(),
}
# Options that bring a cache of keys and values of their own, or take tokens back, which gives other answers behind a
# shared prefix.
_OTHER_CACHES = {"cache_implementation", "prompt_lookup_num_tokens", "assistant_model", *CACHE_NAMES}


def spell_out(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those of a ``generation_config`` among them spelled out, for code that looks at single options.

    Raises:
        InputError: There is no such option, a number is outside its range, or an option gives something other than one
            answer per prompt, or needs the prompt as words.
    """
    options = dict(generation)
    if (config := options.pop("generation_config", None)) is not None:
        if not isinstance(config, GenerationConfig):
            raise InputError(f"generation_config is no GenerationConfig of transformers, but {config!r:.100}")
        own = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
        own.pop("transformers_version", None)
        options = {**own, **options}
    for name, (neutral, why) in _REFUSED.items():
        if options.get(name) not in (None, neutral):
            raise InputError(f"{name} {why}")
    for name in options.keys() - _known_options():
        raise InputError(f"transformers' generate has no option {name!r}{guess(name, _known_options())}")
    for name in _COUNTS:
        if name in options and options[name] is None:  # transformers would fall back to 20 tokens
            del options[name]
    for name, numbers in _NUMBERS.items():
        if options.get(name) is not None and options[name] not in numbers:
            raise InputError(f"{name} is {options[name]!r:.100}; write {numbers}")
    if options.get("do_sample") and options.get("temperature") == 0:
        raise InputError("temperature is 0, which cannot be sampled with; raise it, or set do_sample to False")
    if options.get("early_stopping") not in (None, True, False, "never"):
        raise InputError(f"early_stopping is {options['early_stopping']!r:.100}; write True, False or 'never'")
    return options


@cache
def _known_options() -> frozenset[str]:
    own = inspect.signature(GenerationMixin.generate).parameters
    return frozenset({*own, *vars(GenerationConfig()), "chat", "tokenizer", *_OTHER_CACHES} - {"self", "kwargs"})


def leaves_cache(generation: Mapping[str, Any]) -> bool:
    """Whether options of ``generate`` leave the cache of keys and values to the caller."""
    return generation.get("use_cache") is not False and not any(generation.get(name) for name in _OTHER_CACHES)


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
