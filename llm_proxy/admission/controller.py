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

from llm_proxy.admission.access_policy import Permit
from llm_proxy.admission.corrections import Corrections, Relaid, Renew
from llm_proxy.admission.exhausted_cache import FullWindows
from llm_proxy.admission.fallback import RETRY_S, Outage
from llm_proxy.admission.lease import Desk, Lease, Living, Taken
from llm_proxy.admission.limit_planner import Asking, Prices
from llm_proxy.admission.limiter import (
    ADMITTED,
    EPOCH_UNKNOWN,
    REFUSED,
    SPEND_UNKNOWN,
    STALE,
    UNKNOWN,
    Answer,
    Ask,
    Check,
    Store,
    StoreAway,
)
from llm_proxy.admission.memory_limiter import ProcessStore
from llm_proxy.admission.policy_resolver import Defaults
from llm_proxy.admission.policy_watcher import Watch
from llm_proxy.admission.rate_limit_response import (
    DENIED,
    Standing,
    State,
    headers,
    reached,
    refusal,
    standings,
)
from llm_proxy.admission.redis.backend import Observed, SharedStore, raise_all
from llm_proxy.admission.renewal import Pulse, Rebuilding, Spent
from llm_proxy.admission.spending_watch import SpendingWatch
from llm_proxy.background import DONE, Loop
from llm_proxy.dialects import Call
from llm_proxy.errors import BudgetExceeded, Refused, StoreUnavailable
from llm_proxy.identity import Caller, RuleSource
from llm_proxy.settings import Settings

log = logging.getLogger(__name__)

RECALL_AGAIN_S = 5.0
MOST_TURNS = 5
"""A call that is still not decided after so many looks at changing rules is refused."""


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """How admission does, for health and metrics.

    Attributes:
        store: `process` without a Redis, else whether the shared store answers.
        since: When that began, in seconds since 1970.
        denies_all: The store is away and the setting says to deny.
        unsettled: Settlements the store does not have yet.
        shadowed: Calls admitted so far that a limit in shadow mode would have refused.
    """

    store: str
    since: float
    denies_all: bool
    replicas: int
    unsettled: int
    rules_fresh: bool
    rules_epoch: int
    shadowed: int = 0


class Decision(NamedTuple):
    """What was asked, what the answer was, the refusal in it, and what only watched and would refuse."""

    ask: Ask
    answer: Answer
    state: State
    taken: tuple[Taken, ...] = ()
    refused: Refused | None = None
    would_refuse: str | None = None


