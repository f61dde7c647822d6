"""Cohere's wire of embeddings: `/v2/embed`, with the vectors of every type that is requested."""

import base64
import struct

from scripted.openai_wire import hash_of
from scripted.script import Json, Script


def _vectors(kind: str, seeds: list[str], size: int) -> list[list[float] | list[int] | str]:
    floats = [[round(((hash_of(seed) >> at) % 1000) / 1000 - 0.5, 4) for at in range(size)] for seed in seeds]
    if kind == "float":
        return [*floats]
    if kind == "base64":
        return [base64.b64encode(struct.pack(f"<{size}f", *one)).decode() for one in floats]
    packed = -(-size // 8) if "binary" in kind else size
    low = 0 if kind.startswith("u") else -128
    return [[low + (hash_of(seed) >> at) % 256 for at in range(packed)] for seed in seeds]


def embed(script: Script, body: Json, number: int) -> Json:
    """Vectors, one of each type for each input; a model named `short` leaves out the last of each."""
    given = body.get("texts") or body.get("images") or body["inputs"]
    seeds, size = [str(one) for one in given], body.get("output_dimension") or script.dimensions
    if "short" in body["model"]:
        seeds = seeds[:-1]
    images = len(body.get("images", ())) + str(body.get("inputs", "")).count("'image_url':")
    billed: Json = {"input_tokens": script.prompt_tokens} if not body.get("images") else {}
    billed |= {"images": images, "image_tokens": 100 * images} if images else {}
    kinds = body.get("embedding_types") or ["float"]
    return {
        "id": f"embed-{number}",
        "embeddings": {kind: _vectors(kind, seeds, size) for kind in kinds},
        "texts": body.get("texts", []),
        "meta": {"api_version": {"version": "2"}, "billed_units": billed if script.counted else {}},
        "response_type": "embeddings_by_type",
    }
