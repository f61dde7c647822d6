"""What is known so far of one running call; when it ends, its `UsageRecord`.

Invariants: mutable, owned by one task; `record` is called once, at the very end, and never raises. Tokens a
provider did not state are estimated (four bytes a token) and say so; money nobody can price is None.
Units: `_ms` since the request's headers were read.
"""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, InternalError
from llm_proxy.identity import Caller
from llm_proxy.ledger.record import Outcome, UsageRecord, UsageSource
from llm_proxy.money import pico_to_nano
from llm_proxy.telemetry.request_ids import id_to_text
from llm_proxy.upstream import NO_ROUTING, Catalog, InterruptReason, RoutingInfo, TokenUsage, interrupt_error

if TYPE_CHECKING:
    from llm_proxy.telemetry.tracing import Trace

BYTES_PER_TOKEN = 4
UNBOUNDED = 2**31
"""So many tokens are as good as no maximum; a larger number fits into no column."""
MOST_ANSWER_BYTES = 2**20
MOST_MESSAGE_BYTES = 600  # a record must fit into its slot of the journal


class Exchange:
    """One admitted call, from its first byte to its last.

    Attributes:
        id_text: The request's id as it is told.
        status: The HTTP status the caller saw; 0 while nothing was sent.
        content_tokens: Tokens of the answer, estimated; 0 where its usage was stated.
        trace: The call's span, where traces are collected.
        answer: The bytes that went out, where payloads are kept; None where they are not.
        catalog: What the sidecar serves, for prices; None while nobody knows.
        unsent: No sidecar has seen anything of it.
        cut_short: It was interrupted.
    """

    __slots__ = (
        "answer", "answered_at", "asked_at", "call", "caller", "catalog", "client_request_id",
        "content_tokens", "cut_short", "id_text", "outcome", "refused", "request_id", "served", "started",
        "started_at", "status", "trace", "traceparent", "ttft_ms", "unsent", "usage", "would_refuse",
    )  # fmt: skip

    def __init__(self, request_id: UUID, client_request_id: str | None) -> None:
        self.request_id = request_id
        self.id_text = id_to_text(request_id)
        self.client_request_id = client_request_id
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.caller: Caller | None = None
        self.call: Call | None = None
        self.served: RoutingInfo = NO_ROUTING
        self.usage: TokenUsage | None = None
        self.catalog: Catalog | None = None
        self.traceparent: bytes | None = None
        self.trace: Trace | None = None
        self.answer: list[bytes] | None = None
        self.content_tokens = 0
        self.refused: APIError | None = None
        self.outcome: Outcome = "ok"
        self.status = 0
        self.unsent = self.cut_short = False
        self.ttft_ms: float | None = None
        self.would_refuse: str | None = None
        self.asked_at = self.answered_at = 0.0

    def elapsed_ms(self) -> float:
        """Time since the request's headers were read."""
        return (time.perf_counter() - self.started) * 1000

    def overhead_ms(self) -> float | None:
        """The gateway's own part of the time to the first byte; None when there was none."""
        if self.ttft_ms is None or not self.asked_at or not self.answered_at:
            return None
        return self.ttft_ms - (self.answered_at - self.asked_at) * 1000

    def first_byte(self) -> None:
        """The first byte of the answer is about to leave."""
        if self.ttft_ms is None:
            self.ttft_ms = self.elapsed_ms()

    def said(self, out: bytes) -> None:
        """Bytes of the answer went out."""
        if self.answer is not None and sum(map(len, self.answer)) < MOST_ANSWER_BYTES:
            self.answer.append(out[:MOST_ANSWER_BYTES])

    @property
    def unspent(self) -> bool:
        """Nothing was used, for certain: never sent, or refused and no model can have worked."""
        if self.unsent:
            return True
        if self.usage is not None or self.content_tokens or self.outcome != "error":
            return False
        return self.refused is not None and not (self.refused.may_have_executed or self.cut_short)

    def used(self, call: Call) -> tuple[int | None, int | None]:
        """Tokens and nano-dollars that limits and budgets count; None where nobody knows."""
        usage, _ = self._usage(call)
        if usage is None or self.served.cache == "hit":
            return 0, 0
        return usage.prompt_tokens + usage.completion_tokens, self._cost(usage)

    def failed(self, refused: APIError) -> None:
        """The call ends in a refusal: as its status, or, once bytes have left, as a cut."""
        self.refused = refused
        if isinstance(refused.routing, RoutingInfo):
            self.served = refused.routing
        if self.status == 0:
            self.status, self.outcome = refused.status, "error"

    def interrupted(self, why: InterruptReason | None, *, unsent: bool = False) -> None:
        """What interrupted the call, if anything did; `unsent` when no sidecar had seen anything of it."""
        self.unsent, self.cut_short = unsent, why is not None
        refused = interrupt_error(why)
        if refused is not None:
            self.failed(refused)
        elif why == "client_gone":
            self.outcome = "client_gone"

    def record(self, caller: Caller, call: Call) -> UsageRecord:
        """The settled call; one that ended without an answer and without an error of ours is a bug's."""
        if self.outcome == "ok" and self.status == 0:
            self.failed(InternalError())
        self.usage, source = usage, _ = self._usage(call)
        return UsageRecord(
            request_id=self.request_id,
            started_at=datetime.fromtimestamp(self.started_at, UTC),
            key_id=caller.key_id,
            key_prefix=caller.key_prefix,
            tenant=caller.tenant,
            agent=caller.agent,
            user=caller.user,
            session=caller.session,
            channel=caller.channel,
            client_request_id=self.client_request_id,
            door=call.endpoint,
            dialect=call.dialect,
            model=call.model,
            group=self.served.group or call.group,
            model_resolved=self.served.provider_model,
            provider=self.served.provider,
            deployment=self.served.deployment,
            streamed=call.streaming,
            status=self.status,
            outcome=self.outcome,
            refusal_code=self.refused.code if self.refused else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            reasoning_tokens=usage.reasoning_tokens if usage else None,
            cost_nano_usd=self.cost_nano_usd(),
            usage_source=source,
            cache=self.served.cache,
            attempts=self.served.attempts,
            latency_ms=self.elapsed_ms(),
            ttft_ms=self.ttft_ms,
            group_asked=call.group,
            hops=_hops(self.served),
            provider_message=self._provider_message(),
            run=caller.run,
            tags=",".join(caller.tags) or None,
            would_refuse=self.would_refuse,
            cache_write_tokens=usage.cache_write_tokens if usage else None,
            token_details=usage.details if usage else None,
            service_tier=usage.service_tier if usage else None,
            prompt_bytes=call.prompt_bytes,
            max_tokens=None if call.max_tokens is None else min(call.max_tokens, UNBOUNDED),
            choices=min(call.choices, UNBOUNDED - 1),
        )

    def _provider_message(self) -> str | None:
        message = self.refused.provider_message if self.refused else None
        return message.encode()[:MOST_MESSAGE_BYTES].decode(errors="ignore") if message else None

    def _usage(self, call: Call) -> tuple[TokenUsage | None, UsageSource]:
        if self.usage is not None:
            return self.usage, "sidecar" if self.usage.counted_by_sidecar else "provider"
        if self.unspent:
            return None, "unknown"
        return TokenUsage(call.prompt_bytes // BYTES_PER_TOKEN, self.content_tokens), "estimated"

    def cost_nano_usd(self) -> int | None:
        """What the call cost: as stated, else its tokens at the catalogue's price; None when unknown."""
        return self._cost(self.usage)

    def _cost(self, usage: TokenUsage | None) -> int | None:
        if self.served.cache == "hit":
            return 0
        if self.unspent:
            unknown = self.refused is not None and self.refused.cost_unknown and not self.unsent
            return None if unknown else 0
        if usage is not None and usage.cost_nano_usd is not None:
            return usage.cost_nano_usd
        if self.served.cost_nano_usd is not None:
            return self.served.cost_nano_usd
        return self._priced(usage)

    def _priced(self, usage: TokenUsage | None) -> int | None:
        """The tokens at the prices of the deployment that served."""
        group = self.served.group or (self.call.group if self.call else None)
        if usage is None or self.catalog is None or not group:
            return None
        prices = self.catalog.deployment_prices(self.served.deployment, group)
        pico = 0
        for tokens, price in zip((usage.prompt_tokens, usage.completion_tokens), prices, strict=True):
            if tokens and price is None:
                return None
            pico += tokens * (price or 0)
        if prices == (None, None):
            return None
        return pico_to_nano(pico)


def _hops(served: RoutingInfo) -> str | None:
    return orjson.dumps([hop[:3] for hop in served.hops]).decode() if served.hops else None
