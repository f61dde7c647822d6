"""Parses error bodies of model providers: message, code, type, param, and the seconds to wait.

Pure, standard library only: gateway and sidecar parse with it. Invariants: never raises; a body of a shape
that is
not listed in `parse_document` gives None, and never a part of its text.
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import cast

from llm_proxy.json_access import Json, as_object

LONGEST_WAIT_S = 86_400.0
_MAX_ISSUES = 5
_MAX_LITERAL_CHARS = 20_000
_MAX_DEPTH = 4
_UNIT_S = {"ms": 0.001, "h": 3600.0, "m": 60.0, "s": 1.0}
_AMOUNT = (
    r"(\d{1,9}(?:\.\d+)?)\s*(ms|milliseconds?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])[ ,]*"
)
_PART = re.compile(_AMOUNT, re.IGNORECASE)
_WAIT = re.compile(
    rf"\b(?:retry|try again|wait|resets?)(?: in| after| for)?:?\s*((?:{_AMOUNT})+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The fields of an error body; None where it has none.

    Attributes:
        message: The provider's message, not cleaned.
        code: The provider's code; where it has only a type or a status word, that.
        param: The field at fault, as the provider spells it.
        wait_s: Seconds after which the provider may answer, from its details or its message.
    """

    message: str | None = None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    wait_s: float | None = None


def parse_body(text: str) -> ErrorBody | None:
    """Parses the body of an answer: JSON as a whole, or in events; None when its shape is unknown."""
    text = text.removeprefix("\ufeff")
    if text.lstrip().startswith(("data:", "event:")):
        return parse_quoted_body(text)
    try:
        return parse_document(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None


def parse_quoted_body(text: str) -> ErrorBody | None:
    """Parses the first JSON value in a text that quotes a body; None without one of a known shape."""
    for start in sorted(at for at in (text.find("{"), text.find("[")) if at >= 0):
        try:
            document, _ = json.JSONDecoder(strict=False).raw_decode(text[start:])
        except (ValueError, RecursionError):
            continue
        return parse_document(document)
    return None


def parse_document(document: object) -> ErrorBody | None:
    """Parses an error body's document.

    Known shapes: `{"error": {"message", "code", "type", "param"}}` (OpenAI and most others), the same without
    the envelope (vLLM, Mistral, Cohere, Bedrock, Cerebras), `{"error": "text"}` (xAI, Ollama, TGI),
    `{"detail": …}` (FastAPI), Google's `status` and `details`, also in a list, OpenRouter's `metadata.raw`.
    """
    if isinstance(document, list):
        document = next(iter(cast("list[object]", document)), None)
    outer = as_object(document)
    inner = as_object(outer.get("error")) or outer
    message = _message_of(outer.get("error")) or _message_of(outer)
    raw = as_object(inner.get("metadata")).get("raw")
    if isinstance(raw, str) and raw.strip():
        message = raw
    code, kind = _text(inner.get("code")) or _text(outer.get("code")), _text(inner.get("type"))
    kind = kind or _text(outer.get("error_type")) or _text(inner.get("status"))
    if message is None and code is None and kind is None:
        return None
    waits = [stated_wait_s(message or ""), *map(_retry_info_s, _items(inner.get("details")))]
    found = ErrorBody(
        message=message,
        code=code or kind,
        type=kind,
        param=_text(inner.get("param")) or _first_location(_issues(inner)),
        wait_s=max((wait for wait in waits if wait is not None), default=None),
    )
    return _unwrap(found)


def stated_wait_s(message: str) -> float | None:
    """Returns the seconds in "try again in 2m59.56s", "retry after 27 seconds" and the like."""
    found = _WAIT.search(message)
    if found is None:
        return None
    stated_s = sum(float(number) * _unit_seconds(unit) for number, unit in _PART.findall(found[1]))
    return min(LONGEST_WAIT_S, stated_s)


def header_wait_s(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds in `retry-after-ms` or `retry-after`: a number or a date (RFC 9110, 10.2.3)."""
    given = {name.lower(): value for name, value in headers.items() if name.lower().startswith("retry-after")}
    milliseconds = _number(given.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = given.get("retry-after")
    seconds = _number(value)
    if seconds is not None or not value:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    left = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)
    return min(LONGEST_WAIT_S, max(0.0, left.total_seconds()))


def _unwrap(found: ErrorBody) -> ErrorBody:
    """The error inside an error: a message that is a body in JSON, or issues as Python prints them."""
    message = (found.message or "").strip()
    inner = parse_quoted_body(message) if message.startswith(("{", "[")) else None
    if inner is not None:
        return replace(
            found,
            message=inner.message,
            code=inner.code or found.code,
            type=inner.type or found.type,
            param=inner.param or found.param,
            wait_s=inner.wait_s or found.wait_s,
        )
    if message.startswith("[{'") and len(message) <= _MAX_LITERAL_CHARS:
        try:
            issues = _items(ast.literal_eval(message))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return found
        return replace(
            found, message=_list_issues(issues) or message, param=found.param or _first_location(issues)
        )
    return found


def _message_of(value: object, depth: int = 0) -> str | None:
    """Returns the text of a message, a detail, or a list of issues."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list):
        return _list_issues(cast("list[object]", value), depth)
    fields = as_object(value)
    if not fields or depth > _MAX_DEPTH:
        return None
    for name in ("message", "Message", "detail", "msg", "errors", "error"):
        found = _message_of(fields.get(name), depth + 1)
        if found is not None:
            return found
    return None


def _list_issues(issues: list[object], depth: int = 0) -> str | None:
    """Pydantic's issues, each as `path: message`."""
    messages: list[str] = []
    for issue in issues[:_MAX_ISSUES] if depth <= _MAX_DEPTH else []:
        message, path = _message_of(issue, depth + 1), _first_location([issue])
        if message is not None:
            messages.append(f"{path}: {message}" if path else message)
    return "; ".join(messages) or None


def _issues(inner: Json) -> list[object]:
    for value in (inner.get("detail"), as_object(inner.get("message")).get("detail")):
        if isinstance(value, list):
            return cast("list[object]", value)
    return []


def _first_location(issues: list[object]) -> str | None:
    """Returns the path of the first issue, without the `body` FastAPI puts before it."""
    place = as_object(next(iter(issues), None)).get("loc")
    if not isinstance(place, list | tuple):
        return None
    parts = [str(part) for part in cast("list[object]", place) if isinstance(part, str | int)]
    return ".".join(parts[1:] if parts[:1] == ["body"] else parts) or None


def _retry_info_s(detail: object) -> float | None:
    delay = as_object(detail).get("retryDelay")
    return _number(delay.removesuffix("s")) if isinstance(delay, str) else None


def _unit_seconds(unit: str) -> float:
    short = unit.lower()
    return _UNIT_S["ms" if short.startswith(("ms", "milli")) else short[0]]


def _number(value: object) -> float | None:
    try:
        found = float(cast("str", value))
    except (TypeError, ValueError):
        return None
    return min(LONGEST_WAIT_S, max(0.0, found)) if math.isfinite(found) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _items(value: object) -> list[object]:
    return list(cast("list[object]", value)) if isinstance(value, list) else []
