"""A training step against the original recipe in stock parts, on the same random weights and examples, in one run.

    python benchmarks/train_step.py --global-batch 192 --steps 1    # CPU, middle size, 20 minutes of one core
    python benchmarks/train_step.py --device cuda --full            # ViT-g, Q-Former, mT0-XL int8; also --llm bloomz (NF4)
    python benchmarks/train_step.py --device cuda --full --cap-gib 12 --steps 20

Stock is transformers' Blip2ForConditionalGeneration with PEFT's LoRA as the original trained it: one image encoding a text,
batches in random order padded to their longest, logits of every position, LoRA layers as PEFT computes them. Ours is
mblip's forward on micro-batches dealt by mblip.processing.grouping. Both take the same optimiser step; losses must agree.
The middle size is a ViT of 384 x 12, a Q-Former of 384 x 6 and an mT5-small with its real vocabulary of 250,112; nothing
here comes from a network or a disk. Making the batches (pictures, ids) is not timed: in training that is the work of
threads beside.

Texts follow the paper's mix: every batch holds its tasks in their shares, with the mean and spread of their lengths in
tokens as measured with a Unigram vocabulary of 24,000 on real rows (COCO and xFlickrCo captions, xGQA questions and answers,
XVNLI sentences, quoted LLaVA turns). One text in 220 is a long description; it alone decides the peak of the memory.

Row (a) has the same precision and checkpointing on both sides. Row (b) gives each side its fastest setting that needs no
more memory than the original recipe: activations kept, and half (stock) or twice (ours) the texts at once. On a CPU memory
is the resident set, each setting in a process of its own, and seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, BloomConfig, MT5Config

from mblip.config import PartsSection
from mblip.models.fused import fuse
from mblip.models.lora import add_lora
from mblip.models.parts import recompute_layers, set_trainable
from mblip.models.quantize import quantize
from mblip.models.skeleton import base_config, skeleton
from mblip.processing.grouping import deal
from mblip.processing.text import IGNORED, pad_rows

# task: share of the paper's mix in thousands of examples; prompt and answer tokens, mean and spread
LENGTHS = {
    "caption": (2687, (7, 2), (13, 5)),
    "vqa": (444, (17, 4), (2.3, 0.5)),
    "question_generation": (444, (14, 3), (11, 4)),
    "matching": (600, (25, 5), (2, 0)),
    "conversation": (219, (18, 4), (13, 5)),
    "reasoning": (66, (22, 5), (18, 8)),
    "naming": (296, (8, 1), (3, 1)),
    "presence": (296, (14, 2), (2, 0)),
    "description": (23, (12, 2), (117, 15)),
}
LONGEST = 128


@dataclass(frozen=True)
class Example:
    """A text about a picture."""

    picture: int
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Variant:
    """A way to run a step."""

    name: str
    per_image: int = 1
    stock: bool = False
    grouped: bool = True
    sorted: bool = True
    chunked: bool = True
    checkpointing: bool = True
    fused: bool = True
    micro_batch: int = 0


@dataclass
class Measured:
    """Of a variant: seconds a step, FLOPs of those steps, the mean loss, and bytes at the worst moment."""

    seconds: list[float]
    flops: float
    loss: float
    peak: int = 0
    extra: int = 0


class NoProducts(TorchDispatchMode):
    """Matrix products give zeros of the right shape at once: enough to count their FLOPs."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket
        if name in (torch.ops.aten.mm, torch.ops.aten.bmm):
            return args[0].new_zeros(*args[0].shape[:-1], args[1].shape[-1])
        if name is torch.ops.aten.addmm:
            return args[1].new_zeros(args[1].shape[0], args[2].shape[1])
        return function(*args, **(kwargs or {}))


