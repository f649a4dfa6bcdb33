"""Build a model without its weights, from a configuration alone, on the meta device or with random values."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig
from transformers.initialization import no_init_weights

from mblip.config import ModelSection, TrainRecipe, load_recipe, shipped_recipes
from mblip.errors import InputError
from mblip.models.checkpoint import read_json
from mblip.models.containers import BRIDGES, CONTAINERS, LlavaContainer, bridge_for, container_kind
from mblip.models.containers.towers import tower_of
from mblip.models.locate import locate_language_model
from mblip.models.reading import no_container, not_a_language_model, read_config, text_class
from mblip.models.runs import DESCRIPTION
from mblip.models.vision_llm import VisionLLM


def base_config(name: str | Path) -> PretrainedConfig:
    """The configuration of a checkpoint.

    The configurations of the paper's models and of some modern language models ship with the package
    (``architectures/``, each with its source), so planning with them needs no network.

    Raises:
        InputError: The checkpoint is missing or cannot be used.
    """
    shipped = resources.files("mblip") / "models" / "architectures" / f"{str(name).replace('/', '--')}.json"
    if shipped.is_file():
        facts = json.loads(shipped.read_text(encoding="utf-8"))["config"]
        config = AutoConfig.for_model(**facts)
    else:
        folder = locate_language_model(name, weights=False)
        facts = read_json(folder / "config.json")
        kind = CONTAINERS.get(facts.get("model_type", ""))
        config = kind.read_config(folder) if kind else read_config(folder)
    # MT5Config says that the head is tied, whatever the file says.
    if facts.get("text_config", facts).get("tie_word_embeddings") is False:
        config.get_text_config().tie_word_embeddings = False
    return config


def container_config(section: ModelSection) -> PretrainedConfig:
    """The configuration of the model that a recipe names.

    Raises:
        InputError: The recipe names neither a run nor both bases, or they cannot be used.
    """
    if section.run:
        folder = Path(section.run).expanduser()
        recipe = shipped_recipes().get(folder.name)
        if (folder / DESCRIPTION).is_file():
            described = read_json(folder / DESCRIPTION)
            named = {part: base["id"] for part, base in described.get("bases", {}).items()}
            return container_config(ModelSection(run=named.pop("model", ""), **named, **(described.get("eyes") or {})))
        if recipe and not folder.exists():  # the run does not exist yet, but its recipe describes it
            return container_config(load_recipe(TrainRecipe, recipe).model)
        whole = base_config(section.run)
        if container_kind(whole) is None:
            raise InputError(
                f"model.run: {section.run} is a {whole.model_type!r} checkpoint, {no_container(whole.model_type)}"
            )
        return whole
    if not (section.vision and section.llm):
        raise InputError("the recipe names no model: set model.run, or both model.vision and model.llm")
    eyes, llm = base_config(section.vision), base_config(section.llm)
    what = f"model.vision: {section.vision} is a {eyes.model_type!r} checkpoint"
    settings = section.eye_settings
    if BRIDGES[bridge_for(eyes.model_type, settings.pop("bridge"))] is LlavaContainer:
        facts = tower_of(eyes, what)
        eyes = LlavaContainer.eyes_from(facts, *settings.values())
    kind = container_kind(eyes)
    assert kind is not None
    if container_kind(llm) or llm.get_text_config() is not llm:
        raise InputError(
            f"model.llm: {section.llm} is a {llm.model_type!r} checkpoint, {not_a_language_model(llm.model_type)}"
        )
    text_class(llm, section.llm)
    config: PretrainedConfig = kind.config_from_parts(eyes, llm)
    return config


def skeleton(config: PretrainedConfig, dtype: torch.dtype) -> VisionLLM:
    """A model with uninitialised weights and without a processor, on the device of the context.

    Args:
        config: Configuration of the container.
        dtype: Type of the vision and language model; the bridge is fp32, as in a built model.
    """
    kind = container_kind(config)
    assert kind is not None
    language_model = language_model_skeleton(config.text_config, dtype)
    with no_init_weights():
        container = kind.skeleton(config, language_model, dtype)
    return VisionLLM(container.model, cast(Any, None)).eval()


def language_model_skeleton(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    """A language model with uninitialised weights, on the device of the context."""
    text = copy.deepcopy(config)
    # T5's encoder and decoder share their embeddings only if the head counts as tied too.
    text.tie_word_embeddings = True
    auto = AutoModelForSeq2SeqLM if text.is_encoder_decoder else AutoModelForCausalLM
    with no_init_weights():
        language_model = auto.from_config(text, dtype=dtype)
    language_model.tie_weights()
    table, head = language_model.get_input_embeddings(), language_model.get_output_embeddings()
    separate = config.tie_word_embeddings is False
    if separate and head.weight is table.weight:
        head.weight = nn.Parameter(torch.empty_like(table.weight))
    language_model.config.tie_word_embeddings = not separate
    return language_model
