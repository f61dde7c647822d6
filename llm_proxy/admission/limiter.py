"""The limiter's types: checks, a plan of them, a request to the limits store, its result, its protocol.

Invariants: one script reaches every key of a plan, in a Redis Cluster too: keys carry the tenant's hash
tag, or one tag for all tenants once a policy counts several; the subject in a key is quoted, so no name can
forge a key. Units: requests, tokens, slots or a budget's own (nano-dollars for money); integer
milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol
from urllib.parse import quote

from llm_proxy.identity.caller import ANY, SHARED_SCOPES, BudgetUnit, OnStoreFailure, Period, ScopeKind

LimitKind = Literal["requests", "tokens", "parallel", "budget"]

ADMITTED, STALE, EPOCH_UNKNOWN, SPEND_UNKNOWN, REJECTED = range(5)
UNKNOWN = -1
"""The spend of a budget whose counter is missing."""
NO_EPOCH = -1
"""The epoch of somebody who watches none."""


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """One limit or budget that covers a call.

    Attributes:
        subject: Whom it is about, for people: `agent scout`.
        key: Where the store counts it.
        spender_id: The id the ledger knows the spender by; budgets only.
        spender_tenant: The tenant whose calls count (empty for calls without one); None for those of all.
        period_start: Begin of the budget's period.
        period_end_ms: End of the budget's period since 1970; 0 for never.
        zone: The time zone (IANA) of the budget's period.
        unit: What a budget counts.
        spender_group: The model group whose calls count; `*` for those of all.
    """

    kind: LimitKind
    scope: ScopeKind
    subject: str
    key: str
    limit: int
    enforced: bool = True
    on_store_failure: OnStoreFailure = "local"
    spender_id: str = ""
    spender_tenant: str | None = None
    period: Period | None = None
    period_start: datetime | None = None
    period_end_ms: int = 0
    zone: str = "UTC"
    spender_group: str = ANY
    unit: BudgetUnit = "usd"

    @property
    def is_shared(self) -> bool:
        """Whether it counts the calls of several tenants, whose figures are no caller's business."""
        return self.scope in SHARED_SCOPES

    @property
    def script_code(self) -> str:
        """The kind as the script reads it: its first letter, a capital one when it is enforced."""
        return self.kind[0].upper() if self.enforced else self.kind[0]


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """All checks that cover a caller at a model group, until something changes.

    Attributes:
        tenant: The tenant itself; `hash_tag` is how keys name it.
        valid_until_ms: When a budget's period may end, and the plan with it.
        keys: Where the tenant's epoch stands, then where each check counts.
        counts_only_requests: Every check counts calls, whatever their size.
        has_shadow: Some check only watches.
        kinds: The kinds of its checks.
        windows: Its enforced windows, which callers are told of, each with its place among the checks.
        fallback_checks: Tokens and money of providers that serve such a call only as a fallback: they refuse
            nothing here, and count what they serve.
    """

    tenant: str
    hash_tag: str
    checks: tuple[LimitCheck, ...]
    valid_until_ms: int
    fallback_checks: tuple[LimitCheck, ...] = ()
    keys: tuple[str, ...] = field(init=False)
    counts_only_requests: bool = field(init=False)
    has_shadow: bool = field(init=False)
    kinds: frozenset[LimitKind] = field(init=False)
    windows: tuple[tuple[int, LimitCheck], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Work out, once, what every call asks of it."""
        only_requests = all(check.kind in {"requests", "parallel"} for check in self.checks)
        object.__setattr__(
            self, "keys", (epoch_key(self.tenant, self.hash_tag), *(check.key for check in self.checks))
        )
        object.__setattr__(self, "counts_only_requests", only_requests)
        object.__setattr__(self, "kinds", frozenset(check.kind for check in self.checks))
        windows = [
            (at, check)
            for at, check in enumerate(self.checks)
            if check.enforced and check.kind in {"requests", "tokens"} and not check.is_shared
        ]
        object.__setattr__(self, "windows", tuple(windows))
        object.__setattr__(self, "has_shadow", not all(check.enforced for check in self.checks))

    @property
    def epoch_key(self) -> str:
        """Where the tenant's epoch stands."""
        return self.keys[0]


class CallEstimate(NamedTuple):
    """What a call is expected to use at most.

    Attributes:
        prompt_nano_usd: What its prompt costs; 0 while nobody knows the price.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    prompt_nano_usd: int = 0


class LimiterRequest(NamedTuple):
    """What a store is asked: admit a call, if every check passes.

    Attributes:
        amounts: What the call takes of each check.
        epoch: The newest epoch the asker knows; `NO_EPOCH` to ask for none.
        reserve: False only looks.
        retry_id: The same call's identity when it is tried again; empty for one that never waits for money.
    """

    plan: LimitPlan
    amounts: tuple[int, ...]
    epoch: int
    lease_id: str
    ttl_ms: int
    reserve: bool = True
    retry_id: str = ""
    estimate: CallEstimate = CallEstimate()


class LimiterResult(NamedTuple):
    """What a store says.

    Attributes:
        now_ms: The store's clock.
        epoch: The tenant's epoch in the store.
        used: What each check had counted before this call, of a budget what was spent; `UNKNOWN` for a
            missing budget.
        extra: By kind: the wait when the check refuses and the time to a full reset when it does not
            (requests, tokens), what running calls hold (budget).
        running: How many calls hold money of a budget or tokens of a window; 0 for other kinds.
        kept: What of a budget is kept for a call that waits; 0 for other kinds.
    """

    status: int
    now_ms: int
    epoch: int
    used: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    running: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


class LimiterUnavailable(Exception):  # noqa: N818 -- errors are named for the state they report
    """The limits store cannot be asked: unreachable, stalled, or answering with an error."""


@dataclass(frozen=True, slots=True)
class SettlementEntry:
    """One line of a settlement.

    Attributes:
        kind: The check's kind; `requests` never settle.
        at: The bucket's second (tokens); of a correction the moment, in ms, at which the ledger did not
            have it yet: a counter seeded since then may have it from there (budget).
        amount: Tokens used beyond (or, below 0, short of) those reserved; what a call cost, or to keep its
            reservation what it holds (budget).
        lease_id: Whose place is free (parallel), whose reservation ends (tokens, budget).
    """

    kind: str
    key: str
    at: int = 0
    amount: int = 0
    lease_id: str = ""


class LimiterBackend(Protocol):
    """What admission needs of a store; everything raises `LimiterUnavailable`."""

    @property
    def is_available(self) -> bool:
        """Whether it can be asked now."""
        ...

    @property
    def single_slot(self) -> bool:
        """Whether a script reaches counters of one hash tag alone."""
        ...

    async def start(self) -> None:
        """Get ready; never fails."""
        ...

    async def stop(self) -> None:
        """Let go."""
        ...

    async def reserve(
        self, ask: LimiterRequest, on_late_result: Callable[[LimiterResult], None] | None = None
    ) -> LimiterResult:
        """Admit a call if every check passes; an answer that came too late goes to `on_late_result`."""
        ...

    async def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> None:
        """Settle a batch of one tenant, once."""
        ...

    async def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int) -> None:
        """Keep what living calls of one tenant hold."""
        ...

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Give a missing counter of a budget what was spent; 0 for a period that never ends."""
        ...

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch; it never falls."""
        ...

    async def heartbeat(self, name: str) -> int:
        """Say that this replica lives, and hear how many do."""
        ...


SHARED_TAG = "{**}"
"""The hash tag of what counts the calls of several tenants; no tenant can have it."""


def tenant_tag(tenant: str | None) -> str:
    """The hash tag of a tenant; requests without one share a tag no tenant can have."""
    return "{" + (quote_name(tenant) if tenant else "*") + "}"


def hash_tag_of(key: str) -> str:
    """The hash tag in a key."""
    return key[key.index("{") : key.index("}") + 1]


def epoch_key(tenant: str | None, hash_tag: str | None = None) -> str:
    """Where a tenant's epoch stands, among the keys of a hash tag: its own, or the one for all."""
    if hash_tag == SHARED_TAG:
        return f"lp:{SHARED_TAG}:epoch:{tenant_tag(tenant)[1:-1]}"
    return f"lp:{tenant_tag(tenant)}:epoch"


@lru_cache(maxsize=65_536)
def quote_name(name: str) -> str:
    """A name with nothing in it that means something in a key."""
    return quote(name, safe="")
