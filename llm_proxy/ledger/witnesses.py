"""Who else is told of a call, where the operator asked for it: a trace collector, and the store of payloads.

Invariants: off unless configured, and then nothing here is reached; never waits, never raises into a call;
what is kept of an answer is bounded, and redacted before it is written (see `payload`).
"""

from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from llm_proxy.dialects import Call
from llm_proxy.identity import Caller
from llm_proxy.ledger.exchange import Exchange
from llm_proxy.ledger.payload import Payload
from llm_proxy.ledger.record import UsageRecord
from llm_proxy.telemetry.kept_text import KeptText
from llm_proxy.telemetry.tracing import Tracer, begin

Keep = Callable[[Payload], None]


class Witnesses:
    """The tracer and the payloads' store, as configured."""

    def __init__(self, tracer: Tracer | None, kept: KeptText, keep: Keep) -> None:
        """`kept` says whose prompts and answers are."""
        self.tracer = tracer
        self._kept = kept
        self._keep = keep

    def opened(self, exchange: Exchange, caller: Caller) -> None:
        """A call begins: in the caller's trace, its answer remembered if it is to be kept."""
        if self.tracer is not None:
            exchange.trace = begin(exchange.traceparent)
        if self._kept and self._kept.of(caller.tenant):
            exchange.answer = []

    def closed(self, exchange: Exchange, caller: Caller, call: Call, record: UsageRecord) -> None:
        """A call has ended."""
        if self.tracer is not None and exchange.trace is not None:
            self.tracer.finished(exchange.trace, record)
        if exchange.answer is not None:
            self._keep(
                Payload(
                    exchange.request_id,
                    datetime.fromtimestamp(exchange.started_at, UTC),
                    caller.tenant,
                    caller.agent,
                    caller.user,
                    orjson.dumps(call.body),
                    b"".join(exchange.answer),
                )
            )
