"""What is known of one call while it runs: plain fields that edge and pipeline fill and the ledger reads.

Invariants: owned by one task; an unfilled field has its default, and None means unknown. `status` and
`outcome` say what the caller saw: once response bytes have left, a later failure changes neither.
Units: `_ms` since the request's headers were read; `_at` as the field says.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from llm_proxy.admission.loop_guard import GuardVerdict
from llm_proxy.call_guard import InterruptReason
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, InternalError
from llm_proxy.identity import Caller
from llm_proxy.telemetry.request_ids import id_to_text
from llm_proxy.upstream import NO_ROUTING, Catalog, RoutingInfo, TokenUsage, call_cost, interrupt_error
from llm_proxy.upstream.token_usage import UnreadUsage

if TYPE_CHECKING:
    from llm_proxy.telemetry.tracing import Span
    from llm_proxy.upstream.reply import StreamFrames

Outcome = Literal["ok", "error", "client_gone", "cut", "lost"]


class CallContext:
    """One request to an inference endpoint, from its first byte to its last.

    A field that was not filled is the class's: a rejected request fills few of them.

    Attributes:
        request_id: Generated here; its text form is sent as `x-request-id`.
        client_request_id: The caller's own `x-request-id`.
        started_at: Seconds since 1970; `started` is the same moment on `time.perf_counter`.
        caller: None before authentication.
        call: None before the body is parsed.
        find_model: Returns the model that a request names which became no call; for its record.
        catalog: What the sidecar served when the call was admitted, for prices.
        routing: Who answered, as far as the sidecar says.
        content_tokens: Estimated completion tokens of an answer that states no usage.
        status: The HTTP status the caller saw; 0 while nothing was sent.
        error: What the call failed with.
        would_refuse: Limits in shadow mode that would have rejected the call.
        guard_verdict: What the loop guard found of its run; None for nothing.
        unsent: No sidecar has seen anything of the call.
        interrupted: The call was cut short by a deadline, a disconnect or a drain.
        is_batch: It waited behind interactive calls.
        queue_ms: How long it waited for a slot at a sidecar.
        sent_at: When the request to the sidecar began, on `time.perf_counter`; 0 before.
        answered_at: When the answer, or the first bytes of a stream, had come; 0 before.
        ttft_ms: Time to the first response byte.
        trace: The call's span, where traces are exported.
        payload: The response bytes, where payloads are stored; None where they are not.
        frames: The filter of a streamed answer, which estimates its tokens so far; None of any other.
        sent_bytes: Bytes of a streamed answer that were sent to the caller so far.
        replay_of: The call whose answer this one gets; None for a call of its own.
    """

    client_request_id: str | None = None
    traceparent: bytes | None = None
    find_model: Callable[[], str | None] | None = None
    routing: RoutingInfo = NO_ROUTING
    _usage: TokenUsage | UnreadUsage | None = None
    content_tokens: int = 0
    status: int = 0
    outcome: Outcome = "ok"
    error: APIError | None = None
    would_refuse: str | None = None
    guard_verdict: GuardVerdict | None = None
    unsent: bool = False
    interrupted: bool = False
    queue_ms: float = 0.0
    is_batch: bool = False
    sent_at: float = 0.0
    answered_at: float = 0.0
    ttft_ms: float | None = None
    trace: "Span | None" = None
    payload: list[bytes] | None = None
    frames: "StreamFrames | None" = None
    sent_bytes: int = 0
    replay_of: UUID | None = None
    _known_cost: tuple[TokenUsage | None, RoutingInfo, int | None] | None = None

    def __init__(
        self,
        request_id: UUID,
        *,
        started_at: float | None = None,
        caller: Caller | None = None,
        call: Call | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        """`started_at` is now, where it is not given."""
        self.request_id = request_id
        self.id_text = id_to_text(request_id)
        self.started = time.perf_counter()
        self.started_at = time.time() if started_at is None else started_at
        self.caller = caller
        self.call = call
        self.catalog = catalog

    def elapsed_ms(self) -> float:
        """Returns the time since the request's headers were read."""
        return (time.perf_counter() - self.started) * 1000

    @property
    def usage(self) -> TokenUsage | None:
        """Token usage as the answer states it; a chat's is read when it is first asked for."""
        if isinstance(self._usage, UnreadUsage):
            self._usage = self._usage.read()
        return self._usage

    @usage.setter
    def usage(self, usage: TokenUsage | UnreadUsage | None) -> None:
        self._usage = usage

    def stated_cost(self) -> int | None:
        """Returns what the answer cost, in nano-dollars; None when it is not known, or no usage is stated."""
        if self._usage is None:
            return None
        is_stated = isinstance(self._usage, UnreadUsage) and self.routing.cost_nano_usd is not None
        return self.cost_of(None if is_stated else self.usage)

    def cost_of(self, usage: TokenUsage | None) -> int | None:
        """Returns what this usage costs at who answered, in nano-dollars; None when it is not known.

        The header, the limits and the record ask for the same cost: it is computed once.
        """
        known = self._known_cost
        if known is None or known[0] != usage or known[1] != self.routing:
            assert self.call is not None  # noqa: S101 -- it was admitted
            cost = call_cost(usage, self.routing, self.catalog, self.call)
            known = self._known_cost = usage, self.routing, cost
        return known[2]


def note_error(context: CallContext, error: APIError) -> None:
    """Notes the error a call ends with; it becomes the status only while no response byte has left."""
    context.error = error
    if isinstance(error.routing, RoutingInfo):
        context.routing = error.routing
    if isinstance(error.usage, TokenUsage):
        context.usage = error.usage
    if context.status == 0:
        context.status, context.outcome = error.status, "error"


def note_end(context: CallContext, reason: InterruptReason | None, *, unsent: bool = False) -> None:
    """Notes how a call ended.

    Args:
        context: The call.
        reason: What interrupted it; None when nothing did.
        unsent: No sidecar had seen anything of it.
    """
    context.unsent, context.interrupted = unsent, reason is not None
    if reason is not None and (error := interrupt_error(reason)) is not None:
        note_error(context, error)
    elif reason == "client_gone":
        context.outcome = "client_gone"
    if context.outcome == "ok" and context.status == 0:  # neither an answer nor an error
        note_error(context, InternalError())