class Admission:
    """Decides who may, how much and how fast; `permit` holds what needs no counting."""

    def __init__(
        self,
        settings: Settings,
        *,
        prices: Prices | None = None,
        spent: Spent | None = None,
        rules: RuleSource | None = None,
        renew: Renew | None = None,
        observed: Observed | None = None,
    ) -> None:
        """`rules` and `renew` come from the virtual keys; `observed` hears of every store call."""
        self._settings = settings
        self._shared = settings.limits_redis_url is not None
        self._store: Store = _store_of(settings, observed)
        self._renew = renew
        replica = secrets.token_hex(6)
        self._clock_skew_ms = 0
        self._watch = Watch(Defaults.of(settings), rules)
        self.permit = Permit(self._watch, prices, settings.default_models)
        self._asking = Asking(self._watch, prices, self._now_ms, lambda: self._store.one_slot)
        patience_s = settings.store_timeout_ms / 1000
        self._desk = Desk(self._store, replica, patience_s)
        self._relaid = Relaid(self._watch, self._asking, self._store, self._desk, renew, self._now_ms)
        self._outage = Outage(patience_s)
        self._living = Living()
        self._full = FullWindows()
        self._since, self._answered, self._shadowed = time.time(), True, 0
        self._pulse = Pulse(self._store, replica, self._living, self._outage)
        self._corrections = Corrections(spent, self._now_ms)
        self._spent = spent
        self._spending: SpendingWatch | None = None
        self._recalling = Loop("answer-lengths", self._recall, every_s=RECALL_AGAIN_S, at_once=True)
        self._rebuilding = Rebuilding(self._store, spent, self._pulse.keep)

    async def start(self) -> None:
        """Connect, read the rules, begin to settle; never fails because a store is away."""
        if not self._shared:
            log.warning("no limits store configured: limits hold per process")
        await self._store.start()
        await self._watch.start()
        if self._settings.environment == "production" and not self._watch.policies.caps_money:
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

        def settled(taken: Taken) -> None:
            if taken.store is self._store:
                watch.ended(taken.plan)

        self._spending = watch
        self._living.watch_spending(settled)
        return watch

    def state(self) -> AdmissionState:
        """How admission does."""
        up = self._store.answering
        if up != self._answered:
            self._answered, self._since = up, time.time()
        return AdmissionState(
            store=("up" if up else "away") if self._shared else "process",
            since=self._since,
            denies_all=not up and self._settings.limits_on_store_failure == "deny",
            replicas=self._outage.replicas,
            unsettled=self._desk.waiting,
            rules_fresh=self._watch.fresh,
            rules_epoch=self._watch.policies.book.newest,
            shadowed=self._shadowed,
        )

    async def admit(self, caller: Caller, call: Call, request_id: UUID) -> Lease:
        """A place for a call; `Lease.settle` must follow, whatever happens."""
        relaid = self._relaid.watching(caller, call)
        decision = await self.decide(caller, call, request_id.hex)
        if decision.refused is not None:
            raise decision.refused
        told = headers(decision.ask.plan, decision.ask.wants, decision.answer, decision.state)
        return Lease(told, decision.taken, self._living, decision.would_refuse, relaid)

    def answered(self, call: Call, completion_tokens: int) -> None:
        """A call has its whole answer: others of its model group are expected to be alike."""
        self._asking.lengths.add(call, completion_tokens)

    def estimated(self, request_id: UUID, lease: Lease) -> None:
        """A call was settled by an estimate: its budgets follow when the sidecar's log knows better."""
        self._corrections.add(request_id, lease)

    def turn_away(self, caller: Caller) -> None:
        """Refuse a key whose own window is known to be full, before anybody reads what it sends."""
        found = self._full.of_key(caller, self._watch.policies)
        if found is not None and caller.revocation_epoch >= self._watch.epoch_of(caller.tenant or ""):
            ask, answer = found
            raise refusal(ask, answer, self._mode)

    async def announce(self, epochs: Mapping[str, int]) -> None:
        """Tell every replica, this one first, that something of these tenants has changed."""
        try:
            await raise_all(self._store, epochs)
        except StoreAway:
            log.warning("limits store away: other replicas learn of the change from Postgres")
        with contextlib.suppress(StoreUnavailable):
            await self._watch.catch_up()

    def decide(self, caller: Caller, call: Call, lease: str, *, take: bool = True) -> Awaitable[Decision]:
        """The decision on a call; with `take` off nothing is counted."""

        def asked(current: Caller) -> Ask:
            self.permit.check(current, call)
            return self._asking.ask(current, call, lease, take=take)

        return self._decision(caller, asked)

    def standing(self, caller: Caller, group: str | None, want: int) -> Awaitable[Decision]:
        """Where a caller stands, at a model group or apart from any, with a call that takes so much."""
        return self._decision(caller, lambda current: self._asking.look(current, group or "", want))

    async def _decision(self, caller: Caller, asked: Callable[[Caller], Ask]) -> Decision:
        for _ in range(MOST_TURNS):
            if self._outdated(caller):
                caller = await self._renewed(caller)
            ask = asked(caller)
            if not ask.plan.checks and self._watch.fresh:
                return Decision(ask, Answer(ADMITTED, 0, 0), self._mode)
            if (full := self._full.answer(ask)) is not None:
                return self._refused(ask, full)
            try:
                answer = await self._store.admit(ask, partial(self._undo, ask))
            except StoreAway:
                return await self._alone(ask)
            if not ask.lease and _unknown(ask, answer):  # no call: every figure is to be seen
                answer = answer._replace(status=SPEND_UNKNOWN)
            if answer.status in {ADMITTED, REFUSED}:
                return self._decided(caller, ask, answer)
            if answer.status == SPEND_UNKNOWN and (alone := await self._rebuild(ask, answer)) is not None:
                return alone
            caller = await self._catch_up(caller, ask, answer)
        raise StoreUnavailable("The limits kept changing; please try again.", retry_after_s=RETRY_S)

    async def _recall(self) -> object:
        """Learn how long answers are from what all replicas have settled, once the ledger can be asked."""
        latest = () if self._spent is None else await self._spent.latest_answers()
        if latest is None:
            return None
        self._asking.lengths.recall(latest)
        return DONE

    @property
    def _mode(self) -> State:
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

    def _undo(self, ask: Ask, late: Answer) -> None:
        """Return what an answer took that nobody waited for."""
        if late.status == ADMITTED and ask.take:
            self._desk.note(ask.plan.tag, self._taken(ask, late).undone())

    def _decided(self, caller: Caller, ask: Ask, answer: Answer) -> Decision:
        self._clock_skew_ms = answer.now_ms - time.time_ns() // 1_000_000
        self._outage.heard(ask.plan, answer)
        if answer.status == REFUSED:
            if ask.take:
                self._full.remember(caller, self._watch.policies, ask, answer)
            return self._refused(ask, answer)
        if ask.take and self._shared:
            self._outage.admitted(ask.plan)
        taken = (self._taken(ask, answer),)
        return Decision(ask, answer, self._mode, taken, would_refuse=self._watched(ask, answer))

    def _watched(self, ask: Ask, answer: Answer) -> str | None:
        """The checks that only watched and would have refused; their budgets not known yet are rebuilt."""
        if not ask.take or not ask.plan.watches:
            return None
        found = [one for one in standings(ask.plan, ask.wants, answer) if not one.check.enforced]
        for one in found:
            if one.used is None:
                self._rebuilding.begin(one.check, ask.plan.tag)
        refusing = dict.fromkeys(f"{one.check.scope}:{one.check.kind}" for one in found if one.over)
        self._shadowed += bool(refusing)
        return ",".join(refusing) or None

    def _taken(self, ask: Ask, answer: Answer) -> Taken:
        return Taken(ask.plan, ask.wants, answer, ask.lease, self._store, self._desk)

    def _refused(self, ask: Ask, answer: Answer, state: State | None = None) -> Decision:
        state = state or self._mode
        refused = refusal(ask, answer, state)
        if self._spending is not None and ask.take and isinstance(refused, BudgetExceeded):
            over = [one for one in standings(ask.plan, ask.wants, answer) if one.over and one.spent]
            self._spending.exhausted(one.check for one in over if one.check.enforced)
        return Decision(ask, answer, state, refused=refused)

    async def _alone(self, ask: Ask) -> Decision:
        """Decide while the store is away."""
        local, answer, state = await self._outage.admit(ask)
        if answer.status == REFUSED:
            return self._refused(local, answer, state)
        taken = self._outage.taken(ask, local, answer, self._store, self._desk)
        return Decision(local, answer, state, taken, would_refuse=self._watched(local, answer))

    async def _rebuild(self, ask: Ask, answer: Answer) -> Decision | None:
        """Rebuild missing budgets; a decision when that cannot be done, None to ask again."""
        missing = _unknown(ask, answer)
        try:
            if all([await self._rebuilding.rebuild(check, ask.plan.tag) for check in missing]):
                return None
        except (StoreAway, Refused, OSError, TimeoutError):
            log.warning("budget not rebuilt")
        unknown = [check for check in missing if check.on_store_failure != "allow"]
        if unknown:
            message = f"What {unknown[0].subject} has spent is not known right now."
            away = StoreUnavailable(message, retry_after_s=RETRY_S, headers=DENIED)
            away.reached = reached(unknown[0], wait_ms=int(RETRY_S * 1000))
            raise away
        return await self._alone(ask)

    async def _catch_up(self, caller: Caller, ask: Ask, answer: Answer) -> Caller:
        tenant = ask.plan.tenant
        if answer.status == STALE:
            await self._watch.catch_up(tenant, answer.epoch)
            if caller.kind == "virtual" and self._renew is not None:
                return await self._renew(caller, answer.epoch)
        elif answer.status == EPOCH_UNKNOWN:
            try:
                await self._watch.catch_up()
            except StoreUnavailable:
                log.debug("epoch restored from memory")  # with Postgres away nothing can have been revoked
            try:
                await self._pulse.keep(ask.plan.tag)
                await self._store.raise_epoch(ask.plan.epoch_key, self._watch.epoch_of(tenant))
            except StoreAway:
                log.debug("epoch not restored")
        return caller


