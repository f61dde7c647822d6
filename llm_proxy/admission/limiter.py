"""The limiter's types: checks, a plan of them, a request to the limits store, its result, its protocol.

Invariants: one script reaches every key of a plan, in a Redis Cluster too: keys carry the tenant's hash
tag, or one tag for all tenants once a policy counts several; the subject in a key is quoted, so no name can
forge a key. Units: requests, tokens, slots or a budget's own (nano-dollars for money); integer
milliseconds.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote

from llm_proxy.identity.caller import ANY, SHARED_SCOPES, BudgetUnit, OnStoreFailure, Period, ScopeKind
from llm_proxy.quantities import NOTHING, UNITS_OF_ENDPOINTS, Quantities

LimitKind = Literal["requests", "tokens", "parallel", "budget", "duration"]
SETTLED_KINDS: frozenset[LimitKind] = frozenset({"tokens", "parallel", "budget"})

ADMITTED, STALE, EPOCH_UNKNOWN, SPEND_UNKNOWN, REJECTED = range(5)
UNKNOWN = -1
"""The spend of a budget whose counter is missing."""
NO_EPOCH = -1
"""The epoch of a request that compares none."""


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """One limit or budget that covers a call.

    Attributes:
        kind: `duration` is the time since a run's first call, in milliseconds.
        subject: Whose it is, for people: `agent scout`.
        key: The key the store counts it under.
        spender_id: The id the ledger knows the spender by; budgets only.
        spender_tenant: The tenant whose calls count (empty for calls without one); None for all tenants.
        period_start: Start of the budget's period.
        period_end_ms: End of the budget's period since 1970; 0 for never.
        zone: The time zone (IANA) of the budget's period.
        unit: What a budget counts.
        spender_group: The model group whose calls count; `*` for all.
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
        """Whether it counts the calls of several tenants; callers are shown none of its figures."""
        return self.scope in SHARED_SCOPES

    @property
    def is_run_budget(self) -> bool:
        """Whether it is a budget of a run: one without a counter has spent nothing."""
        return self.scope == "run" and self.kind == "budget"

    @property
    def settlement_kind(self) -> str:
        """The kind of its settlement entries."""
        return "run" if self.is_run_budget else self.kind

    @property
    def script_code(self) -> str:
        """The kind in the script's encoding: a letter, in upper case when it is enforced."""
        letter = "n" if self.is_run_budget else self.kind[0]
        return letter.upper() if self.enforced else letter


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """All checks that cover a caller at a model group, until a policy changes.

    Attributes:
        tenant: The tenant's name; `hash_tag` is its part of keys.
        valid_until_ms: When a budget's period may end, and the plan with it.
        keys: The key of the tenant's epoch, then the key of each check.
        counts_only_requests: Every check counts calls, whatever their size.
        has_shadow: Some check is in shadow mode.
        settles: Some check counts what a call used, or holds something until its end.
        kinds: The kinds of its checks.
        codes: Of each check what the script reads; so are `limits`.
        windows: Its enforced windows, which callers are shown, each with its index among the checks.
        fallback_checks: Tokens and money of providers that serve such a call only as a fallback: they reject
            nothing here, and count what they serve.
        run_checks: What covers a call in a run beside `checks`; `of_run` completes their keys.
        run: The digest that ends the keys of a run's checks; empty for a call in no run that is limited.
        runs_key: The key under which the store has a key's latest runs; empty without `run`.
    """

    tenant: str
    hash_tag: str
    checks: tuple[LimitCheck, ...]
    valid_until_ms: int
    fallback_checks: tuple[LimitCheck, ...] = ()
    run_checks: tuple[LimitCheck, ...] = ()
    run: str = ""
    runs_key: str = ""
    keys: tuple[str, ...] = field(init=False)
    counts_only_requests: bool = field(init=False)
    has_shadow: bool = field(init=False)
    settles: bool = field(init=False)
    kinds: frozenset[LimitKind] = field(init=False)
    codes: tuple[str, ...] = field(init=False)
    limits: tuple[int, ...] = field(init=False)
    windows: tuple[tuple[int, LimitCheck], ...] = field(init=False)

    def __post_init__(self) -> None:
        """Computes once what every call needs."""
        only_requests = all(check.kind in {"requests", "parallel", "duration"} for check in self.checks)
        keys = (epoch_key(self.tenant, self.hash_tag), *(check.key for check in self.checks))
        object.__setattr__(self, "keys", (*keys, self.runs_key) if self.run else keys)
        object.__setattr__(self, "counts_only_requests", only_requests)
        kinds = frozenset(check.kind for check in self.checks)
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "codes", tuple(one.script_code for one in self.checks))
        object.__setattr__(self, "limits", tuple(one.limit for one in self.checks))
        object.__setattr__(self, "settles", bool(self.fallback_checks or kinds & SETTLED_KINDS))
        windows = [
            (at, check)
            for at, check in enumerate(self.checks)
            if check.enforced and check.kind in {"requests", "tokens"} and not check.is_shared
        ]
        object.__setattr__(self, "windows", tuple(windows))
        object.__setattr__(self, "has_shadow", not all(check.enforced for check in self.checks))

    def for_units(self, units: Collection[str]) -> "LimitPlan":
        """Returns the plan without budgets of units beside tokens that a call cannot use."""
        others = UNITS_OF_ENDPOINTS - {*units}
        kept = [
            tuple(one for one in some if one.unit not in others)
            for some in (self.checks, self.fallback_checks, self.run_checks)
        ]
        if kept == [self.checks, self.fallback_checks, self.run_checks]:
            return self
        return LimitPlan(self.tenant, self.hash_tag, kept[0], self.valid_until_ms, kept[1], kept[2])

    def of_run(self, name: str, run: str, runs_key: str) -> "LimitPlan":
        """Returns the plan of a call in the run of this name and digest."""
        own = (
            replace(one, subject=f"run {name}", key=one.key + run, spender_id=name) for one in self.run_checks
        )
        checks = (*self.checks, *own)
        return LimitPlan(
            self.tenant, self.hash_tag, checks, self.valid_until_ms, self.fallback_checks, (), run, runs_key
        )

    @property
    def epoch_key(self) -> str:
        """The key of the tenant's epoch."""
        return self.keys[0]


