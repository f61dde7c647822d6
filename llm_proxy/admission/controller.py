"""Admits calls: access policy, limits and budgets are checked in one request to the limits store.

Invariants: one script call a request, none where nothing is limited and no change can have been missed; a
result that arrives after its deadline is undone; a call passes an unreachable store only where a policy
allows it. `explain_call` makes the same decision without counting. Raises RateLimited, BudgetExceeded,
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

from llm_proxy.admission.corrections import Corrections, NewBudgets, RefreshCaller
from llm_proxy.admission.exhausted_cache import ExhaustedWindows
from llm_proxy.admission.fallback import RETRY_AFTER_S, FallbackLimiter
from llm_proxy.admission.lease import ActiveLeases, Lease, Reservation
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
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.policy_resolver import PolicyDefaults
from llm_proxy.admission.rate_limit_response import (
    DENIED_HEADERS,
    EnforcementState,
    LimitStatus,
    limit_statuses,
    rate_limit_error,
    rate_limit_headers,
    reached_limit,
    rejecting_statuses,
)
from llm_proxy.admission.redis.backend import ObserveRequest, RedisBackend, raise_epochs
from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.renewal import BudgetRebuilder, Heartbeat, SpendSource
from llm_proxy.admission.run_guard import create_guard
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.admission.spending_watch import SpendingWatch
from llm_proxy.background import LOOP_DONE, BackgroundLoop
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, BudgetExceeded, StoreUnavailable
from llm_proxy.identity import AccessPolicy, Caller, PolicySnapshot, PolicyWatcher
from llm_proxy.settings import Settings

log = logging.getLogger(__name__)

LENGTHS_RETRY_S = 5.0
MAX_ATTEMPTS = 5  # evaluations of one call while policies keep changing; then it is rejected


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """The state of admission, for health and metrics.

    Attributes:
        store: `process` without a Redis, else `up` or `away`.
        since: When that began, in seconds since 1970.
        fault: Why the store is unavailable, without addresses and passwords; may be empty.
        denies_all: The store is unreachable and the setting says to deny.
        unsettled: Settlements the store does not have yet.
    """

    store: str
    since: float
    denies_all: bool
    replicas: int
    unsettled: int
    fault: str = ""


class Decision(NamedTuple):
    """The decision on a call: the request to the limits store, its result, and what follows from them.

    Attributes:
        caller: The caller as it was read last.
        state: How limits hold right now.
        reservations: What the call holds; one for each store that counted it.
        error: The error of a rejected call.
        would_reject: The checks in shadow mode that would have rejected it, as `scope:kind`.
    """

    caller: Caller
    request: LimiterRequest
    result: LimiterResult
    state: EnforcementState
    reservations: tuple[Reservation, ...] = ()
    error: APIError | None = None
    would_reject: str | None = None


class AdmissionController:
    """Admits calls."""

    def __init__(
        self,
        settings: Settings,
        watcher: PolicyWatcher,
        access_policy: AccessPolicy,
        *,
        prices: PriceSource | None = None,
        spend_source: SpendSource | None = None,
        refresh_caller: RefreshCaller | None = None,
        observe: ObserveRequest | None = None,
    ) -> None:
        """Starts and stops `watcher`; `observe` gets every store request."""
        self._settings = settings
        self._shared = settings.limits_redis_url is not None
        self._mode: EnforcementState = "shadow" if settings.limits_mode == "shadow" else "enforced"
        self._backend: LimiterBackend = _create_backend(settings, observe)
        self._refresh_caller = refresh_caller
        replica, self._clock_skew_ms = secrets.token_hex(6), 0
        self._watcher = watcher
        self._access_policy = access_policy
        self._planner = LimitPlanner(
            watcher,
            PolicyDefaults.from_settings(settings),
            prices,
            self._now_ms,
            lambda: self._backend.single_slot,
        )
        timeout_s = settings.store_timeout_ms / 1000
        self._settlements = SettlementQueue(self._backend, replica, timeout_s)
        self.guard = create_guard(settings, self._backend, self._settlements, lambda: self._planner.policies)
        self._new_budgets = NewBudgets(
            self._watcher, self._planner, self._backend, self._settlements, refresh_caller, self._now_ms
        )
        self._fallback = FallbackLimiter(timeout_s)
        self._leases = ActiveLeases()
        self._exhausted = ExhaustedWindows()
        self._since, self._was_available = time.time(), True
        self._heartbeat = Heartbeat(self._backend, replica, self._leases, self._fallback)
        self._corrections = Corrections(spend_source, self._now_ms)
        self._spend_source = spend_source
        self._spending: SpendingWatch | None = None
        self._lengths_loop = BackgroundLoop(
            "answer-lengths", self._load_answer_lengths, every_s=LENGTHS_RETRY_S, at_once=True
        )
        self._rebuilder = BudgetRebuilder(self._backend, spend_source, self._heartbeat.renew)

    async def start(self) -> None:
        """Connects, reads the policies and starts settling; never fails because a store is unreachable."""
        if not self._shared:
            log.warning("no limits store configured: limits hold per process")
        await self._backend.start()
        await self._watcher.start()
        if self._settings.environment == "production" and not self._planner.policies.caps_total_spend:
            log.warning("no budget of scope `global`: nothing bounds what all callers together may spend")
        await self._settlements.start()
        await self._fallback.start()
        await self._heartbeat.start()
        await self._corrections.start()
        self._lengths_loop.start()

    async def stop(self) -> None:
        """Settles what is left and closes the connection to the store."""
        await self._lengths_loop.stop()
        await self._corrections.stop()
        await self._heartbeat.stop()
        await self._watcher.stop()
        await self._settlements.stop()
        await self._fallback.stop()
        await self._backend.stop()

    @property
    def shared_store(self) -> ClusterClient | None:
        """The limits store that all processes share; None where limits hold per process."""
        return self._backend.cluster if isinstance(self._backend, RedisBackend) else None

    @property
    def policies(self) -> PolicySnapshot:
        """The policies that calls are judged by; another object once they have changed."""
        return self._watcher.snapshot

    def watch_spending(self) -> SpendingWatch:
        """Returns a watch that remembers from now on which budgets calls use."""
        watch = SpendingWatch(self._backend, self._settlements)

        def settled(reservation: Reservation) -> None:
            if reservation.backend is self._backend:
                watch.call_settled(reservation.request.plan)

        self._spending = watch
        self._leases.watch_spending(settled)
        return watch

    def state(self) -> AdmissionState:
        """Returns the state of admission."""
        available = self._backend.is_available
        if available != self._was_available:
            self._was_available, self._since = available, time.time()
        return AdmissionState(
            store=("up" if available else "away") if self._shared else "process",
            since=self._since,
            denies_all=not available and self._settings.limits_on_store_failure == "deny",
            replicas=self._fallback.replicas,
            unsettled=self._settlements.pending,
            fault="" if available else self._backend.fault,
        )

    async def admit(self, caller: Caller, call: Call, request_id: UUID) -> Lease:
        """Admits a call or raises; `Lease.settle` must follow, whatever happens."""
        later_budgets = self._new_budgets.call_started(caller, call)
        guarded, is_admitted = self.guard.begin(caller, call), False
        try:
            decision = await self.evaluate(caller, call, request_id.hex)
            is_admitted = decision.error is None
        finally:
            if guarded is not None and not is_admitted:
                guarded.forget()
        if decision.error is not None:
            raise decision.error
        more = () if guarded is None else await guarded.judge_admitted(decision.reservations)
        headers = partial(rate_limit_headers, decision.request, decision.result, decision.state, more)
        held, would_reject = decision.reservations, decision.would_reject
        return Lease(decision.caller, headers, held, self._leases, would_reject, later_budgets, guarded)

    def check_access(self, caller: Caller, call: Call) -> None:
        """Raises `Forbidden` where a kill switch or the key's models exclude a call; counts nothing."""
        self._access_policy.check(caller, call.model, call.group)

    def record_answer_length(self, call: Call, completion_tokens: int) -> None:
        """Records the length of a complete answer, for estimates of its model group's next calls."""
        self._planner.answer_lengths.add(call, completion_tokens)

    def correct_later(self, request_id: UUID, lease: Lease) -> None:
        """Corrects the budgets of a call settled by an estimate, once the sidecar's log has exact figures."""
        self._corrections.add(request_id, lease)

    def reject_if_exhausted(self, caller: Caller) -> None:
        """Raises for a key whose own window is known to be exhausted, before its body is read."""
        if not self._exhausted.by_key:
            return
        error = self._exhausted.error_for_key(caller, self._planner.policies, self._mode)
        if error is not None and caller.revocation_epoch >= self._watcher.epoch_of(caller.tenant or ""):
            raise error

    async def publish_epochs(self, epochs: Mapping[str, int]) -> None:
        """Publishes these tenants' new epochs to the other replicas, then refreshes this one's policies."""
        try:
            await raise_epochs(self._backend, epochs)
        except LimiterUnavailable:
            log.warning("the limits store does not answer: other replicas read the change from Postgres")
        with contextlib.suppress(StoreUnavailable):
            await self._watcher.refresh()

    def evaluate(
        self, caller: Caller, call: Call, lease: str, *, reserve: bool = True
    ) -> Awaitable[Decision]:
        """Returns the decision on a call; with `reserve` off nothing is counted."""

        def make_request(current: Caller) -> LimiterRequest:
            self._access_policy.check(current, call.model, call.group)
            return self._planner.plan_request(current, call, lease, reserve=reserve)

        return self._evaluate(caller, make_request)

    def limit_status(self, caller: Caller, group: str | None, amount: int) -> Awaitable[Decision]:
        """Returns the decision on a call of `amount` at a model group, or at none; counts nothing."""
        return self._evaluate(
            caller, lambda current: self._planner.status_request(current, group or "", amount)
        )

    async def _evaluate(self, caller: Caller, make_request: Callable[[Caller], LimiterRequest]) -> Decision:
        for _ in range(MAX_ATTEMPTS):
            if self._is_outdated(caller):
                caller = await self._refreshed(caller)
            request = make_request(caller)
            if not request.plan.checks and self._watcher.is_fresh:
                return Decision(caller, request, LimiterResult(ADMITTED, 0, 0), self._mode)
            if (cached := self._exhausted.find(request)) is not None:
                return self._rejected(caller, request, cached)
            try:
                result = await self._backend.reserve(request, partial(self._undo, request))
            except LimiterUnavailable:
                return await self._evaluate_without_store(caller, request)
            if not request.lease_id and _unknown_budgets(request, result):  # a status shows every figure
                result = result._replace(status=SPEND_UNKNOWN)
            if result.status in {ADMITTED, REJECTED}:
                return self._decision_of(caller, request, result)
            if (
                result.status == SPEND_UNKNOWN
                and (decision := await self._rebuild_budgets(caller, request, result)) is not None
            ):
                return decision
            caller = await self._refresh_after(caller, request, result)
        raise StoreUnavailable("The limits just changed; please try again.", retry_after_s=RETRY_AFTER_S)

    async def _load_answer_lengths(self) -> object:
        """Loads the lengths of all replicas' recent answers, once the ledger can be read."""
        lengths = () if self._spend_source is None else await self._spend_source.recent_answers()
        if lengths is None:
            return None
        self._planner.answer_lengths.load(lengths)
        return LOOP_DONE

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._clock_skew_ms

    def _is_outdated(self, caller: Caller) -> bool:
        """Whether something of a caller's tenant has changed since the caller was read."""
        return caller.kind == "virtual" and caller.revocation_epoch < self._watcher.epoch_of(
            caller.tenant or ""
        )

    async def _refreshed(self, caller: Caller) -> Caller:
        epoch = self._watcher.epoch_of(caller.tenant or "")
        return await self._refresh_caller(caller, epoch) if self._refresh_caller is not None else caller

    def _undo(self, request: LimiterRequest, late: LimiterResult) -> None:
        """Returns what a result reserved that arrived after its timeout."""
        if late.status == ADMITTED and request.reserve:
            reservation = self._reservation(request, late)
            reservation.enqueue(reservation.undo_entries())

    def _decision_of(self, caller: Caller, request: LimiterRequest, result: LimiterResult) -> Decision:
        self._clock_skew_ms = result.now_ms - time.time_ns() // 1_000_000
        self._fallback.record_result(request, result)
        if result.status == REJECTED:
            if request.reserve:
                self._exhausted.add(caller, self._planner.policies, request, result)
            return self._rejected(caller, request, result)
        if request.reserve and self._shared:
            self._fallback.record_admitted(request.plan)
        reservations = (self._reservation(request, result),)
        shadow = self._shadow_rejection(request, result)
        return Decision(caller, request, result, self._mode, reservations, would_reject=shadow)

    def _shadow_rejection(self, request: LimiterRequest, result: LimiterResult) -> str | None:
        """The shadow checks that would have rejected; their budgets that are not known yet are rebuilt."""
        if not request.reserve or not request.plan.has_shadow:
            return None
        statuses = [one for one in limit_statuses(request, result) if not one.check.enforced]
        for status in statuses:
            if status.used is None:
                self._rebuilder.rebuild_soon(status.check, request.plan.hash_tag)
        rejecting = dict.fromkeys(
            f"{status.check.scope}:{status.check.kind}" for status in statuses if status.rejects
        )
        return ",".join(rejecting) or None

    def _reservation(self, request: LimiterRequest, result: LimiterResult) -> Reservation:
        return Reservation(request, result, self._backend, self._settlements)

    def _rejected(
        self,
        caller: Caller,
        request: LimiterRequest,
        result: LimiterResult,
        state: EnforcementState | None = None,
    ) -> Decision:
        state = state or self._mode
        error = rate_limit_error(request, result, state)
        if self._spending is not None and request.reserve and isinstance(error, BudgetExceeded):
            rejecting = rejecting_statuses(request, result)
            spent = (one.check for one in rejecting if one.is_exhausted and not one.check.is_run_budget)
            self._spending.budgets_exhausted(spent)
        return Decision(caller, request, result, state, error=error)

    async def _evaluate_without_store(self, caller: Caller, request: LimiterRequest) -> Decision:
        """Decides while the store is unreachable."""
        local_request, result, state = await self._fallback.reserve(request)
        if result.status == REJECTED:
            return self._rejected(caller, local_request, result, state)
        reservations = self._fallback.reservations_of(
            request, local_request, result, self._backend, self._settlements
        )
        shadow = self._shadow_rejection(local_request, result)
        return Decision(caller, local_request, result, state, reservations, would_reject=shadow)

    async def _rebuild_budgets(
        self, caller: Caller, request: LimiterRequest, result: LimiterResult
    ) -> Decision | None:
        """Rebuilds missing budgets; returns a decision where that is impossible, None to evaluate again."""
        missing = _unknown_budgets(request, result)
        try:
            if all([await self._rebuilder.rebuild(check, request.plan.hash_tag) for check in missing]):
                return None
        except (LimiterUnavailable, APIError, OSError, TimeoutError):
            log.warning("a budget cannot be rebuilt from the records")
        unknown = [check for check in missing if check.on_store_failure != "allow"]
        if unknown:
            message = f"What {unknown[0].subject} has spent is not known right now; please try again."
            unavailable = StoreUnavailable(message, retry_after_s=RETRY_AFTER_S, headers=DENIED_HEADERS)
            unavailable.reached_limit = reached_limit(unknown[0], wait_ms=int(RETRY_AFTER_S * 1000))
            raise unavailable
        return await self._evaluate_without_store(caller, request)

    async def _refresh_after(self, caller: Caller, request: LimiterRequest, result: LimiterResult) -> Caller:
        tenant = request.plan.tenant
        if result.status == STALE:
            await self._watcher.refresh(tenant, result.epoch)
            if caller.kind == "virtual" and self._refresh_caller is not None:
                return await self._refresh_caller(caller, result.epoch)
        elif result.status == EPOCH_UNKNOWN:
            try:
                await self._watcher.refresh()
            except StoreUnavailable:
                log.debug("epoch restored from memory")  # nothing is revoked without Postgres
            try:
                await self._heartbeat.renew(request.plan.hash_tag)
                await self._backend.raise_epoch(request.plan.epoch_key, self._watcher.epoch_of(tenant))
            except LimiterUnavailable:
                log.debug("epoch not restored")
        return caller


