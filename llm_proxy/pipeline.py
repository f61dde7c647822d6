"""The steps of a call, written once: admitted, sent, answered; then settled and recorded, however it ends.

Invariants: stages return values and never call back; every admitted call settles its lease once and posts one
record, whatever ends it (an answer, an error, a deadline, a disconnect, a drain); a lease that holds anything
is settled before the last byte leaves, so that a caller never meets its own previous call. A call that was
not admitted leaves no record here.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from llm_proxy.admission import AdmissionController
from llm_proxy.admission.lease import Lease, RawHeaders
from llm_proxy.admission.loop_guard import describe
from llm_proxy.background import Started, attempt, report_failure
from llm_proxy.call_context import CallContext, note_end, note_error
from llm_proxy.dialects import Call
from llm_proxy.dialects.notice import with_notice
from llm_proxy.dialects.request.native_call import within_cap
from llm_proxy.endpoints import OPAQUE_ENDPOINTS
from llm_proxy.errors import APIError, InternalError
from llm_proxy.identity import Caller
from llm_proxy.ledger import CallObservers, Ledger, UsageRecord, billed, overhead_ms, record_of
from llm_proxy.running_calls import RunningCalls
from llm_proxy.telemetry.tracing import traceparent_of
from llm_proxy.upstream import CallGuard, CurrentCatalog, RoutingInfo
from llm_proxy.upstream.byte_stream import ByteStream
from llm_proxy.upstream.reply import Reply, Send, Write
from llm_proxy.upstream.token_usage import NOTHING_USED, estimate_answer_tokens

BACKGROUND_TOKENS = 4096
"""Billed for an answer that is made in the background, where the caller sets no maximum."""


class Upstream(Protocol):
    """What sends calls: the client of the sidecars, or the mock."""

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:
        """Returns what sends a call, which is composed now; nothing is sent and no slot taken before that."""
        ...

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """Raises `Overloaded` without a slot or a place in the queue for a call; None: it was not read."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The stages of an authenticated call, as the composition root put them together."""

    admission: AdmissionController
    upstream: Upstream
    catalog: CurrentCatalog
    ledger: Ledger
    running_calls: RunningCalls
    observers: CallObservers | None = None


def reject_early(services: Services, caller: Caller) -> None:
    """Rejects a call before its body is read, when a limit of the caller's own key is known to be exhausted.

    Raises RateLimited.
    """
    services.admission.reject_if_exhausted(caller)


def process_call(services: Services, context: CallContext, guard: CallGuard) -> "AdmittedCall":
    """Returns the call of `context`, to be entered with `async with`: that admits and sends it.

    Leaving the block settles and records it. Entering raises what admission and upstream raise.
    """
    return AdmittedCall(services, context, guard)


