"""Warm-up, alignment and fine-tuning of a vision-LLM: one job, described by the recipe (paper, section 3.3)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mblip.config import DataRecipe, OptimSection, TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.languages import UNDETERMINED
from mblip.mixture.templates import describe_prompts
from mblip.models.checkpoint import read_json
from mblip.models.continued import check_continued
from mblip.models.locate import locate
from mblip.models.parts import parameters_by_part
from mblip.models.prepare import prepare_model
from mblip.models.runs import DESCRIPTION, save_run
from mblip.models.vision_llm import VisionLLM
from mblip.more_languages import carried
from mblip.storage import read_manifest
from mblip.training.checkpoints import newest_checkpoint
from mblip.training.features import check_features, keep_features
from mblip.training.identity import check_contents, mix_digest, model_digests
from mblip.training.loader import TrainLoader, check_data, prepare_mix, unreadable_pictures
from mblip.training.logs import Note, OnLog
from mblip.training.loop import Batch, LoopConfig, ParameterGroup, enough_memory, fit
from mblip.training.parallel import gather, start
from mblip.training.projection import fit_projection
from mblip.training.spelling import warn_of_bytes
from mblip.training.tracking import check_tracker
from mblip.training.validation import Validator

FIT_TEXTS = 4096  # texts that the projection is fitted to


def train_vision_llm(recipe: TrainRecipe, directory: Path, on_log: OnLog) -> dict[str, Any]:
    """Train as the recipe says, write the run to ``directory`` and return the last log row.

    Raises:
        InputError: Bases, mix or images cannot be used, or too many images are unreadable.
        TrainingError: The loss or the gradients are not finite.
        ResourceError: Memory or disk space ran out.
    """
    check_stage(recipe)
    check_continued(recipe.model)
    torch.manual_seed(recipe.seed)
    check_tracker(recipe.tracker)
    check_data(recipe)
    processes = start()
    with processes.main_process_first():
        mix = prepare_mix(recipe, directory, processes.is_main_process and newest_checkpoint(directory) is None)
        if processes.is_main_process and recipe.data.source:  # a named mix was compared before
            check_contents(directory, {"data.source": mix_digest(mix)}, {"data.source": str(mix)})
    # The run records its prompts, so that inference can use the same ones.
    made_by = mix / "recipe.yaml"
    templates = load_recipe(DataRecipe, made_by).templates if made_by.is_file() else ()
    with enough_memory("while the model was loaded", _loading_remedy(recipe)):
        vlm = prepare_model(recipe, processes.device)
    if processes.is_main_process:
        names = {f"model.{part}": getattr(recipe.model, part) for part in ("vision", "llm", "run")}
        check_contents(directory, model_digests(vlm, recipe.model.run), names)
    loader = TrainLoader(recipe, mix, directory, vlm, processes.process_index, processes.num_processes)
    if recipe.model.fit_words and not recipe.model.run and newest_checkpoint(directory) is None:
        fit_to_words(vlm, recipe, mix, directory)
    if recipe.stage == "finetune" and processes.is_main_process and (warning := warn_of_bytes(vlm.tokenizer, mix)):
        on_log(Note(f"warning: {warning}"))
    steps = count_steps(recipe.optim, loader.steps_per_epoch)
    kept, message = keep_features(recipe, loader, vlm, steps)
    if message and processes.is_main_process:
        on_log(Note(message))
    validator = None
    if recipe.validate_every:
        validator = Validator(vlm, recipe, loader.held, directory, on_log, writes=processes.is_main_process)
    row = fit(LoopConfig(
        model=vlm, groups=learning_groups(vlm, recipe.optim), batches=loader.micro_batches, steps=steps,
        loss=(lambda model, batch: text_loss(model, kept.fill(batch))) if kept else text_loss,
        seed=recipe.seed, directory=directory, warmup=min(recipe.optim.warmup_steps, steps // 2),
        floor=recipe.optim.min_lr_share, weight_decay=recipe.optim.weight_decay, betas=recipe.optim.betas,
        clip=recipe.optim.clip, precision=recipe.precision, sharding=recipe.sharding, profile=recipe.optim.profile,
        checkpoint_every=recipe.checkpoint_every, keep_checkpoints=recipe.keep_checkpoints, log_every=recipe.log_every,
        workers=recipe.data.workers, tracker=recipe.tracker, validate=validator, validate_every=recipe.validate_every,
        validate_first=recipe.stage == "finetune", validated=validator.has if validator else lambda step: True,
        describe=loader.describe, memory_remedy=_memory_remedy(recipe), on_log=on_log,
    )) if steps else {}  # fmt: skip
    vlm.eval()
    gather(vlm)
    if processes.is_main_process:
        _record_training(vlm, recipe, mix, templates, loader.languages() if steps else None)
        save_run(vlm, directory, _stored_in_full(recipe))
    return {**row, "unreadable_images": len(unreadable_pictures(directory))}


def _record_training(
    vlm: VisionLLM, recipe: TrainRecipe, mix: Path, templates: Sequence[str], languages: set[str] | None
) -> None:
    """Record in the model's configuration the templates, prompts and languages that it has been trained on.

    Args:
        vlm: The model.
        recipe: The recipe.
        mix: The folder of the mix.
        templates: Names of the mix's template files.
        languages: Languages of the answers; None if no step was trained.
    """
    config = vlm.model.config
    if templates:
        before = (getattr(config, "prompt_templates", None) or []) if recipe.model.run else []
        config.prompt_templates = [*(name for name in before if name not in templates), *templates]
    if languages is not None:
        earlier = getattr(config, "trained_languages", None) if recipe.model.run else []
        # With an unknown language, or after a training that did not record its languages, none can be ruled out.
        unknown = earlier is None or UNDETERMINED in languages
        config.trained_languages = None if unknown else sorted(languages.union(earlier or ()))
        config.trained_prompts = trained_prompts(vlm, recipe, mix)
        if added := carried(read_manifest(mix).by_language):
            before = getattr(config, "more_languages", None) or []
            known = {row["code"] for row in added}
            config.more_languages = [*(row for row in before if row["code"] not in known), *added]


def trained_prompts(vlm: VisionLLM, recipe: TrainRecipe, mix: Path) -> dict[str, Any]:
    """The prompts that the model has been trained on in this run and the runs before it."""
    before = getattr(vlm.model.config, "trained_prompts", {}) if recipe.model.run else None
    found = describe_prompts(read_manifest(mix).prompts, recipe.data.tasks, before)
    if recipe.data.replay:
        found = describe_prompts(read_manifest(recipe.data.replay).prompts, (), found)
    return found


def fit_to_words(vlm: VisionLLM, recipe: TrainRecipe, mix: Path, directory: Path) -> float:
    """Fit the projection to the answers of the tasks in ``fit_words``; returns the share of variance explained.

    Raises:
        InputError: The mix lacks those tasks, or their answers do not name, token by token, what the queries see.
    """
    # A share of rows without a picture is a matter of training: what queries see is told by pictures alone.
    tasks = recipe.data.model_copy(update={"tasks": recipe.model.fit_words, "text_share": None})
    try:
        loader = TrainLoader(recipe.model_copy(update={"data": tasks}), mix, directory, vlm)
    except InputError as error:
        remedy = "name tasks of the mix whose answers name what the queries see, or set model.fit_words=[]"
        raise InputError(f"model.fit_words: {error}; {remedy}") from error
    steps = math.ceil(FIT_TEXTS / recipe.optim.global_batch)
    return fit_projection(vlm, (batch for step in range(steps) for batch in loader.micro_batches(step)))


def check_stage(recipe: TrainRecipe) -> None:
    """Check that the recipe's settings are consistent, and that its stage fits its parts and model.

    Raises:
        InputError: They are not, or the sharding cannot work.
    """
    learning = [part for part, mode in recipe.parts if mode != "frozen"]
    if recipe.stage == "warmup" and learning != ["projection"]:
        raise InputError(
            f"stage warmup trains only the projection, but parts trains {', '.join(learning) or 'nothing'}: freeze all others"
        )
    if recipe.stage == "finetune" and not recipe.model.run:
        raise InputError("stage finetune starts from a model: set model.run to a run directory or a checkpoint")
    optim, (least, most) = recipe.optim, recipe.data.crop_scale
    if (optim.steps is None) == (optim.epochs is None):
        raise InputError("set one of optim.steps and optim.epochs, and the other to null, such as optim.epochs=null")
    if not learning and optim.steps != 0:
        raise InputError("parts: all parts are frozen, so nothing would be trained; set one to full, or llm to lora")
    if least > most:
        raise InputError(f"data.crop_scale: the minimum {least} is above the maximum {most}; swap them")
    if recipe.sharding == "full" and recipe.model.quantization != "none":
        raise InputError(
            f"sharding=full cannot split {recipe.model.quantization} weights, whose scales are stored separately: "
            "set model.quantization=none, or sharding=none (each process then holds the complete quantised model)"
        )
    check_features(recipe)
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and recipe.sharding == "none":
        raise InputError("accelerate is configured for FSDP, but the recipe has sharding=none: set sharding=full")


def learning_groups(vlm: VisionLLM, optim: OptimSection) -> list[ParameterGroup]:
    """The trainable parameters, grouped by part, with the learning rate of each part."""
    projection_lr = optim.lr if optim.projection_lr is None else optim.projection_lr
    rates = {"lora": optim.lora_lr, "projection": projection_lr}
    found = parameters_by_part(vlm, trainable=True)
    return [
        ParameterGroup(part, parameters, rates.get(part, optim.lr)) for part, parameters in found.items() if parameters
    ]


def count_steps(optim: OptimSection, per_epoch: int) -> int:
    """Number of optimiser steps, from the recipe's steps or epochs."""
    return optim.steps if optim.steps is not None else math.ceil(float(optim.epochs or 0) * per_epoch)


