"""Admits calls: access policy, limits and budgets are checked in one request to the limits store.

Invariants: one script call a request, none where nothing is limited and no change can have been missed; a
result that arrives after its deadline is undone; a call passes an unreachable store only where a policy
allows it. `explain` makes the same decision without counting. Raises RateLimited, BudgetExceeded,
Forbidden, StoreUnavailable, and Unauthorized (the key was just revoked).
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple
from uuid import UUID

from llm_proxy.admission.access_policy import AccessPolicy
from llm_proxy.admission.corrections import Corrections, NewBudgets, RefreshCaller
from llm_proxy.admission.exhausted_cache import ExhaustedWindows
from llm_proxy.admission.fallback import RETRY_AFTER_S, FallbackLimiter
from llm_proxy.admission.lease import ActiveLeases, Lease, Reservation, SettlementQueue
from llm_proxy.admission.limit_planner import LimitPlanner, PriceSource
from llm_proxy.admission.limiter import (
    ADMITTED,
    EPOCH_UNKNOWN,
    REJECTED,
    SPEND_UNKNOWN,
    STALE,
    UNKNOWN,
    LimitCheck,
    LimiterBackend,
    LimiterRequest,
    LimiterResult,
    LimiterUnavailable,
)
from llm_proxy.admission.memory_limiter import MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyDefaults
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.admission.rate_limit_response import (
    DENIED_HEADERS,
    EnforcementState,
    LimitStatus,
    limit_statuses,
    rate_limit_error,
    rate_limit_headers,
    reached_limit,
)
from llm_proxy.admission.redis.backend import ObserveRequest, RedisBackend, raise_epochs
from llm_proxy.admission.renewal import BudgetRebuilder, Heartbeat, SpendSource
from llm_proxy.admission.spending_watch import SpendingWatch
from llm_proxy.background import LOOP_DONE, BackgroundLoop
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, BudgetExceeded, StoreUnavailable
from llm_proxy.identity import Caller, PolicySource
from llm_proxy.settings import Settings

log = logging.getLogger(__name__)

LENGTHS_RETRY_S = 5.0
MAX_ATTEMPTS = 5
"""A call that is still not decided after so many looks at changing rules is refused."""


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """How admission does, for health and metrics.

    Attributes:
        store: `process` without a Redis, else whether the shared store answers.
        since: When that began, in seconds since 1970.
        denies_all: The store is away and the setting says to deny.
        unsettled: Settlements the store does not have yet.
        shadow_rejections: Calls admitted so far that a limit in shadow mode would have refused.
    """

    store: str
    since: float
    denies_all: bool
    replicas: int
    unsettled: int
    policies_fresh: bool
    policies_epoch: int
    shadow_rejections: int = 0


class Decision(NamedTuple):
    """What was asked, what the answer was, the refusal in it, and what only watched and would refuse."""

    request: LimiterRequest
    result: LimiterResult
    state: EnforcementState
    reservations: tuple[Reservation, ...] = ()
    error: APIError | None = None
    would_reject: str | None = None


class AdmissionController:
    """Decides who may, how much and how fast; `access_policy` holds what needs no counting."""

    def __init__(
        self,
        settings: Settings,
        *,
        prices: PriceSource | None = None,
        spend_source: SpendSource | None = None,
        policy_source: PolicySource | None = None,
        refresh_caller: RefreshCaller | None = None,
        observe: ObserveRequest | None = None,
    ) -> None:
        """`policy_source` and `refresh_caller` come from the virtual keys; `observe` gets each store call."""
        self._settings = settings
        self._shared = settings.limits_redis_url is not None
        self._store: LimiterBackend = _store_of(settings, observe)
        self._renew = refresh_caller
        replica = secrets.token_hex(6)
        self._clock_skew_ms = 0
        self._watch = PolicyWatcher(PolicyDefaults.from_settings(settings), policy_source)
        self.access_policy = AccessPolicy(self._watch, prices, settings.default_models)
        self._asking = LimitPlanner(self._watch, prices, self._now_ms, lambda: self._store.single_slot)
        patience_s = settings.store_timeout_ms / 1000
        self._desk = SettlementQueue(self._store, replica, patience_s)
        self._relaid = NewBudgets(
            self._watch, self._asking, self._store, self._desk, refresh_caller, self._now_ms
        )
        self._outage = FallbackLimiter(patience_s)
        self._living = ActiveLeases()
        self._full = ExhaustedWindows()
        self._since, self._answered, self._shadowed = time.time(), True, 0
        self._pulse = Heartbeat(self._store, replica, self._living, self._outage)
        self._corrections = Corrections(spend_source, self._now_ms)
        self._spent = spend_source
        self._spending: SpendingWatch | None = None
        self._recalling = BackgroundLoop(
            "answer-lengths", self._recall, every_s=LENGTHS_RETRY_S, at_once=True
        )
        self._rebuilding = BudgetRebuilder(self._store, spend_source, self._pulse.renew)

    async def start(self) -> None:
        """Connect, read the rules, begin to settle; never fails because a store is away."""
        if not self._shared:
            log.warning("no limits store configured: limits hold per process")
        await self._store.start()
        await self._watch.start()
        if self._settings.environment == "production" and not self._watch.policies.caps_total_spend:
            log.warning("no budget of scope `global`: nothing bounds what all callers together may spend")
        await self._desk.start()
        await self._outage.start()
        await self._pulse.start()
        await self._corrections.start()
        self._recalling.start()

    async def stop(self) -> None:
        """Settle what is left and let go of the store."""
        await self._recalling.stop()
        await self._corrections.stop()
        await self._pulse.stop()
        await self._watch.stop()
        await self._desk.stop()
        await self._outage.stop()
        await self._store.stop()

    def watch_spending(self) -> SpendingWatch:
        """From now on remember which budgets calls use, for whoever asks how far they are spent."""
        watch = SpendingWatch(self._store, self._desk)

        def settled(taken: Reservation) -> None:
            if taken.backend is self._store:
                watch.call_settled(taken.plan)

        self._spending = watch
        self._living.watch_spending(settled)
        return watch

    def state(self) -> AdmissionState:
        """How admission does."""
        up = self._store.is_available
        if up != self._answered:
            self._answered, self._since = up, time.time()
        return AdmissionState(
            store=("up" if up else "away") if self._shared else "process",
            since=self._since,
            denies_all=not up and self._settings.limits_on_store_failure == "deny",
            replicas=self._outage.replicas,
            unsettled=self._desk.pending,
            policies_fresh=self._watch.is_fresh,
            policies_epoch=self._watch.policies.snapshot.newest_epoch,
            shadow_rejections=self._shadowed,
        )

    async def admit(self, caller: Caller, call: Call, request_id: UUID) -> Lease:
        """A place for a call; `Lease.settle` must follow, whatever happens."""
        relaid = self._relaid.call_started(caller, call)
        decision = await self.evaluate(caller, call, request_id.hex)
        if decision.error is not None:
            raise decision.error
        told = rate_limit_headers(
            decision.request.plan, decision.request.amounts, decision.result, decision.state
        )
        return Lease(told, decision.reservations, self._living, decision.would_reject, relaid)

    def record_answer_length(self, call: Call, completion_tokens: int) -> None:
        """A call has its whole answer: others of its model group are expected to be alike."""
        self._asking.answer_lengths.add(call, completion_tokens)

    def correct_later(self, request_id: UUID, lease: Lease) -> None:
        """A call was settled by an estimate: its budgets follow when the sidecar's log knows better."""
        self._corrections.add(request_id, lease)

    def reject_if_exhausted(self, caller: Caller) -> None:
        """Refuse a key whose own window is known to be full, before anybody reads what it sends."""
        found = self._full.find_for_key(caller, self._watch.policies)
        if found is not None and caller.revocation_epoch >= self._watch.epoch_of(caller.tenant or ""):
            ask, answer = found
            raise rate_limit_error(ask, answer, self._mode)

    async def publish_epochs(self, epochs: Mapping[str, int]) -> None:
        """Tell every replica, this one first, that something of these tenants has changed."""
        try:
            await raise_epochs(self._store, epochs)
        except LimiterUnavailable:
            log.warning("limits store away: other replicas learn of the change from Postgres")
        with contextlib.suppress(StoreUnavailable):
            await self._watch.refresh()

    def evaluate(
        self, caller: Caller, call: Call, lease: str, *, reserve: bool = True
    ) -> Awaitable[Decision]:
        """The decision on a call; with `reserve` off nothing is counted."""

        def asked(current: Caller) -> LimiterRequest:
            self.access_policy.check(current, call)
            return self._asking.plan_request(current, call, lease, reserve=reserve)

        return self._decision(caller, asked)

    def limit_status(self, caller: Caller, group: str | None, want: int) -> Awaitable[Decision]:
        """Where a caller stands, at a model group or apart from any, with a call that takes so much."""
        return self._decision(caller, lambda current: self._asking.status_request(current, group or "", want))

    async def _decision(self, caller: Caller, asked: Callable[[Caller], LimiterRequest]) -> Decision:
        for _ in range(MAX_ATTEMPTS):
            if self._outdated(caller):
                caller = await self._renewed(caller)
            ask = asked(caller)
            if not ask.plan.checks and self._watch.is_fresh:
                return Decision(ask, LimiterResult(ADMITTED, 0, 0), self._mode)
            if (full := self._full.find(ask)) is not None:
                return self._refused(ask, full)
            try:
                answer = await self._store.reserve(ask, partial(self._undo, ask))
            except LimiterUnavailable:
                return await self._alone(ask)
            if not ask.lease_id and _unknown(ask, answer):  # no call: every figure is to be seen
                answer = answer._replace(status=SPEND_UNKNOWN)
            if answer.status in {ADMITTED, REJECTED}:
                return self._decided(caller, ask, answer)
            if answer.status == SPEND_UNKNOWN and (alone := await self._rebuild(ask, answer)) is not None:
                return alone
            caller = await self._catch_up(caller, ask, answer)
        raise StoreUnavailable("The limits kept changing; please try again.", retry_after_s=RETRY_AFTER_S)

    async def _recall(self) -> object:
        """Learn how long answers are from what all replicas have settled, once the ledger can be asked."""
        latest = () if self._spent is None else await self._spent.recent_answers()
        if latest is None:
            return None
        self._asking.answer_lengths.load(latest)
        return LOOP_DONE

    @property
    def _mode(self) -> EnforcementState:
        return "shadow" if self._settings.limits_mode == "shadow" else "enforced"

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._clock_skew_ms

    def _outdated(self, caller: Caller) -> bool:
        """Whether something of a caller's tenant has changed since it was read."""
        return caller.kind == "virtual" and caller.revocation_epoch < self._watch.epoch_of(
            caller.tenant or ""
        )

    async def _renewed(self, caller: Caller) -> Caller:
        epoch = self._watch.epoch_of(caller.tenant or "")
        return await self._renew(caller, epoch) if self._renew is not None else caller

    def _undo(self, ask: LimiterRequest, late: LimiterResult) -> None:
        """Return what an answer took that nobody waited for."""
        if late.status == ADMITTED and ask.reserve:
            self._desk.enqueue(ask.plan.hash_tag, self._taken(ask, late).undo_entries())

    def _decided(self, caller: Caller, ask: LimiterRequest, answer: LimiterResult) -> Decision:
        self._clock_skew_ms = answer.now_ms - time.time_ns() // 1_000_000
        self._outage.record_result(ask.plan, answer)
        if answer.status == REJECTED:
            if ask.reserve:
                self._full.add(caller, self._watch.policies, ask, answer)
            return self._refused(ask, answer)
        if ask.reserve and self._shared:
            self._outage.record_admitted(ask.plan)
        taken = (self._taken(ask, answer),)
        return Decision(ask, answer, self._mode, taken, would_reject=self._watched(ask, answer))

    def _watched(self, ask: LimiterRequest, answer: LimiterResult) -> str | None:
        """The checks that only watched and would have refused; their budgets not known yet are rebuilt."""
        if not ask.reserve or not ask.plan.has_shadow:
            return None
        found = [one for one in limit_statuses(ask.plan, ask.amounts, answer) if not one.check.enforced]
        for one in found:
            if one.used is None:
                self._rebuilding.rebuild_soon(one.check, ask.plan.hash_tag)
        refusing = dict.fromkeys(f"{one.check.scope}:{one.check.kind}" for one in found if one.rejects)
        self._shadowed += bool(refusing)
        return ",".join(refusing) or None

    def _taken(self, ask: LimiterRequest, answer: LimiterResult) -> Reservation:
        return Reservation(ask.plan, ask.amounts, answer, ask.lease_id, self._store, self._desk)

    def _refused(
        self, ask: LimiterRequest, answer: LimiterResult, state: EnforcementState | None = None
    ) -> Decision:
        state = state or self._mode
        refused = rate_limit_error(ask, answer, state)
        if self._spending is not None and ask.reserve and isinstance(refused, BudgetExceeded):
            over = [
                one
                for one in limit_statuses(ask.plan, ask.amounts, answer)
                if one.rejects and one.is_exhausted
            ]
            self._spending.budgets_exhausted(one.check for one in over if one.check.enforced)
        return Decision(ask, answer, state, error=refused)

    async def _alone(self, ask: LimiterRequest) -> Decision:
        """Decide while the store is away."""
        local, answer, state = await self._outage.reserve(ask)
        if answer.status == REJECTED:
            return self._refused(local, answer, state)
        taken = self._outage.reservations_of(ask, local, answer, self._store, self._desk)
        return Decision(local, answer, state, taken, would_reject=self._watched(local, answer))

    async def _rebuild(self, ask: LimiterRequest, answer: LimiterResult) -> Decision | None:
        """Rebuild missing budgets; a decision when that cannot be done, None to ask again."""
        missing = _unknown(ask, answer)
        try:
            if all([await self._rebuilding.rebuild(check, ask.plan.hash_tag) for check in missing]):
                return None
        except (LimiterUnavailable, APIError, OSError, TimeoutError):
            log.warning("budget not rebuilt")
        unknown = [check for check in missing if check.on_store_failure != "allow"]
        if unknown:
            message = f"What {unknown[0].subject} has spent is not known right now."
            away = StoreUnavailable(message, retry_after_s=RETRY_AFTER_S, headers=DENIED_HEADERS)
            away.reached_limit = reached_limit(unknown[0], wait_ms=int(RETRY_AFTER_S * 1000))
            raise away
        return await self._alone(ask)

    async def _catch_up(self, caller: Caller, ask: LimiterRequest, answer: LimiterResult) -> Caller:
        tenant = ask.plan.tenant
        if answer.status == STALE:
            await self._watch.refresh(tenant, answer.epoch)
            if caller.kind == "virtual" and self._renew is not None:
                return await self._renew(caller, answer.epoch)
        elif answer.status == EPOCH_UNKNOWN:
            try:
                await self._watch.refresh()
            except StoreUnavailable:
                log.debug("epoch restored from memory")  # with Postgres away nothing can have been revoked
            try:
                await self._pulse.renew(ask.plan.hash_tag)
                await self._store.raise_epoch(ask.plan.epoch_key, self._watch.epoch_of(tenant))
            except LimiterUnavailable:
                log.debug("epoch not restored")
        return caller


