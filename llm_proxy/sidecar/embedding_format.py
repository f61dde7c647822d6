"""Vectors in the format the caller asked for, where a provider knows numbers alone.

OpenAI's SDKs ask for `base64` unless they are told otherwise. Invariant: a vector that is text already is
left as it is; the bytes are little-endian 32-bit floats, as OpenAI's.
"""

import base64
import json
import struct
from typing import Any

from llm_proxy.sidecar.shapes import items, mapping

BASE64 = "base64"


def write_as_asked(result: Any, body: bytes) -> None:  # noqa: ANN401 -- whatever LiteLLM's endpoint returned
    """Put the vectors of an answer into text where the request's body asks for it."""
    if BASE64.encode() not in body or mapping(json.loads(body)).get("encoding_format") != BASE64:
        return
    for item in items(getattr(result, "data", None)):
        vector = item["embedding"]
        if isinstance(vector, list):
            item["embedding"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()  # pyright: ignore[reportUnknownArgumentType] -- JSON
