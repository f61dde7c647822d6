"""What went wrong on the way to the gateway and back, as `LLMProxyError`, and whether a model may have run.

Pure. Invariant: `nothing_ran` is true only where the request cannot have reached a model: no connection was
made, or the gateway itself turned the call away.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from llm_proxy_service.errors import (
    RETRYABLE_STATUSES,
    InvalidRequestError,
    LLMProxyError,
    ProviderError,
    RequestTimeoutError,
    error_class,
)
from llm_proxy_service.json_reading import Json, as_object, as_text

TURNED_AWAY_BY = frozenset({"gateway", "limit", "budget"})
TURNED_AWAY_WITH = frozenset({429, 503})
MAY_HAVE_RUN = frozenset({408, 504})
LONGEST_QUOTE = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """A call without an answer."""

    error: LLMProxyError
    nothing_ran: bool = False


def answered(status: int, headers: Mapping[str, str], body: bytes, *, with_key: bool) -> Failure:
    """An answer with another status than 200, in OpenAI's envelope or in none.

    `with_key` says whether the request had a key; where it had none, the error says how to give it one.
    """
    stated = _envelope(body)
    should_retry = headers.get("x-should-retry")
    retryable = (
        status in RETRYABLE_STATUSES - MAY_HAVE_RUN if should_retry is None else should_retry == "true"
    )
    message = as_text(stated.get("message")) or _unknown_message(status, headers, body)
    if status == 401 and not with_key:
        message = "the gateway wants a key: give it as api_key, or set LLM_PROXY_API_KEY"
    error = error_class(status)(
        message,
        status=status,
        code=as_text(stated.get("code")) or as_text(stated.get("type")),
        retryable=retryable,
        request_id=headers.get("x-request-id"),
        provider=headers.get("x-llm-proxy-provider"),
    )
    error.retry_after = _wait_s(headers)
    turned_away = headers.get("x-llm-proxy-refused-by") in TURNED_AWAY_BY and status in TURNED_AWAY_WITH
    return Failure(error, nothing_ran=turned_away and retryable)


def not_answered(fault: httpx.HTTPError, url: str) -> Failure:
    """A connection that failed; `url` is the gateway's address as it was given."""
    reason = reason_of(fault)
    if isinstance(fault, (httpx.ConnectError, httpx.ConnectTimeout)):
        message = f"no gateway answers at {url}: {reason}"
        return Failure(ProviderError(message, code="unreachable", retryable=True), nothing_ran=True)
    if isinstance(fault, httpx.TimeoutException):
        return Failure(RequestTimeoutError(f"no answer from {url} in time", code="timeout"))
    if isinstance(fault, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return Failure(InvalidRequestError(f"the request cannot be sent: {reason}", code="invalid_request"))
    return Failure(ProviderError(f"the connection to {url} broke: {reason}", code="connection_broken"))


def reason_of(fault: Exception) -> str:
    """What an exception says; its name where it says nothing."""
    return str(fault) or type(fault).__name__


def stated_in_stream(frame: Json) -> tuple[str, str | None]:
    """Message and code of a frame that states an error."""
    stated = frame.get("error")
    fields = as_object(stated) or {"message": str(stated)}
    return as_text(fields.get("message")) or "the stream failed", as_text(fields.get("code"))


def _envelope(body: bytes) -> Json:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return as_object(as_object(document).get("error"))


def _unknown_message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    if 300 <= status < 400:
        return f"the address redirects to {headers.get('location', 'another one')}: set base_url to that"
    quoted = body.decode(errors="replace").strip()[:LONGEST_QUOTE]
    return f"HTTP {status}: {quoted}" if quoted else f"HTTP {status}"


def _wait_s(headers: Mapping[str, str]) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            stated = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if math.isfinite(stated) and stated >= 0:
            return stated
    return None
