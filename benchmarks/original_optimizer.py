"""What each detail of the original's optimiser changes: python benchmarks/original_optimizer.py [--steps N] [--seeds N].

`optim.profile=original` changes three things: which norms decay, a warm-up that begins at 0, and a step that is the mean of
its micro-batches' means. Each is tried alone, then all together, on the same small random weights of an mT5 kind with LoRA:
four micro-batches of four texts a step, whose answers have one word and one to eleven words in turn. The table has the loss
of 64 other texts after the last step: the mean over the seeds, and the difference to our own optimiser, seed by seed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, MT5Config

sys.path.insert(0, str(Path(__file__).parent))

from mblip.models import VisionLLM
from mblip.training import loop
from mblip.training.align import text_loss
from step.batches import tensors
from step.models import build
from step.texts import END, Example

WORDS = 200
DETAILS = {"ours": (), "decay": ("_decays",), "warm-up": ("cosine",), "means": (), "all": ("_decays", "cosine")}
"""Which functions of the loop act as the original's; `means` and `all` also average by micro-batch."""


def small_config() -> Blip2Config:
    vision = Blip2VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    qformer = Blip2QFormerConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        encoder_hidden_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text: Any = MT5Config(
        vocab_size=256, d_model=32, d_ff=64, d_kv=16, num_heads=2, num_layers=2, num_decoder_layers=2,
        dropout_rate=0.0, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    text.tie_word_embeddings = False
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4)


def texts(count: int, rng: np.random.Generator) -> list[Example]:
    """Texts of a made-up language in which each word of an answer follows from the word before it."""
    rows = []
    for number in range(count):
        prompt = [int(word) for word in rng.integers(2, WORDS, 4)]
        answer = [(prompt[-1] * 7 + 3) % (WORDS - 2) + 2]
        for _ in range(0 if number % 2 == 0 else int(rng.integers(0, 11))):
            answer.append((answer[-1] * 7 + 3) % (WORDS - 2) + 2)
        rows.append(Example(number, [*prompt, END], [*answer, END]))
    return rows


def train(detail: str, steps: int, seed: int) -> float:
    """The loss of the other texts after training with one detail of the original's."""
    vlm, _ = build(small_config(), "none", torch.float32, torch.device("cpu"))
    for name, parameter in vlm.named_parameters():
        if parameter.ndim > 1 and "lora" not in name:
            parameter.data *= 8.0  # from 0.02, which such narrow layers hardly let through

    def batches(step: int) -> list[dict[str, torch.Tensor]]:
        rows = texts(16, np.random.default_rng((seed, step)))
        return [tensors(vlm, rows[start : start + 4], True, torch.device("cpu")) for start in range(0, 16, 4)]

    trained = [(name, parameter) for name, parameter in vlm.named_parameters() if parameter.requires_grad]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in ("_decays", "cosine"):
            stack.enter_context(patch.object(loop, name, _acting(getattr(loop, name), name in DETAILS[detail])))
        loop.fit(
            loop.LoopConfig(
                vlm,
                [loop.ParameterGroup("all", trained, 1e-3)],
                batches,
                text_loss,
                steps,
                seed,
                Path(folder),
                warmup=20,
                workers=0,
                profile="original" if detail in ("means", "all") else "correct",
                checkpoint_every=10**9,
            )
        )
    return held_out_loss(vlm)


def _acting(function: Callable[..., Any], as_original: bool) -> Callable[..., Any]:
    """A function of the loop that is told one profile, whatever the loop tells it."""
    if function.__name__ == "cosine":
        return lambda *args, **kwargs: function(*args, **{**kwargs, "from_zero": as_original})
    return lambda name, parameter, profile: function(name, parameter, "original" if as_original else "correct")


@torch.no_grad()
def held_out_loss(vlm: VisionLLM) -> float:
    values = vlm.eval()(tensors(vlm, texts(64, np.random.default_rng(10**6)), True, torch.device("cpu")))
    return float(values["loss_sum"] / values["tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = {detail: [train(detail, options.steps, seed) for seed in range(options.seeds)] for detail in DETAILS}
    print(f"{'':>8}{'loss':>8}{'difference to ours, least to most':>38}")
    for detail, losses in found.items():
        apart = [loss - ours for loss, ours in zip(losses, found["ours"], strict=True)]
        print(f"{detail:>8}{statistics.mean(losses):>8.3f}{min(apart):>+20.3f} to {max(apart):+.3f}")


if __name__ == "__main__":
    main()
