"""Run directories: the trained weights, and the base checkpoints they belong to.

A run has ``bridge.safetensors`` (Q-Former, queries, projection; or the MLP), ``adapter/`` (LoRA in PEFT's format),
``mblip.json``, and ``adapters/N/`` for the adapters of earlier runs. Loading merges those into the language model in
order, before quantisation. A part that was trained in full is stored in full; a merged language model is never stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mblip.errors import InputError, MblipError, quoted
from mblip.model_recipe import ModelSection
from mblip.models.build import build_model
from mblip.models.checkpoint import fingerprint, load_tensors, read_json, save_tensors
from mblip.models.finish import finish
from mblip.models.locate import collection_of, find_language_model, locate, locate_language_model
from mblip.models.lora import load_lora, merge_lora, save_lora
from mblip.models.origin import Base, Origin
from mblip.models.parts import parameters_by_part
from mblip.models.quantize import Quantization, quantization_of
from mblip.models.stock import load_stock
from mblip.models.vision_llm import VisionLLM
from mblip.storage import write_json

FORMAT = 1
DESCRIPTION = "mblip.json"


def save_run(vlm: VisionLLM, folder: Path, full: Collection[str] = ()) -> None:
    """Write a run into a folder; other files in it are kept.

    ``mblip.json`` is written last, so a folder that has it is complete.

    Args:
        vlm: A model that was built or loaded by this package.
        folder: The run's folder.
        full: Parts besides the bridge that were trained in full: ``vision``, ``llm``.

    Raises:
        InputError: The model's base checkpoints are unknown, or the folder cannot be written.
    """
    origin = vlm.origin
    if origin is None:
        raise InputError("only a model from build_model or load_vision_llm can be saved as a run")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)
    parts = parameters_by_part(vlm)
    for file, names in {"bridge": vlm.container.bridge, **{part: (part,) for part in full}}.items():
        save_tensors({name: value for part in names for name, value in parts[part]}, folder / f"{file}.safetensors")
    kept = folder / "adapters"
    copies = [kept / str(number) for number in range(len(origin.adapters))]
    for source, copy in zip(origin.adapters, copies, strict=True):
        if source.resolve() != copy.resolve():
            shutil.copytree(source, copy, dirs_exist_ok=True)
    adapters = [copy.relative_to(folder).as_posix() for copy in copies]
    if vlm.llm.lora_layers:
        save_lora(vlm, folder / "adapter")
        adapters.append("adapter")
    description = {
        "format": FORMAT,
        "bases": {part: asdict(base) for part, base in origin.bases.items()},
        "image_token_index": vlm.container.image_token_id,
        **({"eyes": vlm.container.eye_settings, "chat": vlm.chats} if vlm.container.images_in_text else {}),
        "adapters": adapters,
        "adapter_attached": bool(vlm.llm.lora_layers),
        "full": sorted(full),
        "trained_on": quantization_of(vlm.language_model),
        "prompt_templates": list(getattr(vlm.model.config, "prompt_templates", None) or []),
        "answer_separator": None if vlm.is_encoder_decoder else vlm.layout_for(False).separator,
        "start_token": getattr(vlm.model.config, "start_token", None),
        "trained_prompts": getattr(vlm.model.config, "trained_prompts", None),
        "trained_languages": getattr(vlm.model.config, "trained_languages", None),
        "more_languages": getattr(vlm.model.config, "more_languages", None) or [],
    }
    write_json(folder / DESCRIPTION, description)


@dataclass(frozen=True)
class Description:
    """The content of ``mblip.json``.

    Attributes:
        bases: Base checkpoints by part, checked to be those that the run was trained on.
        adapters: Folders of the adapters in the order of merging.
        is_attached: Whether the last adapter is the run's own and not merged.
        full: Parts besides the bridge that are stored in full.
        image_token_index: Id of the placeholder.
        trained_on: Quantisation of the language model in training.
        prompt_templates: Files of the templates that the run was trained with.
        answer_separator: Text between prompt and answer of a decoder-only model. None if the run does not say (an
            encoder-decoder, or an older run): the tokeniser then reads both as one line.
        start_token: ``first`` where the token that the tokeniser begins a text with stands before the images; else None.
        eyes: Settings of the eyes, see :attr:`~mblip.models.containers.Container.eye_settings`.
        chat: Whether the run was trained with the language model's chat template; None if there was none.
        trained_prompts: See :func:`mblip.mixture.templates.describe_prompts`; None if the run does not say.
        trained_languages: mC4 codes of the languages of the answers that the model was trained on; None if unknown.
        more_languages: Languages beyond the 96 that the run was trained in.
    """

    bases: dict[str, Base]
    adapters: list[Path]
    is_attached: bool
    full: list[str]
    image_token_index: int
    trained_on: Quantization
    prompt_templates: list[str]
    answer_separator: str | None
    start_token: str | None
    trained_prompts: dict[str, Any] | None
    eyes: dict[str, Any]
    chat: bool | None
    trained_languages: list[str] | None
    more_languages: list[dict[str, Any]]


def read_description(folder: Path) -> Description:
    """Read a run's description and check that its bases have not changed.

    Raises:
        InputError: The description is damaged or of another version, or a base is missing or has changed.
    """
    raw = read_json(folder / DESCRIPTION)
    if raw.get("format") != FORMAT:
        raise InputError(f"{folder} is a run of format {raw.get('format')}; this version reads {FORMAT}")
    try:
        _check_description(raw)
        run = Description(
            bases={part: Base(**base) for part, base in raw["bases"].items()},
            adapters=[folder / name for name in raw["adapters"]],
            is_attached=bool(raw["adapter_attached"]),
            full=list(raw["full"]),
            image_token_index=int(raw["image_token_index"]),
            trained_on=raw["trained_on"],
            prompt_templates=list(raw.get("prompt_templates", ())),
            answer_separator=_separator(raw.get("answer_separator")),
            start_token=raw.get("start_token"),
            trained_prompts=raw.get("trained_prompts"),
            eyes=dict(raw.get("eyes") or {}),
            chat=raw.get("chat"),
            trained_languages=raw.get("trained_languages"),
            more_languages=list(raw.get("more_languages", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / DESCRIPTION} is damaged ({error!r}); copy the run again") from error
    for part, base in run.bases.items():
        _check_base(folder, part, base)
    return run


def load_run(
    folder: Path,
    quantization: Quantization | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    merge: bool = False,
) -> VisionLLM:
    """Build a run's model from its bases and stored weights.

    Args:
        folder: The run's folder.
        quantization: Quantisation of the language model, after the merging.
        dtype: See :func:`~mblip.models.build.build_model`.
        device_map: See :func:`~mblip.models.build.build_model`.
        merge: Merge the last adapter too, instead of leaving it attached.

    Raises:
        InputError: A base is missing, differs from the one that the run was trained on, or a file is damaged.
    """
    run = read_description(folder)
    bases, adapters = run.bases, run.adapters
    attached = adapters.pop() if run.is_attached and not merge else None
    if "model" in bases:
        vlm = load_stock(locate(bases["model"].name), bases["model"].name, dtype)
    else:
        vlm = build_model(bases["vision"].name, bases["llm"].name, dtype=dtype, **run.eyes)
    if vlm.container.image_token_id != run.image_token_index:
        raise InputError(f"{folder}: the image token has another id in the base's tokeniser than in training")
    for file in ("bridge", *run.full):
        _fill(vlm, folder / f"{file}.safetensors")
    for adapter in adapters:
        load_lora(vlm, adapter)
        merge_lora(vlm)
    vlm.origin = Origin(bases, adapters, attached)
    if not vlm.is_encoder_decoder:  # the run's own separator counts, not that of its base
        vlm.model.config.answer_separator = run.answer_separator
        vlm.model.config.start_token = run.start_token
    if run.chat is not None:
        vlm.model.config.chat_prompts = run.chat
    if run.prompt_templates:  # in the configuration, so that an export has them too
        vlm.model.config.prompt_templates = run.prompt_templates
    if run.trained_prompts is not None:
        vlm.model.config.trained_prompts = run.trained_prompts
    vlm.model.config.trained_languages = run.trained_languages  # not those of its base, if the run records none
    if run.more_languages:
        vlm.model.config.more_languages = run.more_languages
    finish(vlm, quantization, device_map)
    if attached:
        load_lora(vlm, attached)
    return vlm.eval()


def _check_description(raw: dict[str, Any]) -> None:
    """Check what building the model takes for granted.

    Raises:
        ValueError: It is not so.
    """
    if set(raw["bases"]) not in ({"vision", "llm"}, {"model"}):
        raise ValueError(f"bases are {quoted(list(raw['bases']))}: they must be vision and llm, or model")
    if raw["adapter_attached"] and not raw["adapters"]:
        raise ValueError("adapter_attached is true without adapters")
    if unknown := set(raw.get("eyes") or {}) - set(ModelSection().eye_settings):
        raise ValueError(f"eyes has no setting {quoted(min(unknown))}")
    kinds = {"adapters": list, "full": list, "prompt_templates": list, "more_languages": list}
    optional = {"start_token": str, "trained_prompts": dict, "trained_languages": list, "eyes": dict, "chat": bool}
    for name, kind in (kinds | optional).items():
        value = raw.get(name)
        if not isinstance(value, kind) and not (value is None and (name in optional or name not in raw)):
            raise ValueError(f"{name} is {quoted(value)}")


def _separator(value: Any) -> str | None:
    if value is None or value in ("", " "):
        return None if value is None else str(value)
    raise ValueError(f"answer_separator is {value!r}: it must be a space, empty or null")


def _check_base(folder: Path, part: str, base: Base) -> None:
    # Nobody can restore a base that an older version of this package shipped.
    remedy = "train it again" if collection_of(base.name) else "restore the old one"
    try:
        found = fingerprint(_locate(part, base.name))
    except MblipError as error:
        raise error.reworded(
            f"{folder} needs the {part} checkpoint {base.name}, which is missing ({error}); {remedy}"
        ) from error
    if found != base.fingerprint:
        raise InputError(
            f"{folder} was trained on another {part} checkpoint than the one that is now at {base.name}; {remedy}"
        )


def _locate(part: str, name: str) -> Path:
    if part != "llm":
        return locate(name)
    # A GGUF file has its fingerprint before its weights are converted; a checkpoint of the Hub needs its weights for it.
    return locate_language_model(name, weights=find_language_model(name) is None)


def _fill(vlm: VisionLLM, file: Path) -> None:
    state = load_tensors(file)
    named = dict(vlm.model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            if name not in named or named[name].shape != value.shape:
                raise InputError(f"{file}: {name} does not fit the base checkpoints of this run")
            named[name].copy_(value)