def text_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The vision-LLM's named losses, and the numbers of texts and images."""
    losses: dict[str, Tensor] = model(batch)
    pictures = batch["vision_states"] if "vision_states" in batch else batch["pixel_values"]
    counts = {"examples": len(batch["labels"]), "images": len(pictures)}
    return {**losses, **{name: losses["loss"].new_tensor(count) for name, count in counts.items()}}


def _stored_in_full(recipe: TrainRecipe) -> set[str]:
    """Parts besides the bridge that were trained in full, in this run or in the run that it starts from."""
    full = {part for part, mode in recipe.parts if part in ("vision", "llm") and mode == "full"}
    if recipe.model.run and (locate(recipe.model.run) / DESCRIPTION).is_file():
        full.update(read_json(locate(recipe.model.run) / DESCRIPTION)["full"])
    return full


def _memory_remedy(recipe: TrainRecipe) -> str:
    remedies = []
    if recipe.optim.micro_batch > 1 and recipe.optim.profile == "correct":  # in profile original it changes the result
        remedies.append(f"lower optim.micro_batch (now {recipe.optim.micro_batch}; the global batch stays the same)")
    if "llm" not in recipe.checkpointing:
        remedies.append("add llm to checkpointing")
    return ", or ".join([*remedies, _loading_remedy(recipe)])


def _loading_remedy(recipe: TrainRecipe) -> str:
    smaller = "use a smaller language model"
    if recipe.model.quantization != "nf4" and recipe.parts.llm != "full":
        smaller = "set model.quantization=nf4 (in a new run)"
    return f"{smaller}; mblip plan shows what a recipe needs"
