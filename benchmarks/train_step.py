"""A training step against the original recipe in stock parts, on the same random weights and examples, in one run.

    python benchmarks/train_step.py                                 # CPU, middle size, some 15 minutes of one core
    python benchmarks/train_step.py --steps 1 --texts-per-image 2   # shorter; --no-shares, --vision-layers 2 shorten too
    python benchmarks/train_step.py --llm bloomz                    # the same with a decoder-only language model
    python benchmarks/train_step.py --container llava --image-tokens 576 --texts-per-image 2   # SigLIP, MLP, Qwen3
    python benchmarks/train_step.py --full --count                  # FLOPs of the paper's sizes, on any machine
    python benchmarks/train_step.py --device cuda --full            # ViT-g, Q-Former, mT0-XL int8; also --llm bloomz (NF4)
    python benchmarks/train_step.py --device cuda --full --cap-gib 12 --steps 20

Stock (step/stock.py) is transformers' Blip2ForConditionalGeneration (or LlavaForConditionalGeneration) with PEFT's LoRA as the
original trained it; ours
(step/ours.py) is mblip's forward on micro-batches dealt by mblip.processing.grouping. Both take the same optimiser step;
losses must agree. The middle size is a ViT of 384 x 12, a Q-Former of 384 x 6 and an mT5-small with its real vocabulary of
250,112, or a SigLIP of 384 x 12, an MLP and a Qwen3 of 512 x 8 with its 151,936; texts follow the paper's mix
(step/texts.py); nothing comes from a network or a disk. Making the batches
(pictures, ids) is not timed: in training that is the work of threads beside.

Row (a) has the same precision and checkpointing on both sides. Row (b) gives each side its fastest setting that needs no
more memory than the original recipe: activations kept, and half (stock) or twice (ours) the texts at once. The shares leave
one technique out of ours at 2 texts an image, in the same run. Every step takes other texts, and all variants take it in
turn, so that a slow minute of the machine meets all of them; --minutes begins no further step past so many. On a CPU memory
is the resident set, each setting in a process of its own, and seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from mblip.models.parts import recompute_layers
from mblip.models.quantize import Quantization
from mblip.models.speedups import speed_up
from step import meters, models, ours, stock, texts
from step.batches import Batch, tensors


@dataclass(frozen=True)
class Variant:
    """A way to run a step."""

    name: str
    per_image: int = 1
    stock: bool = False
    grouped: bool = True
    sorted: bool = True
    chunked: bool = True
    packed: bool = True
    checkpointing: bool = True
    fused: bool = True
    compiled: bool = False
    micro_batch: int = 0


@dataclass
class Measured:
    """Of a variant: seconds, FLOPs and mean loss of each step, and bytes at the worst moment."""

    seconds: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    extra: int = 0


class Bench:
    """A model, and both ways to train it."""

    def __init__(self, arguments: argparse.Namespace, config: Any = None) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.dtype = torch.bfloat16 if arguments.full else torch.float32
        self.micro_batch, self.global_batch = arguments.micro_batch, arguments.global_batch
        full = arguments.full
        config = config or config_of(arguments)
        usual: Quantization = "int8" if arguments.container != "llava" and arguments.llm == "mt0" else "nf4"
        kind: Quantization = arguments.quantization or (usual if full and not arguments.count else "none")
        self.vlm, self.quantized = models.build(config, kind, self.dtype, self.device, not arguments.count)
        self.can_pack = not speed_up(self.vlm, ["packed_rows"])
        self.plain_vision = self.vlm.container.vision
        compiles = arguments.compile
        self.compiled_vision = torch.compile(self.plain_vision, dynamic=True) if compiles else self.plain_vision
        learning = [parameter for parameter in self.vlm.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=0.0, fused=True)
        self._prepared: tuple[bool, ...] = ()

    def micro_batches(self, rows: Sequence[texts.Example], variant: Variant) -> list[Batch]:
        """As the variant forms them."""
        size = variant.micro_batch or self.micro_batch
        if variant.stock:
            parts = stock.parts(rows, size)
        else:
            parts = ours.parts(rows, size, self.vlm.is_encoder_decoder, variant.grouped, variant.sorted)
        once = not variant.stock and variant.grouped
        return [tensors(self.vlm, [rows[place] for place in part], once, self.device) for part in parts]

    def batches(self, variant: Variant, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        rows = texts.examples(self.global_batch, variant.per_image, step, self.arguments.descriptions)
        return self.micro_batches(rows, variant)

    def prepare(self, variant: Variant) -> None:
        """Set the model to the variant's way of computing; what is tried for it on the model is no part of a step."""
        packs = variant.packed and self.can_pack and not variant.stock
        fuses = variant.fused and not variant.stock
        wanted = (variant.compiled, variant.checkpointing, packs, fuses)
        if wanted == self._prepared:
            return
        self._prepared = wanted
        # First: a compiled module keeps its forward where unfuse takes away others.
        vision = self.compiled_vision if variant.compiled else self.plain_vision
        if self.arguments.container == "llava":
            self.vlm.model.model.vision_tower = vision
        else:
            self.vlm.model.vision_model = vision
        model = self.vlm.language_model
        if variant.checkpointing:
            recompute_layers(self.vlm, ("llm",))
        else:
            getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
        stock.unfuse(self.vlm)
        on = {"packed_rows": packs, "fused_layers": fuses}
        speed_up(self.vlm, [name for name, wanted in on.items() if wanted])

    def step(self, batches: Sequence[Batch], variant: Variant) -> float:
        """Gradients of a global batch and an optimiser step; the mean loss."""
        self.prepare(variant)
        total, tokens = 0.0, 0
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                if variant.stock:
                    loss, count = stock.loss(self.vlm, batch, self.dtype)
                else:
                    loss, count = ours.loss(self.vlm, batch, variant.chunked)
            loss.backward()
            total, tokens = total + float(loss.detach()), tokens + count
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total / tokens

    def memory(self, variant: Variant) -> tuple[int, int]:
        """Bytes at the worst moment of the steps, in all and beyond those in use before."""
        if self.device.type == "cpu" and not self.arguments.only_memory:
            command = [sys.executable, __file__, *sys.argv[1:], "--only-memory", json.dumps(asdict(variant))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            whole, extra = json.loads(done.stdout.splitlines()[-1])
            return whole, extra
        found = [batch for step in range(1, self.arguments.steps + 1) for batch in self.batches(variant, step)]
        found.sort(key=lambda batch: batch["labels"].numel() + batch["input_ids"].numel())
        self.step(found[:1], variant)  # the optimiser's state is not of this step alone
        worst = found[:-4:-1]
        del found
        gc.collect()
        base = meters.reset_peak(self.device)
        self.step(worst, variant)
        return meters.peak(self.device), meters.peak(self.device) - base

    def flops(self, variant: Variant, batches: Sequence[Batch]) -> float:
        """Of a step; none are known of quantised layers, nor of compiled ones."""
        if self.quantized or variant.compiled:
            return math.nan
        self.prepare(variant)
        return meters.flops(lambda: self.step(batches, variant))

    def measure(self, variants: Sequence[Variant], until: float) -> dict[Variant, Measured]:
        """All variants in turn, step by step; no step begins after ``until`` but the first."""
        found = {variant: Measured() for variant in variants}
        for variant in variants:  # what is made at the first call is not timed
            rows = texts.examples(self.global_batch, variant.per_image, 0, self.arguments.descriptions)
            self.step(self.micro_batches(rows[: self.micro_batch], variant), variant)
        for step in range(1, self.arguments.steps + 1):
            if step > 1 and time.monotonic() > until:
                print(f"ended after {step - 1} steps: --minutes", file=sys.stderr)
                break
            for variant, measured in found.items():
                batches = self.batches(variant, step)
                self.prepare(variant)
                measured.flops.append(self.flops(variant, batches))
                started = meters.now(self.device)
                measured.losses.append(self.step(batches, variant))
                measured.seconds.append(meters.now(self.device) - started)
                print(f"{variant.name}, {variant.per_image}: {measured}", file=sys.stderr, flush=True)
            losses = {variant.name: measured.losses[-1] for variant, measured in found.items()}
            if not max(losses.values()) - min(losses.values()) < self.arguments.loss_tolerance:
                raise SystemExit(f"the variants do not compute the same loss: {losses}")
        return found


KEPT: dict[str, Any] = {"checkpointing": False}
STOCK = Variant("stock", stock=True)


def config_of(arguments: argparse.Namespace) -> Any:
    """The configuration that the options name."""
    if arguments.container == "llava":
        if arguments.full:
            return models.full_llava_config()
        return models.llava_config(arguments.vision_layers, arguments.image_tokens)
    if arguments.full:
        return models.full_config(arguments.llm)
    return models.middle_config(arguments.vision_layers, arguments.llm)


def row_b(bench: Bench, numbers: Sequence[int], memory: dict[Variant, tuple[int, int]]) -> dict[Variant, Variant]:
    """Each side's setting that should be fastest within the original's memory; notes the memory of what it tries."""
    half = Variant("stock, kept, half at once", stock=True, micro_batch=max(1, bench.micro_batch // 2), **KEPT)
    freer: dict[Variant, list[Variant]] = {STOCK: [Variant("stock, kept", stock=True, **KEPT), half]}
    for number in numbers:
        twice = Variant("ours, kept, twice at once", number, micro_batch=2 * bench.micro_batch, **KEPT)
        freer[Variant("ours", number)] = [twice, Variant("ours, kept", number, **KEPT)]
    chosen = {}
    for given, others in freer.items():  # which name the fastest first
        memory[given] = bench.memory(given)
        chosen[given] = given
        for variant in others:
            found = memory_where_it_fits(bench, variant)
            if found is None:
                print(f"{variant.name}, {variant.per_image}: does not fit", file=sys.stderr, flush=True)
                continue
            memory[variant] = found
            print(f"{variant.name}, {variant.per_image}: {memory[variant]}", file=sys.stderr, flush=True)
            if memory[variant][0] <= memory[STOCK][0]:
                chosen[given] = variant
                break
    return chosen


def memory_where_it_fits(bench: Bench, variant: Variant) -> tuple[int, int] | None:
    """As :meth:`Bench.memory`; None where the device has too little."""
    try:
        return bench.memory(variant)
    except torch.OutOfMemoryError:
        pass
    # Out of the handler: the exception holds what filled the memory.
    bench.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    return None


def without(bench: Bench) -> dict[str, Variant]:
    """Ours at 2 texts an image, activations kept, without each technique; none where no shares are asked for."""
    if bench.arguments.no_shares:
        return {}
    kept: dict[str, Any] = {"per_image": 2, **KEPT}
    packing = {"rows packed, an image's tokens once": Variant("a row a text", packed=False, **kept)}
    return {
        **(packing if bench.can_pack else {}),
        "image grouping": Variant("no grouping", grouped=False, **kept),
        "supervised tokens alone, in chunks": Variant("full logits", chunked=False, **kept),
        "batches by length": Variant("random order", sorted=False, **kept),
        "activations kept": Variant("ours", per_image=2),
        "LoRA and activation in fewer passes": Variant("as PEFT has them", fused=False, **kept),
    }


def run(bench: Bench, arguments: argparse.Namespace, tell: Callable[[dict[str, Any]], None]) -> None:
    """Rows (a) and (b) for each number of texts an image, and the shares. Stock encodes an image a text: it is one."""
    until = time.monotonic() + 60 * arguments.minutes
    numbers = [int(number) for number in arguments.texts_per_image.split(",")]
    memory: dict[Variant, tuple[int, int]] = {}
    chosen = row_b(bench, numbers, memory)
    ours_kept, others = Variant("ours, kept", 2, **KEPT), without(bench)
    compiled = [Variant("compiled", 2, compiled=True, **KEPT)] if arguments.compile else []
    compared = [ours_kept, *others.values(), *compiled] if others or compiled else []
    wanted = [*chosen, *chosen.values(), *compared]
    found = bench.measure(list(dict.fromkeys(wanted)), until)
    for variant, measured in found.items():
        measured.peak, measured.extra = memory.get(variant) or bench.memory(variant)
    # Kept activations need not be faster on every machine.
    best = {given: min((given, other), key=lambda v: sum(found[v].seconds)) for given, other in chosen.items()}
    ceiling = meters.ceiling(bench.device, bench.dtype)
    for given in list(chosen)[1:]:
        title = "a: same precision and checkpointing"
        tell(compare(bench, given.per_image, title, found[given], found[STOCK], ceiling))
        title = f"b: within the original's memory, {best[given].name} against {best[STOCK].name}"
        tell(compare(bench, given.per_image, title, found[best[given]], found[best[STOCK]], ceiling))
    for technique, variant in others.items():
        tell(compare(bench, 2, f"share of: {technique}", found[ours_kept], found[variant], 0.0))
    for variant in compiled:
        title = "share of: torch.compile of the vision model"
        tell(compare(bench, 2, title, found[variant], found[ours_kept], 0.0))


def count(bench: Bench, arguments: argparse.Namespace) -> None:
    """FLOPs of a text in the steps of each variant, and stock's beside them, of layers that are not quantised."""
    ways: list[Variant] = [STOCK, Variant("stock, kept", stock=True, **KEPT)]
    for number in (int(number) for number in arguments.texts_per_image.split(",")):
        ways += [Variant("ours", number), Variant("ours, kept", number, **KEPT)]
    found: dict[bool, float] = {}
    for way in [*ways, *without(bench).values()]:
        steps = [bench.flops(way, bench.batches(way, step + 1)) for step in range(arguments.steps)]
        mean = sum(steps) / len(steps) / bench.global_batch
        if way.stock:
            found[way.checkpointing] = mean
        print(
            f"{way.name}, {way.per_image} texts an image: {mean / 1e9:.1f} GFLOP a text; stock takes "
            f"{found[way.checkpointing] / mean:.2f} times as many, the original recipe {found[True] / mean:.2f}",
            flush=True,
        )


def compare(bench: Bench, per_image: int, name: str, ours: Measured, other: Measured, ceiling: float) -> dict[str, Any]:
    """Of two variants; times over all steps, and of the steps one by one the median, the least and the most."""
    texts = bench.global_batch * len(ours.seconds)
    ratios = [theirs / own for own, theirs in zip(ours.seconds, other.seconds, strict=True)]
    predicted = sum(other.flops) / sum(ours.flops)
    row = {
        "comparison": name, "texts_per_image": per_image,
        "examples_per_second": texts / sum(ours.seconds), "against": texts / sum(other.seconds),
        "speedup": sum(other.seconds) / sum(ours.seconds), "speedup_median": median(ratios),
        "speedup_least": min(ratios), "speedup_most": max(ratios),
        "flops_predict": predicted if math.isfinite(predicted) else None,
        "peak_gib": ours.peak / 2**30, "peak_gib_against": other.peak / 2**30, "peak_ratio": ours.peak / other.peak,
        "beyond_weights_gib": ours.extra / 2**30, "beyond_weights_gib_against": other.extra / 2**30,
        "beyond_weights_ratio": ours.extra / max(other.extra, 1),
        "loss_difference": max(abs(a - b) for a, b in zip(ours.losses, other.losses, strict=True)),
    }  # fmt: skip
    if ceiling and math.isfinite(sum(ours.flops)):
        row["share_of_matrix_ceiling"] = sum(ours.flops) / sum(ours.seconds) / ceiling
    return row


def show(row: dict[str, Any]) -> None:
    predicted = row["flops_predict"]
    counted = "FLOPs not counted" if predicted is None else f"FLOPs say {predicted:.2f}x"
    share = f", {row['share_of_matrix_ceiling']:.0%} of the matrix ceiling" if "share_of_matrix_ceiling" in row else ""
    print(
        f"{row['texts_per_image']} texts an image, {row['comparison']}: {row['examples_per_second']:.2f} against "
        f"{row['against']:.2f} texts/s = {row['speedup']:.2f}x (steps: median {row['speedup_median']:.2f}, "
        f"{row['speedup_least']:.2f} to {row['speedup_most']:.2f}; {counted}); "
        f"peak {row['peak_gib']:.2f} against {row['peak_gib_against']:.2f} GiB = "
        f"{row['peak_ratio']:.2f}x, beyond the weights {row['beyond_weights_gib']:.2f} against "
        f"{row['beyond_weights_gib_against']:.2f} = {row['beyond_weights_ratio']:.2f}x{share}",
        flush=True,
    )


def capped(bench: Bench, arguments: argparse.Namespace) -> None:
    """Steps of ours in a part of the card's memory, on the longest texts that a recipe allows."""
    way = Variant("ours")
    what = f"{arguments.steps} steps of micro-batch {bench.micro_batch} at {texts.LONGEST} + {texts.LONGEST} tokens"
    try:
        for _ in range(arguments.steps):
            bench.step(bench.micro_batches(texts.longest(bench.micro_batch), way), way)
    except torch.OutOfMemoryError as error:
        raise SystemExit(f"{what} do not fit {arguments.cap_gib} GiB: {error}") from error
    print(f"{what} within {arguments.cap_gib} GiB, peak {meters.peak(bench.device) / 2**30:.2f} GiB")


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """From the command line, or from these words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--full", action="store_true", help="the paper's sizes instead of middle ones")
    parser.add_argument("--llm", default="mt0", choices=("mt0", "bloomz"))
    parser.add_argument("--container", default="blip2", choices=("blip2", "llava"))
    parser.add_argument("--image-tokens", type=int, default=196, help="of a LLaVA of the middle size; a square")
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), help="instead of the paper's, with --full")
    parser.add_argument("--global-batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--vision-layers", type=int, default=12, help="without --full")
    parser.add_argument("--texts-per-image", default="1,2,4")
    parser.add_argument("--steps", type=int, default=3, help="timed; three of 64 texts have one long description")
    parser.add_argument("--minutes", type=float, default=8, help="begin no further step after so many")
    parser.add_argument("--descriptions", type=float, help="share of long descriptions, instead of the mix's 0.0045")
    parser.add_argument("--no-shares", action="store_true", help="leave out what each technique brings")
    parser.add_argument(
        "--count", action="store_true", help="only count FLOPs; nothing is computed, so --full fits a CPU"
    )
    parser.add_argument("--cap-gib", type=float, help="only run so many steps of ours within so much GPU memory")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the vision model")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)  # of one variant: what a process of its own is asked
    parser.add_argument("--loss-tolerance", type=float, default=0.02, help="by which the variants may differ")
    return parser.parse_args(words)


def main() -> None:
    arguments = options()
    if arguments.cap_gib:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(arguments.cap_gib * 2**30 / total)
    bench = Bench(arguments)
    if arguments.cap_gib:
        capped(bench, arguments)
    elif arguments.count:
        count(bench, arguments)
    elif arguments.only_memory:
        print(json.dumps(bench.memory(Variant(**json.loads(arguments.only_memory)))))
    else:
        rows: list[dict[str, Any]] = []
        run(bench, arguments, rows.append if arguments.json else show)
        if arguments.json:
            print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
