"""Every response the sidecar sends: its own JSON bodies and errors, and LiteLLM's results.

Invariants: a broken stream ends in exactly one error event and never in [DONE]; the text of that event is
this project's; no error message holds a value of the configuration that is not public (keys, addresses).
Source of the ASGI types: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from llm_proxy.json_access import as_object
from llm_proxy.sidecar import answer_bodies, catalog, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]
PUBLIC_PARAMS = frozenset(
    {"model", "custom_llm_provider", "region_name", "aws_region_name", "vertex_location"}
)
"""Parameters of a deployment whose values may appear in an error message."""
MIN_SECRET_CHARS = 6
"""Shorter values are not removed: they would match ordinary text."""
ERROR_EVENT = b'data: {"error":'
TRUNCATED_ERROR: dict[str, Any] = {
    "error": {
        "message": "The model's stream broke off before its end.",
        "type": "server_error",
        "param": None,
        "code": "upstream_stream_cut",
    }
}
COST_HEADER, CALCULATED_COST_HEADER = b"x-litellm-response-cost", b"x-litellm-response-cost-original"
CALL_ID_HEADER = b"x-litellm-call-id"
"""Of a request: the id that the gateway gave the call."""
MAX_TURN_S = 0.01
"""How long a stream may hold the event loop before other calls get their turn."""
REPLACED_HEADERS = frozenset({b"content-length", b"content-type"})
_HEADERS_BY_NAME = "llmp.headers"
"""Key of a scope: its headers, once they were read."""


def request_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers of a request by name; of a repeated one the first."""
    found: dict[bytes, bytes] | None = scope.get(_HEADERS_BY_NAME)
    if found is None:
        found = scope[_HEADERS_BY_NAME] = dict(reversed(scope["headers"]))
    return found


def request_header(scope: Scope, name: bytes) -> str:
    """Return a header of a request; empty without one."""
    return str(request_headers(scope).get(name, b""), "latin-1")


async def send_json(send: Send, status: int, body: object, headers: HeaderList | None = None) -> None:
    """Send a complete response with a JSON body."""
    raw = encode(body)
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send_whole(send, status, [*(headers or []), *fixed], raw)


async def send_whole(send: Send, status: int, headers: HeaderList, body: bytes) -> None:
    """Send a complete response; `headers` state its size."""
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    write: Callable[[Message, bytes], bool] | None = getattr(send, "write_whole", None)
    if write is None or not write(start, body):
        await send(start)
        await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes | None:
    """Return the request's body; None if the client disconnected before its end."""
    take: Callable[[], bytes | None] | None = getattr(getattr(receive, "__self__", None), "take_body", None)
    whole = take() if take is not None else None
    if whole is not None:
        return whole
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


class ReceiveAgain:
    """A `receive` that returns the body first, then what the client sends.

    Attributes:
        original: Receives what the client sends.
    """

    def __init__(self, raw: bytes, receive: Receive) -> None:
        self.original = receive
        self._waiting: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def __call__(self) -> Message:
        """Return the next message."""
        return self._waiting.pop() if self._waiting else await self.original()


