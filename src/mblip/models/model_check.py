"""Check whether a checkpoint or run can be used, by its configuration and its files' headers, and suggest remedies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mblip.config import ModelSection
from mblip.errors import MblipError, counted
from mblip.models.checkpoint import Checkpoint
from mblip.models.containers import LlavaContainer, container_kind
from mblip.models.containers.llava import image_side
from mblip.models.containers.towers import load_tower, tower_of
from mblip.models.gguf_files import SOURCE as GGUF_SOURCE
from mblip.models.locate import locate_language_model, no_model
from mblip.models.parts import count_parameters
from mblip.models.reading import (
    check_places,
    describe_unread,
    no_container,
    read_chat_template,
    read_generation_settings,
    read_tokenizer,
    sees_images,
)
from mblip.models.runs import DESCRIPTION, read_description
from mblip.models.skeleton import base_config, container_config, language_model_skeleton, skeleton
from mblip.models.tokens import IMAGE_TOKEN, NO_END, check_end_tokens, check_image_token, listed
from mblip.processing.framing import ChatFrame


@dataclass
class ModelReport:
    """The result of a check.

    Attributes:
        path: The folder.
        kind: A run, a vision-LLM in today's layout or that of 2023, a language model, or a vision-language model of
            another kind; empty if it is none of them.
        facts: Properties of the model to display.
        problems: One sentence for each problem, with its remedy.
    """

    path: str
    kind: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def check_model(name: str | Path) -> ModelReport:
    """Check anything that ``load_vision_llm`` or ``build_model`` accepts, without loading it."""
    report = ModelReport(str(name))
    try:
        folder = locate_language_model(name)
        report.path = str(name) if (folder / GGUF_SOURCE).is_file() else str(folder)
        if (folder / DESCRIPTION).is_file():
            _check_run(folder, report)
        elif not (folder / "config.json").is_file():
            report.problems.append(str(no_model(folder)))
        else:
            config = base_config(folder)
            kinds = {True: _check_vision_llm, False: _check_part}
            kinds[container_kind(config) is not None](folder, config, report)
    except MblipError as error:
        report.problems.append(str(error))
    return report


def _check_run(folder: Path, report: ModelReport) -> None:
    report.kind = "run"
    description = read_description(folder)
    report.facts |= {
        "bases": {part: base.name for part, base in description.bases.items()},
        "adapters": len(description.adapters),
        "trained_on": description.trained_on,
    }
    files = [folder / f"{file}.safetensors" for file in ("bridge", *description.full)]
    files += [adapter / "adapter_model.safetensors" for adapter in description.adapters]
    report.problems += [f"{file} is missing; copy the run again" for file in files if not file.is_file()]
    config = container_config(ModelSection(run=str(folder)))
    report.facts["parameters"] = _parameters(config)


def _check_vision_llm(folder: Path, config: Any, report: ModelReport) -> None:
    of_2023 = config.image_token_index is None
    report.kind = "vision-LLM of 2023's layout" if of_2023 else "vision-LLM"
    tokenizer = read_tokenizer(folder)
    kind = container_kind(config)
    assert kind is not None
    image_processor = kind.read_image_processor(folder, config)
    rows = config.get_text_config().vocab_size
    if of_2023:
        place = "takes one of them" if rows > len(tokenizer) else "enlarges the embedding table"
        report.facts["image token"] = f"none; {_free_rows(rows, tokenizer)}, and loading {place}"
    else:
        report.facts["image token"] = f"{IMAGE_TOKEN} is {check_image_token(config, tokenizer, folder)}"
    if kind.images_in_text:
        template = read_chat_template(folder) or tokenizer.chat_template
        report.facts["chat template"] = "prompts are written by it" if template else "none"
        try:
            placeholder = kind.processor(image_processor, tokenizer, config).image_token
            _ = template and ChatFrame(tokenizer, template, placeholder).takes_parts
        except MblipError as error:
            report.problems.append(f"{folder}: {error}")
    said = read_generation_settings(folder).get("eos_token_id") if kind.images_in_text else None
    ends = listed(said) or listed(config.get_text_config().eos_token_id) or listed(tokenizer.eos_token_id)
    if not ends:
        report.problems.append(f"{folder}: {NO_END}")
    check_end_tokens(ends, rows, folder)
    report.facts["parameters"] = _parameters(config)
    with torch.device("meta"):
        _check_weights(folder, skeleton(config, torch.float32).model, config, report)


def _check_part(folder: Path, config: Any, report: ModelReport) -> None:
    try:
        tower = tower_of(config, "")
    except MblipError:
        _check_language_model(folder, config, report)
        return
    report.kind = "vision-language model of the LLaVA family" if tower.family else "image encoder"
    eyes = LlavaContainer.eyes_from(tower)
    LlavaContainer.read_image_processor(folder, eyes)
    load_tower(tower, Checkpoint(folder), torch.float32)
    report.facts |= {
        "images": f"{image_side(eyes)} x {image_side(eyes)} pixels",
        "image tokens": f"{eyes.image_seq_length} of layer {eyes.vision_feature_layer}, {eyes.vision_feature_select_strategy}",
        "use": "as model.vision, with model.bridge=mlp",
    }


def _free_rows(rows: int, tokenizer: Any) -> str:
    """How many rows of the embedding table an image token could take."""
    free = rows - len(tokenizer)
    if free < 0:  # tokens that the model cannot read, such as those that transformers adds to a tokeniser of GGUF
        return f"no embedding row is free; {counted(-free, 'token')} of the tokeniser has none"
    return f"{counted(free, 'embedding row')} {'belongs' if free == 1 else 'belong'} to no token"


def _check_language_model(folder: Path, config: Any, report: ModelReport) -> None:
    kind = config.model_type
    if sees_images(kind) or config.get_text_config() is not config or hasattr(config, "vision_config"):
        report.kind = "vision-language model" if sees_images(kind) else "neither a vision-LLM nor a language model"
        report.problems.append(f"{folder} is a {kind!r} checkpoint, {no_container(kind)}")
        return
    report.kind = "language model"
    tokenizer = read_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        report.problems.append(f"{folder}: {NO_END}")
    check_end_tokens(listed(tokenizer.eos_token_id), config.vocab_size, folder)
    report.facts["image token"] = _free_rows(config.vocab_size, tokenizer)
    with torch.device("meta"):
        model = language_model_skeleton(config, torch.float32)
    report.facts["parameters"] = {"llm": sum(value.numel() for value in model.parameters())}
    _check_weights(folder, model, config, report)


def _parameters(config: Any) -> dict[str, int]:
    with torch.device("meta"):
        counts = count_parameters(skeleton(config, torch.float32))
    return {part: count for part, count in counts.items() if count}


def _check_weights(folder: Path, model: Any, config: Any, report: ModelReport) -> None:
    """Check that the files have every weight in its shape; tied weights may have either name."""
    weights = Checkpoint(folder)
    size = sum(path.stat().st_size for path in weights.files)
    kind = container_kind(config)
    prefix = "language_model." if kind else ""
    if prefix and not any(name.startswith(prefix) for name in weights.names):
        prefix = "model.language_model."
    report.facts |= {
        "language model": config.get_text_config().model_type,
        "output head": "tied to the embeddings"
        if config.get_text_config().tie_word_embeddings
        else "not tied to the embeddings",
        "weights": f"{counted(len(weights.files), weights.files[0].suffix[1:] + ' file')}, {size / 2**30:.2f} GiB",
        "stored as": str(weights.dtype(prefix)).removeprefix("torch."),
    }
    if kind and kind.check_files(folder, config):
        return
    if _head_is_apart(model, weights):
        head = model.get_output_embeddings()
        report.facts["output head"] = "not tied to the embeddings"
        report.facts["parameters"]["llm"] += head.weight.numel()
    names: dict[int, list[str]] = {}
    shapes: dict[int, torch.Size] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
        shapes[id(value)] = value.shape
    found = _shapes(weights)
    lacking, other = [], []
    for key, known in names.items():
        stored = [name for name in known if name in found]
        if not stored:
            lacking.append(known[0])
        other += [name for name in stored if found[name] != tuple(shapes[key])]
    check_places(model, found.keys() - {name for known in names.values() for name in known}, folder)
    report.problems += describe_unread(folder, lacking, other)


def _head_is_apart(model: Any, weights: Checkpoint) -> bool:
    """Whether the files hold a separate head though the configuration calls it tied, as transformers saves an mT5."""
    modules = {id(module): name for name, module in model.named_modules()}
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = [f"{modules[id(module)]}.weight" for module in (table, head)]
    if head.weight is not table.weight or not all(name in weights.names for name in names):
        return False
    stored = [weights.read(name)[""] for name in names]
    return not torch.equal(*stored)


def _shapes(weights: Checkpoint) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights.files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        else:
            shapes |= {
                name: tuple(value.shape) for name, value in weights.read("").items() if weights.names[name] == path
            }
    return shapes
