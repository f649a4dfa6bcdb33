"""The parts of gpu.py, in the process that it starts; what they find goes through a pipe as JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import evaluate
import gpu
import train_step
from mblip.config import TrainRecipe, load_train_recipe
from mblip.models.planning import plan_training
from step import meters, models, texts

Tell = Callable[[dict[str, Any]], None]
RECIPES = {"mt0": "mt0_xl_align", "bloomz": "bloomz_7b_align", "llava": "siglip2_qwen3_4b_align"}
MICRO_BATCH = {"mt0": 8, "bloomz": 4, "llava": 4}  # of the recipes
VERSIONS = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "triton")
PIECES = 20_480  # of the shrunken models: step/texts.py has ids up to 20,000


class Skipped(Exception):
    """A part cannot run on this machine; the reason."""


class Parts:
    """The parts, and what they share: device, sizes, the measured ceiling."""

    def __init__(self, device: torch.device, small: bool, until: float, tell: Tell) -> None:
        self.device, self.small, self.until, self.tell = device, small, until, tell
        self._ceiling = 0.0

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.until - time.time()

    def ceiling(self) -> float:
        """FLOP/s of a large bf16 matrix product."""
        self._ceiling = self._ceiling or meters.ceiling(self.device, torch.bfloat16)
        return self._ceiling

    def run(self, part: str) -> None:
        """One of them.

        Raises:
            Skipped: The machine lacks what it needs.
        """
        if part == "ceiling":
            self.tell({"row": part, "mblip": self.ceiling() / 1e12, "details": {"flop_per_second": self.ceiling()}})
        elif part == "answers":
            self.answers()
        else:
            self.training(part, *part.split("_"))

    def training(self, part: str, name: str, kind: str) -> None:
        """Memory of the longest texts, the plan beside it, and steps against stock."""
        quantization = "none" if kind == "bf16" else kind
        if quantization != "none" and find_spec("bitsandbytes") is None:
            raise Skipped(f"bitsandbytes is not installed, which {kind} needs")
        config = models.full_llava_config() if name == "llava" else models.full_config(name)
        if self.small:
            config = shrunken(config)
        size = 2 if self.small else MICRO_BATCH[name]
        words = ["--device", self.device.type, "--full", "--quantization", quantization, "--micro-batch", str(size)]
        words += ["--container", "llava"] if name == "llava" else ["--llm", name]
        words += ["--global-batch", "2" if self.small else "64", "--steps", "1" if self.small else "3"]
        words += ["--texts-per-image", "2", "--no-shares", "--loss-tolerance", "0.1"]
        arguments = train_step.options(words)
        arguments.only_memory = "in this process"  # a CPU's memory otherwise takes a process each
        bench = train_step.Bench(arguments, config)
        peak = self.memory(part, bench)
        self.plan(part, recipe_of(name, quantization, size), config, peak)
        # Building took its time; the comparison leaves some for the parts to come.
        arguments.minutes = max(0.0, min(60.0, self.left / 2)) / 60
        train_step.run(bench, arguments, lambda row: self.compared(part, row))

    def memory(self, part: str, bench: train_step.Bench) -> float | None:
        """Steps of a micro-batch of the longest texts, an image each; the peak in bytes, None where it does not fit.

        A card's memory also holds the CUDA context, which is taken off before torch's allocator gets the rest.
        """
        cap = gpu.CAPS.get(part)
        steps, on_gpu = 1 if self.small else 3, self.device.type == "cuda"
        way = train_step.Variant("ours")
        gc.collect()
        context = 0
        if on_gpu:
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            context = total - free - torch.cuda.memory_reserved()
            if cap:
                whole = torch.cuda.get_device_properties(0).total_memory
                torch.cuda.set_per_process_memory_fraction((cap * 2**30 - context) / whole)
        meters.reset_peak(self.device)
        rows = texts.longest(bench.micro_batch, per_image=1)
        lacking = ""
        try:
            for _ in range(steps):
                bench.step(bench.micro_batches(rows, way), way)
        except torch.OutOfMemoryError as error:
            lacking = str(error).partition("\n")[0]
        peak = meters.peak(self.device)
        reserved = torch.cuda.max_memory_reserved() if on_gpu else peak
        details = {
            "cap_gib": cap, "micro_batch": bench.micro_batch, "tokens": [texts.LONGEST, texts.LONGEST], "steps": steps,
            "peak_allocated_gib": peak / 2**30, "peak_reserved_gib": reserved / 2**30, "context_gib": context / 2**30,
        }  # fmt: skip
        if lacking:
            bench.optimizer.zero_grad(set_to_none=True)
            remark = f"{bench.micro_batch} texts do not fit: {lacking}"
            self.tell({"row": f"{part}_memory", "goal_met": False, "remark": remark, "details": details})
        else:
            card = (reserved + context) / 2**30
            met = card <= cap if cap and on_gpu and not self.small else None
            remark = f"{bench.micro_batch} texts of {texts.LONGEST} + {texts.LONGEST} tokens, CUDA context included"
            self.tell(
                {"row": f"{part}_memory", "mblip": card, "peak_gib": peak / 2**30, "goal_met": met, "remark": remark,
                 "details": details}
            )  # fmt: skip
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
            gc.collect()
            torch.cuda.empty_cache()
        return None if lacking else peak

    def plan(self, part: str, recipe: TrainRecipe, config: Any, peak: float | None) -> None:
        """What ``mblip plan`` says of the same micro-batch, beside the measured peak."""
        with tempfile.TemporaryDirectory() as folder:
            if self.small:
                recipe = with_bases(recipe, config, Path(folder))
            planned = plan_training(recipe, texts=0)
        reckoned = planned.memory.total - planned.memory.reserve
        row: dict[str, Any] = {"row": f"{part}_plan", "mblip": reckoned / 2**30, "details": planned.as_json()["memory"]}
        if peak is None:
            row["remark"] = "no peak was measured, since the texts did not fit"
        else:
            off = reckoned / peak
            row |= {"against": peak / 2**30, "against_what": "measured", "times": off}
            row["remark"] = "tensors alone, without the plan's reserve for context and allocator"
            # On a CPU the peak is that of the process, which is mostly libraries.
            row["goal_met"] = abs(off - 1) <= 0.1 if self.device.type == "cuda" and not self.small else None
        self.tell(row)

    def compared(self, part: str, row: dict[str, Any]) -> None:
        """A row of train_step.py."""
        kind = "same" if row["comparison"].startswith("a:") else "best"
        share = row.get("share_of_matrix_ceiling")
        remark = f"2 texts an image; losses differ by {row['loss_difference']:.4f}"
        self.tell(
            {"row": f"{part}_train_{kind}", "mblip": row["examples_per_second"], "against": row["against"],
             "against_what": "stock", "times": row["speedup"], "flops_predict": row["flops_predict"],
             "peak_gib": row["peak_gib"], "peak_gib_against": row["peak_gib_against"], "share_of_ceiling": share,
             "remark": remark if share else f"{remark}; FLOPs of quantised layers are not counted", "details": row}
        )  # fmt: skip

    def answers(self) -> None:
        """Questions and captions against stock generation."""
        config = evaluate.blip2_config(full=True)
        config = shrunken(config) if self.small else config
        vlm = evaluate.build(config, self.device.type, torch.bfloat16)
        # As many pictures as fill stock's batches; of XM3600's 36 languages fewer, for the time.
        jobs = {
            "xgqa": ("xGQA", {}, 4, 4.0),
            "captions": ("XM3600", {"languages": 12}, 32, 2.0),
        }
        for key, (name, changes, images, goal) in jobs.items():
            shape = {**evaluate.JOBS[name], **changes}
            if self.small:
                shape, images = {**shape, "languages": 2, "texts": 2, "tokens": 3}, 2
            row = evaluate.compare(vlm, shape, images, batch=4 if self.small else 64, exact=False)
            met = None if self.small else row["speedup"] >= goal
            remark = f"{row['texts_per_image']} texts an image; {row['answers_that_differ']} of {row['texts']} differ"
            self.tell(
                {"row": key, "mblip": row["texts_per_second"], "against": row["against"], "against_what": "stock",
                 "times": row["speedup"], "flops_predict": row["flops_predict"], "peak_gib": row["peak_gib"],
                 "peak_gib_against": row["peak_gib_against"], "goal_met": met, "remark": remark, "details": row}
            )  # fmt: skip


def recipe_of(name: str, quantization: str, size: int) -> TrainRecipe:
    """The shipped recipe, with what the bench does otherwise: LoRA's rank, no dropout."""
    changes = ["lora.rank=8", "lora.alpha=16", "lora.dropout=0", f"model.quantization={quantization}"]
    recipe = load_train_recipe(RECIPES[name], (*changes, f"optim.micro_batch={size}", f"optim.global_batch={size}"))
    assert isinstance(recipe, TrainRecipe)
    return recipe


