"""Every response the sidecar sends: its own JSON bodies and errors, and LiteLLM's results.

Invariants: a broken stream ends in exactly one error event and never in [DONE]; the text of that event is
this project's; no error message holds a value of the configuration that is not public (keys, addresses).
Source of the ASGI types: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from llm_proxy.json_access import as_object
from llm_proxy.sidecar import catalog, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import translated_answers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]


async def send_json(send: Send, status: int, body: object, headers: HeaderList | None = None) -> None:
    """Send a JSON body."""
    raw = encode(body)
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or []), *fixed]})
    await send({"type": "http.response.body", "body": raw})


async def read_body(receive: Receive) -> bytes | None:
    """The request's body; None when the caller left before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def error_body(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """An error in OpenAI's envelope."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


PUBLIC_PARAMS = frozenset(
    {"model", "custom_llm_provider", "region_name", "aws_region_name", "vertex_location"}
)
"""Parameters whose values a caller may read."""
MIN_SECRET_CHARS = 6


def configured_secrets(router: Untyped) -> frozenset[str]:
    """The values of every deployment's parameters that are not shown, and the hosts of its addresses."""
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
REPLACED_HEADERS = frozenset({b"content-length", b"content-type"})


async def send_result(
    result: Untyped,
    head: Iterable[tuple[bytes, bytes]],
    outcome: CallOutcome,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send what an endpoint of LiteLLM returned."""
    if hasattr(result, "body_iterator") or hasattr(result, "render"):
        outgoing = ResultSender(send, outcome)
        try:
            await result(scope, receive, outgoing)
        except Exception:  # a guardrail's refusal in the middle: LiteLLM only lets it through
            if outcome.guardrail_error is None or not await outgoing.send_error_event():
                raise
        return
    raw = translated_answers.render_completion(result, outcome)
    headers: HeaderList = [*(pair for pair in head if pair[0] not in REPLACED_HEADERS), *outcome.headers()]
    headers += _zero_cost_header(headers, outcome)
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def _zero_cost_header(head: HeaderList, outcome: CallOutcome) -> HeaderList:
    """A cost of 0 of stated tokens, where it is known: LiteLLM's headers leave it out as if it were not."""
    said, last = dict(head), outcome.attempts[-1] if outcome.attempts else None
    if COST_HEADER in said or last is None:
        return []
    stated = catalog.STATED_COST_HEADER.encode() in said
    calculated = CALCULATED_COST_HEADER in said and bool(outcome.states_tokens)
    known = stated or (calculated and catalog.has_price(last.deployment, last.model))
    return [(COST_HEADER, b"0")] if known else []


def _error_event(outcome: CallOutcome) -> bytes:
    """The event that ends a broken stream; `provider` holds what the headers of an error would."""
    known = outcome.error_headers(configured_secrets(litellm_internals.router()))
    told = {name.decode(): value.decode() for name, value in known}
    event = {"error": TRUNCATED_ERROR["error"] | ({"provider": told} if told else {})}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class ResultSender:
    """`send` for one response: adds the provider's words to errors, and closes a broken stream as broken."""

    def __init__(self, send: Send, outcome: CallOutcome) -> None:
        self._send = send
        self._outcome = outcome
        self._broken = self._started = False

    async def send_error_event(self) -> bool:
        """End a stream that has begun with the error event; False where none has."""
        if not self._started or self._broken:
            return False
        await self._send({"type": "http.response.body", "body": _error_event(self._outcome)})
        return True

    async def __call__(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self._started = True
            failed = message["status"] >= 400
            why = (
                self._outcome.error_headers(configured_secrets(litellm_internals.router())) if failed else []
            )
            message["headers"] = [*message["headers"], *why, *self._outcome.headers()]
        elif self._broken:
            message["body"] = b""
        elif message.get("body", b"").startswith(ERROR_EVENT):
            self._broken = True
            message["body"] = _error_event(self._outcome)
        await self._send(message)
