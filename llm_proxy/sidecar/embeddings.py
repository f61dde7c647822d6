"""Embedding answers: exactly one vector for each input, in order, in the encoding the caller requested.

Pure. Invariants: an answer with a missing, surplus, duplicate or null vector is an error; a vector without an
index has that of its position. A vector that is text already stays; base64 is little-endian 32-bit floats.
Source: OpenAI's OpenAPI document, CreateEmbeddingResponse: `index` is the position in the list of inputs.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Sequence
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object

INDEX_PATTERN = re.compile(rb'"index"\s*:\s*(\d{1,9})(?![\d.eE])')
VECTOR_PATTERN = re.compile(rb'"embedding"\s*:\s*(?:\[\s*-?\d|"[^"])')
DATA_PATTERN = re.compile(rb'"data"\s*:\s*\[')
QUOTES_OF_NUMBERS, QUOTES_OF_TEXTS = 8, 10
"""Quotation marks of a vector with OpenAI's three fields."""
ODD_NUMBERS = (b"null", b"NaN", b"Infinity")
REQUIRED_WORDS = (b'"list"', b'"prompt_tokens"')


def count_inputs(given: object) -> int:
    """Return the number of inputs in a request's `input`; a list of tokens is one."""
    listed = as_list(given)
    return len(listed) if listed and not isinstance(listed[0], int) else 1


def count_request_inputs(request: bytes) -> int | None:
    """Return the number of inputs in a request's body; None if it has no `input`."""
    try:
        given = as_object(json.loads(request)).get("input")
    except (ValueError, RecursionError):
        return None
    return None if given is None else count_inputs(given)


def is_well_formed(raw: bytes, inputs: int | None) -> bool:
    """Whether an answer is well-formed, seen without parsing its numbers."""
    if any(word in raw for word in ODD_NUMBERS) or not all(word in raw for word in REQUIRED_WORDS):
        return False
    found = [int(number) for number in INDEX_PATTERN.findall(raw)]
    return (
        found == list(range(len(found)))
        and inputs in (None, len(found))
        and len(VECTOR_PATTERN.findall(raw)) == len(found) == raw.count(b'"object"') - 1
    )


def split_vectors(raw: bytes, inputs: int, *, as_text: bool) -> tuple[bytes, Json]:
    """Return the vectors of a well-formed answer, unparsed, and the answer without them.

    The vectors are empty if they have fields beside OpenAI's, or are not encoded as requested.

    Args:
        raw: The answer.
        inputs: The number of its vectors.
        as_text: Whether the vectors are to be texts.
    """
    begin, end = DATA_PATTERN.search(raw), raw.rfind(b"]")
    if begin is None or end < begin.end():
        return b"", {}
    vectors = raw[begin.end() : end]
    try:
        document = as_object(json.loads(raw[: begin.end()] + raw[end:]))
    except ValueError:
        return b"", {}
    quotes = QUOTES_OF_TEXTS if as_text else QUOTES_OF_NUMBERS
    known = vectors.count(b'"') == quotes * inputs and b"\\" not in vectors and document.get("data") == []
    return (vectors, document) if known else (b"", {})


def sort_vectors(answer: Json, inputs: int | None) -> bool:
    """Sort an answer's vectors by index; return False if they are not exactly one for each input."""
    vectors = [as_object(one) for one in as_list(answer.get("data"))]
    if not vectors or inputs not in (None, len(vectors)):
        return False
    if not all(_is_vector(one.get("embedding")) for one in vectors):
        return False
    for at, one in enumerate(vectors):
        one["index"] = at if one.get("index") is None else one["index"]
    indexes = [one["index"] for one in vectors if _is_index(one["index"])]
    if sorted(indexes) != list(range(len(vectors))):
        return False
    for one in vectors:
        one["index"] = int(one["index"])
        one["object"] = one.get("object") or "embedding"
    answer["data"] = sorted(vectors, key=lambda one: int(one["index"]))
    return True


def _is_index(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def _is_vector(value: object) -> bool:
    """Whether a value is numbers, text that encodes them, or a vector for each token."""
    if isinstance(value, str):
        return bool(value)
    listed = as_list(value)
    return bool(listed) and (_are_numbers(listed) or all(_are_numbers(as_list(one)) for one in listed))


def _are_numbers(listed: Sequence[object]) -> bool:
    return bool(listed) and all(
        type(one) is int or (isinstance(one, float) and math.isfinite(one)) for one in listed
    )


BASE64 = "base64"


def encode_as_requested(result: Any, body: bytes) -> None:  # noqa: ANN401 -- whatever LiteLLM's endpoint returned
    """Encode an answer's vectors in base64 if the request's body asks for it, as OpenAI's SDKs do."""
    if BASE64.encode() not in body or as_object(json.loads(body)).get("encoding_format") != BASE64:
        return
    for item in as_list(getattr(result, "data", None)):
        vector = item["embedding"]
        if isinstance(vector, list):
            item["embedding"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()  # pyright: ignore[reportUnknownArgumentType] -- JSON