class Bench:
    """A model, examples, and both ways to train on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.dtype = torch.bfloat16 if arguments.full else torch.float32
        self.micro_batch, self.global_batch = arguments.micro_batch, arguments.global_batch
        config = full_config(arguments.llm) if arguments.full else middle_config(arguments.vision_layers)
        kind = {"mt0": "int8", "bloomz": "nf4"}[arguments.llm] if arguments.full else "none"
        kind = arguments.quantization or kind
        if kind != "none" and find_spec("bitsandbytes") is None:
            print(f"bitsandbytes is not installed: {kind} is replaced by {self.dtype}", file=sys.stderr)
            kind = "none"
        self.quantized = kind != "none"
        torch.manual_seed(0)
        with torch.device("cpu" if kind != "none" else self.device):
            self.vlm = skeleton(config, self.dtype)
            for parameter in self.vlm.parameters():
                nn.init.normal_(parameter, 0.0, 0.02) if parameter.ndim > 1 else nn.init.ones_(parameter)
        quantize(self.vlm.language_model, kind, self.dtype, self.device)
        self.vlm.model.to(self.device)
        add_lora(self.vlm, 8, 16, 0.0)
        set_trainable(self.vlm, PartsSection())
        for parameter in self.vlm.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.vlm.train()
        self.vlm.model.vision_model.eval()
        text = config.text_config
        self.vlm.model.config.image_token_index = text.vocab_size - 1
        self.queries = config.num_query_tokens
        # All that the forward asks of the processor.
        self.vlm.processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=1))  # type: ignore[assignment]
        self.size = config.vision_config.image_size
        self.optimizer = torch.optim.AdamW([p for p in self.vlm.parameters() if p.requires_grad], lr=0.0, fused=True)

    def examples(self, per_image: int, step: int) -> list[Example]:
        """The texts of a step, so many a picture; the texts are the same for any number."""
        rng = np.random.default_rng(step)
        parts = np.array([share for share, _, _ in LENGTHS.values()], float)
        if self.arguments.descriptions is not None:  # which stand last
            parts[-1] = parts[:-1].sum() * self.arguments.descriptions / (1 - self.arguments.descriptions)
        shares = np.cumsum(parts)
        # One place in so many for each task: a batch has the shares of the mix but for rounding, several have them exactly.
        places = (np.arange(self.global_batch) + (0.6 + 0.618 * step) % 1) / self.global_batch
        tasks = rng.permutation(np.searchsorted(shares / shares[-1], places))

        def ids(mean: float, spread: float) -> list[int]:
            count = int(np.clip(round(rng.normal(mean, spread)), 1, LONGEST - 1))
            return [int(i) for i in rng.integers(10, 20_000, count)]

        rows = []
        for number, task in enumerate(tasks):
            _, prompt, answer = list(LENGTHS.values())[task]
            rows.append(Example(number // per_image, [*ids(*prompt), 1], [*ids(*answer), 1]))
        return rows

    def micro_batches(self, rows: Sequence[Example], variant: Variant) -> list[dict[str, Tensor]]:
        """As the variant forms them; a picture's pixels follow from its number."""
        size = variant.micro_batch or self.micro_batch
        if variant.stock:
            order = np.random.default_rng(len(rows)).permutation(len(rows)).tolist()
            parts = [order[i : i + size] for i in range(0, len(order), size)]
        else:
            pictures = [row.picture if variant.grouped else place for place, row in enumerate(rows)]
            lengths = [(len(row.prompt), len(row.answer)) if variant.sorted else (0,) for row in rows]
            if not self.vlm.is_encoder_decoder:
                lengths = [(sum(pair),) for pair in lengths]
            [parts] = deal(pictures, lengths, size)
        return [self._batch([rows[place] for place in part], variant) for part in parts]

    def _batch(self, rows: Sequence[Example], variant: Variant) -> dict[str, Tensor]:
        once = not variant.stock and variant.grouped
        wanted = list(dict.fromkeys(row.picture for row in rows)) if once else [row.picture for row in rows]
        pixels = [
            torch.randn(3, self.size, self.size, generator=torch.Generator().manual_seed(picture)) for picture in wanted
        ]
        index = [wanted.index(row.picture) for row in rows] if once else list(range(len(rows)))
        image = [self.vlm.model.config.image_token_index] * self.queries
        if self.vlm.is_encoder_decoder:
            texts, labels = [image + row.prompt for row in rows], [row.answer for row in rows]
        else:
            texts = [image + row.prompt[:-1] + row.answer for row in rows]
            labels = [
                [IGNORED] * (len(text) - len(row.answer)) + row.answer for text, row in zip(texts, rows, strict=True)
            ]
        batch = {
            "pixel_values": torch.stack(pixels),
            "image_index": torch.tensor(index).unsqueeze(1),
            "input_ids": pad_rows(texts, 0),
            "attention_mask": pad_rows([[1] * len(text) for text in texts], 0),
            "labels": pad_rows(labels, IGNORED),
        }
        return {name: value.to(self.device) for name, value in batch.items()}

    def loss(self, batch: dict[str, Tensor], variant: Variant) -> tuple[Tensor, int]:
        """Summed over the supervised tokens, and how many they are."""
        if variant.stock:
            tokens = int((batch["labels"] != IGNORED).sum())
            inputs = {name: value for name, value in batch.items() if name != "image_index"}
            inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
            return self.vlm.model(**inputs).loss * tokens, tokens
        if variant.chunked:
            values = self.vlm(batch)
            return values["loss_sum"], int(values["tokens"])
        features = self.vlm.encode_images(batch["pixel_values"])
        embedded = self.vlm.embed(batch["input_ids"], features, batch["image_index"])
        labels = batch["labels"]
        if self.vlm.is_encoder_decoder:
            hidden = self.vlm.decoder_states(labels, inputs_embeds=embedded, attention_mask=batch["attention_mask"])
        else:
            hidden, labels = self.vlm.causal_states(embedded, batch["attention_mask"])[:, :-1], labels[:, 1:]
        head = self.vlm.language_model.get_output_embeddings()
        logits = F.linear(hidden.to(head.weight.dtype), head.weight).float()
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total, int((labels != IGNORED).sum())

    def step(self, batches: Sequence[dict[str, Tensor]], variant: Variant) -> float:
        """Gradients of a global batch and an optimiser step; the mean loss."""
        self.checkpoint(variant.checkpointing)
        self.fuse(variant.fused and not variant.stock)
        total, tokens = 0.0, 0
        for batch in batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss, count = self.loss(batch, variant)
            loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss.detach()), tokens + count
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total / tokens

    def checkpoint(self, on: bool) -> None:
        """Recompute the language model's layers, or keep their activations."""
        if on:
            recompute_layers(self.vlm, ("llm",))
        else:
            model = self.vlm.language_model
            getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()

    def fuse(self, on: bool) -> None:
        """Compute LoRA and activation in fewer passes, or as PEFT and transformers do."""
        if on:
            fuse(self.vlm)
        else:
            for module in self.vlm.modules():
                module.__dict__.pop("forward", None)

    def memory(self, variant: Variant) -> tuple[int, int]:
        """Bytes at the worst moment of a step, in all and beyond those in use before."""
        if self.device.type == "cpu" and not self.arguments.only_memory:
            command = [sys.executable, __file__, *sys.argv[1:], "--only-memory", json.dumps(asdict(variant))]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, extra = json.loads(done.stdout.splitlines()[-1])
            return peak, extra
        batches = self.micro_batches(self.examples(variant.per_image, 1), variant)
        batches.sort(key=lambda batch: batch["labels"].numel() + batch["input_ids"].numel())
        self.step(batches[:1], variant)  # the optimiser's state is not of this step alone
        base = self.reset_peak()
        self.step(batches[:-4:-1], variant)
        return self.peak(), self.peak() - base

    def flops(self, variant: Variant, steps: int) -> float:
        """Of the timed steps; none are known of quantised layers."""
        if self.quantized:
            return math.nan
        with NoProducts(), FlopCounterMode(display=False) as counter:
            for step in range(1, steps + 1):
                self.step(self.micro_batches(self.examples(variant.per_image, step), variant), variant)
        return float(counter.get_total_flops())

    def measure(self, variants: Sequence[Variant], steps: int) -> dict[Variant, Measured]:
        """All variants in turn, step by step, so that a slow minute of the machine meets all of them."""
        found: dict[Variant, Measured] = {}
        for variant in variants:
            few = self.micro_batches(self.examples(variant.per_image, 0)[: self.micro_batch], variant)
            found[variant] = Measured([], self.flops(variant, steps), self.step(few, variant))
        for step in range(1, steps + 1):
            losses = {}
            for variant in variants:
                batches = self.micro_batches(self.examples(variant.per_image, step), variant)
                started = self.now()
                losses[variant.name] = self.step(batches, variant)
                found[variant].seconds.append(self.now() - started)
                found[variant].loss = losses[variant.name]
                print(f"{variant}: {found[variant]}", file=sys.stderr, flush=True)
            values = list(losses.values())
            if not max(values) - min(values) < 0.02:
                raise SystemExit(f"the variants do not compute the same loss: {losses}")
        return found

    def now(self) -> float:
        """Seconds, the device having done all; of a CPU its own, so that other programs on it do not count."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def reset_peak(self) -> int:
        """Start counting the peak anew; the bytes in use now."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set
        return _status("VmRSS")

    def peak(self) -> int:
        """Bytes at the worst moment."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else _status("VmHWM")

    def ceiling(self) -> float:
        """FLOP/s of a large matrix product in the type that the model computes in."""
        size = 8192 if self.device.type == "cuda" else 1024  # on the CPU less than a second for all
        a = torch.randn(size, size, device=self.device, dtype=self.dtype)
        rates = []
        for _ in range(8):
            started = self.now()
            _ = a @ a
            rates.append(2 * size**3 / (self.now() - started))
        return max(rates)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def middle_config(layers: int) -> Blip2Config:
    """ViT 384 x 12 (or so many layers), Q-Former 384 x 6, mT5-small with its vocabulary."""
    vision = Blip2VisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=6,
        image_size=224,
        patch_size=14,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=64, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536,
        encoder_hidden_size=384, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text = MT5Config(
        vocab_size=250_112, d_model=512, d_ff=1024, d_kv=64, num_heads=6, num_layers=8, num_decoder_layers=8,
        dropout_rate=0.0, decoder_start_token_id=0, use_cache=False,
    )  # fmt: skip
    text.tie_word_embeddings = False
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)


def full_config(llm: str) -> Blip2Config:
    """The paper's models, by the shapes that the package ships; dropout off, so that both sides agree."""
    eyes = base_config("Salesforce/blip2-flan-t5-xl")
    text: Any = base_config({"mt0": "bigscience/mt0-xl", "bloomz": "bigscience/bloomz-7b1"}[llm])
    text.use_cache = False
    eyes.qformer_config.hidden_dropout_prob = eyes.qformer_config.attention_probs_dropout_prob = 0.0
    if isinstance(text, BloomConfig):
        text.hidden_dropout = text.attention_dropout = 0.0
    else:
        text.dropout_rate = 0.0
    return Blip2Config(
        vision_config=eyes.vision_config, qformer_config=eyes.qformer_config, text_config=text,
        num_query_tokens=eyes.num_query_tokens,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--full", action="store_true", help="the paper's sizes instead of middle ones")
    parser.add_argument("--llm", default="mt0", choices=("mt0", "bloomz"), help="with --full")
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), help="instead of the paper's, with --full")
    parser.add_argument("--global-batch", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--vision-layers", type=int, default=12, help="without --full")
    parser.add_argument("--texts-per-image", default="1,2,4")
    parser.add_argument("--steps", type=int, default=2, help="timed, after a small one that is not")
    parser.add_argument("--descriptions", type=float, help="share of long descriptions, instead of the mix's 0.0045")
    parser.add_argument("--no-shares", action="store_true", help="leave out what each technique brings")
    parser.add_argument("--cap-gib", type=float, help="only run so many steps of ours within so much GPU memory")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the vision model")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only-memory", help=argparse.SUPPRESS)  # of one variant: what a process of its own is asked
    arguments = parser.parse_args()
    if arguments.cap_gib:
        torch.cuda.set_per_process_memory_fraction(
            arguments.cap_gib * 2**30 / torch.cuda.get_device_properties(0).total_memory
        )
    bench = Bench(arguments)
    if arguments.cap_gib:
        capped(bench, arguments)
        return
    if arguments.only_memory:
        print(json.dumps(bench.memory(Variant(**json.loads(arguments.only_memory)))))
        return
    rows: list[dict[str, Any]] = []
    tell = rows.append if arguments.json else show
    sides(bench, arguments, tell)
    if not arguments.no_shares:
        shares(bench, arguments, tell)
    if arguments.json:
        print(json.dumps(rows, indent=2))


