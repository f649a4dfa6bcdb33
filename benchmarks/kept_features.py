"""Time of each epoch of ``finetune_own``, with kept features and without.

python benchmarks/kept_features.py [--pictures 24] [--texts 2] [--epochs 3] [--vision 384x12] [--llm 512x8]
  [--vocabulary 32000]

A ViT and a Q-Former of BLIP-2's kind on 224 pixels and an mT5, with random weights, made on the spot; JPEGs of 640 x 480,
so many captions each; the shipped recipe, without replay and from these parts instead of a run. Each side trains in a
process of its own; both must end with the same bytes. Times are of the processor, all threads, so that other programs do
not count.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, MT5Config, MT5ForConditionalGeneration

from mblip.config import TrainRecipe, load_recipe
from mblip.models.containers.blip2_eyes import QueryingEyes, new_image_processor
from mblip.models.locate import locate
from mblip.training import align
from mblip.training.logs import Note, StepLog, ValidationLog
from mblip.training.loop import LoopConfig, fit
from mblip.training.run import train

SIDE = 224


def write_parts(folder: Path, vision: str, llm: str, vocabulary: int) -> None:
    torch.manual_seed(0)
    width, layers = map(int, vision.split("x"))
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    eyes = QueryingEyes(
        {**shape, "num_hidden_layers": layers, "image_size": SIDE, "patch_size": 14},
        {**shape, "num_hidden_layers": 6, "encoder_hidden_size": width, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0},
        32,
    )  # fmt: skip
    eyes.save(folder / "eyes", new_image_processor(SIDE))
    tokenizer = AutoTokenizer.from_pretrained(locate("nano:nano-mlm"))
    width, layers = map(int, llm.split("x"))
    config = MT5Config(
        vocab_size=max(vocabulary, len(tokenizer)), d_model=width, d_ff=2 * width, d_kv=64, num_heads=width // 64,
        num_layers=layers, num_decoder_layers=layers, decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    MT5ForConditionalGeneration(config).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")


def write_photos(folder: Path, pictures: int, texts: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for number in range(pictures):
            coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)
            table.writerows([f"{number:04}.jpg", f"mashua nyekundu bandarini {number} {text}"] for text in range(texts))


def measure(world: Path, keep: str, pictures: int, texts: int, epochs: int) -> dict[str, Any]:
    """Processor seconds of each epoch, and a hash of what was learnt."""
    batch = min(32, pictures * texts)
    per_epoch = pictures * texts // batch
    recipe = load_recipe(
        TrainRecipe, "finetune_own",
        ("stage=align", "model.run=", f"model.vision={world / 'eyes'}", f"model.llm={world / 'llm'}", "data.replay=",
         "model.projection=random", f"data.images={world / 'photos'}",
         f"data.source.options.path={world / 'photos/captions.csv'}", "data.source.options.language=sw",
         f"optim.epochs={epochs}", f"optim.global_batch={batch}", "validate_every=0", f"log_every={per_epoch}",
         "tracker=none", f"data.keep_features={keep}"),
    )  # fmt: skip
    marks: list[float] = []
    notes: list[str] = []

    def told(row: StepLog | ValidationLog | Note) -> None:
        if isinstance(row, StepLog):
            marks.append(time.process_time())
        elif isinstance(row, Note):
            notes.append(row.text)

    def begun(config: LoopConfig) -> dict[str, Any]:
        marks.append(time.process_time())
        return fit(config)

    run = world / f"run-{keep}"
    vars(align)["fit"] = begun  # what comes before the first step does not count
    train(recipe, run, told)
    learnt = hashlib.sha256((run / "bridge.safetensors").read_bytes()).hexdigest()
    return {"seconds": np.diff(marks).tolist(), "learnt": learnt, "notes": notes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--vision", default="384x12")
    parser.add_argument("--llm", default="512x8")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--measure", nargs=2, metavar=("WORLD", "KEEP"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = (given.pictures, given.texts, given.epochs)
    if given.measure:
        print(json.dumps(measure(Path(given.measure[0]), given.measure[1], *sizes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        write_parts(world, given.vision, given.llm, given.vocabulary)
        write_photos(world / "photos", given.pictures, given.texts)
        found = {}
        for keep in ("off", "auto"):
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", folder, keep]
            found[keep] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
    print(*found["auto"]["notes"], sep="\n")
    print("| epoch | off | auto | times |\n|---|---:|---:|---:|")
    for number, (off, auto) in enumerate(zip(found["off"]["seconds"], found["auto"]["seconds"], strict=True), 1):
        print(f"| {number} | {off:.1f} s | {auto:.1f} s | {off / auto:.2f} |")
    if found["off"]["learnt"] != found["auto"]["learnt"]:
        raise SystemExit("the two runs did not end with the same bytes")


if __name__ == "__main__":
    main()