def with_bases(recipe: TrainRecipe, config: Any, folder: Path) -> TrainRecipe:
    """The recipe on bases of another shape, which are written to a folder."""
    eyes = config if config.model_type == "blip-2" else config.vision_config
    eyes.save_pretrained(folder / "eyes")
    config.text_config.save_pretrained(folder / "llm")
    bases = {"vision": str(folder / "eyes"), "llm": str(folder / "llm")}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=bases)})


def shrunken(config: Any) -> Any:
    """The same kind of model, a layer of 32 a part."""
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text: dict[str, Any] = {"vocab_size": PIECES}
    kind = config.text_config.model_type
    if kind == "mt5":
        text |= {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    elif kind == "bloom":
        text |= {"hidden_size": 32, "n_layer": 1, "n_head": 2}
    else:
        text |= {**narrow, "num_key_value_heads": 1, "head_dim": 16, "eos_token_id": 1, "pad_token_id": 0}
    parts = {
        "vision_config": changed(config.vision_config, {**narrow, "image_size": 28, "patch_size": 14}),
        "text_config": changed(config.text_config, text),
    }
    if config.model_type == "blip-2":
        parts["qformer_config"] = changed(
            config.qformer_config, {**narrow, "encoder_hidden_size": 32, "vocab_size": 64}
        )
        return type(config)(**parts, num_query_tokens=config.num_query_tokens)
    made = type(config)(
        **parts, vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )  # fmt: skip
    made.image_seq_length = 4
    return made


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with other sizes."""
    facts = {name: value for name, value in config.to_dict().items() if name not in ("layer_types", "model_type")}
    made = type(config)(**{**facts, **changes})
    # MT5Config says that the head is tied whatever it is given.
    if facts.get("tie_word_embeddings") is False:
        made.tie_word_embeddings = False
    return made


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    versions: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    found: dict[str, Any] = {"device": "CPU", "memory_gib": None, "cuda": torch.version.cuda, "versions": versions}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"device": about.name, "memory_gib": round(about.total_memory / 2**30, 1)}
    return found


def reason_of(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return first if isinstance(error, SystemExit) else f"{type(error).__name__}: {first}"


def work(parts: Sequence[str], small: bool, until: float, tell: Tell) -> None:
    """The parts in turn; ends early after one that failed, so that the next begins in a clean process."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    tell({"machine": machine(device)})
    shared = Parts(device, small, until, tell)
    for part in parts:
        if not (on_gpu or small):
            reason = "torch finds no NVIDIA GPU; run it where one is, or with --small"
            tell({"part": part, "status": "failed", "reason": reason})
            continue
        if shared.left < (0 if small else gpu.SECONDS.get(part, 40)):
            tell({"part": part, "status": "skipped", "reason": "no time was left"})
            continue
        tell({"part": part, "status": "begun"})
        started = time.time()
        end: dict[str, Any] = {"part": part, "status": "measured"}
        try:
            shared.run(part)
        except Skipped as reason:
            end |= {"status": "skipped", "reason": str(reason)}
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a benchmark says why, and goes on with the next part
            traceback.print_exc()
            end |= {"status": "failed", "reason": reason_of(error)}
        tell({**end, "seconds": round(time.time() - started, 1)})
        if end["status"] == "failed":
            return
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


def plain(value: Any) -> Any:
    """Without what JSON has no number for."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="file descriptor that events are written to")
    parser.add_argument("--until", type=float, required=True, help="seconds since the epoch")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", nargs="+", required=True)
    arguments = parser.parse_args()
    gc.freeze()  # going through the libraries' objects at every collection takes long
    with os.fdopen(arguments.events, "w", encoding="utf-8", buffering=1) as pipe:
        work(
            arguments.parts, arguments.small, arguments.until, lambda event: print(json.dumps(plain(event)), file=pipe)
        )


if __name__ == "__main__":
    main()