Tell = Callable[[dict[str, Any]], None]


def sides(bench: Bench, arguments: argparse.Namespace, tell: Tell) -> None:
    """Rows (a) and (b) for each number of texts an image. Stock encodes an image a text: it is measured once."""
    numbers = [int(number) for number in arguments.texts_per_image.split(",")]
    kept = {"checkpointing": False}
    stock = Variant("stock", stock=True)
    half = Variant("stock, kept, half at once", stock=True, micro_batch=max(1, bench.micro_batch // 2), **kept)
    freer: dict[Variant, list[Variant]] = {stock: [Variant("stock, kept", stock=True, **kept), half]}
    for number in numbers:
        twice = Variant("ours, kept, twice at once", number, micro_batch=2 * bench.micro_batch, **kept)
        freer[Variant("ours", number)] = [twice, Variant("ours, kept", number, **kept)]
    memory = {variant: bench.memory(variant) for variant in freer}
    best = {}
    for given, others in freer.items():
        best[given] = given
        for variant in others:  # the fastest first
            memory[variant] = bench.memory(variant)
            print(f"{variant}: {memory[variant]}", file=sys.stderr, flush=True)
            if memory[variant][0] <= memory[stock][0]:
                best[given] = variant
                break
    found = bench.measure(list(dict.fromkeys([*freer, *best.values()])), arguments.steps)
    for variant, measured in found.items():
        measured.peak, measured.extra = memory[variant]
    # Kept activations need not be faster on every machine.
    fastest = {given: min((given, other), key=lambda v: sum(found[v].seconds)) for given, other in best.items()}
    ceiling = bench.ceiling()
    for ours in list(freer)[1:]:
        tell(compare(bench, ours.per_image, "a: same precision and checkpointing", found[ours], found[stock], ceiling))
        title = f"b: within the original's memory, {fastest[ours].name} against {fastest[stock].name}"
        tell(compare(bench, ours.per_image, title, found[fastest[ours]], found[fastest[stock]], ceiling))


def shares(bench: Bench, arguments: argparse.Namespace, tell: Tell) -> None:
    """What each technique brings at 2 texts an image: ours with all of them against ours without it."""
    kept: dict[str, Any] = {"per_image": 2, "checkpointing": False}
    ours = Variant("ours", **kept)
    without = {
        "image grouping": Variant("no grouping", grouped=False, **kept),
        "supervised tokens alone, in chunks": Variant("full logits", chunked=False, **kept),
        "batches by length": Variant("random order", sorted=False, **kept),
        "activations kept": Variant("checkpointed", per_image=2),
        "LoRA and activation in fewer passes": Variant("as PEFT has them", fused=False, **kept),
    }
    found = bench.measure([ours, *without.values()], arguments.steps)
    for variant, measured in found.items():
        measured.peak, measured.extra = bench.memory(variant)
    for technique, variant in without.items():
        tell(compare(bench, 2, f"share of: {technique}", found[ours], found[variant], 0.0))
    if arguments.compile:
        bench.vlm.model.vision_model = torch.compile(bench.vlm.model.vision_model, dynamic=True)
        compiled = bench.measure([ours], arguments.steps)[ours]
        compiled.peak, compiled.extra = found[ours].peak, found[ours].extra
        tell(compare(bench, 2, "share of: torch.compile of the vision model", compiled, found[ours], 0.0))


def compare(bench: Bench, per_image: int, name: str, ours: Measured, other: Measured, ceiling: float) -> dict[str, Any]:
    texts = bench.global_batch * len(ours.seconds)
    ratios = [theirs / own for own, theirs in zip(ours.seconds, other.seconds, strict=True)]
    row = {
        "comparison": name, "texts_per_image": per_image,
        "examples_per_second": texts / sum(ours.seconds), "against": texts / sum(other.seconds),
        "speedup": sum(other.seconds) / sum(ours.seconds), "speedup_least": min(ratios), "speedup_most": max(ratios),
        "flops_predict": other.flops / ours.flops if math.isfinite(ours.flops) else None,
        "peak_gib": ours.peak / 2**30, "peak_gib_against": other.peak / 2**30, "peak_ratio": ours.peak / other.peak,
        "beyond_weights_gib": ours.extra / 2**30, "beyond_weights_gib_against": other.extra / 2**30,
        "beyond_weights_ratio": ours.extra / max(other.extra, 1),
    }  # fmt: skip
    if ceiling and math.isfinite(ours.flops):
        row["share_of_matrix_ceiling"] = ours.flops / sum(ours.seconds) / ceiling
    return row


def show(row: dict[str, Any]) -> None:
    predicted = row["flops_predict"]
    counted = "FLOPs not counted" if predicted is None else f"FLOPs say {predicted:.2f}x"
    share = f", {row['share_of_matrix_ceiling']:.0%} of the matrix ceiling" if "share_of_matrix_ceiling" in row else ""
    print(
        f"{row['texts_per_image']} texts an image, {row['comparison']}: {row['examples_per_second']:.2f} against "
        f"{row['against']:.2f} texts/s = {row['speedup']:.2f}x ({row['speedup_least']:.2f} to {row['speedup_most']:.2f}; "
        f"{counted}); peak {row['peak_gib']:.2f} against {row['peak_gib_against']:.2f} GiB = "
        f"{row['peak_ratio']:.2f}x, beyond the weights {row['beyond_weights_gib']:.2f} against "
        f"{row['beyond_weights_gib_against']:.2f} = {row['beyond_weights_ratio']:.2f}x{share}",
        flush=True,
    )


def capped(bench: Bench, arguments: argparse.Namespace) -> None:
    """Steps of ours in a part of the card's memory, on the longest texts that a recipe allows."""
    rows = [Example(n // 2, [5] * LONGEST, [5] * LONGEST) for n in range(bench.micro_batch)]
    ours = Variant("ours")
    what = f"{arguments.steps} steps of micro-batch {bench.micro_batch} at {LONGEST} + {LONGEST} tokens"
    try:
        for _ in range(arguments.steps):
            bench.step(bench.micro_batches(rows, ours), ours)
    except torch.OutOfMemoryError as error:
        raise SystemExit(f"{what} do not fit {arguments.cap_gib} GiB: {error}") from error
    print(f"{what} within {arguments.cap_gib} GiB, peak {bench.peak() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
