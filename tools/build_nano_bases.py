"""Make the shipped nano base models from their recipes, in order; an interrupted build goes on.

    python tools/build_nano_bases.py runs/nano

About an hour on two cores. Writes ``nano-blip2-en`` and ``nano-mlm`` (stock transformers layout, fp16) into
src/mblip/nano/bases, each with its recipe and the log of its training beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from mblip.config import DataRecipe, load_recipe, load_train_recipe
from mblip.mixture import build_mix
from mblip.models import load_model
from mblip.storage import write_json
from mblip.training.run import train

BASES = Path(__file__).parents[1] / "src" / "mblip" / "nano" / "bases"


def ship(name: str, source: Path, run: Path) -> None:
    """Copy a checkpoint into the package with the recipe and the log that made it."""
    target = BASES / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    shutil.copy(run / "recipe.yaml", target / "recipe.yaml")
    shutil.copy(run / "metrics.jsonl", target / "metrics.jsonl")
    tokenizer = target / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").rstrip() + "\n", encoding="utf-8")


def main() -> None:
    """Run every recipe and ship both bases."""
    root = Path(sys.argv[1])
    build_mix(load_recipe(DataRecipe, "data/nano_english"), root / "mix_en")
    for name in ("vision", "english_lm", "mlm"):
        train(load_train_recipe(f"nano/{name}"), root / name, print)
    blip2 = load_train_recipe(
        "nano/blip2_en",
        (
            f"model.vision={root / 'vision' / 'model'}",
            f"model.llm={root / 'english_lm' / 'model'}",
            f"data.mix={root / 'mix_en'}",
        ),
    )
    train(blip2, root / "blip2_en", print)
    vlm = load_model(root / "blip2_en")
    stock = root / "blip2_en" / "stock"
    vlm.model.to(torch.float16).save_pretrained(stock)
    vlm.processor.save_pretrained(stock)
    config = json.loads((stock / "config.json").read_text(encoding="utf-8"))
    for section in (config, config["text_config"]):
        section.pop("_name_or_path", None)  # where the parts lay when they were joined
    write_json(stock / "config.json", config)
    ship("nano-blip2-en", stock, root / "blip2_en")
    ship("nano-mlm", root / "mlm" / "model", root / "mlm")


if __name__ == "__main__":
    main()
