"""Tiny checkpoints with random weights in the layouts that exist in the wild, built offline from fixed seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "house",
    "tree",
    "red",
    "blue",
    "two",
    "three",
    "on",
    "in",
    "is",
    "of",
    "and",
    "what",
    "who",
    "where",
    "how",
    "many",
    "there",
    "Question:",
    "Short",
    "answer",
    "in",
    "English:",
    "German:",
    "Caption",
    "Hund",
    "Katze",
    "Haus",
    "Baum",
    "rot",
    "blau",
    "zwei",
    "drei",
    "auf",
    "ist",
    "ein",
    "eine",
    "perro",
    "gato",
    "casa",
    "rojo",
    "azul",
    "dos",
    "tres",
    "yes",
    "no",
    "maybe",
    "ja",
    "nein",
    "собака",
    "кошка",
    "дом",
    "犬",
    "猫",
    "家",
    "红",
    "蓝",
    "कुत्ता",
    "बिल्ली",
    "mbwa",
    "paka",
    "nyumba",
]
SIDE, QUERIES, WIDTH = 32, 4, 32

# family -> (config class, its sizes, whether the head is a table of its own, the kind of tokeniser)
FAMILIES: dict[str, tuple[str, dict[str, Any], bool, str]] = {
    "mt5": ("MT5Config", {"d_model": WIDTH, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}, True, "unigram"),
    "t5": ("T5Config", {"d_model": WIDTH, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}, False, "unigram"),
    "umt5": ("UMT5Config", {"d_model": WIDTH, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}, True, "unigram"),
    "bloom": ("BloomConfig", {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4}, False, "bytes"),
    "opt": (
        "OPTConfig",
        {"hidden_size": WIDTH, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "word_embed_proj_dim": WIDTH, "max_position_embeddings": 128},
        False,
        "bytes",
    ),
    "llama": ("LlamaConfig", {}, True, "unigram-bos"),
    "mistral": ("MistralConfig", {}, True, "unigram-bos"),
    "qwen2": ("Qwen2Config", {}, True, "bytes"),
    "qwen3": ("Qwen3Config", {"head_dim": 8}, True, "bytes"),
    "gemma": ("GemmaConfig", {"head_dim": 8}, False, "unigram-bos"),
    "gemma2": ("Gemma2Config", {"head_dim": 8}, False, "unigram-bos"),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 16}, False, "unigram-bos"),
    "cohere": ("CohereConfig", {}, False, "bytes"),
}  # fmt: skip
_SIZES = {
    "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokeniser: ``unigram`` ends texts as T5 does, ``unigram-bos`` begins them, ``bytes`` does neither."""
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        specials = ["<unk>", "<s>", "</s>", "<pad>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
        core.train_from_iterator([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))], trainer)
    else:
        specials = ["<pad>", "</s>", "<unk>", "<s>"]
        pieces = ["▁" + word for word in dict.fromkeys(WORDS)]
        letters = sorted({"▁", *"".join(WORDS)} - set(pieces))
        # Written down rather than trained, since the trainer's result differs from run to run.
        vocabulary = [(token, 0.0) for token in specials]
        vocabulary += [(piece, -3.0) for piece in pieces] + [(letter, -6.0) for letter in letters]
        core = Tokenizer(models.Unigram(vocabulary, unk_id=2))
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
    ends = [(token, core.token_to_id(token)) for token in ("<s>", "</s>")]
    if kind == "unigram":
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ends)
    if kind == "unigram-bos":
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def llm(folder: Path, family: str, *, unused_rows: int = 12, seed: int = 0, **changes: Any) -> Path:
    """A language model and its tokeniser; ``unused_rows`` embedding rows belong to no token."""
    config_class, sizes, separate_head, kind = FAMILIES[family]
    text = tokenizer(kind)
    decoder_only = not config_class.endswith("T5Config")
    sizes = {
        **(_SIZES if decoder_only and "n_layer" not in sizes and "ffn_dim" not in sizes else {}),
        **sizes,
        **changes,
    }
    config = getattr(transformers, config_class)(
        vocab_size=len(text) + unused_rows, pad_token_id=text.pad_token_id, eos_token_id=text.eos_token_id,
        bos_token_id=text.bos_token_id, tie_word_embeddings=not separate_head,
        **sizes, **({} if decoder_only else {"decoder_start_token_id": text.pad_token_id, "feed_forward_proj": "gated-gelu"}),
    )  # fmt: skip
    torch.manual_seed(seed)
    auto = transformers.AutoModelForCausalLM if decoder_only else transformers.AutoModelForSeq2SeqLM
    model = auto.from_config(config)
    randomize(model, seed)
    if separate_head:
        separate(model, seed)
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    config_file = folder / "config.json"  # as published: what MT5Config makes of it is another matter
    saved = json.loads(config_file.read_text()) | {"tie_word_embeddings": not separate_head}
    config_file.write_text(json.dumps(saved, indent=1))
    return folder


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that answers differ between images and prompts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.35)


