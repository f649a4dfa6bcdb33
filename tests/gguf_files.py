"""GGUF files as llama.cpp's converter writes them, of tiny models with random weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tests import checkpoints
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

WIDTH, HEADS, KEYS = 32, 4, 2
# Names of llama.cpp by those of transformers; {n} is the layer.
_NAMES = {
    "model.layers.{n}.self_attn.q_proj": "blk.{n}.attn_q", "model.layers.{n}.self_attn.k_proj": "blk.{n}.attn_k",
    "model.layers.{n}.self_attn.v_proj": "blk.{n}.attn_v", "model.layers.{n}.self_attn.o_proj": "blk.{n}.attn_output",
    "model.layers.{n}.mlp.gate_proj": "blk.{n}.ffn_gate", "model.layers.{n}.mlp.up_proj": "blk.{n}.ffn_up",
    "model.layers.{n}.mlp.down_proj": "blk.{n}.ffn_down", "model.layers.{n}.input_layernorm": "blk.{n}.attn_norm",
    "model.layers.{n}.post_attention_layernorm": "blk.{n}.ffn_norm",
}  # fmt: skip
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def llama(folder: Path, tied: bool = False) -> Any:
    """A Llama in transformers' format with a byte-level tokeniser; the model."""
    text = checkpoints.tokenizer("bytes")
    config = LlamaConfig(
        vocab_size=len(text), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, max_position_embeddings=256, bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    checkpoints.randomize(model, 0)
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def write_gguf(
    model: Any, to: Path, stored: str = "F32", architecture: str = "llama", left_out: str = "",
    unsaid: Collection[str] = (), said: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A model of :func:`llama` as a GGUF file; what is quantised in it is put back into the model.

    Args:
        model: It takes the values that the file holds.
        to: The file.
        stored: Type of the matrices: F32, F16 or Q8_0.
        architecture: What the file says that it holds.
        left_out: Name of a tensor in the file that it is to lack.
        unsaid: Keys that the file is to lack.
        said: Values of keys, instead of the model's; a key that the model does not say is added.
    """
    writer, config = gguf.GGUFWriter(to, architecture), model.config
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    core = checkpoints.tokenizer("bytes")
    pieces = sorted(core.get_vocab(), key=core.get_vocab().get)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([control if piece in core.all_special_tokens else normal for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in _merges(core)])
    writer.add_bos_token_id(core.bos_token_id)
    writer.add_eos_token_id(core.eos_token_id)
    writer.add_pad_token_id(core.pad_token_id)
    writer.add_unk_token_id(core.unk_token_id)
    kind = gguf.GGMLQuantizationType[stored]
    state = dict(model.named_parameters())
    for name, value in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        known = _name(name)
        if known == left_out:
            continue
        data = _permuted(known, value.detach().numpy())
        if data.ndim < 2 or stored == "F32":
            writer.add_tensor(known, data.astype(np.float32))
            continue
        packed = data.astype(np.float16) if stored == "F16" else gguf.quants.quantize(data, kind)
        writer.add_tensor(known, packed, raw_dtype=kind)
        unpacked = packed.astype(np.float32) if stored == "F16" else gguf.quants.dequantize(packed, kind)
        with torch.no_grad():
            value.copy_(torch.from_numpy(_permuted(known, unpacked, back=True)))
    for key in (key for data in writer.kv_data for key in list(data) if key in unsaid):
        for data in writer.kv_data:
            data.pop(key, None)
    for key, changed in (said or {}).items():
        if key in writer.kv_data[0]:
            writer.kv_data[0][key].value = changed
        else:
            kind = gguf.GGUFValueType.BOOL if isinstance(changed, bool) else gguf.GGUFValueType.get_type(changed)
            writer.add_key_value(key, changed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def _merges(core: Any) -> list[list[str]]:
    import json

    found = json.loads(core.backend_tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in found]


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    parts = stem.split(".")
    layer = parts[2] if stem.startswith("model.layers.") else ""
    known = {source.format(n=layer): target.format(n=layer) for source, target in _NAMES.items()} | _TOP
    return f"{known[stem]}.weight"


def _permuted(name: str, data: np.ndarray[Any, Any], back: bool = False) -> np.ndarray[Any, Any]:
    """Rows of queries and keys in the order in which llama.cpp turns them."""
    heads = HEADS if "attn_q" in name else KEYS if "attn_k" in name else 0
    if not heads:
        return data
    halves = (data.shape[0] // heads // 2, 2) if back else (2, data.shape[0] // heads // 2)
    return np.ascontiguousarray(data.reshape(heads, *halves, data.shape[1]).swapaxes(1, 2).reshape(data.shape))
