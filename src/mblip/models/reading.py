"""Read checkpoints of transformers: configuration, tokeniser, language model, each with clear errors.

Code that comes with a checkpoint is never run. No model is returned with weights that are missing, random or tied
although the files hold separate ones.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from mblip.errors import InputError
from mblip.models.checkpoint import Checkpoint, read_json
from mblip.models.language_model import computes_by_tie
from mblip.storage.folders import check_files

_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_language_model(folder: Path, dtype: torch.dtype | str | None) -> tuple[Any, Any]:
    """Load a language model, with its separate head if it has one, and its tokeniser.

    Raises:
        InputError: The checkpoint is no text-only causal or encoder-decoder model, is incomplete or damaged, needs
            remote code, or its embeddings have another width than its layers.
    """
    config = read_config(folder)
    if config.get_text_config() is not config or hasattr(config, "vision_config"):
        raise InputError(f"{folder} is a {config.model_type} checkpoint, {not_a_language_model(config.model_type)}")
    auto = text_class(config, folder)
    weights = Checkpoint(folder)
    chosen = choose_dtype(dtype, weights, "", config)
    model, report = from_pretrained(auto, folder, config=config, dtype=chosen)
    bare = next(
        (kind for kind in config.architectures or () if re.search(r"(?<!LMHead)(?<!DoubleHeads)Model$", kind)), ""
    )
    remedy = f"config.json names {bare}, which has no output head: take the checkpoint of a model that writes text"
    check_complete(model, report, folder, remedy if bare else _COPY)
    check_head(model, weights, "", folder)
    apart = read_json(folder / "config.json").get("tie_word_embeddings") is False
    if apart and config.tie_word_embeddings and computes_by_tie(model):
        # The class treats every head as tied and scales its input by 1/sqrt(width); this head was trained without that.
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(config.hidden_size**0.5)
    width = model.get_input_embeddings().embedding_dim
    if width != config.hidden_size:
        raise InputError(
            f"{folder}: the embeddings have the width {width}, but the layers {config.hidden_size}; this language model "
            "cannot take image features"
        )
    return model, read_tokenizer(folder)


def sees_images(model_type: str | None) -> bool:
    """Whether checkpoints of this kind answer about images, so that ``mblip eval`` can use them directly."""
    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def no_container(model_type: str | None) -> str:
    """The end of a message about a checkpoint that is no vision-LLM of a kind that mblip builds."""
    if sees_images(model_type):
        return "a vision-language model, but not BLIP-2 or LLaVA: only mblip eval can use it"
    return "not BLIP-2 or LLaVA; a language model goes under llm=, an image encoder under vision="


def not_a_language_model(model_type: str | None) -> str:
    """The end of a message about a checkpoint that is no language model."""
    if model_type not in ("blip-2", "llava") and sees_images(model_type):
        return "a vision-language model, not a language model alone: mblip eval can use it"
    return "which is not a language model alone"


def text_class(config: Any, name: str | Path) -> Any:
    """Transformers' loader for a language model of this configuration, causal or encoder-decoder.

    Raises:
        InputError: The model is neither, such as an encoder alone.
    """
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    classes = config.architectures or ()
    # BERT's kinds are encoders, whose causal classes are for those trained as decoders. XLM says it in `causal`.
    masked = auto is AutoModelForCausalLM and type(config) in AutoModelForMaskedLM._model_mapping
    encodes = masked and not (config.is_decoder if hasattr(config, "is_decoder") else getattr(config, "causal", False))
    if type(config) not in auto._model_mapping or encodes or any("MaskedLM" in kind for kind in classes):
        kind = ", ".join(classes) or config.model_type
        raise InputError(f"{name} ({kind}) writes no text: name a causal or an encoder-decoder language model")
    return auto


def from_pretrained(auto: Any, folder: Path, state: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
    """Load with transformers; returns the model and its loading report, and turns errors into one sentence.

    Args:
        auto: A model class, or one of transformers' ``Auto...`` classes.
        folder: The checkpoint's folder.
        state: Tensors by name, to load instead of those in the files.
        **options: Options of ``from_pretrained``.

    Raises:
        InputError: The checkpoint cannot be loaded.
    """
    check_files(folder)
    read_generation_settings(folder)  # tells damaged ones
    place = {"pretrained_model_name_or_path": folder if state is None else None, "state_dict": state}
    try:
        with quietly():  # what it would warn of, check_complete decides
            model, report = auto.from_pretrained(
                **place, output_loading_info=True, local_files_only=True, ignore_mismatched_sizes=True, **options
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{folder} holds a pickle with other objects than tensors; convert it to safetensors"
        ) from error
    except NotImplementedError as error:  # transformers compares two tied tables that it skipped for their wrong size
        raise InputError(
            f"{folder}: the embeddings are of another size than the configuration says (vocab_size); copy the checkpoint "
            "again"
        ) from error
    except (RuntimeError, ValueError, OSError, SafetensorError, AttributeError) as error:
        raise InputError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return model, report


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from warning inside the block."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


def read_generation_settings(folder: Path) -> dict[str, Any]:
    """A checkpoint's generation settings; transformers goes on without damaged ones, and says nothing.

    Raises:
        InputError: They cannot be read.
    """
    file = folder / "generation_config.json"
    said = read_json(file) if file.is_file() else {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = said.get(name)
        if not all(isinstance(one, int) for one in (value if isinstance(value, list) else [value]) if one is not None):
            raise InputError(f"{file}: {name} is {value!r}, not the id of a token; copy the checkpoint again")
    return said


def check_head(model: Any, weights: Checkpoint, prefix: str, folder: Path) -> None:
    """Check that the files hold an output head that ``config.json`` says is separate, and keep it separate.

    Transformers ties mT5's head whatever the configuration says, unless the files hold one that differs.

    Args:
        model: The loaded language model.
        weights: The checkpoint's files.
        prefix: Prefix of the language model's names in these files.
        folder: The checkpoint's folder, for the message.

    Raises:
        InputError: The head is missing.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    raw = read_json(folder / "config.json")
    apart = raw.get("text_config", raw).get("tie_word_embeddings") is False
    if apart and head.weight is table.weight:
        stored = f"{prefix}{next(name for name, module in model.named_modules() if module is head)}.weight"
        if stored not in weights.names:
            raise InputError(
                f"{folder}: 1 weight is missing, {stored}, the output head that config.json says is not tied to the "
                "embeddings"
            )
        head.weight = torch.nn.Parameter(head.weight.detach().clone())


