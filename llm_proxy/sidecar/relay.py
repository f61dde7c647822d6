"""LiteLLM's result on its way out: whole answers, streams frame by frame, errors with what is known of them.

Invariants: a stream that broke ends in exactly one error event and never in [DONE]; what the event says is
ours.
"""

import json
from collections.abc import Iterable
from typing import Any

from llm_proxy.sidecar import known_secrets, prices, seams, whole_answers
from llm_proxy.sidecar.asgi import Headers, Message, Receive, Scope, Send
from llm_proxy.sidecar.outcome import Outcome
from llm_proxy.sidecar.seams import Theirs

ERROR_EVENT = b'data: {"error":'
CUT: dict[str, Any] = {
    "error": {
        "message": "The model's stream broke off before its end.",
        "type": "server_error",
        "param": None,
        "code": "upstream_stream_cut",
    }
}
COST, CALCULATED = b"x-litellm-response-cost", b"x-litellm-response-cost-original"
OURS = frozenset({b"content-length", b"content-type"})


async def relay(
    result: Theirs,
    head: Iterable[tuple[bytes, bytes]],
    outcome: Outcome,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send what an endpoint of LiteLLM returned."""
    if hasattr(result, "body_iterator") or hasattr(result, "render"):
        outgoing = Outgoing(send, outcome)
        try:
            await result(scope, receive, outgoing)
        except Exception:  # a guardrail's refusal in the middle: LiteLLM only lets it through
            if outcome.hook_error is None or not await outgoing.break_off():
                raise
        return
    raw = whole_answers.rendered(result, outcome)
    headers: Headers = [*(pair for pair in head if pair[0] not in OURS), *outcome.headers()]
    headers += _zero_cost(headers, outcome)
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


def _zero_cost(head: Headers, outcome: Outcome) -> Headers:
    """A cost of 0 of stated tokens, where it is known: LiteLLM's headers leave it out as if it were not."""
    said, last = dict(head), outcome.tried[-1] if outcome.tried else None
    if COST in said or last is None:
        return []
    stated = prices.STATED.encode() in said
    calculated = CALCULATED in said and bool(outcome.counted)
    known = stated or (calculated and prices.priced(last.deployment, last.model))
    return [(COST, b"0")] if known else []


def _cut_event(outcome: Outcome) -> bytes:
    """The event that ends a broken stream; `provider` holds what the headers of an error would."""
    known = outcome.error_headers(known_secrets.configured(seams.router()))
    told = {name.decode(): value.decode() for name, value in known}
    event = {"error": CUT["error"] | ({"provider": told} if told else {})}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class Outgoing:
    """`send` for one response: adds the provider's words to errors, and closes a broken stream as broken."""

    def __init__(self, send: Send, outcome: Outcome) -> None:
        self._send = send
        self._outcome = outcome
        self._broken = self._started = False

    async def break_off(self) -> bool:
        """End a stream that has begun with the error event; False where none has."""
        if not self._started or self._broken:
            return False
        await self._send({"type": "http.response.body", "body": _cut_event(self._outcome)})
        return True

    async def __call__(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self._started = True
            failed = message["status"] >= 400
            why = self._outcome.error_headers(known_secrets.configured(seams.router())) if failed else []
            message["headers"] = [*message["headers"], *why, *self._outcome.headers()]
        elif self._broken:
            message["body"] = b""
        elif message.get("body", b"").startswith(ERROR_EVENT):
            self._broken = True
            message["body"] = _cut_event(self._outcome)
        await self._send(message)
