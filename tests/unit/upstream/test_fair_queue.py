"""The order of the queue, on a simulated clock: shares by weight, classes, no starvation, bounded memory."""

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_proxy.identity import QueueShare
from llm_proxy.upstream.fair_queue import MAX_HOLD_S, MAX_IDLE, FairQueue, Waiting


@dataclass(frozen=True, slots=True)
class SimulatedCaller:
    """Sends one call after another; `length_s` and `pause_s` are called for each."""

    share: QueueShare
    length_s: Callable[[], float]
    pause_s: Callable[[], float] = lambda: 0.002


class Simulation:
    """Slots, the fair queue before them, and callers.

    Attributes:
        used_s: Slot time by tenant and key.
        waits_s: How long each call waited, by tenant.
        idle_s: The longest time in which a slot was free while an interactive call waited.
    """

    def __init__(self, slots: int) -> None:
        self.queue = FairQueue[SimulatedCaller](max_waiting=10_000)
        self.now, self.slots, self.free = 0.0, slots, slots
        self.used_s = defaultdict[tuple[str, str], float](float)
        self.waits_s: dict[str, list[float]] = {}
        self.idle_s, self._idle_since = 0.0, 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def run(self, callers: list[SimulatedCaller], until_s: float) -> None:
        """Runs callers who begin within 50 ms from now, until a time."""
        random = Random(1)  # noqa: S311 -- repeatable
        for one in callers:
            self._at(self.now + random.uniform(0, 0.05), partial(self._call, one))
        while self._events[0][0] <= until_s:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if self.free and self.queue.interactive_waiting:
                self.idle_s = max(self.idle_s, self.now - self._idle_since)
            else:
                self._idle_since = self.now

    def tenant_s(self, tenant: str) -> float:
        """Slot time of a tenant."""
        return sum(used for (name, _), used in self.used_s.items() if name == tenant)

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _call(self, caller: SimulatedCaller) -> None:
        if self.queue.may_start(caller.share, self.free, self.slots, self.now):
            self.queue.started(caller.share)
            self._start(caller, None)
        else:
            self.queue.add(caller, caller.share, self.now)
            self._dispatch()

    def _dispatch(self) -> None:
        while (entry := self.queue.take_next(self.free, self.slots, self.now)) is not None:
            self._start(entry.item, entry)
        if self.free and self.queue.waiting and (until := self.queue.held_until(self.slots)) is not None:
            self._at(max(until, self.now + 1e-4), self._dispatch)

    def _start(self, caller: SimulatedCaller, entry: Waiting[SimulatedCaller] | None) -> None:
        self.free -= 1
        assert self.free >= 0
        share, took = caller.share, caller.length_s()
        self.waits_s.setdefault(share.tenant, []).append(self.now - entry.since if entry else 0.0)

        def end() -> None:
            self.free += 1
            self.used_s[share.tenant, share.key_id] += took
            self.queue.ended(share, entry, self.slots, self.now)
            self._at(self.now + caller.pause_s(), partial(self._call, caller))
            self._dispatch()

        self._at(self.now + took, end)


def lengths(seed: int, mean_s: float = 0.2, spread: float = 0.5) -> Callable[[], float]:
    """Lengths of calls around a mean."""
    random = Random(seed)  # noqa: S311 -- repeatable
    return lambda: mean_s * random.uniform(1 - spread, 1 + spread)


def flood(tenant: str, callers: int, *, is_batch: bool = False, mean_s: float = 0.2) -> list[SimulatedCaller]:
    """Callers of one tenant and key."""
    share = QueueShare(tenant, f"key of {tenant}", is_batch=is_batch)
    return [SimulatedCaller(share, lengths(number, mean_s)) for number in range(callers)]