def _unknown(ask: LimiterRequest, answer: LimiterResult) -> list[LimitCheck]:
    """The enforced budgets whose spend nobody knows."""
    facts = zip(ask.plan.checks, answer.used, strict=False)  # an answer about an epoch has none
    return [check for check, used in facts if used == UNKNOWN and check.enforced]


def _store_of(settings: Settings, observed: ObserveRequest | None = None) -> LimiterBackend:
    """The store the settings name: shared, or without one this process's own."""
    url = settings.limits_redis_url
    if url is None:
        return MemoryBackend()
    timeout_s = settings.store_timeout_ms / 1000
    shared = RedisBackend(url.get_secret_value(), timeout_s=timeout_s, tls=settings.tls_for(url))
    if observed is not None:
        shared.observe = observed
    return shared


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a call.

    Attributes:
        error: The refusal it would get; None when it would be admitted.
        limit_statuses: Where the caller stands at every check that covers it.
        state: How limits hold right now; None when it never came to them.
    """

    error: APIError | None
    limit_statuses: tuple[LimitStatus, ...] = ()
    state: EnforcementState | None = None


async def explain_call(admission: AdmissionController, caller: Caller, call: Call) -> Explanation:
    """What would become of a call, were it made now."""
    try:
        decision = await admission.evaluate(caller, call, "explained", reserve=False)
        return await _of(admission, caller, call.group, decision)
    except APIError as refused:
        return Explanation(refused)


async def current_limits(
    admission: AdmissionController, caller: Caller, group: str | None = None
) -> Explanation:
    """Where a caller stands, at a model group or apart from any; raises `StoreUnavailable`.

    Whether the smallest call there is would be refused is said with it.
    """
    return await _of(admission, caller, group, await admission.limit_status(caller, group, 1))


async def _of(
    admission: AdmissionController, caller: Caller, group: str | None, decision: Decision
) -> Explanation:
    found = _standings(decision)
    if decision.error is not None and any(one.reset_ms is not None for one in found):
        # The store tells of a full window when it has room; a look that wants nothing, when it is empty.
        with contextlib.suppress(APIError):
            empty = {one.check.key: one for one in _standings(await admission.limit_status(caller, group, 0))}
            found = tuple(_with_reset(one, empty.get(one.check.key)) for one in found)
    return Explanation(decision.error, found, decision.state)


def _with_reset(one: LimitStatus, empty: LimitStatus | None) -> LimitStatus:
    """The standing with the time until its window is empty, which is never before the call fits."""
    if empty is None or empty.reset_ms is None:
        return one
    return replace(one, reset_ms=max(one.wait_ms, empty.reset_ms))


def _standings(decision: Decision) -> tuple[LimitStatus, ...]:
    ask, answer = decision.request, decision.result
    return tuple(limit_statuses(ask.plan, ask.amounts, answer)) if answer.used else ()
