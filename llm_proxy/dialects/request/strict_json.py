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
from llm_proxy.json_access import CONTAINERS, Json, is_object

MAX_CONTAINERS = 200_000
MAX_VALUES = 1_000_000
"""Objects and arrays, and the commas between values: two bytes of `[]` are eighty in memory."""

# Possessive, with an end for a string that has none: one pass, no memory, whatever the bytes.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_BEFORE = rb'(?:[^"%b]*+(?:' + _STRING + rb'[^"%b]*+)*+[%b]){%d}+'
_TOO_MANY_CONTAINERS = re.compile(_BEFORE % (rb"\[{", rb"\[{", rb"\[{", MAX_CONTAINERS + 1), re.DOTALL)
_TOO_MANY_VALUES = re.compile(_BEFORE % (b",", b",", b",", MAX_VALUES), re.DOTALL)
_SPACE_BEFORE_COLON = re.compile(rb'"[ \t\r\n]+:')


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
    names, depth = _measure(parsed)
    if depth > max_depth:
        raise BadRequest(
            f"The request body is nested too deeply: at most {max_depth} levels.", code="json_too_deep"
        )
    if _may_have_duplicates(body, names):
        _reject_duplicates(body)
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


def _measure(parsed: Json) -> tuple[int, int]:
    """The number of names in a document, and its depth."""
    names = depth = 0
    level: list[Any] = [parsed]
    while level:
        depth += 1
        below: list[Any] = []
        for node in level:
            values: Collection[Any] = node
            if node.__class__ is dict:
                names += len(node)
                values = node.values()
            if not CONTAINERS.isdisjoint(map(type, values)):
                below += compress(values, map(CONTAINERS.__contains__, map(type, values)))
        level = below
    return names, depth


def _may_have_duplicates(body: bytes, names: int) -> bool:
    """Whether the text may have more names than the parsed document kept.

    Every name ends in `":` unless space stands before the colon; inside strings the same characters are
    escaped. Where counting does not decide, returns True, and the slow parser decides.
    `in` takes half as long again as `find`: it raises, and catches, that bytes are no integer.
    """
    find = body.find
    if body.count(b'":') - body.count(b'\\":') != names:
        return True
    if find(b'\\\\":') >= 0:
        return True
    spaced = (
        find(b" :") >= 0 or find(b"\n:") >= 0 or find(b"\t:") >= 0 or find(b"\r:") >= 0
    )  # a tenth of the cost of a search
    return spaced and _SPACE_BEFORE_COLON.search(body) is not None


def _reject_duplicates(body: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BadRequest(
                    f"The request body gives '{shown_name(name)}' twice in one object.",
                    param=shown_name(name),
                    code="duplicate_parameter",
                )
            seen.add(name)

    # Numbers are not needed; one of thousands of digits would raise.
    json.loads(body, object_pairs_hook=unique, parse_int=len, parse_float=len)
