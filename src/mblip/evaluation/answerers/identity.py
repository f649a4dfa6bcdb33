"""Identify everything besides the weights that decides a model's answers, part by part, for fingerprints.

Complete configurations are hashed, so a change of any value makes another model. Each part has a name for error
messages. The settings that a checkpoint's ``generation_config.json`` adds to the decoding are written out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Settings without effect on answers, or replaced by the lengths that every benchmark sets.
_NEUTRAL = frozenset(
    [
        "_from_model_config",
        "cache_implementation",
        "max_length",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "transformers_version",
        "use_cache",
    ]
)
# Settings of sampling, which is never used here.
_SAMPLING = frozenset(
    ["do_sample", "epsilon_cutoff", "eta_cutoff", "min_p", "temperature", "top_k", "top_p", "typical_p"]
)
# Facts about a checkpoint without effect on answers: places, types, versions, the languages of its training.
_FACTS = frozenset([
    "_commit_hash", "_name_or_path", "dtype", "name_or_path", "torch_dtype", "trained_languages", "transformers_version",
])  # fmt: skip
_HASH_LENGTH = 16


def digest(value: Any) -> str:
    """A short hash of a text or any JSON value; the order of keys does not matter."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]


def of_configuration(config: Any) -> str:
    """The hash of a configuration, independent of its folder and precision."""
    return digest(_without_facts(config.to_dict()))


def of_tokenizer(tokenizer: Any) -> str:
    """The hash of a tokeniser: its vocabulary, rules and special tokens, without its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else tokenizer.get_vocab()
    return digest([type(tokenizer).__name__, rules, tokenizer.special_tokens_map])


def of_image_processor(processor: Any) -> dict[str, str]:
    """The class of an image processor, which names its backend (PIL or torchvision), and a hash of its settings."""
    name = type(processor).__name__
    backend = getattr(processor, "backend", None) or ("pil" if name.endswith("Pil") else "torchvision")
    return {"image backend": f"{backend} ({name})", "image processor": digest(_without_facts(processor.to_dict()))}


def of_processor(processor: Any) -> dict[str, str]:
    """The parts of a processor, under readable names."""
    found: dict[str, str] = {}
    for name in processor.get_attributes():
        part = getattr(processor, name, None)
        if part is None:
            continue
        if name == "image_processor":
            found |= of_image_processor(part)
        elif "tokenizer" in name:
            found[name.replace("_", " ")] = of_tokenizer(part)
        else:
            found[name.replace("_", " ")] = digest(_without_facts(part.to_dict()))
    own = {name: value for name, value in processor.to_dict().items() if isinstance(value, str | int | float | None)}
    return {**found, "processor": digest(_without_facts(own))}


def inherited(generation_config: Any) -> dict[str, Any]:
    """The settings of a ``generation_config.json`` that apply to every decoding, such as a ``repetition_penalty``."""
    values = generation_config.to_diff_dict()
    return {
        name: value
        for name, value in values.items()
        if name not in _NEUTRAL and name not in _SAMPLING and value is not None
    }


def effective(generation_config: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The effective decoding for a benchmark's settings; sampling is off, even if the checkpoint turns it on."""
    return {**inherited(generation_config), **wanted, "do_sample": False}


def asked_for(generation_config: Any, decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an effective decoding that ``generate`` does not inherit."""
    own = inherited(generation_config)
    return {name: value for name, value in decoding.items() if name not in own or own[name] != value}


def _without_facts(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _without_facts(value) for name, value in values.items() if name not in _FACTS}
    return [_without_facts(value) for value in values] if isinstance(values, list | tuple) else values
