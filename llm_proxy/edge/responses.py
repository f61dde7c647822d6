"""Response headers and error bodies of every route, in the shapes OpenAI's clients read.

Invariants: every response carries `x-request-id`; no header of the sidecar is passed on but under a name of
ours; an error says who rejected the request (`x-llm-proxy-refused-by`); a missing or failing database is 503.
"""

import math
from collections.abc import Awaitable
from functools import lru_cache
from typing import TypeVar

import orjson

from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Dialect
from llm_proxy.edge.request import Send
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable, Unauthorized
from llm_proxy.money import NANO_PER_USD
from llm_proxy.schema.database import STATEMENT_TIMEOUT, DatabaseUnavailable, RowsRejected
from llm_proxy.upstream import RoutingInfo, call_cost

RawHeaders = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    """One JSON body."""
    headers.append(_JSON)
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def start_stream(send: Send, headers: RawHeaders) -> None:
    """The head of a stream of events."""
    headers.extend(_STREAM)
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_error(send: Send, refused: APIError, context: CallContext, dialect: Dialect) -> None:
    """A refusal in the caller's own vocabulary."""
    headers = error_headers(refused)
    headers.append((b"x-request-id", context.id_text.encode()))
    await send_json(send, refused.status, orjson.dumps(dialect.error(refused)), headers)


def error_headers(refused: APIError) -> RawHeaders:
    """The headers a refusal carries, whatever renders its body."""
    headers: RawHeaders = [(b"x-llm-proxy-refused-by", refused.origin.encode())]
    if isinstance(refused, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="llm-proxy"'))
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refused.retry_after_s))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(refused.retry_after_s * 1000)))
    if refused.retryable is not None:
        headers.append((b"x-should-retry", b"true" if refused.retryable else b"false"))
    headers.extend((name.encode(), value.encode("latin-1", "replace")) for name, value in refused.headers)
    return headers


def response_headers(context: CallContext, lease_headers: tuple[tuple[bytes, bytes], ...]) -> RawHeaders:
    """What we tell of an answer, in our own names."""
    served = context.routing
    headers: RawHeaders = [(b"x-request-id", context.id_text.encode()), *lease_headers]
    if served.group:
        headers.append((b"x-llm-proxy-model", _ascii(served.group)))
    if served.provider:
        headers.append((b"x-llm-proxy-provider", _ascii(served.provider)))
    cost_nano_usd = None
    if context.usage is not None and context.call is not None:
        cost_nano_usd = call_cost(context.usage, served, context.catalog, context.call.group)
    if cost_nano_usd is not None:
        headers.append((b"x-llm-proxy-cost-usd", b"%d.%09d" % divmod(cost_nano_usd, NANO_PER_USD)))
    headers.append((b"x-llm-proxy-cache", served.cache.encode()))
    if served.attempts is not None:
        headers.append((b"x-llm-proxy-attempts", b"%d" % served.attempts))
    if served.fallback_from is not None:
        headers.append((b"x-llm-proxy-fallback-from", _ascii(served.fallback_from)))
    headers.append((b"server-timing", _timing(context, served)))
    return headers


def _timing(context: CallContext, served: RoutingInfo) -> bytes:
    if served.sidecar_ms is None:
        return b"total;dur=%.1f" % context.elapsed_ms()
    return b"total;dur=%.1f, sidecar;dur=%.1f" % (context.elapsed_ms(), served.sidecar_ms)


@lru_cache(maxsize=1024)
def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")[:200].replace(b"\r", b"?").replace(b"\n", b"?")


Result = TypeVar("Result")
Source = TypeVar("Source")


def require_database(usage: Source | None) -> Source:
    """Whom to ask; raises `StoreUnavailable` where nobody is."""
    if usage is None:
        raise StoreUnavailable("This gateway has no database: nothing of the kind is known.")
    return usage


async def database_result(answer: Awaitable[Result]) -> Result:
    """The answer; raises `StoreUnavailable` while Postgres cannot give it, `BadRequest` for a wrong value."""
    try:
        return await answer
    except RowsRejected:
        raise BadRequest("A value is out of its range.") from None
    except DatabaseUnavailable as fault:
        if fault.reason == STATEMENT_TIMEOUT:
            why = "The answer takes longer than a question may; ask for a shorter range or fewer groups."
            raise StoreUnavailable(why, code="question_too_large") from None
        raise StoreUnavailable("The database cannot tell now; please try again.", retry_after_s=2) from None
