"""A provider's embeddings: one vector for each input, at the place its `index` names.

Pure. Invariants: an answer with a vector too many, too few, twice or null is no answer, because a caller
could only get wrong vectors out of it; a vector without an index has that of its place in the answer.
Source: OpenAI's OpenAPI document, CreateEmbeddingResponse: `index` is the place in the list of inputs.
"""

import json
import math
import re
from collections.abc import Sequence

from llm_proxy.json_access import Json
from llm_proxy.sidecar.shapes import items, mapping

INDEX = re.compile(rb'"index"\s*:\s*(\d{1,9})(?![\d.eE])')
VECTOR = re.compile(rb'"embedding"\s*:\s*(?:\[\s*-?\d|"[^"])')
ODD_NUMBERS = (b"null", b"NaN", b"Infinity")
STATED = (b'"list"', b'"prompt_tokens"')


def count_inputs(asked: object) -> int:
    """How many inputs the `input` of a request has; a list of tokens is one."""
    listed = items(asked)
    return len(listed) if listed and not isinstance(listed[0], int) else 1


def inputs_of(request: bytes) -> int | None:
    """How many inputs the body of a request has; None when it names none."""
    try:
        asked = mapping(json.loads(request)).get("input")
    except (ValueError, RecursionError):
        return None
    return None if asked is None else count_inputs(asked)


def are_in_order(raw: bytes, inputs: int | None) -> bool:
    """Whether an answer is as it should be, so that its numbers need not be read."""
    if any(word in raw for word in ODD_NUMBERS) or not all(word in raw for word in STATED):
        return False
    found = [int(number) for number in INDEX.findall(raw)]
    return (
        found == list(range(len(found)))
        and inputs in (None, len(found))
        and len(VECTOR.findall(raw)) == len(found) == raw.count(b'"object"') - 1
    )


def put_in_order(answer: Json, inputs: int | None) -> bool:
    """Sort the vectors of an answer by index, and name them; False when they are not one for each input."""
    vectors = [mapping(one) for one in items(answer.get("data"))]
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
    """Numbers, text that encodes them, or (a vector for each token) vectors."""
    if isinstance(value, str):
        return bool(value)
    listed = items(value)
    return bool(listed) and (_are_numbers(listed) or all(_are_numbers(items(one)) for one in listed))


def _are_numbers(listed: Sequence[object]) -> bool:
    return bool(listed) and all(
        type(one) is int or (isinstance(one, float) and math.isfinite(one)) for one in listed
    )
