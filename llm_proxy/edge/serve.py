"""A hot door: one plain ASGI endpoint that walks a request through every stage and answers it.

On uvicorn nobody cancels a plain ASGI callable when the caller leaves, so every call stands under a watch
that does. Invariants: the credential is checked before the body is read; whatever ends a call, its caller
gets one answer, and its accounting (see `pipeline`) is done once; a stream that breaks ends in one error
event and no `[DONE]`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable

import orjson

from llm_proxy.admission import Lease
from llm_proxy.dialects import Answered, Call, StreamWriter
from llm_proxy.edge import respond
from llm_proxy.edge.doors import HotDoor
from llm_proxy.edge.intake import Intake
from llm_proxy.edge.request import ClientGone, Receive, Scope, Send, read_body, read_headers
from llm_proxy.edge.suspects import Suspects
from llm_proxy.errors import (
    Bug,
    Overloaded,
    ProviderAuth,
    ProviderQuota,
    Refused,
    UnknownCoding,
    with_reference,
)
from llm_proxy.identity import Caller
from llm_proxy.ledger import Exchange
from llm_proxy.pipeline import Stages, relay
from llm_proxy.telemetry import uuid7
from llm_proxy.upstream import Reply, Watch, interruption, said_tokens, stream_refusal

log = logging.getLogger(__name__)

_DONE = b"data: [DONE]\n\n"
_LONGEST_ID = 200


class Serve:
    """Serves hot doors."""

    def __init__(self, stages: Stages, intake: Intake, suspects: Suspects) -> None:
        self._stages = stages
        self._intake = intake
        self._suspects = suspects

    async def __call__(self, door: HotDoor, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(uuid7(), None)
        loop = asyncio.get_running_loop()
        watches = self._stages.watches
        watch = watches.open(loop.time() + self._intake.limits.body_timeout_s)
        attempt = _Attempt(self._stages, door, exchange, watch, send)
        try:
            await self._walk(attempt, scope, receive)
        except ClientGone:
            pass
        except Refused as refused:
            self._suspects.note(scope, refused)
            await attempt.refuse(refused)
        except asyncio.CancelledError:
            if not watch.was_interrupted():
                raise
            interrupted = interruption(watch.why)
            if interrupted is not None:
                await attempt.refuse(interrupted)
        except Exception:
            log.exception(
                "a request failed", extra={"request_id": str(exchange.request_id), "path": scope["path"]}
            )
            await attempt.refuse(Bug())
        finally:
            watches.close(watch)

    async def _walk(self, attempt: "_Attempt", scope: Scope, receive: Receive) -> None:
        limits = self._intake.limits
        headers = read_headers(scope, max_bytes=limits.max_header_bytes)
        exchange = attempt.exchange
        exchange.client_request_id = _client_id(headers.get(b"x-request-id"))
        exchange.traceparent = headers.get(b"traceparent")
        exchange.caller = caller = await self._intake.caller(headers)
        self._stages.admission.turn_away(caller)
        body = await read_body(receive, headers, max_bytes=limits.max_body_bytes)
        attempt.watch.body_read(receive)
        caller, call = self._intake.call(attempt.door, caller, headers, body)
        total_s = limits.deadlines.total_s(call.group, call.timeout_s)
        self._stages.upstream.check_room()
        attempt.watch.ends_at = asyncio.get_running_loop().time() + total_s
        await attempt.run(caller, call)


class _Attempt:
    """One request's way out: how its reply, or its refusal, reaches the caller."""

    __slots__ = ("_send", "_stages", "_started", "door", "exchange", "watch")

    def __init__(self, stages: Stages, door: HotDoor, exchange: Exchange, watch: Watch, send: Send) -> None:
        self._stages = stages
        self._send = send
        self._started = False
        self.door = door
        self.exchange = exchange
        self.watch = watch

    def run(self, caller: Caller, call: Call) -> Awaitable[None]:
        """Walk the rest of the way: admission, upstream, delivery, record."""
        exchange = self.exchange
        exchange.caller, exchange.call = caller, call
        return relay(self._stages, exchange, caller, call, watch=self.watch, deliver=self._deliver)

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error: a status while nothing was sent, else the stream's error event."""
        of_ours = isinstance(refused, Overloaded | UnknownCoding)
        if (refused.status >= 500 and not of_ours) or isinstance(refused, ProviderQuota):
            self._tell(refused)
            refused.message = with_reference(refused.message, self.exchange.id_text)
        if self._started:
            await self._send({"type": "http.response.body", "body": self.door.dialect.stream_error(refused)})
            return
        self._started = True
        self._stages.ledger.refused(self.exchange, refused)
        await respond.send_refusal(self._send, refused, self.exchange, self.door.dialect)

    def _tell(self, refused: Refused) -> None:
        """The operator hears why; credentials a provider refuses are an alarm, theirs to mend."""
        exchange = self.exchange
        known = {
            "request_id": str(exchange.request_id),
            "code": refused.code,
            "status": refused.status,
            "group": exchange.call.group if exchange.call else None,
            "provider_message": refused.provider_message,
        }
        level = logging.ERROR if isinstance(refused, ProviderAuth) else logging.WARNING
        log.log(level, "a call failed", extra=known)

    def _deliver(self, reply: Reply, lease: Lease, exchange: Exchange) -> Awaitable[None]:
        deliver = self._whole if reply.frames is None else self._stream
        return deliver(reply, lease, exchange)

    async def _whole(self, reply: Reply, lease: Lease, exchange: Exchange) -> None:
        body, exchange.usage = await reply.json()
        exchange.content_tokens = said_tokens(body) if exchange.usage is None else 0
        exchange.answered_at = time.perf_counter()
        out = self.door.dialect.write(body, self._answered(reply, exchange))
        headers = respond.answer_headers(exchange, reply.served, lease.headers)
        await self._settle(lease)
        exchange.first_byte()
        exchange.said(out)
        await respond.send_json(self._send, 200, out, headers)
        exchange.status, self._started = 200, True

    async def _stream(self, reply: Reply, lease: Lease, exchange: Exchange) -> None:
        frames, call = reply.frames, exchange.call
        assert frames is not None and call is not None  # noqa: S101, PT018 -- only streams come here
        writer = self.door.dialect.stream(call)
        try:
            await self._pump(reply, lease, writer)
        finally:
            exchange.usage = frames.usage
            exchange.content_tokens = frames.content_tokens() if frames.usage is None else 0
            if self._started:
                exchange.outcome = "cut"
        if frames.error is not None:
            raise stream_refusal(frames.error, fields=call.body.keys(), asked=lambda: orjson.dumps(call.body))
        if frames.garbage or not frames.done:
            raise stream_refusal({"code": "upstream_stream_cut"})
        if not self._started:
            await self._start(reply, lease, exchange)
        exchange.outcome = "cut"
        await self._settle(lease)
        end = writer.end(self._answered(reply, exchange)) if writer else _DONE
        await self._send({"type": "http.response.body", "body": end})
        exchange.outcome = "ok"

    async def _settle(self, lease: Lease) -> None:
        """Settle before the last byte leaves: the caller's next call meets nothing of this one."""
        exchange = self.exchange
        assert exchange.call is not None  # noqa: S101 -- it was read before it was sent
        lease.settle(*exchange.used(exchange.call), exchange.served.provider)
        await lease.settled()

    async def _pump(self, reply: Reply, lease: Lease, writer: StreamWriter | None) -> None:
        """Pass frames on as they come, the head before the first."""
        send, exchange = self._send, self.exchange
        keeps = exchange.answer is not None
        while (out := await reply.chunk()) is not None:
            if not self._started:
                exchange.answered_at = time.perf_counter()
            if writer is not None:
                out = writer.feed(out)
            if not out:
                continue
            if not self._started:
                await self._start(reply, lease, exchange)
            if keeps:
                exchange.said(out)
            await send({"type": "http.response.body", "body": out, "more_body": True})

    async def _start(self, reply: Reply, lease: Lease, exchange: Exchange) -> None:
        exchange.first_byte()
        exchange.status, self._started = 200, True
        await respond.start_stream(self._send, respond.answer_headers(exchange, reply.served, lease.headers))

    def _answered(self, reply: Reply, exchange: Exchange) -> Answered:
        return Answered(reply.served.provider, reply.served.physical, exchange.elapsed_ms())


def _client_id(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value[:_LONGEST_ID].decode("ascii", "replace")
