"""Observers of calls, off by default: the tracer and the store of prompts and answers (payloads).

Invariants: an observer never waits and never raises into a call. Payloads are bounded and redacted before
they leave the process; one that finds the queue full or Postgres unavailable is dropped and counted, never
spooled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from llm_proxy.background import attempt
from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Call
from llm_proxy.ledger.record import MAX_NAME_CHARS, UsageRecord
from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry.privacy import PayloadPolicy, redact
from llm_proxy.telemetry.tracing import Tracer

_MAX_QUEUE_BYTES = 32 * 2**20
MAX_ANSWER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Payload:
    """The text of one call: the body sent to the model, and the answer as JSON or event text."""

    request_id: UUID
    started_at: datetime
    tenant: str | None
    agent: str | None
    user: str | None
    prompt: bytes
    answer: bytes

    def as_row(self) -> tuple[Any, ...]:
        """Returns the values in the order of the table's columns, redacted."""
        return (
            self.request_id, self.started_at, _name(self.tenant), _name(self.agent), _name(self.user),
            _text(self.prompt), _text(self.answer),
        )  # fmt: skip


class PayloadQueue:
    """Payloads that wait for Postgres, at most `_MAX_QUEUE_BYTES` of text."""

    def __init__(self) -> None:
        self._queue: list[Payload] = []
        self._bytes = 0

    def add(self, payload: Payload) -> bool:
        """Adds a payload; returns False if the queue is full."""
        size = len(payload.prompt) + len(payload.answer)
        if self._bytes + size > _MAX_QUEUE_BYTES:
            return False
        self._queue.append(payload)
        self._bytes += size
        return True

    def take_all(self) -> list[Payload]:
        """Removes and returns all payloads."""
        payloads, self._queue, self._bytes = self._queue, [], 0
        return payloads


def _text(raw: bytes) -> str:
    return sanitize_text(redact(raw.decode("utf-8", "replace")))


def _name(name: str | None) -> str | None:
    return sanitize_text(name)[:MAX_NAME_CHARS] if name is not None else None


KeepPayload = Callable[[Payload], None]


class CallObservers:
    """Passes calls to the tracer and to the payload store, as configured.

    Attributes:
        tracer: None if tracing is off.
    """

    def __init__(self, tracer: Tracer | None, policy: PayloadPolicy, keep: KeepPayload) -> None:
        """`policy` selects the tenants whose payloads are passed to `keep`."""
        self.tracer = tracer
        self._policy = policy
        self._keep = keep

    def on_start(self, context: CallContext) -> None:
        """Starts the call's span in the caller's trace, and the recording of its answer if it is kept."""
        if self.tracer is not None:
            attempt("observed-calls", self._start_span, self.tracer, context)
        if self._policy and context.caller is not None and self._policy.allows(context.caller.tenant):
            context.payload = []

    @staticmethod
    def _start_span(tracer: Tracer, context: CallContext) -> None:
        context.trace = tracer.start_span(context.traceparent, context.started_at)

    def on_end(self, context: CallContext, record: UsageRecord) -> None:
        """Ends the call's span and passes its payload on."""
        if self.tracer is not None and context.trace is not None:
            attempt("observed-calls", self.tracer.end_span, context.trace, record)
        if context.payload is not None and context.call is not None:
            attempt("observed-calls", self._keep_payload, record, context.call, context.payload)

    def _keep_payload(self, record: UsageRecord, call: Call, answer: list[bytes]) -> None:
        self._keep(
            Payload(
                record.request_id,
                record.started_at,
                record.tenant,
                record.agent,
                record.user,
                orjson.dumps(call.body),
                b"".join(answer),
            )
        )


def keep_answer(payload: list[bytes], out: bytes) -> None:
    """Adds bytes of a response to what is stored of it, up to `MAX_ANSWER_BYTES`."""
    if sum(map(len, payload)) < MAX_ANSWER_BYTES:
        payload.append(out[:MAX_ANSWER_BYTES])