class CallEstimate(NamedTuple):
    """What a call is expected to use at most.

    Attributes:
        prompt_nano_usd: The cost of its prompt; 0 while the price is unknown.
        quantities: What it asks for beside tokens.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    prompt_nano_usd: int = 0
    quantities: Quantities = NOTHING


class LimiterRequest(NamedTuple):
    """A request to the limits store: admit a call if every check passes.

    Attributes:
        amounts: What the call takes of each check.
        epoch: The newest epoch the caller of the store knows; `NO_EPOCH` to compare none.
        reserve: False counts nothing.
        retry_id: Identifies the same call when it is tried again; empty for one that never waits for money.
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
    """The result of a request to the limits store.

    Attributes:
        now_ms: The store's clock.
        epoch: The tenant's epoch in the store.
        used: What each check had counted before this call, of a budget what was spent; `UNKNOWN` for a
            missing budget.
        extra: By kind: the wait when the check rejects and the time to a full reset when it does not
            (requests, tokens), what running calls hold (budget).
        running: The number of calls that hold money of a budget or tokens of a window; 0 for other kinds.
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
    """The limits store is unreachable, stalled, or answers with an error."""


@dataclass(frozen=True, slots=True)
class SettlementEntry:
    """One line of a settlement.

    Attributes:
        kind: The check's `settlement_kind`; `requests` never settle, `duration` is only renewed.
        at: The bucket's second (tokens); of a correction the time in ms at which the ledger did not have it
            yet: a counter seeded since then may have it from there (budget).
        amount: Tokens used beyond (or, below 0, short of) those reserved; what a call cost, or to renew its
            reservation what it holds (budget).
        lease_id: Whose slot is released (parallel), whose reservation ends (tokens, budget).
    """

    kind: str
    key: str
    at: int = 0
    amount: int = 0
    lease_id: str = ""


class LimiterBackend(Protocol):
    """A limits store; every method raises `LimiterUnavailable`."""

    @property
    def is_available(self) -> bool:
        """Whether it can be reached now."""
        ...

    @property
    def fault(self) -> str:
        """Why it cannot be reached, without addresses and passwords; empty where it can."""
        ...

    @property
    def single_slot(self) -> bool:
        """Whether a script reaches only counters of one hash tag."""
        ...

    async def start(self) -> None:
        """Connects; never fails."""
        ...

    async def stop(self) -> None:
        """Closes the connection."""
        ...

    async def reserve(
        self, request: LimiterRequest, on_late_result: Callable[[LimiterResult], None] | None = None
    ) -> LimiterResult:
        """Reserves a call's amounts if every check passes; a late result goes to `on_late_result`."""
        ...

    async def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> None:
        """Settles a batch of one tenant, once."""
        ...

    def send_settlement(
        self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]
    ) -> "asyncio.Future[Any]":
        """Sends a batch of one tenant before it returns; its reply may say that `settle` has to be used.

        Not for a store with a `single_slot`.
        """
        ...

    async def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int) -> None:
        """Renews what running calls of one tenant hold."""
        ...

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Gives a budget's missing counter what was spent; 0 for a period that never ends."""
        ...

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Raises a tenant's epoch; it never falls."""
        ...

    async def heartbeat(self, name: str) -> int:
        """Registers this replica as alive; returns how many are."""
        ...


SHARED_TAG = "{**}"
"""The hash tag of what counts the calls of several tenants; no tenant can have it."""


def tenant_tag(tenant: str | None) -> str:
    """Returns the hash tag of a tenant; requests without one share a tag no tenant can have."""
    return "{" + (quote_name(tenant) if tenant else "*") + "}"


def hash_tag_of(key: str) -> str:
    """Returns the hash tag in a key."""
    return key[key.index("{") : key.index("}") + 1]


def epoch_key(tenant: str | None, hash_tag: str | None = None) -> str:
    """Returns the key of a tenant's epoch under its own hash tag, or under the one for all."""
    if hash_tag == SHARED_TAG:
        return f"lp:{SHARED_TAG}:epoch:{tenant_tag(tenant)[1:-1]}"
    return f"lp:{tenant_tag(tenant)}:epoch"


@lru_cache(maxsize=65_536)
def quote_name(name: str) -> str:
    """Returns a name without characters that have a meaning in a key."""
    return quote(name, safe="")
