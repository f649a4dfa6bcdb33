"""The first answer from a cold shell against stock parts: python benchmarks/cold_shell.py [MODEL] [--runs N].

``mblip caption PICTURE --language de`` and ``mblip ask PICTURE "Objects in German:"``, each as a process of its own, against
a process that imports transformers, loads the same files (exported) as Blip2ForConditionalGeneration with its processor and
generates once with the same settings; in turn, and all must say the same. Processor time, since the clock of a busy machine
says little; the median of the runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mblip.inference.predictor import GENERATION, load_model
from mblip.models.export import export
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

STOCK = f"""
import sys, torch
from PIL import Image
from transformers import AutoProcessor, Blip2ForConditionalGeneration
folder, picture = sys.argv[1:]
model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained(folder, backend="pil")
inputs = processor(images=Image.open(picture).convert("RGB"), text="Objects in German:", return_tensors="pt")
with torch.inference_mode():
    ids = model.generate(**inputs, **{GENERATION!r})
print(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
"""


def timed(command: list[str]) -> tuple[str, float]:
    """What it prints, and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return said.strip(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart/multilingual-1")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        folder, picture = Path(scratch) / "stock", Path(scratch) / "scene.png"
        export(load_model(options.model, dtype="fp32", merge=True).vlm, folder)
        render(sample_scene(np.random.default_rng(0), 1, sorted(load_lexicon().emoji)), 128).save(picture)
        model = ["--quantization", "none", "--model", str(folder)]
        ours = [sys.executable, "-m", "mblip"]
        commands = {
            "stock": ([sys.executable, "-c", STOCK, str(folder), str(picture)], ""),
            "mblip caption": ([*ours, "caption", str(picture), "--language", "de", *model], f"{picture}\tde\t"),
            "mblip ask": ([*ours, "ask", str(picture), "Objects in German:", *model], ""),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            expected = ""
            for name, (command, before) in commands.items():
                said, taken = timed(command)
                expected = expected or said
                assert said == before + expected, (name, said, expected)
                seconds[name].append(taken)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in middle.items():
        print(f"{name:<16}{value:>7.2f} s of processor time, {value / middle['stock']:.2f} times stock")


if __name__ == "__main__":
    main()
