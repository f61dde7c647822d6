"""The request's story, told once: record outermost, then lease, then upstream.

Invariants: every admitted call settles its lease once and posts one record, whatever ends it (an answer, a
refusal, a deadline, the caller's leaving); the lease is settled before the last byte of the answer leaves, so
that a caller never meets its own previous call. A call that was not admitted leaves no record here; its
refusal is counted where it is answered.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from llm_proxy.admission import AdmissionController, Lease
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, InternalError
from llm_proxy.identity import Authenticator, Caller
from llm_proxy.ledger import CallObservers, Exchange, Ledger
from llm_proxy.upstream import CallGuard, Catalog, Reply, RunningCalls


class Upstream(Protocol):
    """Where calls go: the pool of sidecars, or the mock."""

    catalog: Catalog | None

    async def send(
        self, call: Call, caller: Caller, request_id: str, watch: CallGuard, *, traceparent: str | None
    ) -> Reply:
        """The reply to a call; raises what the sidecar said instead."""
        ...

    def check_room(self) -> None:
        """Raises `Overloaded` when a call that came now would find neither a place nor room to wait."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages a request walks, as the composition root put them together."""

    identity: Authenticator
    admission: AdmissionController
    upstream: Upstream
    ledger: Ledger
    watches: RunningCalls
    witnesses: CallObservers | None = None


Deliver = Callable[[Reply, Lease, Exchange], Awaitable[None]]


async def relay(
    stages: Stages, exchange: Exchange, caller: Caller, call: Call, *, watch: CallGuard, deliver: Deliver
) -> None:
    """Admit a call, forward it, deliver the reply, and account for it, whatever happens."""
    lease = await stages.admission.admit(caller, call, exchange.request_id)
    try:
        exchange.catalog = stages.upstream.catalog
        exchange.would_refuse = lease.would_reject
        stages.ledger.call_started(exchange, caller, call)
        if stages.witnesses is not None:
            stages.witnesses.on_start(exchange, caller)
        traceparent = exchange.trace.header if exchange.trace else None
        exchange.asked_at = time.perf_counter()
        reply = await stages.upstream.send(call, caller, exchange.id_text, watch, traceparent=traceparent)
        try:
            exchange.served = reply.routing
            await deliver(reply, lease, exchange)
        finally:
            reply.close()
    except APIError as refused:
        exchange.failed(refused)
        raise
    except Exception:
        exchange.failed(InternalError())
        raise
    finally:
        exchange.interrupted(watch.reason, unsent=watch.unsent)
        record = exchange.record(caller, call)
        if lease.usage is None:
            lease.settle(*exchange.used(call), record.provider)
        if record.usage_source in {"estimated", "unknown"} and not exchange.unsent:
            stages.admission.correct_later(exchange.request_id, lease)
        if record.outcome == "ok" and record.completion_tokens is not None and record.cache != "hit":
            stages.admission.record_answer_length(call, record.completion_tokens)
        stages.ledger.call_finished(record, exchange.overhead_ms(), exchange.served)
        if stages.witnesses is not None:
            stages.witnesses.on_end(exchange, caller, call, record)
        await lease.wait_settled()