def error_body(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """Return an error body in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def send_result(
    result: Untyped,
    head: Iterable[tuple[bytes, bytes]],
    outcome: CallOutcome,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send what LiteLLM's endpoint function returned: a response object or a complete answer.

    Args:
        result: The return value, or the bytes of the answer.
        head: The headers LiteLLM set for a complete answer.
        outcome: The call's record; its headers are added.
        scope: The request's ASGI scope.
        receive: The request's ASGI receive.
        send: The request's ASGI send.
    """
    if hasattr(result, "body_iterator") or hasattr(result, "render"):
        outgoing = ResultSender(send, outcome)
        try:
            await result(scope, receive, outgoing)
        except Exception:  # a guardrail rejects within the stream: LiteLLM lets its exception through
            if outcome.guardrail_error is None or not await outgoing.send_error_event():
                raise
        return
    raw = result if isinstance(result, bytes) else answer_bodies.render_completion(result, outcome)
    states_cost = outcome.states_cost or outcome.native_cost_usd is not None
    replaced = REPLACED_HEADERS | {COST_HEADER} if states_cost else REPLACED_HEADERS
    headers: HeaderList = [*(pair for pair in head if pair[0] not in replaced), *outcome.headers()]
    headers += _missing_cost_header(headers, outcome)
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send_whole(send, 200, headers, raw)


def _missing_cost_header(head: HeaderList, outcome: CallOutcome) -> HeaderList:
    """Return the cost header that LiteLLM does not send: for a cost of 0, and for a message."""
    present, last = dict(head), outcome.attempts[-1] if outcome.attempts else None
    if COST_HEADER in present or last is None:
        return []
    cost_usd = outcome.stated_cost_usd if outcome.states_cost else outcome.native_cost_usd
    if cost_usd is not None:
        return [(COST_HEADER, f"{cost_usd:.12f}".encode())]
    if outcome.states_cost:
        return []
    stated = catalog.STATED_COST_HEADER.encode() in present
    calculated = CALCULATED_COST_HEADER in present and bool(outcome.states_tokens)
    known = stated or (calculated and catalog.has_price(last.deployment, last.model))
    return [(COST_HEADER, b"0")] if known else []


class ResultSender:
    """Wraps `send` of one response: adds error headers, and replaces LiteLLM's error event by ours."""

    def __init__(self, send: Send, outcome: CallOutcome) -> None:
        self._send = send
        self._outcome = outcome
        self._broken = self._started = False
        self._turn_began_s: float | None = None

    async def send_error_event(self) -> bool:
        """End a started stream with the error event; return False if none was started or it has ended."""
        if not self._started or self._broken:
            return False
        await self._send({"type": "http.response.body", "body": error_event(self._outcome)})
        return True

    async def __call__(self, message: Message) -> None:
        """Send the message, with what is missing added."""
        if message["type"] == "http.response.start":
            self._started = True
            failed = message["status"] >= 400
            secrets = configured_secrets(litellm_internals.router()) if failed else frozenset[str]()
            error_headers = self._outcome.error_headers(secrets) if failed else []
            kept = message["headers"]
            if self._outcome.states_cost:
                kept = [pair for pair in kept if pair[0].lower() != COST_HEADER]
                kept += _missing_cost_header([], self._outcome)
            message["headers"] = [*kept, *error_headers, *self._outcome.headers()]
        elif self._broken:
            message["body"] = b""
        elif message.get("body", b"").startswith(ERROR_EVENT):
            self._broken = True
            message["body"] = error_event(self._outcome)
        await self._send(message)
        if message.get("more_body"):
            await self._take_turns()

    async def _take_turns(self) -> None:
        """Let other calls run if this one holds the loop: a provider's buffered frames need no waiting."""
        if self._turn_began_s is None:
            self._turn_began_s = monotonic()
            asyncio.get_running_loop().call_soon(self._end_turn)
        elif monotonic() - self._turn_began_s > MAX_TURN_S:
            await asyncio.sleep(0)

    def _end_turn(self) -> None:
        self._turn_began_s = None


def error_event(outcome: CallOutcome) -> bytes:
    """Return the event that ends a broken stream; `provider` holds the error headers of the call."""
    headers = outcome.error_headers(configured_secrets(litellm_internals.router()))
    provider = {name.decode(): value.decode() for name, value in headers}
    event = {"error": TRUNCATED_ERROR["error"] | ({"provider": provider} if provider else {})}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def configured_secrets(router: Untyped) -> frozenset[str]:
    """Return the values of all deployments' non-public parameters, and the hosts of their URLs."""
    if router is None:
        return frozenset()
    params = (as_object(one.get("litellm_params")) for one in router.model_list)
    return frozenset(value for one in params for value in _secret_values(one))


def _secret_values(params: dict[str, object]) -> Iterator[str]:
    for name, value in params.items():
        if name in PUBLIC_PARAMS or not isinstance(value, str) or len(value) < MIN_SECRET_CHARS:
            continue
        yield value
        host = urlsplit(value).hostname if "://" in value else None
        if host and len(host) >= MIN_SECRET_CHARS:
            yield host