def p95(waits_s: list[float]) -> float:
    """The 95th percentile."""
    return sorted(waits_s)[int(len(waits_s) * 0.95)]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_flood_does_not_slow_tenants_within_their_share(spread: float) -> None:
    """Nine with two callers each beside one with two hundred; also where all calls take the same time."""
    simulation = Simulation(20)
    light = [
        SimulatedCaller(QueueShare(f"t{tenant}", "k"), lengths(tenant, spread=spread))
        for tenant in range(9)
        for _ in range(2)
    ]
    heavy = [SimulatedCaller(QueueShare("flood", "k"), lengths(one, spread=spread)) for one in range(200)]
    simulation.run(heavy + light, 30)
    waits = [wait for tenant in range(9) for wait in simulation.waits_s[f"t{tenant}"]]
    assert p95(waits) < 0.2 * 0.3
    assert simulation.tenant_s("flood") > 30 * 1.5
    assert sum(simulation.used_s.values()) > 20 * 30 * 0.93


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([10, 50, 100, 300, 1000]), min_size=2, max_size=5),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_slot_time_follows_the_weights_of_those_who_always_wait(
    weights: list[int], slots: int, seed: int
) -> None:
    """Whatever the lengths of their calls; no slot stays free but for a moment."""
    random = Random(seed)  # noqa: S311 -- repeatable
    simulation, callers = Simulation(slots), list[SimulatedCaller]()
    for number, weight in enumerate(weights):
        share = QueueShare(f"t{number}", "k", tenant_weight=weight)
        length_s = lengths(seed + number, random.choice([0.05, 0.2, 0.6]))
        callers += [SimulatedCaller(share, length_s)] * 40
    until_s = 150.0
    simulation.run(callers, until_s)
    for number, weight in enumerate(weights):
        wanted = slots * until_s * weight / sum(weights)
        assert simulation.tenant_s(f"t{number}") == pytest.approx(wanted, rel=0.15, abs=8)
    assert simulation.idle_s <= MAX_HOLD_S + 0.01


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([50, 100, 200]), min_size=2, max_size=4), st.integers(1, 6))
def test_the_keys_of_a_tenant_share_its_part(weights: list[int], slots: int) -> None:
    """By their weights, beside a tenant with one key, which has as much as all of them."""
    simulation, callers = Simulation(slots), flood("other", 40)
    for number, weight in enumerate(weights):
        share = QueueShare("acme", f"k{number}", key_weight=weight)
        callers += [SimulatedCaller(share, lengths(number))] * 40
    simulation.run(callers, 100)
    assert simulation.tenant_s("other") == pytest.approx(simulation.tenant_s("acme"), rel=0.15)
    for number, weight in enumerate(weights):
        wanted = simulation.tenant_s("acme") * weight / sum(weights)
        assert simulation.used_s["acme", f"k{number}"] == pytest.approx(wanted, rel=0.2, abs=4)


def test_who_was_idle_has_no_credit_and_who_used_idle_slots_no_debt() -> None:
    """A tenant that had all slots for a minute shares them evenly from another's first call on."""
    simulation = Simulation(4)
    simulation.run(flood("early", 40), 60)
    before = simulation.tenant_s("early")
    simulation.run(flood("late", 20), 120)
    early = simulation.tenant_s("early") - before
    assert early == pytest.approx(simulation.tenant_s("late"), rel=0.1)


def test_a_batch_flood_does_not_slow_interactive_calls_and_is_served() -> None:
    """Interactive calls seldom wait; batch calls have what is left."""
    simulation = Simulation(20)
    interactive = [SimulatedCaller(QueueShare("people", "k"), lengths(one)) for one in range(8)]
    simulation.run(flood("batch", 200, is_batch=True) + interactive, 60)
    assert p95(simulation.waits_s["people"]) < 0.01
    assert simulation.tenant_s("batch") > 0.9 * 12 * 60
    assert simulation.tenant_s("people") > 0.95 * 8 * 60


@pytest.mark.parametrize("mean_s", [0.2, 5.0])
def test_batch_calls_do_not_starve_under_an_interactive_flood(mean_s: float) -> None:
    """They get a slot a second, or a twentieth of the slots."""
    simulation = Simulation(20)
    simulation.run(
        flood("people", 100, mean_s=mean_s) + flood("batch", 30, is_batch=True, mean_s=mean_s), 300
    )
    assert 300 * 0.15 < simulation.tenant_s("batch") < 0.08 * 20 * 300 + 0.2 * 300
    assert len(simulation.waits_s["batch"]) > 40


def test_with_batch_calls_alone_every_slot_is_used() -> None:
    """Nothing is kept for interactive calls that do not come."""
    simulation = Simulation(5)
    simulation.run(flood("batch", 50, is_batch=True), 20)
    assert simulation.tenant_s("batch") > 0.97 * 5 * 20


def filled(*shares: QueueShare) -> FairQueue[int]:
    """A full queue of these calls, numbered."""
    queue = FairQueue[int](max_waiting=len(shares))
    for number, share in enumerate(shares):
        queue.add(number, share, 0.0)
    return queue


