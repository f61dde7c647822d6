"""Sends the answer of another call: its status, its body and the headers that belong to them, byte for byte.

Invariants: `x-request-id`, the time and the cost (0) are this request's own; figures of limits are not
repeated, because they have changed.
"""

from uuid import UUID

from llm_proxy.call_context import CallContext
from llm_proxy.edge import responses
from llm_proxy.edge.live_answer import BODY, BROKEN, HEAD, LEFT, Frame, Head, LiveAnswer, head_of
from llm_proxy.edge.request_cycle import BREAK_OFF
from llm_proxy.edge.responder import Responder
from llm_proxy.errors import FirstCallLost

REPLAYED_HEADERS = frozenset({
    b"content-type", b"content-length", b"cache-control", b"x-accel-buffering",
    b"x-llm-proxy-model", b"x-llm-proxy-provider", b"x-llm-proxy-fallback-from", b"x-llm-proxy-refused-by",
    b"retry-after", b"retry-after-ms", b"x-should-retry",
})  # fmt: skip
_EVENTS = b"text/event-stream"
_JSON = b"application/json"


async def replay(answer: LiveAnswer, responder: Responder, context: CallContext, first: UUID) -> None:
    """Sends the answer of the call `first`, from its first frame to its last, as it comes.

    Raises what ends the answer; `FirstCallLost` where its call ended while no caller waited.
    """
    answer.listeners += 1
    try:
        async for frame in answer.follow():
            if frame.kind == HEAD:
                await _send_head(head_of(frame), responder, context, first)
            else:
                await _send_part(frame, responder, context)
    finally:
        answer.listeners -= 1


async def _send_head(head: Head, responder: Responder, context: CallContext, first: UUID) -> None:
    headers = [(name, value) for name, value in head.headers if name in REPLAYED_HEADERS]
    kind = dict(headers).get(b"content-type", b"")
    headers += [
        (b"x-request-id", context.id_text.encode()),
        (b"idempotency-replayed", b"true"),
        (b"x-llm-proxy-replay-of", str(first).encode()),
        (b"x-llm-proxy-cost-usd", b"0.000000000"),
        (b"server-timing", b"total;dur=%.1f" % context.elapsed_ms()),
        *responses.dialect_headers(responder.dialect, context.id_text),
    ]
    responder.is_bytes = not kind.startswith((_EVENTS, _JSON))
    context.ttft_ms = context.elapsed_ms()
    await responder.outlet({"type": "http.response.start", "status": head.status, "headers": headers})
    context.status, context.outcome, responder.started = head.status, "cut", True


async def _send_part(frame: Frame, responder: Responder, context: CallContext) -> None:
    if frame.kind == LEFT:
        raise FirstCallLost
    if frame.kind == BROKEN:
        await responder.outlet({"type": BREAK_OFF})
        return
    more = frame.kind == BODY
    await responder.outlet({"type": "http.response.body", "body": frame.data, "more_body": more})
    if not more:
        context.outcome = "ok" if context.status < 400 else "error"
