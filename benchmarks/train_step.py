"""A training step against the original recipe in stock parts, on the same random weights and examples, in one run.

    python benchmarks/train_step.py                             # CPU, middle size, some minutes
    python benchmarks/train_step.py --device cuda --full        # ViT-g, Q-Former, mT0-XL int8; also --llm bloomz (NF4)
    python benchmarks/train_step.py --device cuda --full --cap-gib 12 --steps 20

Stock is transformers' Blip2ForConditionalGeneration with PEFT's LoRA as the original trained it: one image encoding a text,
batches in random order padded to their longest, logits of every position. Ours is mblip's forward on micro-batches dealt
by mblip.processing.grouping. Both take the same optimiser step; losses must agree. The middle size is a ViT of 384 x 12,
a Q-Former of 384 x 6 and an mT5-small with its real vocabulary of 250,112; nothing here comes from a network or a disk.

Lengths follow the paper's mix: shares of its tasks, and mean and spread in tokens as measured with a Unigram vocabulary of
24,000 on real rows (COCO and xFlickrCo captions, xGQA questions and answers, XVNLI sentences, quoted LLaVA turns).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, BloomConfig, MT5Config

from mblip.config import PartsSection
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
    stock: bool = False
    grouped: bool = True
    sorted: bool = True
    chunked: bool = True
    checkpointing: bool = True
    micro_batch: int = 0


@dataclass
class Measured:
    """Of a variant: seconds and bytes a step, its FLOPs, and the mean loss of its texts' tokens."""

    seconds: list[float]
    peak: int
    extra: int
    flops: float
    loss: float


class Bench:
    """A model, examples, and both ways to train on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.dtype = torch.bfloat16 if arguments.full else torch.float32
        self.micro_batch, self.global_batch = arguments.micro_batch, arguments.global_batch
        config = full_config(arguments.llm) if arguments.full else middle_config()
        kind = {"mt0": "int8", "bloomz": "nf4"}[arguments.llm] if arguments.full else "none"
        kind = arguments.quantization or kind
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
        """The texts of a step, so many a picture, in the mix's proportions."""
        rng = np.random.default_rng([per_image, step])
        shares = np.array([share for share, _, _ in LENGTHS.values()], float)
        tasks = rng.choice(len(LENGTHS), size=self.global_batch, p=shares / shares.sum())

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
            lengths = [len(row.prompt) + len(row.answer) if variant.sorted else 0 for row in rows]
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

    def step(self, rows: Sequence[Example], variant: Variant) -> float:
        """Gradients of a global batch and an optimiser step; the mean loss."""
        self.checkpoint(variant.checkpointing)
        total, tokens = 0.0, 0
        for batch in self.micro_batches(rows, variant):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                loss, count = self.loss(batch, variant)
            loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss), tokens + count
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

    def measure(self, variants: Sequence[Variant], per_image: int, steps: int) -> dict[str, Measured]:
        """All variants in turn, step by step, so that a slow minute of the machine meets all of them."""
        found: dict[str, Measured] = {}
        rows = self.examples(per_image, 0)
        self.step(rows[: self.micro_batch], variants[0])  # the optimiser's state is everyone's
        for variant in variants:  # memory and FLOPs
            base = self.reset_peak()
            with FlopCounterMode(display=False) as flops:
                loss = self.step(rows, variant)
            found[variant.name] = Measured([], self.peak(), self.peak() - base, float(flops.get_total_flops()), loss)
        for step in range(1, steps + 1):
            rows = self.examples(per_image, step)
            for variant in variants:
                started = self.now()
                self.step(rows, variant)
                found[variant.name].seconds.append(self.now() - started)
        losses = {name: round(value.loss, 3) for name, value in found.items()}
        if max(losses.values()) - min(losses.values()) > 0.02:
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
        size = 8192 if self.device.type == "cuda" else 1024
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


def middle_config() -> Blip2Config:
    """ViT 384 x 12, Q-Former 384 x 6, mT5-small with its vocabulary."""
    vision = Blip2VisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=12,
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
        dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    text.tie_word_embeddings = False
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=32)


