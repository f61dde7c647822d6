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

from llm_proxy.admission import Admission, Lease
from llm_proxy.dialects import Call
from llm_proxy.errors import Bug, Refused
from llm_proxy.identity import Caller, Identity
from llm_proxy.ledger import Exchange, Ledger, Witnesses
from llm_proxy.upstream import Catalog, Reply, Watch, Watches


class Upstream(Protocol):
    """Where calls go: the pool of sidecars, or the mock."""

    catalog: Catalog | None

    async def send(
        self, call: Call, caller: Caller, request_id: str, watch: Watch, *, traceparent: str | None
    ) -> Reply:
        """The reply to a call; raises what the sidecar said instead."""
        ...

    def check_room(self) -> None:
        """Raises `Overloaded` when a call that came now would find neither a place nor room to wait."""
        ...


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages a request walks, as the composition root put them together."""

    identity: Identity
    admission: Admission
    upstream: Upstream
    ledger: Ledger
    watches: Watches
    witnesses: Witnesses | None = None


Deliver = Callable[[Reply, Lease, Exchange], Awaitable[None]]


async def relay(
    stages: Stages, exchange: Exchange, caller: Caller, call: Call, *, watch: Watch, deliver: Deliver
) -> None:
    """Admit a call, forward it, deliver the reply, and account for it, whatever happens."""
    lease = await stages.admission.admit(caller, call, exchange.request_id)
    try:
        exchange.catalog = stages.upstream.catalog
        exchange.would_refuse = lease.would_refuse
        stages.ledger.opened(exchange, caller, call)
        if stages.witnesses is not None:
            stages.witnesses.opened(exchange, caller)
        traceparent = exchange.trace.header if exchange.trace else None
        exchange.asked_at = time.perf_counter()
        reply = await stages.upstream.send(call, caller, exchange.id_text, watch, traceparent=traceparent)
        try:
            exchange.served = reply.served
            await deliver(reply, lease, exchange)
        finally:
            reply.close()
    except Refused as refused:
        exchange.failed(refused)
        raise
    except Exception:
        exchange.failed(Bug())
        raise
    finally:
        exchange.interrupted(watch.why, unsent=watch.unsent)
        record = exchange.record(caller, call)
        if lease.used is None:
            lease.settle(*exchange.used(call), record.provider)
        if record.usage_source in {"estimated", "unknown"} and not exchange.unsent:
            stages.admission.estimated(exchange.request_id, lease)
        if record.outcome == "ok" and record.completion_tokens is not None and record.cache != "hit":
            stages.admission.answered(call, record.completion_tokens)
        stages.ledger.post(record, exchange.overhead_ms(), exchange.served)
        if stages.witnesses is not None:
            stages.witnesses.closed(exchange, caller, call, record)
        await lease.settled()