A, A2, B = QueueShare("a", "k1"), QueueShare("a", "k2"), QueueShare("b", "k1")
HEAVY, BATCH = QueueShare("h", "k", tenant_weight=1000), QueueShare("b", "k1", is_batch=True)


@pytest.mark.parametrize(
    ("waiting", "new", "leaves"),
    [
        ((A, A, B), B, None),
        ((A, A, A, B), B, 2),
        ((A, A2, A, B), B, 2),
        ((A, A, A), B, 2),
        ((A, A, A), A2, 2),
        ((A, A2, A2), A, None),
        ((A, A, B), A, None),
        ((HEAVY, HEAVY, A), B, None),
        ((HEAVY, HEAVY, A, A), HEAVY, 3),
        ((A, B, BATCH), A, 2),
        ((A, B, BATCH), BATCH, None),
        ((A, A, A), BATCH, None),
        ((), A, None),
    ],
)
def test_from_a_full_queue_the_newest_call_of_the_largest_flood_leaves(
    waiting: tuple[QueueShare, ...], new: QueueShare, leaves: int | None
) -> None:
    """Batch calls first; None: the new call is rejected, it would be the one to leave."""
    queue = filled(*waiting)
    if leaves is None:
        with pytest.raises(LookupError):
            queue.victim_for(new)
        return
    victim = queue.victim_for(new)
    assert victim is not None
    assert victim.item == leaves
    queue.remove(victim)
    assert queue.victim_for(new) is None


def test_a_call_from_before_the_queue_was_empty_ends_and_takes_nobody_along() -> None:
    """Its tenant's new calls keep their place, and are served."""
    queue = FairQueue[int](max_waiting=10)
    queue.add(0, A, 0.0)
    old = queue.take_next(1, 2, 0.0)
    assert old is not None
    other = queue.take_next(1, 2, 0.0) or queue.add(1, B, 0.0)
    queue.remove(other)
    queue.add(2, A, 0.0)
    queue.add(3, B, 0.0)
    queue.ended(A, old, 2, 0.0)
    served = [entry.item for _ in range(2) if (entry := queue.take_next(2, 2, 2.0)) is not None]
    assert sorted(served) == [2, 3]
    assert queue.waiting == 0


def test_tenants_and_keys_that_come_and_go_are_forgotten() -> None:
    """However many names are used while a call always waits."""
    queue = FairQueue[int](max_waiting=10)
    queue.add(0, A, 0.0)
    for number in range(3 * MAX_IDLE):
        for share in (QueueShare(f"t{number}", "k"), QueueShare("one", f"k{number}")):
            entry = queue.add(number, share, 0.0)
            queue.remove(entry)
    kept = queue._interactive.tenants  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- what is kept
    assert len(kept) + sum(len(one.keys) for one in kept.values()) < 2 * MAX_IDLE + 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("atrpe"), st.integers(0, 5), st.booleans()), max_size=80))
def test_counts_stay_right_whatever_happens(steps: list[tuple[str, int, bool]]) -> None:
    """Calls come, are taken, removed, put back, and end, in any order."""
    queue = FairQueue[int](max_waiting=1000)
    waiting, running, now = list[Waiting[int]](), list[Waiting[int]](), 0.0
    for step, number, is_batch in steps:
        now += 0.3
        if step == "a":
            share = QueueShare(f"t{number % 3}", f"k{number}", is_batch=is_batch)
            waiting.append(queue.add(number, share, now))
        elif step == "t" and (entry := queue.take_next(3 - len(running), 3, now)) is not None:
            waiting.remove(entry)
            running.append(entry)
        elif step == "r" and waiting:
            queue.remove(waiting.pop(number % len(waiting)))
        elif step == "p" and (entry := queue.take_next(3 - len(running), 3, now)) is not None:
            queue.put_back(entry)
        elif step == "e" and running:
            ended = running.pop(number % len(running))
            queue.ended(ended.share, ended, 3, now)
        assert queue.waiting == len(waiting)
        assert queue.interactive_waiting == sum(not one.share.is_batch for one in waiting)
        assert queue.batch_running == sum(one.share.is_batch for one in running)
    served = 0
    while queue.waiting and served < 1000:
        now += 6.0
        while (entry := queue.take_next(3, 3, now)) is not None:
            queue.ended(entry.share, entry, 3, now + 1)
        served += 1
    assert queue.waiting == 0