def full_config(llm: str) -> Blip2Config:
    """The paper's models, by the shapes that the package ships; dropout off, so that both sides agree."""
    eyes = base_config("Salesforce/blip2-flan-t5-xl")
    text: Any = base_config({"mt0": "bigscience/mt0-xl", "bloomz": "bigscience/bloomz-7b1"}[llm])
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
    parser.add_argument("--global-batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--texts-per-image", default="1,2,4")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--no-shares", action="store_true", help="leave out what each technique brings")
    parser.add_argument("--cap-gib", type=float, help="only run so many steps of ours within so much GPU memory")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile of the vision model")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if arguments.cap_gib:
        capped(bench, arguments)
        return
    rows: list[dict[str, Any]] = []
    tell = rows.append if arguments.json else show
    ceiling = bench.ceiling()
    for per_image in map(int, arguments.texts_per_image.split(",")):
        ours, stock = Variant("ours"), Variant("stock", stock=True)
        free = [
            Variant("ours, activations kept", checkpointing=False),
            Variant("stock, kept", stock=True, checkpointing=False),
        ]
        found = bench.measure([stock, ours, *free], per_image, arguments.steps)
        tell(compare(bench, per_image, "a: same precision and checkpointing", found["ours"], found["stock"], ceiling))
        # The card that the original recipe needs: each side takes its fastest setting that fits.
        fits = {
            side: min(
                (m for name, m in found.items() if name.startswith(side) and m.peak <= found["stock"].peak * 1.01),
                key=lambda m: statistics.median(m.seconds),
            )
            for side in ("ours", "stock")
        }
        tell(compare(bench, per_image, "b: best within the original's memory", fits["ours"], fits["stock"], ceiling))
    if not arguments.no_shares:
        shares(bench, arguments, tell)
    if arguments.json:
        print(json.dumps(rows, indent=2))


def shares(bench: Bench, arguments: argparse.Namespace, tell: Callable[[dict[str, Any]], None]) -> None:
    """What each technique brings at 2 texts an image: ours without it against ours."""
    kept = {
        "image grouping": Variant("no grouping", grouped=False, checkpointing=False),
        "supervised tokens alone, in chunks": Variant("full logits", chunked=False, checkpointing=False),
        "batches by length": Variant("random order", sorted=False, checkpointing=False),
        "activations kept": Variant("checkpointed"),
    }
    ours = Variant("ours", checkpointing=False)
    found = bench.measure([ours, *kept.values()], 2, arguments.steps)
    for technique, variant in kept.items():
        tell(compare(bench, 2, f"share of: {technique}", found["ours"], found[variant.name], 0.0))
    if arguments.compile:
        plain = bench.measure([ours], 2, arguments.steps)["ours"]
        bench.vlm.model.vision_model = torch.compile(bench.vlm.model.vision_model)
        tell(
            compare(
                bench,
                2,
                "share of: torch.compile of the vision model",
                bench.measure([ours], 2, arguments.steps)["ours"],
                plain,
                0.0,
            )
        )


def compare(bench: Bench, per_image: int, name: str, ours: Measured, other: Measured, ceiling: float) -> dict[str, Any]:
    ratios = [theirs / own for own, theirs in zip(ours.seconds, other.seconds, strict=True)]
    row = {
        "comparison": name, "texts_per_image": per_image,
        "examples_per_second": bench.global_batch / statistics.median(ours.seconds),
        "against": bench.global_batch / statistics.median(other.seconds),
        "speedup": statistics.median(ratios), "speedup_least": min(ratios), "speedup_most": max(ratios),
        "flops_predict": other.flops / ours.flops,
        "peak_gib": ours.peak / 2**30, "peak_gib_against": other.peak / 2**30, "peak_ratio": ours.peak / other.peak,
        "beyond_weights_ratio": ours.extra / max(other.extra, 1),
    }  # fmt: skip
    if ceiling:
        row["share_of_matrix_ceiling"] = ours.flops / statistics.median(ours.seconds) / ceiling
    return row


def show(row: dict[str, Any]) -> None:
    share = f", {row['share_of_matrix_ceiling']:.0%} of the matrix ceiling" if "share_of_matrix_ceiling" in row else ""
    print(
        f"{row['texts_per_image']} texts an image, {row['comparison']}: {row['examples_per_second']:.2f} against "
        f"{row['against']:.2f} texts/s = {row['speedup']:.2f}x ({row['speedup_least']:.2f} to {row['speedup_most']:.2f}; "
        f"FLOPs say {row['flops_predict']:.2f}x); peak {row['peak_gib']:.2f} against {row['peak_gib_against']:.2f} GiB = "
        f"{row['peak_ratio']:.2f}x, beyond the weights {row['beyond_weights_ratio']:.2f}x{share}",
        flush=True,
    )


def capped(bench: Bench, arguments: argparse.Namespace) -> None:
    """Steps of ours in a part of the card's memory, the longest texts that a recipe allows."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(arguments.cap_gib * 2**30 / total)
    rows = [Example(n // 2, [5] * LONGEST, [5] * LONGEST) for n in range(bench.micro_batch)]
    for _ in range(arguments.steps):
        bench.step(rows, Variant("ours"))
    print(f"{arguments.steps} steps of micro-batch {bench.micro_batch} at {LONGEST} + {LONGEST} tokens within "
          f"{arguments.cap_gib} GiB, peak {bench.peak() / 2**30:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
