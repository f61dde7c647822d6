"""Bytes to a JSON object of bounded depth and number of values, without duplicate names.

Rejected: anything but UTF-8 JSON (also a byte order mark, NaN, lone surrogates, numbers beyond a double),
and a name given twice in one object. U+0000 is text like any other. Invariant: the memory a body takes is
bounded by its bytes and a constant before it is parsed.
Source: RFC 8259; I-JSON (RFC 7493) for duplicate names.
"""

import json
import re
from collections.abc import Collection
from itertools import compress
from typing import Any

import orjson

from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import CONTAINERS, Json, is_array, is_object

MAX_CONTAINERS = 200_000
MAX_VALUES = 1_000_000
"""Objects and arrays, and the commas between values: two bytes of `[]` are eighty in memory."""

MAX_WRITTEN_DEPTH = 254
"""The levels of containers that orjson writes."""
SHORT_BYTES = 2**10
"""A body below this has few enough containers to count them."""

# Possessive, with an end for a string that has none: one pass, no memory, whatever the bytes.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_BEFORE = rb'(?:[^"%b]*+(?:' + _STRING + rb'[^"%b]*+)*+[%b]){%d}+'
_TOO_MANY_CONTAINERS = re.compile(_BEFORE % (rb"\[{", rb"\[{", rb"\[{", MAX_CONTAINERS + 1), re.DOTALL)
_TOO_MANY_VALUES = re.compile(_BEFORE % (b",", b",", b",", MAX_VALUES), re.DOTALL)


def parse_object(body: bytes, max_depth: int) -> Json:
    """Returns the object of a body.

    Raises:
        BadRequest: It is no JSON, no object, nested deeper than `max_depth`, has more than
            `MAX_CONTAINERS` or `MAX_VALUES`, or repeats a name.
    """
    if len(body) >= MAX_CONTAINERS:
        _reject_too_many(body)
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error.msg}.", code="invalid_json") from None
    if not is_object(parsed):
        raise BadRequest("The request body must be a JSON object.", code="invalid_type")
    around = _levels_around(body, max_depth)
    written = _write(parsed, around)
    if written.startswith(body, around) and len(written) == len(body) + 2 * around:
        return parsed  # as most clients write it: had a name come twice, one would be left out
    if written:
        quotes = _count_quotes(written)
    else:
        strings, depth = _measure(parsed)
        quotes = 2 * strings
        if depth > max_depth:
            raise BadRequest(
                f"The request body is nested too deeply: at most {max_depth} levels.", code="json_too_deep"
            )
    if _count_quotes(body) != quotes:
        reject_duplicates(body)
    return parsed


def _reject_too_many(body: bytes) -> None:
    """Rejects what would fill the memory; counts everywhere first, then outside of strings."""
    containers = body.count(b"[") + body.count(b"{") > MAX_CONTAINERS and _TOO_MANY_CONTAINERS.match(body)
    if containers or (body.count(b",") >= MAX_VALUES and _TOO_MANY_VALUES.match(body)):
        raise BadRequest(
            f"The request body holds too many values: at most {MAX_VALUES}, and {MAX_CONTAINERS} of them "
            "objects and arrays.",
            code="json_too_many_values",
        )


def _levels_around(body: bytes, max_depth: int) -> int:
    """The arrays to write around a document, so that orjson writes none that is deeper than `max_depth`."""
    if len(body) < SHORT_BYTES and body.count(b"{") + body.count(b"[") <= max_depth:
        return 0
    return max(MAX_WRITTEN_DEPTH - max_depth, 0)


def _write(document: Any, around: int) -> bytes:  # noqa: ANN401 -- parsed JSON
    """The document as orjson writes it, within so many arrays; nothing if it is too deep for that.

    It costs a twentieth of a walk that measures the depth and counts the names.
    """
    for _ in range(around):
        document = [document]
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return b""


def _count_quotes(text: bytes) -> int:
    """The quotes that begin and end strings: with a name that comes twice, a body has two more."""
    if b"\\" not in text:
        return text.count(b'"')
    text = text.replace(rb"\\", b"")
    return text.count(b'"') - text.count(rb"\"")


def _measure(parsed: Json) -> tuple[int, int]:
    """The number of strings in a document, names included, and its depth."""
    strings = depth = 0
    level: list[Any] = [parsed]
    while level:
        depth += 1
        below: list[Any] = []
        for node in level:
            values: Collection[Any] = node
            if node.__class__ is dict:
                strings += len(node)
                values = node.values()
            types = [*map(type, values)]
            strings += types.count(str)
            if not CONTAINERS.isdisjoint(types):
                below += compress(values, map(CONTAINERS.__contains__, types))
        level = below
    return strings, depth


def unique_object(pairs: list[tuple[str, Any]]) -> Json:
    """Returns the object of these names and values; raises `BadRequest` for a name that is given twice.

    It is the `object_pairs_hook` of `json.loads`.
    """
    found: Json = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(
                f"The request body gives '{shown_name(name)}' twice in one object.",
                param=shown_name(name),
                code="duplicate_parameter",
            )
        found[name] = value
    return found


def reject_half_characters(value: object, place: str = "") -> None:
    """Raises `BadRequest` for JSON with a lone surrogate, which no store or log takes; it names the field."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            why = "it contains half a character, a lone surrogate."
            place = place or "body"
            raise BadRequest(f"Invalid '{place}': {why}", param=place, code="invalid_value") from None
    elif is_object(value):
        for name, inner in value.items():
            below = f"{place}.{shown_name(name)}" if place else shown_name(name)
            reject_half_characters(name, below)
            reject_half_characters(inner, below)
    elif is_array(value):
        for at, inner in enumerate(value):
            reject_half_characters(inner, f"{place}[{at}]")


def reject_duplicates(body: bytes | str) -> None:
    """Raises `BadRequest` for JSON that gives a name twice in one object."""
    # Numbers are not needed; one of thousands of digits would raise.
    json.loads(body, object_pairs_hook=unique_object, parse_int=len, parse_float=len)
