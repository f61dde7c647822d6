"""The inference endpoint: authenticates, reads and parses a request, runs the call, sends the response.

Invariants: the credential is checked before the body is read; inference and `/v1/explain` read a request by
the same code; each caller gets exactly one response, and each call is accounted for once (see `pipeline`); a
broken stream ends in one error event and no `[DONE]`; a disconnected caller's call is cancelled.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass

import orjson
from starlette.requests import Request

from llm_proxy.admission import Lease, capped
from llm_proxy.dialects import Answered, Bounds, Call, StreamWriter, read_hints
from llm_proxy.dialects.request.url_guard import refuse_private
from llm_proxy.dialects.routes import BY_PATH, HotDoor
from llm_proxy.edge import responses
from llm_proxy.edge.auth import Suspects
from llm_proxy.edge.current_catalog import KnownModels
from llm_proxy.edge.request import ClientGone, Headers, Receive, Scope, Send, read_body, read_headers
from llm_proxy.errors import (
    BadRequest,
    Bug,
    Overloaded,
    ProviderAuth,
    ProviderQuota,
    Refused,
    UnknownCoding,
    with_reference,
)
from llm_proxy.identity import Caller, Identity, named_by_headers, on_behalf_of
from llm_proxy.ledger import Exchange
from llm_proxy.pipeline import Stages, relay
from llm_proxy.settings import Settings
from llm_proxy.telemetry import uuid7
from llm_proxy.upstream import Deadlines, Reply, Watch, deadlines, interruption, said_tokens, stream_refusal


@dataclass(frozen=True, slots=True)
class Limits:
    """What a door allows: bytes, depth, seconds, and whether links may lead into private networks."""

    max_header_bytes: int
    max_body_bytes: int
    body_timeout_s: float
    deadlines: Deadlines
    bounds: Bounds
    private_links: bool = False


def limits_of(settings: Settings) -> Limits:
    """What an operator has set."""
    return Limits(
        max_header_bytes=settings.max_header_bytes,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        deadlines=deadlines(settings),
        bounds=Bounds(settings.max_json_depth, settings.max_messages),
        private_links=settings.private_links,
    )


class Intake:
    """Reads requests."""

    def __init__(self, identity: Identity, limits: Limits, models: KnownModels) -> None:
        self.limits = limits
        self._identity = identity
        self._models = models

    def caller(self, headers: Headers) -> Awaitable[Caller]:
        """Whose credential it is; raises `Unauthorized` when awaited."""
        return self._identity.identify(headers)

    def call(self, door: HotDoor, caller: Caller, headers: Headers, body: bytes) -> tuple[Caller, Call]:
        """Whom the call is admitted and billed to, and the call; raises what is wrong with either."""
        hints = read_hints(headers.items())
        call = door.dialect.read(door.door, body, hints, self._models.of(caller), self.limits.bounds)
        self._models.check(call)
        if not self.limits.private_links:
            refuse_private(call.body)
        caller = on_behalf_of(caller, named_by_headers(headers), call.named)
        return caller, call if caller.max_tokens_cap is None else capped(caller, call)

    async def explained(self, request: Request, of_key: Caller | None = None) -> tuple[Caller, Call]:
        """The caller and the call of a request that is only to be explained; `?path=` names its door.

        `of_key` is whom an operator asks about.
        """
        headers = read_headers(request.scope, max_bytes=self.limits.max_header_bytes)
        caller = of_key or await self.caller(headers)
        door = BY_PATH.get(request.query_params.get("path", "/v1/chat/completions").encode())
        if door is None:
            raise BadRequest("Invalid 'path': no such door.", param="path", code="invalid_value")
        body = await read_body(request.receive, headers, max_bytes=self.limits.max_body_bytes)
        return self.call(door, caller, headers, body)


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
        await responses.send_refusal(self._send, refused, self.exchange, self.door.dialect)

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
        headers = responses.answer_headers(exchange, reply.served, lease.headers)
        await self._settle(lease)
        exchange.first_byte()
        exchange.said(out)
        await responses.send_json(self._send, 200, out, headers)
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
        await responses.start_stream(
            self._send, responses.answer_headers(exchange, reply.served, lease.headers)
        )

    def _answered(self, reply: Reply, exchange: Exchange) -> Answered:
        return Answered(reply.served.provider, reply.served.physical, exchange.elapsed_ms())


def _client_id(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value[:_LONGEST_ID].decode("ascii", "replace")
