"""A tiny world for the recipes of training: pictures, a mix, the corpora's raw files, checkpoints and an aligned run."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tests import checkpoints, llava_checkpoints

from mblip.config import TrainRecipe, load_recipe
from mblip.schema import Instruction
from mblip.storage import ShardWriter, write_manifest
from mblip.training.run import train

# What stands for the language model that a recipe names.
FAMILIES = {
    "mt0": "mt5", "bloomz": "bloom", "qwen3": "qwen3", "gemma-3": "gemma3", "aya": "cohere", "salamandra": "llama",
}  # fmt: skip
# What stands for its eyes, where they are no BLIP-2's.
EYES = {"siglip2": "siglip", "llava": "llava"}
PICTURES = 12


def build_world(folder: Path) -> Path:
    """Fill a folder."""
    photos = folder / "photos"
    photos.mkdir()
    for number in range(PICTURES):
        noise = np.random.default_rng(number).normal(128, 40 + number, size=(48, 60)).clip(0, 255)
        picture = Image.fromarray(noise.astype(np.uint8)).convert("RGB")
        for name in (f"{number}.jpg", f"train-{number}-0-img0.png", f"train-{number}-0-img1.png"):
            picture.save(photos / name)
    numbers = range(PICTURES)
    gqa = {str(i): {"question": "Who is in the house?", "imageId": str(i), "answer": "dog"} for i in numbers}
    (folder / "gqa").write_text(json.dumps(gqa))
    lines(
        folder / "nlvr2", [{"sentence": "two dogs", "label": "True", "identifier": f"train-{i}-0-0"} for i in numbers]
    )
    lines(folder / "flickr30k", [{"sentences": ["a dog"] * 5, "id": str(i), "img_path": f"{i}.jpg"} for i in numbers])
    pair = {"sentence1": "a dog", "sentence2": "a red cat", "gold_label": "-", "annotator_labels": ["neutral"]}
    lines(folder / "xvnli", [{**pair, "Flikr30kID": str(i), "pairID": f"{i}.jpg#0"} for i in numbers])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([f"{i}.jpg", "ein Hund"] for i in numbers)])
    tasks = ("caption", "naming", "count", "presence", "vqa")
    rows = [
        Instruction(f"m/{i}-{task}", "m", task, (f"{i}.jpg",), "Caption in German:", "ein Hund", "en", "de")
        for i in numbers
        for task in tasks
    ]
    with ShardWriter(folder / "mix", Instruction) as writer:
        writer.extend(rows)
    write_manifest(folder / "mix", Instruction, seed=0, recipe_hash="x", licences={"m": "MIT"})
    checkpoints.blip2(folder / "blip2", "t5")
    llava_checkpoints.tower(folder / "siglip")
    llava_checkpoints.llava(folder / "llava", "clip", "llama")
    for family in FAMILIES.values():
        checkpoints.llm(folder / family, family)
    exact = ("precision=fp32", "model.quantization=none")  # in bf16 their weights hang on the order of roundings
    train(shrunken("train/mt0_xl_warmup", folder, *exact), folder / "warmup")
    overrides = (*exact, f"model.run={folder / 'warmup'}", "stage=align", "parts.qformer=full", "parts.llm=lora")
    train(shrunken("train/mt0_xl_warmup", folder, *overrides), folder / "aligned")
    return folder


def lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shrunken(name: str, world: Path, *overrides: str) -> TrainRecipe:
    """The recipe with everything that is large made small, and nothing else changed."""
    whole = load_recipe(TrainRecipe, name)
    small = [
        f"data.images={world / 'photos'}", "optim.steps=2", "optim.epochs=null", "optim.global_batch=4", "log_every=1",
        "optim.micro_batch=2", "validation_texts=4", "samples=2", "tracker=none",
    ]  # fmt: skip
    if whole.validate_every:
        small.append("validate_every=2")
    if whole.model.run:
        small.append(f"model.run={world / 'aligned'}")
    elif not whole.model.llm.startswith(("nano:", "runs/nano/")):
        family = next(family for part, family in FAMILIES.items() if part in whole.model.llm.lower())
        eyes = next((kind for part, kind in EYES.items() if part in whole.model.vision.lower()), "blip2")
        small += [f"model.vision={world / eyes}", f"model.llm={world / family}"]
    else:
        small += ["model.vision=nano:nano-blip2-en", "model.llm=nano:nano-mlm"]
    if whole.model.fit_words:
        small.append("model.fit_words=[]")  # thousands of texts; tests/unit/training/test_projection.py
    if whole.data.source is None:
        small.append(f"data.mix={world / 'mix'}")
    else:
        reader = whole.data.source.reader
        small.append(f"data.source.options.path={world / reader}{'.csv' if reader == 'table' else ''}")
    if whole.data.replay:
        small += [f"data.replay={world / 'mix'}", f"data.replay_images={world / 'photos'}"]
    return load_recipe(TrainRecipe, name, (*small, *overrides))
