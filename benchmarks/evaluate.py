"""Answers a second against stock generation, in one run: python benchmarks/evaluate.py [--images N] [--batch N] [--full].

``--container llava [--image-tokens 576] [--beams N]`` measures a LLaVA: SigLIP 192 x 12, an MLP and a Llama 256 x 10,
whose keys and values of an image all questions about it share (``mblip.models.speedups.shared_prefix``).

Two jobs: the shape of xGQA (8 languages x 24 questions an image, answers of 3 tokens) and that of XM3600 (a caption of 20
tokens in each of 36 languages an image). Both sides have the same random weights, prompts, pictures and beams (5), and give
the same answers, which is asserted. Stock is transformers' Blip2ForConditionalGeneration and Blip2Processor as harnesses
drive them: one language after the other, batches in the order of the file, a picture encoded for each of its texts.

The model has the paper's proportions (EVA-CLIP ViT-g and mT0-XL) at about 1/160 of the FLOPs a text: ViT 192 x 12 on 257
patches, Q-Former 96 x 6 with 32 queries, mT5 256 x 10 + 10 with 12,000 pieces. Random weights never end a text, so that
lengths are set: 3 tokens for an answer, 20 for a caption. ``--full`` is the paper's size, for a GPU. On a CPU, seconds are
processor time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MT5Config,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mblip.models.generation import Generator, Request
from mblip.models.speedups import speed_up
from mblip.models.vision_llm import VisionLLM
from step import meters

QUERIES = 32
JOBS: dict[str, dict[str, Any]] = {
    "xGQA": {"languages": 8, "texts": 24, "words": (10, 30), "tokens": 3, "length_penalty": -1.0},
    "XM3600": {"languages": 36, "texts": 1, "words": (4, 5), "tokens": 20, "length_penalty": 1.0},
}


def tokenizer(pieces: int, ends: bool) -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "<image>"])}
    words |= {f"w{number}": number for number in range(len(words), pieces)}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    if ends:
        core.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def processor(pieces: int, side: int = 224) -> Blip2Processor:
    pixels = BlipImageProcessorPil(size={"height": side, "width": side})
    return Blip2Processor(pixels, tokenizer(pieces, ends=True), num_query_tokens=QUERIES)


def build_llava(image_tokens: int, device: str) -> VisionLLM:
    pieces, side = 12_000, round(image_tokens**0.5)
    vision = SiglipVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=6, image_size=16 * side,
        patch_size=16, vision_use_head=False,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=pieces, hidden_size=256, intermediate_size=512, num_hidden_layers=10, num_attention_heads=4,
        num_key_value_heads=4, eos_token_id=1, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_seq_length=side**2,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config).eval()
    # Pictures and words must both make a difference, and no two words may be about as likely as each other.
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for parameter in model.model.language_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.2)
    words = tokenizer(pieces, ends=False)
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    words.padding_side = "left"
    pixels = SiglipImageProcessorPil(size={"height": 16 * side, "width": 16 * side})
    parts = {"patch_size": 16, "vision_feature_select_strategy": "full"}
    vlm = VisionLLM(model, LlavaProcessor(pixels, words, **parts))
    print(f"speed-ups that cannot be used: {speed_up(vlm) or 'none'}")
    return vlm


def blip2_config(full: bool) -> Blip2Config:
    """The paper's size, or its proportions."""
    if full:
        vision, qformer = Blip2VisionConfig(), Blip2QFormerConfig()
        text = MT5Config(vocab_size=250_112, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32)
    else:
        vision = Blip2VisionConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=6)
        qformer = Blip2QFormerConfig(
            hidden_size=96, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, encoder_hidden_size=192,
            cross_attention_frequency=2,
        )  # fmt: skip
        text = MT5Config(vocab_size=12_000, d_model=256, d_kv=64, d_ff=512, num_layers=10, num_heads=4)
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES)


def build(config: Blip2Config, device: str, dtype: torch.dtype = torch.float32) -> VisionLLM:
    """Random weights."""
    text = config.text_config
    text.decoder_start_token_id, text.tie_word_embeddings = 0, False
    config.vision_config.initializer_range = 0.02
    config.image_token_index = 3
    torch.manual_seed(0)
    with torch.device(device):
        model = Blip2ForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    # Pictures must make a difference, and no two words may be about as likely as each other.
    torch.nn.init.normal_(model.language_projection.weight, std=0.2)
    torch.nn.init.normal_(model.language_model.lm_head.weight, std=0.2)
    model.generation_config.eos_token_id = None
    return VisionLLM(model.to(dtype), processor(text.vocab_size, config.vision_config.image_size))


