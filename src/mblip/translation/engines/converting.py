"""Convert NLLB-200 and MADLAD-400 for CTranslate2 with CTranslate2's own converter."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mblip.catalogue.entries import HubAddress, load_catalogue
from mblip.errors import InputError, nearest
from mblip.storage import atomic_folder
from mblip.storage.folders import check_files
from mblip.translation.engines.seq2seq import Vocabulary, share_words

_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "sentencepiece.bpe.model",
    "spiece.model",
)  # fmt: skip
# Exceptions of torch, safetensors and the converter for weights that are cut off or of another model.
_BROKEN = (
    SafetensorError, pickle.UnpicklingError, OSError, ValueError, RuntimeError, KeyError, AttributeError, EOFError,
    NotImplementedError,
)  # fmt: skip
_KINDS = {"nllb": "NLLB-200", "madlad": "MADLAD-400"}


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        kind: ``NLLB-200`` or ``MADLAD-400``.
        licence: Licence of the official weights.
        bytes: Size of the model.
    """

    kind: str
    licence: str
    bytes: int


def convert_engine(source: str, to: Path, quantization: str = "int8") -> Converted:
    """Convert a checkpoint into a folder for the engine ``ctranslate2``; the folder appears complete or not at all.

    Args:
        source: A name of the catalogue (``nllb-600m``, ...), a folder, or a Hub id; missing files are downloaded.
        to: A new folder.
        quantization: CTranslate2's type of the weights.

    Raises:
        InputError: CTranslate2 is not installed, the folder exists already, there is no such checkpoint, it is neither
            NLLB nor MADLAD, or the type is unknown or wrong for it.
    """
    try:
        from ctranslate2.specs.model_spec import ACCEPTED_MODEL_TYPES
    except ImportError as error:
        raise InputError("the conversion needs CTranslate2; pip install 'mblip[translate]'") from error
    if quantization not in ACCEPTED_MODEL_TYPES:
        raise InputError(f"CTranslate2 has no type {quantization!r}{nearest(quantization, ACCEPTED_MODEL_TYPES)}")
    if (to / "model.bin").is_file():
        raise InputError(f"{to} already holds a converted model; use it, or name another folder")
    if to.exists() and any(to.iterdir()):
        raise InputError(f"{to} is not empty; name a new folder for the engine")
    folder = _find(source)
    vocabulary = Vocabulary(str(folder), "correct")
    if vocabulary.kind == "madlad" and quantization in ("float16", "int8_float16"):
        raise InputError(f"MADLAD-400 overflows in {quantization}; use int8, bfloat16 or float32")
    _check_weights(folder)
    copied = [name for name in _TOKENIZER if (folder / name).is_file()]
    with atomic_folder(to) as made:
        converter = _converter(folder, copied)
        try:
            converter.convert(str(made), quantization=quantization, force=True)
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the checkpoint
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"CTranslate2 cannot convert {folder}: {reason}; name a complete checkpoint of NLLB or MADLAD, or "
                "download it again"
            ) from error
        for name in copied:  # the converter may have made its own
            if not (made / name).is_file():
                shutil.copyfile(folder / name, made / name)
    return Converted(_KINDS[vocabulary.kind], vocabulary.licence, (to / "model.bin").stat().st_size)


def _converter(folder: Path, copied: list[str]) -> Any:
    """CTranslate2's converter, told what transformers 5 hides of MADLAD.

    Its configurations say of every T5 that embedding and output head are one, and the converter scales the output of such a
    model down. MADLAD's must not be: beams, which go by its probabilities, find other words then.
    """
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
            model = super().load_model(model_class, model_name_or_path, **kwargs)
            share_words(model)
            if model.config.model_type == "t5":
                model.config.tie_word_embeddings = model.config.scale_decoder_outputs
            return model

    return Converter(str(folder), copy_files=copied, low_cpu_mem_usage=True)


def _find(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    catalogue = load_catalogue()
    address = (
        next((file.hub for file in catalogue[source].files if file.is_checkpoint), None)
        if source in catalogue
        else None
    )
    if address is None:
        engines = [name for name in catalogue if name.startswith(("nllb", "madlad"))]
        if source.count("/") != 1 or source.startswith((".", "/", "~")):
            raise InputError(
                f"there is no checkpoint {source!r}{nearest(source, engines)}, or name a folder or a Hub id"
            )
        repository, _, revision = source.partition("@")
        address = HubAddress(repository=repository, revision=revision)
    from mblip.catalogue.hub import find_checkpoint

    return find_checkpoint(address)


def _check_weights(folder: Path) -> None:
    """Check for errors that the converter would report less clearly."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        check_files(folder)
        raise InputError(f"{folder} has no readable config.json; name the folder of a checkpoint") from error
    if config.get("model_type") not in ("m2m_100", "t5"):
        raise InputError(
            f"{folder} holds a {config.get('model_type')!r} model, not NLLB (m2m_100) or MADLAD (t5); name one of these"
        )
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        raise InputError(f"{folder} has no weights (*.safetensors or *.bin); download it again")
