"""Response headers and error bodies of every route, in the shapes OpenAI's clients read.

Invariants: every response carries `x-request-id`; no header of the sidecar is passed on but under a name of
ours; an error says who rejected the request (`x-llm-proxy-refused-by`); a missing or failing database is 503.
"""

import math
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

import orjson
from fastapi.responses import Response

from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Dialect
from llm_proxy.edge.request import Scope, Send
from llm_proxy.edge.request_cycle import BoundedRequestCycle, RawHeaders
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable, Unauthorized
from llm_proxy.json_access import Json
from llm_proxy.money import NANO_PER_USD
from llm_proxy.schema.database import STATEMENT_TIMEOUT, DatabaseUnavailable, RowsRejected
from llm_proxy.upstream import RoutingInfo

WRITE_CHUNK = "llm_proxy.response.chunk"
"""Our own ASGI extension: its `write` takes a further chunk of a stream that has begun, or returns False."""
_JSON_TYPE = b"application/json"
_STREAM = (
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


async def send_json(send: Send, status: int, body: bytes, headers: RawHeaders) -> None:
    """Sends a response with a JSON body; appends to `headers`."""
    await send_body(send, status, body, headers, _JSON_TYPE)


async def send_body(send: Send, status: int, body: bytes, headers: RawHeaders, content_type: bytes) -> None:
    """Sends a response with a body of that media type, in one write if it can; appends to `headers`."""
    headers.append((b"content-type", content_type))
    cycle = _cycle_of(send)
    if cycle is not None and cycle.write_answer(status, headers, body):
        return
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def chunk_writer(scope: Scope) -> Callable[[bytes], bool] | None:
    """Returns what writes a further chunk of a stream at once; None where the server has no such thing."""
    offered = scope.get("extensions", {}).get(WRITE_CHUNK)
    return offered["write"] if offered is not None else None


async def start_stream(send: Send, headers: RawHeaders, content_type: str, first: bytes = b"") -> bool:
    """Sends the head of a stream, of events or bytes; appends to `headers`.

    Returns whether its first chunk left with it, in one write.
    """
    headers.append((b"content-type", content_type.encode()))
    headers.extend(_STREAM)
    cycle = _cycle_of(send)
    if first and cycle is not None and cycle.write_beginning(headers, first):
        return True
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    return False


def _cycle_of(send: Send) -> BoundedRequestCycle | None:
    """Returns the request cycle of a `send`; None where something reads its messages before they leave."""
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, BoundedRequestCycle) else None


async def send_error(send: Send, error: APIError, context: CallContext, dialect: Dialect) -> None:
    """Sends an error in the caller's dialect."""
    await send_error_of(send, error, context.id_text, dialect)


async def send_error_of(send: Send, error: APIError, request_id: str, dialect: Dialect) -> None:
    """Sends an error in a dialect; its headers replace those of every answer."""
    headers = dict(error_headers(error)) | dict(dialect_headers(dialect, request_id, error))
    headers[b"x-request-id"] = request_id.encode()
    body = orjson.dumps(dialect.error(error, request_id))
    await send_json(send, dialect.status(error), body, [*headers.items()])


def dialect_headers(dialect: Dialect, request_id: str, error: APIError | None = None) -> RawHeaders:
    """Returns the headers that a dialect's clients read."""
    return [(name.encode(), value.encode()) for name, value in dialect.headers(request_id, error)]


def error_headers(error: APIError) -> RawHeaders:
    """Returns the headers of an error, whatever renders its body."""
    headers: RawHeaders = [(b"x-llm-proxy-refused-by", error.origin.encode())]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="llm-proxy"'))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after_s * 1000)))
    if error.retryable is not None:
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    headers.extend((name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers)
    return headers


def response_headers(context: CallContext, limit_headers: tuple[tuple[bytes, bytes], ...]) -> RawHeaders:
    """Returns the headers of a response: who served it, its cost, its limits."""
    routing = context.routing
    headers: RawHeaders = [
        (b"x-request-id", context.id_text.encode()),
        *limit_headers,
        *_server_headers(routing.group, routing.provider),
    ]
    if (cost_nano_usd := context.stated_cost()) is not None:
        headers.append((b"x-llm-proxy-cost-usd", b"%d.%09d" % divmod(cost_nano_usd, NANO_PER_USD)))
    headers += _route_headers(routing.cache, routing.attempts, routing.fallback_from)
    headers.append((b"server-timing", _timing(context, routing)))
    return headers


@lru_cache(maxsize=1024)
def _server_headers(group: str | None, provider: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the headers that say who served a call."""
    served = ((b"x-llm-proxy-model", group), (b"x-llm-proxy-provider", provider))
    return tuple((name, _ascii(value)) for name, value in served if value)


@lru_cache(maxsize=1024)
def _route_headers(
    cache: str, attempts: int | None, fallback_from: str | None
) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the headers that say how a call was served."""
    stated = (
        (b"x-llm-proxy-cache", cache),
        (b"x-llm-proxy-attempts", None if attempts is None else str(attempts)),
        (b"x-llm-proxy-fallback-from", fallback_from),
    )
    return tuple((name, _ascii(value)) for name, value in stated if value is not None)


def _timing(context: CallContext, routing: RoutingInfo) -> bytes:
    if routing.sidecar_ms is None:
        return b"total;dur=%.1f" % context.elapsed_ms()
    return b"total;dur=%.1f, sidecar;dur=%.1f" % (context.elapsed_ms(), routing.sidecar_ms)


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")[:200].replace(b"\r", b"?").replace(b"\n", b"?")


Result = TypeVar("Result")
Source = TypeVar("Source")


def require_database(source: Source | None) -> Source:
    """Returns the source; raises `StoreUnavailable` when the gateway has no database."""
    if source is None:
        raise StoreUnavailable("This gateway has no database: nothing is recorded.")
    return source


async def database_result(result: Awaitable[Result]) -> Result:
    """Returns the result; raises `StoreUnavailable`, or `BadRequest` for a value out of range."""
    try:
        return await result
    except RowsRejected:
        raise BadRequest("A value is out of its range.") from None
    except DatabaseUnavailable as error:
        if error.reason == STATEMENT_TIMEOUT:
            message = "The query takes too long; ask for a shorter range or fewer groups."
            raise StoreUnavailable(message, code="question_too_large") from None
        raise StoreUnavailable("The database is unavailable; please try again.", retry_after_s=2) from None


def json_response(body: Json) -> Response:
    """Returns a JSON response; money as a number of dollars, times in ISO 8601."""
    return Response(orjson.dumps(body, default=_to_json_value), media_type="application/json")


def _to_json_value(value: object) -> object:
    if isinstance(value, Decimal):
        return round(float(value), 9)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, UUID):  # the driver's own subclass
        return str(value)
    raise TypeError(type(value).__name__)
