"""Makes JSON of providers valid: surrogate halves, NaN, Infinity and numbers too large for a float.

Pure. Invariants: a surrogate half is joined with its other half or becomes U+FFFD; a number that is not
finite becomes null. Source: RFC 8259, sections 6 to 8.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from llm_proxy.json_access import as_list, as_object

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f]")
NOT_FINITE = re.compile(r"NaN|Infinity|[0-9][eE]\+?[0-9]{3}")
"""Matches a text that may hold a number that is not finite."""
_LARGE_NUMBER = re.compile(rb"[0-9][eE]\+?[0-9]{3}")
_OTHER_MARKS = (b"\\ud", b"\\uD", b"NaN", b"Infinity")

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(document: object) -> bytes:
    """Return the document as compact UTF-8 JSON, whatever its texts hold."""
    text = _COMPACT.encode(document)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return join_surrogates(text).encode()


def join_surrogates(text: str) -> str:
    """Return the text with surrogate pairs joined and U+FFFD for a single half."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def repair_value(value: object, text: Callable[[str], str] = join_surrogates) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    """Return the value with null for numbers that are not finite, and `text` applied to every text."""
    if isinstance(value, str):
        return text(value)
    if named := as_object(value):
        return {text(name): repair_value(one, text) for name, one in named.items()}
    if listed := as_list(value):
        return [repair_value(one, text) for one in listed]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def repair_frame_data(data: str) -> str:
    """Return a frame's data with control characters escaped and null for numbers that are not finite.

    Surrogate halves stay: the other half may be in the next frame.
    """
    if not (NOT_FINITE.search(data) or (not data.isprintable() and CONTROL_CHARACTER.search(data))):
        return data
    try:
        return json.dumps(repair_value(json.loads(data, strict=False), str), ensure_ascii=False)
    except (ValueError, RecursionError):
        return data


def needs_repair(raw: bytes) -> bool:
    """Whether a body may hold a surrogate half or a number that is not finite."""
    for mark in _OTHER_MARKS:  # one pattern for all costs two and a half times as much
        if raw.find(mark) >= 0:
            return True
    return _LARGE_NUMBER.search(raw) is not None


def repair_body(raw: bytes) -> bytes:
    """Return a body with surrogate pairs joined and only finite numbers; other than JSON is unchanged."""
    if not needs_repair(raw):
        return raw
    try:
        return json.dumps(repair_value(json.loads(raw, strict=False))).encode()
    except (ValueError, RecursionError):
        return raw