class AdmittedCall:
    """A call from its admission to its record; within the block its reply is read once, as body or chunks.

    Attributes:
        context: What is known of the call.
        is_admitted: It was admitted, and may wait for its answer.
        is_stream: The reply is a stream of chunks, else one body.
        byte_type: The media type of a stream that is bytes and no events; None for any other, and before.
    """

    __slots__ = (
        "_guard", "_lease", "_reply", "_services",
        "byte_type", "context", "is_admitted", "is_stream",
    )  # fmt: skip
    _lease: Lease
    _reply: Reply
    is_stream: bool

    def __init__(self, services: Services, context: CallContext, guard: CallGuard) -> None:
        self.context = context
        self.is_admitted = False
        self.byte_type: str | None = None
        self._services = services
        self._guard = guard

    async def __aenter__(self) -> Self:
        """Admits the call and sends it upstream; rejects it before admission when upstream is full."""
        services, context = self._services, self.context
        caller, call = context.caller, context.call
        assert caller is not None and call is not None  # noqa: S101, PT018 -- the request was read
        services.upstream.check_capacity(caller, call)
        policies = services.admission.policies
        asking = Started(services.admission.admit(caller, call, context.request_id))
        # Runs while the limits store answers; an error is raised once the reservation is known.
        send, started_line = _prepared(services, call, context)
        self._lease = lease = await asking
        self.is_admitted, self._guard.on_sent = True, lambda: lease.headers
        try:
            services.ledger.call_started(context, started_line)
            context.catalog = services.catalog.snapshot
            context.would_refuse = lease.would_reject
            if lease.guarded is not None and (verdict := lease.guarded.verdict) is not None:
                context.guard_verdict = verdict
                call = with_notice(call, describe(verdict.finding)) if verdict.notice else call
            is_changed = lease.caller is not caller or services.admission.policies is not policies
            if is_changed or call is not context.call:
                context.caller = lease.caller
                send, _ = _prepared(services, call, context, started_line)
            if services.observers is not None:
                services.observers.on_start(context)
            traceparent = traceparent_of(context.trace) if context.trace else None
            context.sent_at = time.perf_counter()
            self._reply = reply = await send(self._guard, traceparent)
        except BaseException as error:
            await self._end(error)
            raise
        context.routing, context.frames = reply.routing, reply.stream_filter
        self.is_stream = reply.stream_filter is not None
        if isinstance(reply.stream_filter, ByteStream):
            self.byte_type = reply.stream_filter.content_type
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the reply, settles and records the call."""
        attempt("ended-calls", self._reply.close)
        attempt("ended-calls", self.note_usage)
        await self._end(error)

    @property
    def limit_headers(self) -> RawHeaders:
        """The caller's limit status, for the response; they are made while the sidecar works."""
        return self._lease.headers

    @property
    def content_type(self) -> bytes:
        """The media type of a whole reply."""
        return self._reply.content_type

    async def body(self) -> bytes:
        """Returns the whole reply, OpenAI's JSON or a transcript's text; raises what broke it."""
        context = self.context
        body, usage = await self._reply.json()
        context.usage = usage
        context.content_tokens = self._estimated_tokens(body) if usage is None else 0
        context.answered_at = time.perf_counter()
        return body

    def _estimated_tokens(self, body: bytes) -> int:
        call = self.context.call
        if call is not None and call.endpoint in OPAQUE_ENDPOINTS:
            return 0
        if call is not None and call.endpoint == "responses" and call.body.get("background") is True:
            return BACKGROUND_TOKENS if call.max_tokens is None else call.max_tokens
        return estimate_answer_tokens(body)

    def chunks(self, write: Write | None = None) -> AsyncIterator[bytes]:
        """Yields OpenAI's events as they come, without `[DONE]`; raises what broke the stream.

        What `write` took is not yielded.
        """
        return self._reply.chunks(write)

    def last_event(self) -> bytes:
        """Returns the event that ends a complete stream in a provider's own protocol; none for a chat's."""
        return self._reply.stream_filter.last_event if self._reply.stream_filter is not None else b""

    async def settle(self) -> None:
        """Settles the lease, before the last byte leaves; waits for the store where a limit is tight.

        One whose settlement changes nothing is settled after that.
        """
        if not self._lease.settles:
            return
        self.note_usage()
        self._settle(self.context.routing.provider, answered=True)
        if self._lease.is_tight:
            await self._lease.wait_settled()

    def _settle(self, provider: str | None, *, answered: bool = False) -> None:
        try:
            used = billed(self.context)
        except Exception as error:  # noqa: BLE001 -- what was reserved stays counted, and the slot is free again
            report_failure("ended-calls", error)
            self._lease.settle(None, None, provider, None, answered=answered)
            return
        hit = self.context.routing.cache == "hit"
        self._lease.settle(
            used.tokens, used.cost_nano_usd, provider, used.quantities, from_cache=hit, answered=answered
        )

    def note_usage(self) -> None:
        """Notes what a stream has used so far; a body's usage is known once it was read."""
        frames, context = self._reply.stream_filter, self.context
        if frames is not None:
            context.usage = frames.usage
            context.content_tokens = frames.content_tokens() if context.usage is None else 0

    async def _end(self, error: BaseException | None) -> None:
        """Accounts for the call, whatever ended it; waits for the settlement of one that was not answered."""
        context, guard = self.context, self._guard
        _note_failure(context, error)
        note_end(context, guard.reason, unsent=guard.unsent)
        context.queue_ms, context.is_batch = guard.queue_s * 1000, guard.is_batch
        answered = self._lease.usage is not None
        if not answered:
            self._settle(context.routing.provider)
        record = _posted(self._services, context)
        if record is not None:
            attempt("ended-calls", self._learn, record)
        if not answered:
            await self._lease.wait_settled()

    def _learn(self, record: UsageRecord) -> None:
        """Notes what admission learns of a call that has ended."""
        context, admission = self.context, self._services.admission
        if record.usage_source in {"estimated", "unknown"} and not context.unsent:
            admission.correct_later(context.request_id, self._lease)
        if record.outcome == "ok" and record.completion_tokens is not None and record.cache != "hit":
            assert context.call is not None  # noqa: S101 -- it was admitted
            admission.record_answer_length(context.call, record.completion_tokens)