def _unknown(ask: Ask, answer: Answer) -> list[Check]:
    """The enforced budgets whose spend nobody knows."""
    facts = zip(ask.plan.checks, answer.used, strict=False)  # an answer about an epoch has none
    return [check for check, used in facts if used == UNKNOWN and check.enforced]


def _store_of(settings: Settings, observed: Observed | None = None) -> Store:
    """The store the settings name: shared, or without one this process's own."""
    url = settings.limits_redis_url
    if url is None:
        return ProcessStore()
    timeout_s = settings.store_timeout_ms / 1000
    shared = SharedStore(url.get_secret_value(), timeout_s=timeout_s, tls=settings.tls_for(url))
    if observed is not None:
        shared.observed = observed
    return shared


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a call.

    Attributes:
        refused: The refusal it would get; None when it would be admitted.
        standings: Where the caller stands at every check that covers it.
        state: How limits hold right now; None when it never came to them.
    """

    refused: Refused | None
    standings: tuple[Standing, ...] = ()
    state: State | None = None


async def explain(admission: Admission, caller: Caller, call: Call) -> Explanation:
    """What would become of a call, were it made now."""
    try:
        decision = await admission.decide(caller, call, "explained", take=False)
        return await _of(admission, caller, call.group, decision)
    except Refused as refused:
        return Explanation(refused)


async def standing_of(admission: Admission, caller: Caller, group: str | None = None) -> Explanation:
    """Where a caller stands, at a model group or apart from any; raises `StoreUnavailable`.

    Whether the smallest call there is would be refused is said with it.
    """
    return await _of(admission, caller, group, await admission.standing(caller, group, 1))


async def _of(admission: Admission, caller: Caller, group: str | None, decision: Decision) -> Explanation:
    found = _standings(decision)
    if decision.refused is not None and any(one.reset_ms is not None for one in found):
        # The store tells of a full window when it has room; a look that wants nothing, when it is empty.
        with contextlib.suppress(Refused):
            empty = {one.check.key: one for one in _standings(await admission.standing(caller, group, 0))}
            found = tuple(_with_reset(one, empty.get(one.check.key)) for one in found)
    return Explanation(decision.refused, found, decision.state)


def _with_reset(one: Standing, empty: Standing | None) -> Standing:
    """The standing with the time until its window is empty, which is never before the call fits."""
    if empty is None or empty.reset_ms is None:
        return one
    return replace(one, reset_ms=max(one.wait_ms, empty.reset_ms))


def _standings(decision: Decision) -> tuple[Standing, ...]:
    ask, answer = decision.ask, decision.answer
    return tuple(standings(ask.plan, ask.wants, answer)) if answer.used else ()