def separate(model: Any, seed: int) -> None:
    """Give a language model an output head of its own, whatever its configuration says."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    generator = torch.Generator().manual_seed(seed + 1)
    head.weight = torch.nn.Parameter(torch.randn(table.weight.shape, generator=generator) * 0.35)


def blip2(folder: Path, family: str = "t5", *, seed: int = 0, **changes: Any) -> Path:
    """A stock Blip2 checkpoint of today's layout around a language model of this family."""
    language = llm(folder / "llm", family, seed=seed, **changes)
    model, text = _around(language, family, seed)
    tokens = Blip2Processor(_image_processor(), text, num_query_tokens=QUERIES)
    model.config.image_token_index = text.convert_tokens_to_ids("<image>")
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


# What every configuration of transformers 4.31 spelled out; today some of it belongs to generation settings.
LEGACY = {
    "add_cross_attention": False, "architectures": None, "bad_words_ids": None, "begin_suppress_tokens": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "exponential_decay_length_penalty": None,
    "finetuning_task": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_attentions": False,
    "output_hidden_states": False, "output_scores": False, "prefix": None, "problem_type": None, "pruned_heads": {},
    "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "sep_token_id": None, "suppress_tokens": None, "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": "float32",
    "torchscript": False, "transformers_version": "4.31.0", "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip


def published(
    folder: Path,
    family: str = "mt5",
    *,
    safetensors: bool = True,
    shards: int = 2,
    seed: int = 0,
    unused_rows: int = 12,
    tied: bool = False,
    without: tuple[str, ...] = (),
) -> Path:
    """A checkpoint in the layout of the models published in 2023.

    ``architectures: ["mBLIP"]``, no image token in config or tokeniser, no ``num_query_tokens`` in the processor, an
    output head of its own, sharded safetensors or ``pytorch_model-*.bin``.

    Args:
        folder: Where to.
        family: Of the language model.
        safetensors: Which of the two formats.
        shards: Number of files.
        seed: Of the weights.
        unused_rows: Embedding rows that belong to no token.
        tied: Let the configuration say, against the files, that the head is tied.
        without: Names of tensors to leave out.
    """
    language = llm(folder / "llm", family, seed=seed, unused_rows=unused_rows)
    model, text = _around(language, family, seed)
    if model.language_model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        separate(model.language_model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    for section in ("vision_config", "qformer_config", "text_config"):
        config[section] = {**LEGACY, **{key: value for key, value in config[section].items() if key != "dtype"}}
    del config["image_token_index"]
    config.pop("dtype", None)
    config |= {"architectures": ["mBLIP"], "torch_dtype": "float32", "transformers_version": "4.31.0"}
    config |= {
        "use_decoder_only_language_model": not model.language_model.config.is_encoder_decoder,
        "tie_word_embeddings": tied,
    }
    config["text_config"]["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    text.save_pretrained(folder)
    image = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"height": SIDE, "width": SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    state = {name: value for name, value in model.state_dict().items() if name not in without}
    assert len(state) == len(model.state_dict()) - len(without)
    write_shards(folder, state, safetensors=safetensors, shards=shards)
    return folder


def write_shards(folder: Path, state: dict[str, torch.Tensor], *, safetensors: bool, shards: int) -> None:
    """Weights in so many files, with an index where there are several."""
    from safetensors.torch import save_file

    stem, ending = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    names = sorted(state)
    parts = [names[i::shards] for i in range(shards)]
    files = [f"{stem}-{i + 1:05}-of-{shards:05}.{ending}" if shards > 1 else f"{stem}.{ending}" for i in range(shards)]
    for file, part in zip(files, parts, strict=True):
        tensors = {name: state[name].detach().clone().contiguous() for name in part}
        if safetensors:
            save_file(tensors, folder / file, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / file)
    if shards > 1:
        index = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        size = sum(value.numel() * value.element_size() for value in state.values())
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": index})
        (folder / f"{stem}.{ending}.index.json").write_text(text)


def _around(language: Path, family: str, seed: int) -> tuple[Blip2ForConditionalGeneration, Any]:
    decoder_only = not FAMILIES[family][0].endswith("T5Config")
    auto = transformers.AutoModelForCausalLM if decoder_only else transformers.AutoModelForSeq2SeqLM
    inner = auto.from_pretrained(language)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE,
            patch_size=8, initializer_range=0.02,
        ),
        qformer_config=Blip2QFormerConfig(
            hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, encoder_hidden_size=24,
            vocab_size=10, max_position_embeddings=16,
        ),
        text_config=inner.config, num_query_tokens=QUERIES,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config).eval()
    randomize(model, seed)
    torch.nn.init.normal_(model.query_tokens)
    model.language_model = inner.eval()
    return model, transformers.AutoTokenizer.from_pretrained(language)


def _image_processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
