"""Convert a GGUF language model once into a stock checkpoint, which all other code reads.

Transformers reads the file: configuration, tokeniser, and the weights, which it dequantises. The conversion takes
a minute or more, so the result stays in the cache, in the folder ``mblip/gguf`` under the hash of the file. It may be
deleted at any time.
"""

from __future__ import annotations

import importlib.util
import math
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mblip.errors import InputError, ResourceError, counted
from mblip.models.gguf_files import SOURCE, parted

# Exceptions that transformers' GGUF reader raises on an incomplete or damaged file.
_BROKEN = (OSError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, struct.error)
_PATIENCE = 1.0  # seconds between checks while another process converts the file


def convert_gguf(file: Path, weights: bool = True) -> Path:
    """The stock checkpoint made from a GGUF file; converts the file unless the cache has the checkpoint.

    Args:
        file: See :func:`~mblip.models.gguf_files.find_gguf`.
        weights: Whether weights are needed; configuration and tokeniser alone take seconds.

    Raises:
        InputError: The package ``gguf`` is missing, the file is damaged, or transformers cannot read a model of its kind.
        ResourceError: Memory ran out.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{file}: GGUF files need the package gguf: pip install 'mblip[gguf]'")
    from transformers import __version__ as version

    from mblip.storage import cache_folder, exclusive_lock
    from mblip.storage.locks import BusyError

    stat = file.stat()
    digest = _digest(file, stat.st_size, stat.st_mtime_ns)
    # Another version of transformers may read the same file differently.
    folder = cache_folder("gguf") / f"{digest[:16]}-transformers-{version}"
    shape = folder.with_name(f"{folder.name}-shape")
    while not folder.is_dir() and (weights or not shape.is_dir()):
        made = folder if weights else shape
        try:
            with exclusive_lock(made, "converting a GGUF file"):
                if not made.is_dir():
                    _convert(file, digest, made, weights)
        except BusyError:  # another process is converting the same file
            time.sleep(_PATIENCE)
    return folder if folder.is_dir() else shape


# Settings that no model has at 0.
_ABOVE_ZERO = {
    "block_count", "context_length", "embedding_length", "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
}  # fmt: skip


# What llama.cpp's GGUF files hold besides models, by the type that they say, and what to take instead.
_NO_MODELS = {
    "mmproj": ("the image encoder of a vision-language model", "name the file of its language model"),
    "adapter": ("a LoRA adapter", "merge it into its model with llama.cpp's llama-export-lora, and name that file"),
    "imatrix": ("an importance matrix for quantisation", "name the file of the quantised model"),
}


@lru_cache(maxsize=8)
def _digest(file: Path, size: int, changed: int) -> str:
    from mblip.storage import sha256_file

    return sha256_file(file)


def _convert(file: Path, digest: str, to: Path, weights: bool) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoTokenizer

    from mblip.models.checkpoint import writing
    from mblip.models.reading import check_complete, quietly, text_class
    from mblip.storage import atomic_folder, write_json

    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with atomic_folder(to) as made, writing(to):
        with _told(file), quietly():
            _check_facts(file, GGUFReader(file))
            config = AutoConfig.from_pretrained(file.parent, **place)
            auto = text_class(config, file)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        tokenizer.save_pretrained(made)
        if weights:
            with _told(file), quietly():
                place |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": _stored_type(file)}
                model, report = auto.from_pretrained(file.parent, **place)
            remedy = (
                "it may be damaged, or of a kind that transformers does not read whole; take the model's safetensors"
            )
            check_complete(model, report, file, remedy)
            # Transformers still marks the dequantised model as quantised and would refuse to save it.
            model.hf_quantizer, model.config.quantization_config = None, None
            del model.config.quantization_config
            if bad := next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), ""):
                raise InputError(f"{file} is damaged ({bad} holds numbers that are not finite); copy it again")
            model.config._name_or_path = ""
            model.save_pretrained(made)
        else:
            config.save_pretrained(made)
        write_json(made / SOURCE, {"file": file.name, "sha256": digest})


def _check_facts(file: Path, reader: Any) -> None:
    """Check that a file holds a whole model, and says what transformers would otherwise take from the defaults of its kind.

    Raises:
        InputError: It does not, or says fewer layers than it holds.
    """
    told = {name: field.contents() for name, field in reader.fields.items() if name in ("general.type", "split.count")}
    if told.get("split.count", 0) > 1:  # a part under another name
        raise parted(file, told["split.count"])
    kind = reader.fields["general.architecture"].contents()
    holds = "mmproj" if kind == "clip" else kind if kind in _NO_MODELS else told.get("general.type", "model")
    if holds != "model":
        what, remedy = _NO_MODELS.get(holds, (f"something of the type {holds!r}", "name the file of a language model"))
        raise InputError(f"{file} holds {what}, not a language model: {remedy}")
    if f"{kind}.attention.causal" in reader.fields and not reader.fields[f"{kind}.attention.causal"].contents():
        raise InputError(
            f"{file} ({kind}) writes no text: its attention is not causal, as in models that embed texts; name a causal "
            "language model"
        )
    # Kinds without attention have none of the latter two; llama.cpp's converter writes them for all others.
    wanted = ("block_count", "embedding_length", "attention.head_count", "feed_forward_length")
    held = [tensor.name for tensor in reader.tensors]
    has = {"attention.head_count": ".attn_", "feed_forward_length": ".ffn_"}
    for name in wanted:
        needed = name not in has or any(has[name] in tensor for tensor in held)
        if needed and f"{kind}.{name}" not in reader.fields:
            raise InputError(
                f"{file} does not say its {kind}.{name}, without which the model's shape is unknown: convert the model to "
                "GGUF again, or take its safetensors"
            )
    for name, field in reader.fields.items():
        value = field.contents() if name.startswith(f"{kind}.") else None
        if isinstance(value, int | float) and not _is_possible(name.removeprefix(f"{kind}."), value):
            raise InputError(f"{file} is damaged ({name} is {value}); copy it again, or take the model's safetensors")
    layers = {int(tensor.split(".")[1]) for tensor in held if re.match(r"blk\.\d+\.", tensor)}
    said = int(reader.fields[f"{kind}.block_count"].contents())
    if layers and max(layers) >= said:
        raise InputError(
            f"{file} says {counted(said, 'layer')} ({kind}.block_count) and holds {max(layers) + 1}: convert the model to "
            "GGUF again, or take its safetensors"
        )
    if "tokenizer.ggml.tokens" in reader.fields:
        lists = {"gpt2": "merges", "llama": "scores"}
        words = reader.fields.get("tokenizer.ggml.model")
        lacking = lists.get(words.contents() if words else "", "")
        if lacking and f"tokenizer.ggml.{lacking}" not in reader.fields:
            raise InputError(
                f"{file} holds the words of its tokeniser without tokenizer.ggml.{lacking}, by which texts are cut into words: "
                "convert the model to GGUF again, or take its safetensors"
            )


def _is_possible(setting: str, value: float) -> bool:
    return math.isfinite(value) and value >= 0 and (value > 0 or setting not in _ABOVE_ZERO)


def _stored_type(file: Path) -> Any:
    """The smallest type that holds the file's matrices exactly: their own where it is a float of two bytes, else fp32."""
    import torch
    from gguf import GGMLQuantizationType, GGUFReader

    types = {tensor.tensor_type for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1}
    halves = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}
    return halves.get(next(iter(types)), torch.float32) if len(types) == 1 else torch.float32


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Put what the readers raise into a sentence."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except InputError:
        raise
    except NotImplementedError as error:
        raise InputError(
            f"{file} holds weights that cannot be read: {_line(error)}; use a file with another quantisation"
        ) from error
    except ValueError as error:
        if "architecture" in str(error) or "not supported" in str(error):
            raise InputError(
                f"{file} has an architecture that transformers does not read from GGUF ({_line(error)}); use the model's "
                "safetensors"
            ) from error
        if "tokenizer" in str(error):
            raise InputError(
                f"{file} holds no tokeniser that transformers reads from GGUF ({_line(error)}); take the model's safetensors"
            ) from error
        raise InputError(f"{file} is damaged, or cut off ({_line(error)}); copy it again") from error
    except (*_BROKEN, StrictDataclassError) as error:  # the latter of a setting of another type
        if "can't allocate memory" in str(error):  # torch's message; the file may be whole
            raise ResourceError(
                f"{file}: out of memory while it is converted, which takes four bytes for each parameter; free some, or "
                "take a smaller model"
            ) from error
        raise InputError(f"{file} is damaged, or cut off ({_line(error)}); copy it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
