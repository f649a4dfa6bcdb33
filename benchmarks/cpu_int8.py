"""Which int8 is faster than fp32 on this CPU: python benchmarks/cpu_int8.py [--threads N] [--seconds S].

Linear layers of WIDTH -> 4 x WIDTH on the rows of a decoding step (5 beams), of a batch's step (160) and of an encoder's
batch (1,280): bf16, bitsandbytes' LLM.int8 and mblip.models.cpu_int8, as times the speed of fp32 (processor time; each the
best of several turns that take each other in turn), and our error. Then the answers of a model of middle size with random
weights (width 512), a caption of 20 tokens with 5 beams for each of 8 pictures, alone and in one batch.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, MT5Config

from mblip.models.cpu_int8 import Int8Linear, is_faster, to_int8
from mblip.models.quantize import quantize
from mblip.models.vision_llm import VisionLLM

TURNS = 5


def best(kinds: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Processor seconds of one call of each."""
    found = dict.fromkeys(kinds, float("inf"))
    for _ in range(TURNS):
        for name, call in kinds.items():
            calls, begun = 0, time.process_time()
            while calls < 2 or time.process_time() - begun < seconds:
                call()
                calls += 1
            found[name] = min(found[name], (time.process_time() - begun) / calls)
    return found


def layers(seconds: float) -> None:
    print(f"{'width':>6}{'rows':>6}{'fp32 ms':>9}{'bf16':>7}{'LLM.int8':>10}{'ours':>7}{'error':>8}")
    for width in (128, 256, 512, 1024, 2048):
        plain = torch.nn.Linear(width, 4 * width, bias=False)
        parent: Any = torch.nn.Sequential(plain)
        half = torch.nn.Linear(width, 4 * width, bias=False, dtype=torch.bfloat16)
        ours = Int8Linear(plain)
        parent.get_output_embeddings = lambda: None
        quantize(parent, "int8", torch.float32)
        for rows in (5, 160, 1280):
            hidden = torch.randn(rows, width)
            halved = hidden.bfloat16()
            kinds = {
                "fp32": partial(plain, hidden),
                "bf16": partial(half, halved),
                "bnb": partial(parent, hidden),
                "ours": partial(ours, hidden),
            }
            times = best(kinds, seconds)
            error = float((ours(hidden) - plain(hidden)).norm() / plain(hidden).norm())
            shares = {name: times["fp32"] / times[name] for name in kinds}
            print(
                f"{width:>6}{rows:>6}{1000 * times['fp32']:>9.3f}{shares['bf16']:>7.2f}{shares['bnb']:>10.2f}"
                f"{shares['ours']:>7.2f}{error:>8.4f}",
                flush=True,
            )


def answers() -> None:
    from evaluate import processor

    text = MT5Config(vocab_size=12_000, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=8)
    text.decoder_start_token_id, text.tie_word_embeddings = 0, False
    vision = Blip2VisionConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=6)
    qformer = Blip2QFormerConfig(hidden_size=96, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4,
                                 encoder_hidden_size=192, cross_attention_frequency=2)  # fmt: skip
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, image_token_index=3)
    torch.manual_seed(0)
    model = VisionLLM(Blip2ForConditionalGeneration(config).eval(), processor(12_000))
    model.model.generation_config.eos_token_id = None
    pictures = [Image.effect_noise((224, 224), 30 + number).convert("RGB") for number in range(8)]
    prompts = [" ".join(f"w{number}" for number in range(4, 9 + place)) for place in range(8)]

    def times() -> tuple[float, float]:
        how = {"num_beams": 5, "max_new_tokens": 20, "repetition_penalty": 1.5}
        model.generate(pictures[:1], prompts[:1], **how)
        begun = time.process_time()
        for picture, prompt in zip(pictures, prompts, strict=True):
            model.generate([picture], [prompt], **how)
        alone = time.process_time()
        model.generate(pictures, prompts, **how)
        return alone - begun, time.process_time() - alone

    plain = times()
    changed = to_int8(model.language_model)
    packed = times()
    print(f"8 captions, {changed} layers changed: one by one {plain[0]:.1f} -> {packed[0]:.1f} s, "
          f"in one batch {plain[1]:.1f} -> {packed[1]:.1f} s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1, help="of processor time, for each turn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, int8 faster: {is_faster()}")
    with torch.inference_mode():
        answers()
        layers(options.seconds)


if __name__ == "__main__":
    main()