def job(images: int, languages: int, texts: int, words: tuple[int, int], pieces: int) -> list[list[Request]]:
    """The requests of each language."""
    draw = random.Random(0)

    def prompt() -> str:
        return " ".join(f"w{draw.randrange(4, pieces)}" for _ in range(draw.randint(*words)))

    return [
        [Request(f"{language}-{image}-{n}", (str(image),), prompt()) for image in range(images) for n in range(texts)]
        for language in range(languages)
    ]


def stock(
    vlm: VisionLLM, pictures: dict[str, Image.Image], requests: Sequence[Request], batch: int, how: dict[str, Any]
) -> dict[str, str]:
    answers: dict[str, str] = {}
    before = "<image>\n" if vlm.container.images_in_text else ""
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        inputs = vlm.processor(
            images=[pictures[request.images[0]] for request in part], text=[before + request.prompt for request in part],
            padding=True, return_tensors="pt",
        ).to(vlm.device, vlm.model.dtype)  # fmt: skip
        with torch.inference_mode():
            ids = vlm.model.generate(**inputs, **how)
        if before:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = vlm.processor.batch_decode(ids, skip_special_tokens=True)
        answers.update((request.id, text.strip()) for request, text in zip(part, texts, strict=True))
    return answers


def expected(config: Blip2Config, texts: int, prompts: Sequence[int], batch: int, tokens: int) -> float:
    """The ratio that counting multiplications and additions alone predicts.

    Args:
        config: Of the model.
        texts: Of an image.
        prompts: Tokens of each prompt, the image's included, in the order of the file.
        batch: Texts that run together.
        tokens: Of an answer.
    """
    vision, qformer, text = config.vision_config, config.qformer_config, config.text_config
    patches, width, inner = (
        (vision.image_size // vision.patch_size) ** 2 + 1,
        vision.hidden_size,
        vision.intermediate_size,
    )
    layer = 2 * patches * (4 * width**2 + 2 * width * inner) + 4 * patches**2 * width
    small = qformer.hidden_size
    block = 2 * QUERIES * (4 * small**2 + 2 * small * qformer.intermediate_size)
    across = 4 * QUERIES * small**2 + 4 * patches * width * small
    image = vision.num_hidden_layers * layer + qformer.num_hidden_layers * (block + across / 2)
    model, keys = text.d_model, text.num_heads * text.d_kv

    def encoder(length: float) -> float:
        return text.num_layers * (2 * length * (4 * model * keys + 3 * model * text.d_ff) + 4 * length**2 * keys)

    def cross(length: float) -> float:
        return 4 * text.num_layers * length * model * keys

    def decoder(length: float) -> float:
        step = text.num_layers * (2 * (6 * model * keys + 3 * model * text.d_ff) + 4 * length * keys)
        return 5 * tokens * (step + 2 * model * text.vocab_size)

    mean = sum(prompts) / len(prompts)
    padded = [max(prompts[start : start + batch]) for start in range(0, len(prompts), batch)]
    longest = sum(padded) / len(padded)
    stock = image + encoder(longest) + 5 * cross(longest) + decoder(longest)
    return stock / (image / texts + encoder(mean) + cross(mean) + decoder(mean))


def expected_llava(config: LlavaConfig, texts: int, words: Sequence[int], batch: int, tokens: int, beams: int) -> float:
    """As :func:`expected`, of a LLaVA; ``words`` are the tokens of each prompt without those of its image."""
    vision, text = config.vision_config, config.text_config
    patches, width = config.image_seq_length, vision.hidden_size
    layer = 2 * patches * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * patches**2 * width
    model = text.hidden_size
    image = vision.num_hidden_layers * layer + 2 * patches * (width * model + model**2)
    each = 2 * (4 * model**2 + 3 * model * text.intermediate_size)

    def read(count: float, before: float) -> float:
        return text.num_hidden_layers * count * (each + 4 * model * (before + count / 2))

    def write(before: float) -> float:
        step = text.num_hidden_layers * (each + 4 * model * (before + tokens / 2)) + 2 * model * text.vocab_size
        return beams * tokens * step

    mean = sum(words) / len(words)
    padded = [max(words[start : start + batch]) for start in range(0, len(words), batch)]
    longest = sum(padded) / len(padded)
    # Stock reads a prompt anew for every beam.
    stock = image + beams * read(patches + longest, 0) + write(patches + longest)
    ours = (image + read(patches, 0)) / texts + read(mean, patches) + write(patches + mean)
    return stock / ours


def compare(
    vlm: VisionLLM, shape: dict[str, Any], images: int, batch: int = 64, beams: int = 5, exact: bool = True
) -> dict[str, Any]:
    """Both sides on the same requests, stock first.

    Args:
        vlm: The model.
        shape: Of the requests, a value of :data:`JOBS`.
        images: Generated pictures that are asked about.
        batch: Texts that run together.
        beams: Of the search.
        exact: Whether answers that differ are an error; in bf16 some do.
    """
    # Processor time is what a quiet machine would take; a GPU's work shows in the wall clock alone.
    clock = time.process_time if vlm.device.type == "cpu" else time.perf_counter
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (images, 6, 8, 3), np.uint8)
    pictures = {
        str(n): Image.fromarray(grid).resize((640, 480), Image.Resampling.BICUBIC) for n, grid in enumerate(coarse)
    }
    parts = job(images, shape["languages"], shape["texts"], shape["words"], len(vlm.tokenizer))
    how = {
        "num_beams": beams, "max_new_tokens": shape["tokens"], "min_new_tokens": shape["tokens"],
        "length_penalty": shape["length_penalty"], "do_sample": False,
    }  # fmt: skip
    every = [request for part in parts for request in part]
    # What is made at the first call is not timed.
    stock(vlm, pictures, parts[0][:batch], batch, how)
    Generator(vlm, pictures.__getitem__, batch_size=batch, **how).texts(every[:batch])
    meters.reset_peak(vlm.device)
    started = clock()
    theirs: dict[str, str] = {}
    for part in parts:
        theirs |= stock(vlm, pictures, part, batch, how)
    their_seconds, their_peak = clock() - started, meters.peak(vlm.device)
    meters.reset_peak(vlm.device)
    started = clock()
    generator = Generator(vlm, pictures.__getitem__, batch_size=batch, **how)
    ours = {request.id: answer for request, answer in generator.answers(every)}
    our_seconds, our_peak = clock() - started, meters.peak(vlm.device)
    differing = sum(ours[key] != theirs[key] for key in theirs)
    if len(set(ours.values())) <= len(ours) / 10:
        raise SystemExit("the answers do not depend on what is asked, so their speed compares nothing")
    if differing and exact:
        raise SystemExit(f"{differing} of {len(theirs)} answers differ")
    words = [len(request.prompt.split()) for request in every]
    per_image = shape["languages"] * shape["texts"]
    if vlm.container.images_in_text:
        each = (vlm.model.config, per_image, words, batch, shape["tokens"], beams)
        predicted = expected_llava(*each)
    else:
        lengths = [QUERIES + count + 1 for count in words]
        predicted = expected(vlm.model.config, per_image, lengths, batch, shape["tokens"])
    return {
        "texts": len(theirs), "images": images, "texts_per_image": per_image, "batch": batch, "beams": beams,
        "tokens": shape["tokens"], "texts_per_second": len(theirs) / our_seconds,
        "against": len(theirs) / their_seconds, "speedup": their_seconds / our_seconds, "flops_predict": predicted,
        "answers_that_differ": differing, "peak_gib": our_peak / 2**30, "peak_gib_against": their_peak / 2**30,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--container", default="blip2", choices=("blip2", "llava"))
    parser.add_argument("--image-tokens", type=int, default=576, help="of a LLaVA; a square")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--languages", type=int, help="instead of the job's own, for a shorter run")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if options.full else torch.float32
    if options.container == "llava":
        vlm = build_llava(options.image_tokens, device)
    else:
        vlm = build(blip2_config(options.full), device, dtype)
    print(f"{device}, {torch.get_num_threads()} threads, batches of {options.batch}, torch {torch.__version__}")
    for name in options.jobs:
        shape = {**JOBS[name], **({"languages": options.languages} if options.languages else {})}
        row = compare(vlm, shape, options.images, options.batch, options.beams, exact=not options.full)
        print(
            f"{name}: {row['texts']:,} texts on {row['images']} images; stock {row['against']:.2f}/s, mblip "
            f"{row['texts_per_second']:.2f}/s: {row['speedup']:.2f} times, {row['flops_predict']:.2f} by FLOPs; "
            f"answers that differ: {row['answers_that_differ']}"
        )


if __name__ == "__main__":
    main()
