"""The noun the ledger keeps: one settled call.

Invariants: one record per admitted call, made once; None means unknown, never zero; money is integer
nano-dollars here and `NUMERIC` in Postgres, never a float in between.
`provider_message` is cleaned (`upstream.error_text`). New fields come last and have a default: lines that
wait on disk may lack them. Units: `_ms` milliseconds since the request was read; `started_at` UTC.
"""

from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

Outcome = Literal["ok", "error", "client_gone", "cut", "lost"]
UsageSource = Literal["provider", "sidecar", "estimated", "unknown"]
CacheState = Literal["hit", "miss", "off"]


class UsageRecord(NamedTuple):
    """Everything billing, usage and budgets need to know of one admitted call; a tuple, as rows are.

    Attributes:
        group: The model group that served; `group_asked` is the one the caller's name stood for.
        would_refuse: The limits in shadow mode that would have refused it, as `scope:kind`, by commas.
        hops: JSON: group, deployment and HTTP status of each attempt at a provider, in order.
        tags: Joined by commas; None for none.
        token_details: JSON: further parts of the tokens, as `token_details` names them.
        service_tier: The tier the answer states.
        prompt_bytes: With `max_tokens` and `choices`, as asked: what its reservation was made of.
    """

    request_id: UUID
    started_at: datetime
    key_id: str
    key_prefix: str
    tenant: str | None
    agent: str | None
    user: str | None
    session: str | None
    channel: str | None
    client_request_id: str | None
    door: str
    dialect: str
    model: str
    group: str
    model_resolved: str | None
    provider: str | None
    deployment: str | None
    streamed: bool
    status: int
    outcome: Outcome
    refusal_code: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_nano_usd: int | None
    usage_source: UsageSource
    cache: CacheState
    attempts: int | None
    latency_ms: float
    ttft_ms: float | None
    group_asked: str | None = None
    hops: str | None = None
    provider_message: str | None = None
    run: str | None = None
    tags: str | None = None
    would_refuse: str | None = None
    cache_write_tokens: int | None = None
    token_details: str | None = None
    service_tier: str | None = None
    prompt_bytes: int | None = None
    max_tokens: int | None = None
    choices: int | None = None

    @property
    def total_tokens(self) -> int | None:
        """Prompt and completion together; None when neither is known."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)