_COPY = "copy the checkpoint again"


def check_complete(model: Any, report: dict[str, Any], folder: Path, remedy: str = _COPY) -> None:
    """Check that every weight was read, and that the model computes with every weight of the files.

    Args:
        model: The loaded model.
        report: The loading report of :func:`from_pretrained`.
        folder: The checkpoint's folder, for the message.
        remedy: The advice that the message gives about missing weights.

    Raises:
        InputError: Weights are missing, of another size, or left over; the message names the first.
    """
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    if problems := describe_unread(folder, report["missing_keys"], mismatched, remedy):
        raise InputError(problems[0])
    check_places(model, report["unexpected_keys"], folder)


def describe_unread(folder: Path, missing: Iterable[str], mismatched: Iterable[str], remedy: str = _COPY) -> list[str]:
    """Messages about weights that a checkpoint lacks, and those of another size than its configuration says.

    Args:
        folder: The checkpoint's folder.
        missing: Names of the weights that it lacks.
        mismatched: Names of the weights of another size.
        remedy: The advice that the message gives about them.
    """
    problems = []
    for problem, names in (
        ("missing", sorted(missing)),
        ("of another size than the configuration says", sorted(mismatched)),
    ):
        if len(names) > 1:
            problems.append(f"{folder}: {len(names):,} weights are {problem}, the first is {names[0]}; {remedy}")
        elif names:
            problems.append(f"{folder}: the weight {names[0]} is {problem}; {remedy}")
    return problems


