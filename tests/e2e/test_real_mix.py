"""Real texts of several tasks and languages on generated pictures: the loss falls, on pictures held out too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mblip.config import DataRecipe, TrainRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.nano.scenes import Scene, render
from mblip.nano.words import load_lexicon
from mblip.schema import Instruction
from mblip.storage import ShardReader
from mblip.training.loop import read_log
from mblip.training.run import train


def make_mix(bench: Path, folder: Path) -> list[Instruction]:
    """COCO and xFlickrCo captions, TextVQA questions and LLaVA turns, in the languages that they are in."""
    captions = json.loads((bench / "_derived/coco/captions_val2014.fakecap1000.json").read_text())["annotations"][:600]
    rows = [{"file": f"{row['image_id']}.jpg", "caption": row["caption"], "language": "en"} for row in captions]
    for language in ("de", "ja"):
        lines = (bench / f"e-bug__iglue/datasets/xFlickrCO/annotations/{language}/test.jsonl").read_text().splitlines()
        for line in lines[:300]:
            row = json.loads(line)
            rows.append({"file": row["img_path"], "caption": row["sentences"][0], "language": language})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    textvqa = bench / "mlfoundations__open_flamingo/open_flamingo/eval/data/textvqa"
    llava = bench / "_derived/llava"
    sources = [
        {"name": "captions", "reader": "table", "options": {
            "path": f"{folder}/captions.jsonl", "columns": {"image": "file", "caption": "caption"}, "task": "caption",
            "licence": "see SOURCES.md", "language_column": "language",
        }},
        {"name": "textvqa", "reader": "vqav2", "options": {
            "questions": f"{textvqa}/val_questions_vqa_format.json",
            "annotations": f"{textvqa}/val_annotations_vqa_format.json", "image_key": "{image_id}.jpg",
        }},
        {"name": "detail", "reader": "llava", "options": {"path": f"{llava}/detail_23k.json", "task": "description"}},
        {"name": "talk", "reader": "llava", "options": {
            "path": f"{llava}/conversation_58k.json", "task": "conversation",
        }},
    ]  # fmt: skip
    recipe = {"title": "real texts", "sources": [{**source, "translate": False} for source in sources]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "bad_rows": "drop"}))
    build_mix(load_recipe(DataRecipe, folder / "recipe.yaml"), folder / "mix")
    return list(ShardReader(folder / "mix", Instruction))


@pytest.mark.slow
def test_the_loss_falls_on_real_texts_and_generated_pictures(bench: Path, tmp_path: Path) -> None:
    rows = make_mix(bench, tmp_path)
    assert {"caption", "vqa", "question_generation", "description", "conversation"} <= {row.task for row in rows}
    assert {"en", "de", "ja"} == {row.answer_language for row in rows} and len(rows) > 2000
    concepts = list(load_lexicon().concepts)
    for number, key in enumerate(sorted({key for row in rows for key in row.images})):
        drawn = np.random.default_rng(number).choice(len(concepts), size=2, replace=False)
        scene = Scene(tuple((concepts[int(place)], cell) for cell, place in enumerate(drawn)), number)
        path = tmp_path / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        render(scene).save(path, "JPEG")
    recipe = load_recipe(TrainRecipe, "train/mt0_xl_align", (
        "model.vision=nano:nano-blip2-en", "model.llm=nano:nano-mlm", "model.quantization=none", "precision=fp32",
        f"data.mix={tmp_path / 'mix'}", f"data.images={tmp_path / 'images'}", "data.workers=1", "tracker=none",
        "optim.epochs=null", "optim.steps=60", "optim.global_batch=32", "optim.warmup_steps=5", "optim.lr=1e-3",
        "optim.lora_lr=3e-3", "log_every=1", "validate_every=20", "validation_texts=64", "samples=2",
    ))  # fmt: skip
    train(recipe, tmp_path / "run")
    losses = [row["loss"] for row in read_log(tmp_path / "run/metrics.jsonl")]
    held = read_log(tmp_path / "run/validation.jsonl")
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    assert len(losses) == 60 and last < 0.6 * first, losses
    assert [row["step"] for row in held] == [20, 40, 60]
    assert held[-1]["loss"] < held[0]["loss"] and held[-1]["loss"] < 0.7 * first, held
    assert {"caption", "vqa"} <= set(held[-1]["by_task"])
