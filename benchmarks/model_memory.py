"""Peak memory of one training step at mT0's vocabulary: the chunked loss against the stock class, in one run.

    python benchmarks/model_memory.py

The eyes of nano-blip2-en before a random two-layer mT5 of width 128 with 250,112 rows, eight texts of 128 answer tokens,
language model frozen. Each variant runs in a process of its own; what counts is the peak of the resident set during the
step beyond what was resident before it. A third variant makes no logits at all: the others' share is what they add to it.
All of them read the same copy of the weights, and losses that differ end the run with an error.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY, TEXTS, TOKENS = 250_112, 8, 128
VARIANTS = ("no logits", "stock", "chunked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--bases", type=Path)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.bases)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_bases(Path(folder))
        found = {}
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant, "--bases", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[variant] = json.loads(done.stdout.splitlines()[-1])
            print(variant, found[variant])
    base = found["no logits"]["peak_mib"]
    shares = {variant: found[variant]["peak_mib"] - base for variant in ("stock", "chunked")}
    difference = abs(found["stock"]["loss"] - found["chunked"]["loss"])
    print(f"the logits' share: stock {shares['stock']:.0f} MiB, chunked {shares['chunked']:.0f} MiB, "
          f"{shares['stock'] / shares['chunked']:.1f} times less; difference of the losses {difference:.1e}")  # fmt: skip
    if difference > 1e-5 * found["stock"]["loss"]:
        raise SystemExit("the variants did not compute the same loss, so their memory compares nothing")


def make_bases(folder: Path) -> None:
    """A copy of nano-blip2-en, and a random mT5 with the nano tokeniser and a head of its own."""
    import torch
    from transformers import AutoTokenizer, MT5Config, MT5ForConditionalGeneration

    from mblip.models.locate import locate

    shutil.copytree(locate("nano:nano-blip2-en"), folder / "eyes")
    tokenizer = AutoTokenizer.from_pretrained(locate("nano:nano-mlm"))
    tokenizer.save_pretrained(folder / "llm")
    config = MT5Config(
        vocab_size=VOCABULARY, d_model=128, d_ff=256, d_kv=32, num_layers=2, num_decoder_layers=2, num_heads=4,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    model = MT5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 128) * 0.05)
    model.save_pretrained(folder / "llm")


def measure(variant: str, bases: Path) -> dict[str, float]:
    """One step in this process."""
    import torch

    from mblip.config import PartsSection
    from mblip.models import build_model, set_trainable

    vlm = build_model(bases / "eyes", bases / "llm", dtype="fp32")
    set_trainable(vlm, PartsSection(llm="frozen"))
    vlm.eval()
    generator = torch.Generator().manual_seed(0)
    side = vlm.model.config.vision_config.image_size
    batch: dict[str, Any] = vlm.layout.pairs(["Caption in German:"] * TEXTS, [""] * TEXTS, [1] * TEXTS)
    batch["labels"] = torch.randint(5, VOCABULARY, (TEXTS, TOKENS), generator=generator)
    batch["pixel_values"] = torch.randn(TEXTS, 3, side, side, generator=generator)
    index = torch.arange(TEXTS)[:, None]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = resident("VmRSS"), time.perf_counter()
    if variant == "stock":
        loss = vlm.model(**batch).loss
    elif variant == "chunked":
        loss = vlm({**batch, "image_index": index})["loss"]
    else:
        embedded = vlm.embed(batch["input_ids"], vlm.encode_images(batch["pixel_values"]), index)
        loss = vlm.hidden_states(embedded, batch).sum()
    loss.backward()
    seconds = time.perf_counter() - started
    return {"peak_mib": resident("VmHWM") - before, "seconds": seconds, "loss": float(loss.detach())}


def resident(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}; this needs Linux")


if __name__ == "__main__":
    main()
