"""A person's folder of pictures and captions in one language: it is learnt, and with replay the others stay."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from mblip.config import DataRecipe, MixSection, TrainRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.models import load_vision_llm
from mblip.models.generation import Generator, Request
from mblip.nano.scenes import Scene, render
from mblip.nano.words import load_lexicon
from mblip.processing.collate import Collator
from mblip.processing.grouping import Mix
from mblip.processing.transforms import TrainTransform
from mblip.storage import open_images
from mblip.training.run import train

OWN = "sw"
COMMON = ("tracker=none", "precision=fp32", "validate_every=0", "data.workers=1")


def measured(run: Path, section: MixSection, images: str) -> tuple[float, float]:
    """Loss in nats a token, and the share answered word for word, of up to 400 texts of a mix."""
    vlm, store = load_vision_llm(run, dtype="fp32"), open_images(images)
    mix = Mix(section)
    rows = mix.take(np.random.default_rng(9).permutation(len(mix))[:400])
    transform = TrainTransform.of(vlm.processor.image_processor, (1.0, 1.0), False)
    with torch.no_grad():
        loss = float(vlm(Collator(store, transform, vlm.layout, section)(rows, (0,)))["loss"])
    requests = [Request(row.id, row.images, row.prompt) for row in rows]
    answers = Generator(vlm, store.get, max_new_tokens=16).texts(requests)
    right = sum(answer == row.answer for answer, row in zip(answers, rows, strict=True))
    return loss, right / len(rows)


def make_photos(folder: Path, pictures: int) -> None:
    """Each with one Swahili caption, of a form that the mix does not have: "camera NAME"."""
    folder.mkdir()
    lexicon = load_lexicon()
    concepts = [concept for concept in lexicon.concepts if lexicon.name(concept, OWN)][:40]
    camera = lexicon.name("camera", OWN)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for number in range(pictures):
            concept = concepts[number % len(concepts)]
            render(Scene(((concept, number % 4),), number)).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", f"{camera} {lexicon.name(concept, OWN)}"])


@pytest.mark.slow
def test_own_captions_are_learnt_and_replay_keeps_the_other_languages(tmp_path: Path) -> None:
    scenes = ("sources.scenes.options.scenes=4000",)
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", scenes), tmp_path / "mix")
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", (*scenes, "seed=2")), tmp_path / "unseen")
    align = (f"data.mix={tmp_path / 'mix'}", "data.tasks=[naming,caption]", "optim.steps=60", "optim.global_batch=96")
    train(load_recipe(TrainRecipe, "nano/align", (*align, "optim.micro_batch=96", *COMMON)), tmp_path / "aligned")
    photos = tmp_path / "photos"
    make_photos(photos, 200)
    own = (
        f"model.run={tmp_path / 'aligned'}", "model.quantization=none", f"data.images={photos}", "checkpointing=[]",
        f"data.source.options.path={photos / 'captions.csv'}", f"data.source.options.language={OWN}",
        "data.crop_scale=[1,1]", "optim.lr=1e-4", "optim.lora_lr=1e-3", "optim.epochs=null", "optim.steps=80",
    )  # fmt: skip
    replays = {
        "alone": ("data.replay=",),
        "replay": (f"data.replay={tmp_path / 'mix'}", "data.replay_images=nano:scenes"),
    }
    for name, replay in replays.items():
        train(load_recipe(TrainRecipe, "train/finetune_own", (*own, *COMMON, *replay)), tmp_path / name)
    others = MixSection(mix=str(tmp_path / "unseen"), tasks=("naming",), exclude_languages=(OWN,))
    mine = MixSection(mix=str(tmp_path / "alone/mix"))
    loss: dict[str, dict[str, float]] = {"others": {}, "own": {}}
    exact: dict[str, dict[str, float]] = {"others": {}, "own": {}}
    for run in ("aligned", *replays):
        loss["others"][run], exact["others"][run] = measured(tmp_path / run, others, "nano:scenes")
        loss["own"][run], exact["own"][run] = measured(tmp_path / run, mine, str(photos))
    assert exact["others"]["aligned"] > 0.15, exact  # there is something to forget
    for run in replays:  # the captions are learnt either way
        assert loss["own"][run] < 0.3 * loss["own"]["aligned"] and exact["own"][run] > exact["own"]["aligned"] + 0.3, (
            run
        )
    forgotten = {run: exact["others"]["aligned"] - exact["others"][run] for run in replays}
    assert forgotten["replay"] < 0.7 * forgotten["alone"], exact  # 0.56 was measured
    rise = {run: loss["others"][run] - loss["others"]["aligned"] for run in replays}
    assert rise["replay"] < 0.7 * rise["alone"], loss  # 0.58 was measured