def _unknown_budgets(request: LimiterRequest, result: LimiterResult) -> list[LimitCheck]:
    """The enforced budgets whose spend is unknown."""
    facts = zip(request.plan.checks, result.used, strict=False)  # an answer about an epoch has none
    return [check for check, used in facts if used == UNKNOWN and check.enforced]


def _create_backend(settings: Settings, observed: ObserveRequest | None = None) -> LimiterBackend:
    """The backend the settings name: Redis, or without one this process's memory."""
    url, run_idle_ms = settings.limits_redis_url, settings.run_idle_s * 1000
    if url is None:
        return MemoryBackend(run_idle_ms=run_idle_ms)
    timeout_s, tls = settings.store_timeout_ms / 1000, settings.tls_for(url)
    shared = RedisBackend(url.get_secret_value(), timeout_s=timeout_s, tls=tls, run_idle_ms=run_idle_ms)
    if observed is not None:
        shared.observe = observed
    return shared


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a call.

    Attributes:
        error: The error it would get; None when it would be admitted.
        limit_statuses: The status of every check that covers it.
        state: How limits hold right now; None when the decision came before them.
    """

    error: APIError | None
    limit_statuses: tuple[LimitStatus, ...] = ()
    state: EnforcementState | None = None


async def explain_call(admission: AdmissionController, caller: Caller, call: Call) -> Explanation:
    """Returns what would become of a call made now."""
    try:
        decision = await admission.evaluate(caller, call, "explained", reserve=False)
        explained = await _of(admission, caller, call.group, decision)
        return replace(explained, error=explained.error or await admission.guard.foresee(caller, call))
    except APIError as error:
        return Explanation(error)


async def current_limits(
    admission: AdmissionController, caller: Caller, group: str | None = None
) -> Explanation:
    """Returns the caller's limits, at a model group or at none; raises `StoreUnavailable`.

    The result also says whether the smallest possible call would be rejected.
    """
    return await _of(admission, caller, group, await admission.limit_status(caller, group, 1))


async def _of(
    admission: AdmissionController, caller: Caller, group: str | None, decision: Decision
) -> Explanation:
    statuses = _statuses(decision)
    if decision.error is not None and any(status.reset_ms is not None for status in statuses):
        # The store returns when an exhausted window has capacity again; for an amount of 0, when it is empty.
        with contextlib.suppress(APIError):
            empty = {
                status.check.key: status
                for status in _statuses(await admission.limit_status(caller, group, 0))
            }
            statuses = tuple(_with_reset(status, empty.get(status.check.key)) for status in statuses)
    return Explanation(decision.error, statuses, decision.state)


def _with_reset(status: LimitStatus, empty: LimitStatus | None) -> LimitStatus:
    """The status with the time until its window is empty, which is never before the call fits."""
    if empty is None or empty.reset_ms is None:
        return status
    return status._replace(reset_ms=max(status.wait_ms, empty.reset_ms))


def _statuses(decision: Decision) -> tuple[LimitStatus, ...]:
    return tuple(limit_statuses(decision.request, decision.result)) if decision.result.used else ()
