"""A LLaVA from the shell: a killed run ends as an undisturbed one, is fine-tuned, and exports answer alike in stock code."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import llava_checkpoints
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from mblip import load_model
from mblip.cli.app import app
from mblip.config import DataRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.nano.scenes import Scene, render
from mblip.nano.words import load_lexicon
from mblip.training.checkpoints import checkpoints
from mblip.training.loop import read_log

STEPS = 12
PROMPTS = ["Caption in Swahili:", "What is in the picture? Answer in German:", "how many dogs"]


def make_photos(folder: Path, pictures: int) -> None:
    folder.mkdir()
    lexicon = load_lexicon()
    concepts = [concept for concept in lexicon.concepts if lexicon.name(concept, "sw")][:pictures]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for number, concept in enumerate(concepts):
            render(Scene(((concept, number % 4),), number)).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", lexicon.name(concept, "sw")])


def stock_answers(folder: Path, pictures: list[Image.Image]) -> list[str]:
    stock = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    answers = []
    for picture, prompt in zip(pictures, PROMPTS, strict=True):
        said: list[dict[str, Any]] = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        ids = stock.generate(**inputs, do_sample=False, max_new_tokens=10)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True).strip())
    return answers


@pytest.mark.slow
def test_killed_fine_tuned_and_exported(tmp_path: Path) -> None:
    build_mix(load_recipe(DataRecipe, "data/nano_scenes", ("sources.scenes.options.scenes=200",)), tmp_path / "mix")
    llava_checkpoints.llava(tmp_path / "model", "clip", "qwen3", chat=llava_checkpoints.CHAT)

    def start(name: str) -> subprocess.Popen[str]:
        command = [
            "-m", "mblip", "train", "nano/align", "model.vision=", "model.llm=", f"model.run={tmp_path / 'model'}",
            f"data.mix={tmp_path / 'mix'}", "model.fit_words=[]", f"optim.steps={STEPS}", "optim.global_batch=32",
            "optim.micro_batch=16", "log_every=1", "tracker=none", "checkpoint_every=2", "data.workers=2",
            "parts.qformer=frozen", "lora.dropout=0.1", "validate_every=0", "--to", str(tmp_path / name),
        ]  # fmt: skip
        return subprocess.Popen([sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start("whole").communicate(timeout=1800) and (whole / "done.json").exists()
    killed, until = start("cut"), time.monotonic() + 1800
    while not (rows := read_log(cut / "metrics.jsonl") if (cut / "metrics.jsonl").exists() else []) or (
        rows[-1]["step"] < STEPS // 2
    ):
        assert killed.poll() is None and time.monotonic() < until, killed.communicate()[1][-2000:]
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    assert checkpoints(cut) and not (cut / "done.json").exists()
    assert start("cut").communicate(timeout=1800) and (cut / "done.json").exists()
    for file in ("bridge.safetensors", "adapter/adapter_model.safetensors", "mblip.json"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file
    losses = [[row["loss"] for row in read_log(run / "metrics.jsonl")] for run in (whole, cut)]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS

    photos = tmp_path / "photos"
    make_photos(photos, 24)
    settings = [
        f"model.run={cut}", f"data.images={photos}", f"data.source.options.path={photos / 'captions.csv'}",
        "data.source.options.language=sw", f"data.replay={tmp_path / 'mix'}", "data.replay_images=nano:scenes",
        "optim.epochs=null", "optim.steps=4", "optim.global_batch=8", "validate_every=0", "validation_texts=4",
        "tracker=none", "optim.lora_lr=1e-2", "--to", str(tmp_path / "own"),
    ]  # fmt: skip
    for command in (["train", "finetune_own", *settings], *(["export", str(tmp_path / run), "--to",
                    str(tmp_path / f"{run}-stock")] for run in ("cut", "own"))):  # fmt: skip
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    pictures = [Image.open(photos / f"{number}.png").convert("RGB") for number in range(len(PROMPTS))]
    for run in ("cut", "own"):
        ours = load_model(tmp_path / run).generate(pictures, PROMPTS, max_new_tokens=10)
        assert stock_answers(tmp_path / f"{run}-stock", pictures) == ours
        assert load_model(tmp_path / f"{run}-stock").generate(pictures, PROMPTS, max_new_tokens=10) == ours