def check_places(model: nn.Module, unread: Iterable[str], folder: Path) -> None:
    """Check that no weight of the files is left over because ``config.json`` says fewer layers, or no bias.

    Without these weights the model would answer, and wrongly. Others that are not read are no concern: constants that older
    versions of transformers saved, and parts that the model does not have, such as the text half of a dual encoder.

    Args:
        model: The model.
        unread: Names of weights in the files that the model has not read.
        folder: The checkpoint's folder, for the message.

    Raises:
        InputError: Weights are left over; the message names the first.
    """
    modules = dict(model.named_modules())
    left = [name for name in unread if _lacks_its_place(modules, name.split("."))]
    if left:
        raise InputError(
            f"{folder}: config.json has no place for {len(left)} weights in the files, the first is {min(left)}: it "
            "states fewer layers than the files have, or no bias where they have one; copy the checkpoint again, with its own "
            "config.json"
        )


def _lacks_its_place(modules: Mapping[str, nn.Module], parts: Sequence[str]) -> bool:
    """Whether a name is of a layer beyond the last of its list, or of a parameter that its module was made without."""
    for depth, part in enumerate(parts):
        layers = modules.get(".".join(parts[:depth]))
        if isinstance(layers, nn.ModuleList) and part.isdigit() and int(part) >= len(layers):
            return True
    owner = modules.get(".".join(parts[:-1]))
    return owner is not None and owner._parameters.get(parts[-1], 0) is None


def choose_dtype(dtype: torch.dtype | str | None, weights: Checkpoint, prefix: str, config: Any) -> torch.dtype:
    """The requested type, or that of the weights; bf16 instead of a stored fp16 that the model overflows in.

    Raises:
        InputError: The name is unknown, or the model overflows in the requested fp16.
    """
    known = {**_DTYPES, **{str(value).removeprefix("torch."): value for value in _DTYPES.values()}}
    if isinstance(dtype, str) and dtype not in known:
        raise InputError(f"dtype {dtype!r} is unknown; it is one of {', '.join(_DTYPES)}")
    chosen = known[dtype] if isinstance(dtype, str) else dtype or weights.dtype(prefix)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Classes with layers that must stay in fp32 declare them (T5's feed-forward overflows in fp16).
    fragile = getattr(auto._model_mapping[type(config)], "_keep_in_fp32_modules", None)
    if chosen is torch.float16 and fragile:
        if dtype is not None:
            raise InputError(f"a {config.model_type} language model overflows in fp16; use bf16 or fp32")
        return torch.bfloat16
    return chosen


def refuse_own_code(raw: Mapping[str, Any], folder: Path, error: Exception | None = None) -> None:
    """Refuse a checkpoint whose configuration names code of its own.

    Args:
        raw: The content of ``config.json``.
        folder: The checkpoint's folder, for the message.
        error: Its cause, if reading failed.

    Raises:
        InputError: It does.
    """
    if "auto_map" in raw:
        raise InputError(
            f"{folder} needs code that comes with the checkpoint (auto_map), which mblip does not run: use another "
            "checkpoint"
        ) from error


def read_config(folder: Path) -> Any:
    """Read the configuration of a checkpoint.

    Raises:
        InputError: There is none, its kind is unknown to transformers, or it needs code of its own.
    """
    raw = read_json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, StrictDataclassError) as error:
        refuse_own_code(raw, folder, error)
        kind = raw.get("model_type")
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'config.json'}: model_type {kind!r} cannot be read: {reason}") from error


def read_chat_template(folder: Path) -> str | None:
    """Read the chat template of a checkpoint's processor, from current or older files; None if there is none.

    Raises:
        InputError: A file is damaged.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is damaged ({error}); copy the checkpoint again") from error
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file() and isinstance(found := read_json(folder / name).get("chat_template"), str):
            return found
    return None


def read_tokenizer(folder: Path) -> Any:
    """Read the tokeniser of a language model.

    Raises:
        InputError: The tokeniser is missing, damaged, or needs remote code.
    """
    check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} has no tokeniser that transformers can read: {reason}") from error
    # If all its files are missing, transformers returns an empty tokeniser. ByT5's needs no files.
    if tokenizer.vocab_files_names and not any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern)):
        raise InputError(
            f"{folder} has no tokeniser: none of {', '.join(_VOCABULARIES)} is there; copy the checkpoint again"
        )
    return tokenizer
