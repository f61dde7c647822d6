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

from llm_proxy.admission import Lease, apply_max_tokens_cap
from llm_proxy.dialects import BodyLimits, Call, ResponseMeta, StreamRenderer, parse_request_options
from llm_proxy.dialects.request.url_guard import reject_private_urls
from llm_proxy.dialects.routes import ROUTES_BY_PATH, InferenceRoute
from llm_proxy.edge import responses
from llm_proxy.edge.auth import AuthFailureReporter
from llm_proxy.edge.current_catalog import CurrentCatalog
from llm_proxy.edge.request import ClientDisconnected, Headers, Receive, Scope, Send, read_body, read_headers
from llm_proxy.errors import (
    APIError,
    BadRequest,
    InternalError,
    Overloaded,
    ProviderAuthError,
    ProviderQuotaExceeded,
    UnsupportedTransferEncoding,
    with_request_id,
)
from llm_proxy.identity import Authenticator, Caller, attribution_from_headers, on_behalf_of
from llm_proxy.ledger import Exchange
from llm_proxy.pipeline import Stages, relay
from llm_proxy.settings import Settings
from llm_proxy.telemetry import uuid7
from llm_proxy.upstream import (
    CallGuard,
    Reply,
    TimeoutPolicy,
    estimate_answer_tokens,
    interrupt_error,
    map_stream_error,
    timeout_policy,
)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a door allows: bytes, depth, seconds, and whether links may lead into private networks."""

    max_header_bytes: int
    max_body_bytes: int
    body_timeout_s: float
    deadlines: TimeoutPolicy
    bounds: BodyLimits
    private_links: bool = False


def request_limits(settings: Settings) -> RequestLimits:
    """What an operator has set."""
    return RequestLimits(
        max_header_bytes=settings.max_header_bytes,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
        deadlines=timeout_policy(settings),
        bounds=BodyLimits(settings.max_json_depth, settings.max_messages),
        private_links=settings.private_links,
    )


class RequestReader:
    """Reads requests."""

    def __init__(self, identity: Authenticator, limits: RequestLimits, models: CurrentCatalog) -> None:
        self.limits = limits
        self._identity = identity
        self._models = models

    def authenticate(self, headers: Headers) -> Awaitable[Caller]:
        """Whose credential it is; raises `Unauthorized` when awaited."""
        return self._identity.authenticate(headers)

    def parse(
        self, door: InferenceRoute, caller: Caller, headers: Headers, body: bytes
    ) -> tuple[Caller, Call]:
        """Whom the call is admitted and billed to, and the call; raises what is wrong with either."""
        hints = parse_request_options(headers.items())
        call = door.dialect.parse(
            door.endpoint, body, hints, self._models.models_for(caller), self.limits.bounds
        )
        self._models.reject_wrong_mode(call)
        if not self.limits.private_links:
            reject_private_urls(call.body)
        caller = on_behalf_of(caller, attribution_from_headers(headers), call.attribution)
        return caller, call if caller.max_tokens_cap is None else apply_max_tokens_cap(caller, call)

    async def read_explain_request(
        self, request: Request, of_key: Caller | None = None
    ) -> tuple[Caller, Call]:
        """The caller and the call of a request that is only to be explained; `?path=` names its door.

        `of_key` is whom an operator asks about.
        """
        headers = read_headers(request.scope, max_bytes=self.limits.max_header_bytes)
        caller = of_key or await self.authenticate(headers)
        door = ROUTES_BY_PATH.get(request.query_params.get("path", "/v1/chat/completions").encode())
        if door is None:
            raise BadRequest("Invalid 'path': no such door.", param="path", code="invalid_value")
        body = await read_body(request.receive, headers, max_bytes=self.limits.max_body_bytes)
        return self.parse(door, caller, headers, body)


log = logging.getLogger(__name__)

_DONE = b"data: [DONE]\n\n"
_LONGEST_ID = 200


class InferenceEndpoint:
    """Serves hot doors."""

    def __init__(self, stages: Stages, intake: RequestReader, suspects: AuthFailureReporter) -> None:
        self._stages = stages
        self._intake = intake
        self._suspects = suspects

    async def __call__(self, door: InferenceRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(uuid7(), None)
        loop = asyncio.get_running_loop()
        watches = self._stages.watches
        watch = watches.open(loop.time() + self._intake.limits.body_timeout_s)
        attempt = Responder(self._stages, door, exchange, watch, send)
        try:
            await self._walk(attempt, scope, receive)
        except ClientDisconnected:
            pass
        except APIError as refused:
            self._suspects.report(scope, refused)
            await attempt.refuse(refused)
        except asyncio.CancelledError:
            if not watch.was_interrupted():
                raise
            interrupted = interrupt_error(watch.reason)
            if interrupted is not None:
                await attempt.refuse(interrupted)
        except Exception:
            log.exception(
                "a request failed", extra={"request_id": str(exchange.request_id), "path": scope["path"]}
            )
            await attempt.refuse(InternalError())
        finally:
            watches.close(watch)

    async def _walk(self, attempt: "Responder", scope: Scope, receive: Receive) -> None:
        limits = self._intake.limits
        headers = read_headers(scope, max_bytes=limits.max_header_bytes)
        exchange = attempt.exchange
        exchange.client_request_id = _client_id(headers.get(b"x-request-id"))
        exchange.traceparent = headers.get(b"traceparent")
        exchange.caller = caller = await self._intake.authenticate(headers)
        self._stages.admission.reject_if_exhausted(caller)
        body = await read_body(receive, headers, max_bytes=limits.max_body_bytes)
        attempt.watch.body_received(receive)
        caller, call = self._intake.parse(attempt.door, caller, headers, body)
        total_s = limits.deadlines.total_s(call.group, call.timeout_s)
        self._stages.upstream.check_room()
        attempt.watch.total_deadline = asyncio.get_running_loop().time() + total_s
        await attempt.run(caller, call)


class Responder:
    """One request's way out: how its reply, or its refusal, reaches the caller."""

    __slots__ = ("_send", "_stages", "_started", "door", "exchange", "watch")

    def __init__(
        self, stages: Stages, door: InferenceRoute, exchange: Exchange, watch: CallGuard, send: Send
    ) -> None:
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

    async def refuse(self, refused: APIError) -> None:
        """Answer with an error: a status while nothing was sent, else the stream's error event."""
        of_ours = isinstance(refused, Overloaded | UnsupportedTransferEncoding)
        if (refused.status >= 500 and not of_ours) or isinstance(refused, ProviderQuotaExceeded):
            self._tell(refused)
            refused.message = with_request_id(refused.message, self.exchange.id_text)
        if self._started:
            await self._send({"type": "http.response.body", "body": self.door.dialect.stream_error(refused)})
            return
        self._started = True
        self._stages.ledger.request_rejected(self.exchange, refused)
        await responses.send_error(self._send, refused, self.exchange, self.door.dialect)

    def _tell(self, refused: APIError) -> None:
        """The operator hears why; credentials a provider refuses are an alarm, theirs to mend."""
        exchange = self.exchange
        known = {
            "request_id": str(exchange.request_id),
            "code": refused.code,
            "status": refused.status,
            "group": exchange.call.group if exchange.call else None,
            "provider_message": refused.provider_message,
        }
        level = logging.ERROR if isinstance(refused, ProviderAuthError) else logging.WARNING
        log.log(level, "a call failed", extra=known)

    def _deliver(self, reply: Reply, lease: Lease, exchange: Exchange) -> Awaitable[None]:
        deliver = self._whole if reply.stream_filter is None else self._stream
        return deliver(reply, lease, exchange)

    async def _whole(self, reply: Reply, lease: Lease, exchange: Exchange) -> None:
        body, exchange.usage = await reply.json()
        exchange.content_tokens = estimate_answer_tokens(body) if exchange.usage is None else 0
        exchange.answered_at = time.perf_counter()
        out = self.door.dialect.render(body, self._answered(reply, exchange))
        headers = responses.response_headers(exchange, reply.routing, lease.headers)
        await self._settle(lease)
        exchange.first_byte()
        exchange.said(out)
        await responses.send_json(self._send, 200, out, headers)
        exchange.status, self._started = 200, True

    async def _stream(self, reply: Reply, lease: Lease, exchange: Exchange) -> None:
        frames, call = reply.stream_filter, exchange.call
        assert frames is not None and call is not None  # noqa: S101, PT018 -- only streams come here
        writer = self.door.dialect.open_stream(call)
        try:
            await self._pump(reply, lease, writer)
        finally:
            exchange.usage = frames.usage
            exchange.content_tokens = frames.content_tokens() if frames.usage is None else 0
            if self._started:
                exchange.outcome = "cut"
        if frames.error is not None:
            raise map_stream_error(
                frames.error, fields=call.body.keys(), sent_body=lambda: orjson.dumps(call.body)
            )
        if frames.is_malformed or not frames.done:
            raise map_stream_error({"code": "upstream_stream_cut"})
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
        await lease.wait_settled()

    async def _pump(self, reply: Reply, lease: Lease, writer: StreamRenderer | None) -> None:
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
            self._send, responses.response_headers(exchange, reply.routing, lease.headers)
        )

    def _answered(self, reply: Reply, exchange: Exchange) -> ResponseMeta:
        return ResponseMeta(reply.routing.provider, reply.routing.provider_model, exchange.elapsed_ms())


def _client_id(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value[:_LONGEST_ID].decode("ascii", "replace")
