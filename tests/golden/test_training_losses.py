"""The first losses of each kind of training run, pinned: a change of data order, masking, weighting or updating shows here.

The losses are taken in fp64. Adam's first steps are of one size however small a gradient is, so that a gradient near zero,
whose sign is a matter of rounding, moves a weight by the whole rate: in fp32 four steps at 1e-2 were 1 % apart where layers
only add in another order, and in bf16, in which the run that fine-tuning starts from was trained, more. Now they are the
same with fused layers and without, which differ in that order alone.

After a change that is meant to move them: ``MBLIP_WRITE_GOLDEN=1 python -m pytest tests/golden/test_training_losses.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.shrunken import build_world, shrunken
from torch import nn

from mblip.config import TrainRecipe
from mblip.models import VisionLLM
from mblip.models.prepare import prepare_model
from mblip.training import align
from mblip.training.loop import read_log
from mblip.training.run import train

GOLDEN = Path(__file__).with_name("training_losses.json")
KINDS = {
    "warm-up": ("train/mt0_xl_warmup",),
    "align, encoder-decoder": ("train/mt0_xl_align",),
    "align, decoder-only": ("train/bloomz_7b_align",),
    "align, as the original optimises": ("train/mt0_xl_align", "optim.profile=original", "optim.micro_batch=3"),
    "fine-tune, LoRA merged": ("train/finetune_gqa",),
    "fine-tune, LoRA continued": ("train/finetune_gqa", "model.merge=false"),
    "fine-tune, two pictures": ("train/finetune_nlvr2",),
    "fine-tune, replay": ("train/finetune_own",),
}


def steady(recipe: TrainRecipe, device: object) -> VisionLLM:
    """In fp64, and without dropout: which units it hits depends on the processor's vector instructions."""
    vlm = prepare(recipe)
    for module in vlm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return vlm.double()


prepare = prepare_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "prepare_model", steady)
        yield build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("speedups", ["[]", "[packed_rows, shared_beams, fused_layers]"], ids=["plain", "sped up"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_losses(kind: str, speedups: str, world: Path, tmp_path: Path) -> None:
    name, *overrides = KINDS[kind]
    exact = (
        "precision=fp32", "model.quantization=none", "validate_every=0", "optim.steps=4", "optim.warmup_steps=0",
        f"speedups={speedups}",
    )  # fmt: skip
    faster = ("optim.lr=1e-3", "optim.lora_lr=1e-3")  # in four steps of 1e-5 nothing would move
    train(shrunken(name, world, *exact, *faster, *overrides), tmp_path)
    losses = [round(row["loss"], 5) for row in read_log(tmp_path / "metrics.jsonl")]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("MBLIP_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, kind: losses}, indent=1) + "\n")
        return
    assert len(losses) == 4 and losses == pytest.approx(golden[kind], rel=1e-3)
