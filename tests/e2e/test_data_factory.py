"""Real rows through a real translation program to a finished mix; the covered languages through the lexicon."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mblip.config import DataRecipe, MixSection, TrainRecipe, load_recipe
from mblip.languages import LANGUAGES
from mblip.mixture import build_mix, plan_mix
from mblip.nano.words import load_lexicon
from mblip.processing.grouping import GroupedBatches, Mix
from mblip.schema import Instruction
from mblip.storage import ShardReader, check_shards, read_drops, read_jsonl
from mblip.translation import translate_sources

APERTIUM = ("es", "ca", "eo", "gl")
QUESTIONS = 1500  # of TextVQA's 5,000: the others would only cost time


def _recipe(folder: Path, bench: Path) -> DataRecipe:
    """The paper's sources; rows that are not at hand in the real layout are generated in it (CapFilt, ImageNet)."""
    web = [{"caption": f"a photo of thing number {n}", "url": f"http://example.org/{n}.jpg"} for n in range(300)]
    (folder / "ccs.json").write_text(json.dumps(web))
    captions = json.loads((bench / "_derived/coco/captions_val2014.fakecap1000.json").read_text())
    rows = [{"image": row["image_id"], "caption": row["caption"], "id": row["id"]} for row in captions["annotations"]]
    with (folder / "coco.jsonl").open("w") as file:
        for row in rows:
            file.write(json.dumps(row | {"image": f"COCO_val2014_{row['image']:012d}.jpg"}) + "\n")
    textvqa = bench / "mlfoundations__open_flamingo/open_flamingo/eval/data/textvqa"
    for name, field in (("val_questions_vqa_format", "questions"), ("val_annotations_vqa_format", "annotations")):
        whole = json.loads((textvqa / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps(whole | {field: whole[field][:QUESTIONS]}))
    derived = bench / "_derived"
    sources = [
        {"name": "web", "reader": "web_capfilt", "options": {"path": f"{folder}/ccs.json", "most": 0}},
        {"name": "coco", "reader": "table", "options": {
            "path": f"{folder}/coco.jsonl", "columns": {"image": "image", "caption": "caption", "id": "id"},
            "task": "caption", "licence": "CC-BY-4.0",
        }},
        {"name": "karpathy", "reader": "coco", "options": {
            "path": f"{derived}/coco/dataset_coco.sample400.json", "restval": True,
        }},
        {"name": "textvqa", "reader": "vqav2", "options": {
            "questions": f"{folder}/val_questions_vqa_format.json",
            "annotations": f"{folder}/val_annotations_vqa_format.json", "image_key": "{image_id}.jpg",
        }},
        {"name": "aokvqa", "reader": "aokvqa", "options": {"path": f"{derived}/aokvqa/aokvqa_v1p0_train.json"}},
        {"name": "detail", "reader": "llava", "options": {
            "path": f"{derived}/llava/detail_23k.json", "task": "description",
        }},
        {"name": "talk", "reader": "llava", "options": {
            "path": f"{derived}/llava/conversation_58k.json", "task": "conversation",
        }},
    ]  # fmt: skip
    recipe = {
        "title": "real rows", "seed": 3, "sources": sources, "bad_rows": "drop",
        "allocation": {
            "method": "uniform", "languages": ["en", *APERTIUM, "de"], "apart": [["vqa", "question_generation"]],
        },
        "translation": {
            "engine": "apertium", "rows_per_task": 1024,
            "short_answers": {"tasks": ["vqa", "question_generation"], "min_count": 2, "share": 1.0},
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe(DataRecipe, folder / "recipe.yaml")


def test_real_rows_through_apertium_to_a_mix_that_trains(bench: Path, apertium: str, tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, bench)
    translate_sources(recipe, tmp_path / "work")
    build_mix(recipe, tmp_path / "mix", work=tmp_path / "work")
    manifest = check_shards(tmp_path / "mix")
    planned = plan_mix(recipe, tmp_path / "work")
    found = Counter(
        (source, task, code)
        for source, tasks in manifest.counts.items() for task, codes in tasks.items()
        for code, count in codes.items() for _ in range(count)
    )  # fmt: skip
    drops = list(read_drops(tmp_path / "mix"))
    found.update((drop.source, drop.task, drop.language) for drop in drops if drop.language)
    assert found == {
        (s, t, c): n for s, tasks in planned.items() for t, codes in tasks.items() for c, n in codes.items()
    }
    assert all(drop.reason for drop in drops)
    # German has no Apertium pair: every one of its examples is a drop that says so.
    assert "de" not in manifest.by_language
    assert {drop.reason for drop in drops if drop.language == "de"} == {"no translation"}
    for code in APERTIUM:
        assert manifest.by_language[code] > 0.5 * sum(
            codes.get(code, 0) for t in planned.values() for codes in t.values()
        )
    instructions = list(ShardReader(tmp_path / "mix", Instruction))
    spanish = [row.answer.lower() for row in instructions if row.answer_language == "es" and row.source == "coco"]
    assert len(spanish) > 300
    assert sum(" un " in f" {text} " or " una " in f" {text} " for text in spanish) > 0.7 * len(spanish)
    by_row: dict[str, dict[str, str]] = {}
    for row in instructions:
        if row.source == "textvqa":
            by_row.setdefault(row.id.partition("-")[0], {})[row.task] = row.prompt_language
    pairs = [languages for languages in by_row.values() if len(languages) == 2]
    assert len(pairs) > 200
    mix = Mix(MixSection(mix=str(tmp_path / "mix")))
    batches = GroupedBatches(mix, seed=0, global_batch=64)
    rows = mix.take(batches.rows(0))
    assert len(rows) == 64
    assert len({row.images for row in rows}) < 64
    _train(tmp_path, {key for row in instructions for key in row.images})


def _train(folder: Path, keys: set[str]) -> None:
    """Two steps of alignment; the photos are not at hand, so pictures of one colour stand for them."""
    from PIL import Image
    from tests import checkpoints

    from mblip.training.run import train

    for number, key in enumerate(sorted(keys)):
        (folder / "images" / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number % 256, number // 256, 99)).save(folder / "images" / key)
    language_model = checkpoints.llm(folder / "llm", "t5")
    overrides = (
        f"data.mix={folder / 'mix'}", f"data.images={folder / 'images'}", "data.tasks=[]",
        "model.fit_words=[]", f"model.llm={language_model}",
        "optim.steps=2", "optim.global_batch=16", "optim.micro_batch=8", "log_every=1", "tracker=none",
    )  # fmt: skip
    train(load_recipe(TrainRecipe, "nano/align", overrides), folder / "run")
    losses = [row["loss"] for row in read_jsonl(folder / "run/metrics.jsonl") if "loss" in row]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)


def test_all_languages_through_the_lexicon(tmp_path: Path) -> None:
    overrides = (
        "sources.scenes.options.scenes=4000", "sources.scenes.options.tasks={naming: 1}",
        "allocation={method: uniform}",
        "sources.scenes.options.objects=[1]", "translation.held_out=0",
    )  # fmt: skip
    recipe = load_recipe(DataRecipe, "nano_scenes", overrides)
    manifest = build_mix(recipe, tmp_path / "mix")
    planned = plan_mix(recipe)["scenes"]["naming"]
    assert len(planned) == 96
    lexicon = load_lexicon()
    dropped = Counter(drop.language for drop in read_drops(tmp_path / "mix") if drop.reason == "no translation")
    for code in LANGUAGES:
        if code in lexicon.named_languages():
            assert manifest.by_language[code] > 0.8 * planned[code]
        elif code == "ku":  # 41 of 307 names
            assert 0 < manifest.by_language["ku"] < 0.3 * planned["ku"]
        else:
            assert code not in manifest.by_language and dropped[code] == planned[code]
    assert len(set(manifest.by_language)) == 86


@pytest.mark.slow
def test_quickstart_mix_is_large_and_fast(tmp_path: Path) -> None:
    import time

    started = time.process_time()
    manifest = build_mix(load_recipe(DataRecipe, "nano_scenes"), tmp_path / "mix")
    assert manifest.rows > 100_000
    assert time.process_time() - started < 15
