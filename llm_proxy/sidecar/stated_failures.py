"""A failure that a provider states in an answer with status 200, as a whole body or as an event of a stream.

Pure. Invariants: an empty error object states nothing (some providers send one with each answer); the status
is the one stated, else the one its words stand for, else 500.
"""

import json
from typing import NamedTuple

from llm_proxy.json_access import Json
from llm_proxy.sidecar.shapes import items, mapping

STATUS_DIGITS = 3
FAILED_REASONS = frozenset(
    {"abort", "aborted", "error", "failed", "insufficient_system_resource", "network_error"}
)
"""Finish reasons that say that the provider failed: OpenRouter's, vLLM's, DeepSeek's, Zhipu's; lower case."""
STATUS_OF = {
    "authentication": 401,
    "unauthenticated": 401,
    "permission": 403,
    "not_found": 404,
    "too_large": 413,
    "rate_limit": 429,
    "rate limit": 429,
    "too many requests": 429,
    "resource_exhausted": 429,
    "quota": 429,
    "overloaded": 529,
    "unavailable": 503,
    "timeout": 504,
    "deadline_exceeded": 504,
    "context_length": 400,
    "context length": 400,
    "content_policy": 400,
    "invalid": 400,
    "badrequest": 400,
    "bad_request": 400,
}
"""Words of an error's code, type or status -> the HTTP status; the first that fits."""


class Failure(NamedTuple):
    """A stated failure.

    Attributes:
        status: The HTTP status it stands for.
        body: The body an answer with that status would have had.
        retry_after: Seconds, or a date, as stated.
    """

    status: int
    body: Json
    retry_after: str | None = None

    @property
    def message(self) -> str:
        """The provider's words."""
        error = self.body.get("error")
        return str(error if isinstance(error, str) else mapping(error).get("message") or error)


def failure_in(document: Json, *, error_event: bool = False) -> Failure | None:
    """The failure a document states, if any; a document of an `error` event always states one."""
    error = document.get("error")
    if _says_something(error):
        return _failure(error, document)
    if error_event or document.get("object") == "error":
        return _failure(document, {"error": document})
    for choice in map(mapping, items(document.get("choices"))):
        error = choice.get("error")
        if _says_something(error):
            return _failure(error, {"error": error})
        reason = choice.get("finish_reason")
        if is_failed(reason):
            return Failure(502, {"error": {"message": f"finish reason {reason}", "code": reason}})
    return None


def failure_in_text(text: str, *, error_event: bool = False) -> Failure | None:
    """The same for an event's data."""
    if not error_event and '"error"' not in text:
        return None
    try:
        document = mapping(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        document = {}
    if not document and error_event:
        document = {"error": {"message": text}}
    return failure_in(document, error_event=error_event) if document else None


def is_failed(reason: object) -> bool:
    """Whether a finish reason means that the provider failed."""
    return isinstance(reason, str) and reason.lower() in FAILED_REASONS


def _says_something(error: object) -> bool:
    stated = mapping(error)
    if stated:
        return bool(stated.get("message")) or any(stated.get(name) for name in ("code", "type", "status"))
    return bool(error)


def _failure(error: object, document: Json) -> Failure:
    stated = mapping(error)
    return Failure(_status(error, stated, document), document, _retry_after(stated))


def _status(error: object, stated: Json, document: Json) -> int:
    numbers = ("code", "status", "status_code")
    for value in [*map(stated.get, numbers), *map(document.get, numbers)]:
        text = str(value)
        if len(text) == STATUS_DIGITS and text.isascii() and text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
    words = [*(stated.get(name) for name in ("code", "type", "status")), document.get("type")]
    for said in (" ".join(map(str, words)), str(stated.get("message") or (error if not stated else ""))):
        for word, status in STATUS_OF.items():
            if word in said.lower():
                return status
    return 500


def _retry_after(stated: Json) -> str | None:
    sent = mapping(mapping(stated.get("metadata")).get("headers"))
    for name, value in [*sent.items(), ("retry-after", stated.get("retry_after"))]:
        if name.lower() == "retry-after" and value is not None:
            return str(value)
    return None
