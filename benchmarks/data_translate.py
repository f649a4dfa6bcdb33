"""Translation on a CPU: CTranslate2 int8 against transformers ``generate``, and what sorting and de-duplication give.

    python benchmarks/data_translate.py --model facebook/nllb-200-distilled-600M --texts captions.txt

Both run the same model with the same beams and batches on one thread; rates are texts a second of processor time. Without
``--model``, a randomly initialised model of NLLB's layout is made (--width, --layers); random models talk until the limit,
so every text costs the same number of steps: state that beside the figures. Without ``--texts``, sentences of 3 to 40
words are drawn, every fifth one twice.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from mblip.translation.engines import Engine, open_engine

WORDS = [
    "the",
    "a",
    "dog",
    "cat",
    "red",
    "green",
    "boat",
    "house",
    "tree",
    "woman",
    "man",
    "car",
    "on",
    "in",
    "under",
    "with",
    "small",
    "old",
    "two",
    "three",
    "runs",
    "sits",
]


def make_model(folder: Path, width: int, layers: int) -> None:
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    torch.manual_seed(0)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz.,"]
    merges: list[str] = []
    tokenizer = NllbTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    config = M2M100Config(
        vocab_size=32_000, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=width // 64, decoder_attention_heads=width // 64, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=512, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        decoder_start_token_id=2, init_std=0.1, dropout=0.0,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert(model: str, folder: Path) -> None:
    import ctranslate2

    files = ["tokenizer.json", "tokenizer_config.json"]
    ctranslate2.converters.TransformersConverter(model, copy_files=files).convert(str(folder), quantization="int8")


def draw_texts(count: int) -> list[str]:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice([3, 5, 8, 12, 20, 40]))) for _ in range(count - count // 5)]
    texts += draw.sample(texts, count // 5)
    draw.shuffle(texts)
    return texts


def timed(engine: Engine, texts: list[str], target: str) -> float:
    engine.translate(texts[:2], "en", target)
    started = time.process_time()  # of all threads: what a busy machine does not change
    engine.translate(texts, "en", target)
    return len(texts) / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--target", default="de")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    texts = arguments.texts.read_text().splitlines() if arguments.texts else draw_texts(arguments.count)
    distinct = list(dict.fromkeys(texts))
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or f"{scratch}/hf"
        if not arguments.model:
            make_model(Path(model), arguments.width, arguments.layers)
        convert(model, Path(scratch) / "ct2")
        shared = {
            "device": "cpu", "beams": arguments.beams, "batch_tokens": arguments.batch_tokens,
            "max_tokens": arguments.max_tokens,
        }  # fmt: skip
        unsorted = open_engine("transformers", shared | {"model": model, "sort": False})
        slow = open_engine("transformers", shared | {"model": model})
        fast = open_engine("ctranslate2", shared | {"model": f"{scratch}/ct2", "threads": 1})
        rates = {
            "transformers, as the texts come": timed(unsorted, texts, arguments.target),
            "transformers, sorted by length": timed(slow, texts, arguments.target),
            "ctranslate2 int8": timed(fast, texts, arguments.target),
        }
    sizes = {"texts": len(texts), "distinct": len(distinct)}
    print(json.dumps(sizes | {name: round(rate, 2) for name, rate in rates.items()}))
    first, second, third = rates.values()
    print(
        f"sorting: {second / first:.2f}x; de-duplication: {len(texts) / len(distinct):.2f}x; int8: {third / second:.2f}x"
    )


if __name__ == "__main__":
    main()