class ReplayedCall:
    """A call that gets the answer of another one with its idempotency key: recorded, admitted by no limit.

    Within the block its answer is sent. Entering raises `Forbidden`.
    """

    __slots__ = ("_context", "_guard", "_services")

    def __init__(self, services: Services, context: CallContext, guard: CallGuard, first: UUID) -> None:
        """`first` is the call that made the answer."""
        self._services = services
        self._context = context
        self._guard = guard
        context.replay_of = first

    async def __aenter__(self) -> Self:
        """Starts the record."""
        services, context = self._services, self._context
        assert context.caller is not None and context.call is not None  # noqa: S101, PT018 -- it was read
        services.admission.check_access(context.caller, context.call)
        context.routing = RoutingInfo(group=context.call.group, cost_nano_usd=0, cache="off", attempts=0)
        context.usage = NOTHING_USED
        started_line = services.ledger.started_line(context)
        if services.observers is not None:
            services.observers.on_start(context)
            context.payload = None  # it is stored with the first
        services.ledger.call_started(context, started_line)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Posts the record: nothing was used."""
        _note_failure(self._context, error)
        note_end(self._context, self._guard.reason)
        _posted(self._services, self._context)


def _prepared(services: Services, call: Call, context: CallContext, line: bytes = b"") -> tuple[Send, bytes]:
    """Returns what sends a call, or raises what prevents that; and the call's line for the journal.

    `line` is that of a call that was prepared before: its caller may have changed since then.
    """
    caller = context.caller
    assert caller is not None  # noqa: S101 -- the request was read
    try:
        if caller.max_tokens_cap is not None:
            call = within_cap(call, caller.max_tokens_cap)
        send = services.upstream.compose(call, caller, context.id_text)
        return send, line or services.ledger.started_line(context)
    except Exception as error:  # noqa: BLE001 -- raised where the call would be sent
        return partial(_cannot_send, error), b""


async def _cannot_send(error: Exception, guard: CallGuard, _traceparent: str | None) -> Reply:
    guard.unsent = True
    raise error


def _posted(services: Services, context: CallContext) -> UsageRecord | None:
    """Posts the record of a call that has ended, and returns it; None where none could be made."""
    try:
        record = record_of(context)
    except Exception as error:  # noqa: BLE001 -- the call runs no longer, with a record or without
        services.ledger.call_lost(context.request_id, error)
        return None
    services.ledger.call_finished(record, overhead_ms(context), context.routing)
    if services.observers is not None:
        services.observers.on_end(context, record)
    return record


def _note_failure(context: CallContext, error: BaseException | None) -> None:
    """Notes the error that ended a call; one that is not the gateway's own is an internal one."""
    if isinstance(error, APIError):
        note_error(context, error)
    elif isinstance(error, Exception):
        note_error(context, InternalError())
