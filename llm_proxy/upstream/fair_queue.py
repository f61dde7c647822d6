"""Who gets the next slot: weighted fair queueing between tenants, then between the keys of one; two classes.

Pure: no clock, no I/O. Virtual time of a tenant or key is the slot time it has used, divided by its weight;
the one with the least is served. Interactive calls come before batch calls. Invariants: every call that waits
is served, batch calls too; idle time gives no credit, the use of idle slots no debt; memory is bounded by the
calls that wait or run, and `MAX_IDLE`. Units: seconds of one monotonic clock.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llm_proxy.identity import QueueShare

Item = TypeVar("Item")
BATCH_AT_LEAST_EVERY_S, BATCH_AT_LEAST_SHARE = 1.0, 0.05
"""Batch calls get the next slot if they had none for this time, and less than this part of all slots."""
CLASS_HOLD_S, CLASS_HOLD_CALLS = 5.0, 5
"""How long, or for how many calls, a slot that an interactive call has returned is kept from batch calls."""
HOLD_SHARE, MAX_HOLD_S = 0.1, 0.1
"""The slot of a tenant below its share is kept for its next call: this part of a call's mean time, capped."""
MEAN_OVER = 50
"""The mean time of a call follows so many calls, about."""
FIRST_MEAN_S = 1.0
MAX_IDLE = 1000
"""Tenants, or keys of one, that are remembered while nothing of theirs waits or runs."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[Item]):
    """A call in the queue, and after that a call that holds a slot.

    Attributes:
        since: When it came.
        started: When it got its slot.
        is_waiting: It waits; False once it was taken or removed.
        charged: What its tenant and key were charged for it so far, in slot seconds.
    """

    item: Item
    share: QueueShare
    since: float
    tenant: "_Tenant[Item]"
    key: "_Key[Item]"
    started: float = 0.0
    is_waiting: bool = True
    charged: float = 0.0


@dataclass(slots=True, eq=False)
class _Key(Generic[Item]):
    weight: int
    virtual: float = 0.0
    waiting: deque[Waiting[Item]] = field(default_factory=deque[Waiting[Item]])


@dataclass(slots=True, eq=False)
class _Tenant(Generic[Item]):
    weight: int
    virtual: float = 0.0
    clock: float = 0.0
    running: int = 0
    waiting: int = 0
    keys: dict[str, _Key[Item]] = field(default_factory=dict[str, _Key[Item]])


@dataclass(slots=True, eq=False)
class _Class(Generic[Item]):
    """The calls of one class.

    Attributes:
        clock: The virtual time of the tenant served last: one that comes while none waits starts there.
        served_at: When it was served last, or when its first call came.
        holds: Until when a slot is kept, and for which tenant.
    """

    clock: float = 0.0
    waiting: int = 0
    served_at: float = 0.0
    tenants: dict[str, _Tenant[Item]] = field(default_factory=dict[str, _Tenant[Item]])
    holds: deque[tuple[float, str]] = field(default_factory=deque[tuple[float, str]])


class FairQueue(Generic[Item]):
    """The calls that wait for a slot, and the order in which they get one.

    Attributes:
        waiting: The number of calls that wait.
        batch_running: The number of batch calls that hold a slot.
        mean_s: About how long a call holds a slot.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self.waiting = 0
        self.batch_running = 0
        self.mean_s = FIRST_MEAN_S
        self._max_waiting = max_waiting
        self._interactive, self._batch = self._classes = _Class[Item](), _Class[Item]()
        self._class_holds: deque[float] = deque()

    @property
    def interactive_waiting(self) -> int:
        """The number of interactive calls that wait."""
        return self._interactive.waiting

    def add(self, item: Item, share: QueueShare, now: float) -> Waiting[Item]:
        """Adds a call; there must be room (`victim_for`)."""
        group = self._class_of(share)
        tenant = group.tenants.get(share.tenant)
        if tenant is None:
            self._drop_idle(group)
            tenant = group.tenants[share.tenant] = _Tenant[Item](share.tenant_weight)
        key = tenant.keys.get(share.key_id)
        if key is None:
            if len(tenant.keys) >= MAX_IDLE + tenant.waiting:
                tenant.keys = {name: one for name, one in tenant.keys.items() if one.waiting}
            key = tenant.keys[share.key_id] = _Key[Item](share.key_weight)
        tenant.weight, key.weight = share.tenant_weight, share.key_weight
        if not group.waiting:
            group.served_at = now
        if not tenant.waiting:
            tenant.virtual = max(tenant.virtual, _floor(group.tenants.values(), group.clock))
        if not key.waiting:
            key.virtual = max(key.virtual, _floor(tenant.keys.values(), tenant.clock))
        entry = Waiting(item, share, now, tenant, key)
        key.waiting.append(entry)
        self._count(entry, 1)
        return entry

    def remove(self, entry: Waiting[Item]) -> None:
        """Removes a call that waits no longer; one that does not wait changes nothing."""
        if entry.is_waiting:
            entry.key.waiting.remove(entry)
            self._count(entry, -1)
            self._forget(entry)

    def take_next(self, free: int, slots: int, now: float) -> Waiting[Item] | None:
        """Removes and returns the call that gets a free slot, and charges it; None when none may have it.

        Args:
            free: The number of free slots.
            slots: The number of all slots.
            now: The time.
        """
        if free <= 0 or not self.waiting:
            return None
        self._expire(now, slots)
        batch = self._batch
        if batch.waiting and now >= self._batch_due(slots) and (found := self._best(batch, free)) is not None:
            return self._serve(batch, found, now)
        if (found := self._best(self._interactive, free)) is not None:
            return self._serve(self._interactive, found, now)
        if free > len(self._class_holds) and (found := self._best(batch, free)) is not None:
            return self._serve(batch, found, now)
        return None

    def undo(self, entry: Waiting[Item]) -> None:
        """Undoes what `take_next` noted of a call that did not use the slot."""
        self._charge(entry, -entry.charged)
        entry.tenant.running -= 1
        self.batch_running -= entry.share.is_batch

    def put_back(self, entry: Waiting[Item]) -> None:
        """Returns a call that could not use the slot which `take_next` gave it to its place in the queue."""
        self.undo(entry)
        self._class_of(entry.share).tenants[entry.share.tenant] = entry.tenant
        entry.tenant.keys[entry.share.key_id] = entry.key
        entry.key.waiting.appendleft(entry)
        self._count(entry, 1)

    def may_start(self, share: QueueShare, free: int, slots: int, now: float) -> bool:
        """Whether a new call may take one of the free slots without waiting."""
        if not share.is_batch:
            return free > 0 and not self._interactive.waiting
        self._expire(now, slots)
        return free > len(self._class_holds) and not self.waiting

    def started(self, share: QueueShare) -> None:
        """Notes a call that took a slot at once, if it is a batch call or such calls run or wait."""
        if share.is_batch:
            self.batch_running += 1
        elif self._class_holds:
            self._class_holds.popleft()

    def ended(self, share: QueueShare, entry: Waiting[Item] | None, slots: int, now: float) -> None:
        """Notes that a call returns its slot; `entry` of one that had waited for it."""
        group = self._class_of(share)
        if entry is not None:
            used_s = now - entry.started
            self.mean_s += (used_s - self.mean_s) / MEAN_OVER
            self._charge(entry, used_s - entry.charged)
            entry.tenant.running -= 1
        if share.is_batch:
            self.batch_running -= 1
        elif self._batch.waiting or self.batch_running:
            self._class_holds.append(now + min(CLASS_HOLD_S, CLASS_HOLD_CALLS * self.mean_s))
        tenant = group.tenants.get(share.tenant)
        if (
            group.waiting
            and not (tenant is not None and tenant.waiting)
            and self._is_below_share(group, share, slots)
        ):
            group.holds.append((now + min(MAX_HOLD_S, HOLD_SHARE * self.mean_s), share.tenant))
        if entry is not None:
            self._forget(entry)

    def held_until(self, slots: int) -> float | None:
        """Returns when the next slot that is kept for a tenant may go to another; None when none is kept."""
        ends = [group.holds[0][0] for group in self._classes if group.holds and group.waiting]
        if self._class_holds and self._batch.waiting:
            ends += [self._class_holds[0], self._batch_due(slots)]
        return min(ends, default=None)

    def victim_for(self, share: QueueShare) -> Waiting[Item] | None:
        """Returns the call that must leave a full queue for a new one; raises `LookupError` where none must.

        Batch calls leave first; then the newest call of the key that has most calls for its weight, of the
        tenant that has most for its own, the new call counted.
        """
        if self.waiting < self._max_waiting:
            return None
        group = self._class_of(share)
        if not share.is_batch and self._batch.waiting:
            group = self._batch
        newcomer = share if group is self._class_of(share) else None
        loads = {name: (one.waiting, one.weight) for name, one in group.tenants.items() if one.waiting}
        if newcomer is not None:
            _add_one(loads, newcomer.tenant, newcomer.tenant_weight)
        worst = _most_loaded(loads, newcomer.tenant if newcomer is not None else None)
        tenant, is_own = group.tenants.get(worst), newcomer is not None and worst == newcomer.tenant
        if tenant is None:
            raise LookupError
        loads = {name: (len(one.waiting), one.weight) for name, one in tenant.keys.items() if one.waiting}
        if newcomer is not None and is_own:
            _add_one(loads, newcomer.key_id, newcomer.key_weight)
        worst = _most_loaded(loads, newcomer.key_id if newcomer is not None and is_own else None)
        if newcomer is not None and is_own and worst == newcomer.key_id:
            raise LookupError
        return tenant.keys[worst].waiting[-1]

    def slots_ahead(self, share: QueueShare) -> int:
        """Returns about how many slots go to others before a new call of this share gets one."""
        group = self._class_of(share)
        tenant = group.tenants.get(share.tenant)
        own = tenant.waiting if tenant is not None else 0
        weights = sum(
            one.weight for name, one in group.tenants.items() if one.waiting and name != share.tenant
        )
        ahead = (own + 1) * (1 + weights / share.tenant_weight) - 1
        first = self._interactive.waiting if share.is_batch else 0
        return first + min(group.waiting, int(ahead))

    def _batch_due(self, slots: int) -> float:
        every_s = max(BATCH_AT_LEAST_EVERY_S, self.mean_s / (BATCH_AT_LEAST_SHARE * max(1, slots)))
        return self._batch.served_at + every_s

    def _drop_idle(self, group: _Class[Item]) -> None:
        if len(group.tenants) >= MAX_IDLE + group.waiting:
            group.tenants = {name: one for name, one in group.tenants.items() if one.waiting or one.running}

    def _class_of(self, share: QueueShare) -> _Class[Item]:
        return self._batch if share.is_batch else self._interactive

    def _count(self, entry: Waiting[Item], by: int) -> None:
        entry.is_waiting = by > 0
        self.waiting += by
        self._class_of(entry.share).waiting += by
        entry.tenant.waiting += by

    def _charge(self, entry: Waiting[Item], slot_s: float) -> None:
        entry.charged += slot_s
        entry.tenant.virtual += slot_s / entry.tenant.weight
        entry.key.virtual += slot_s / entry.key.weight

    def _best(self, group: _Class[Item], free: int) -> tuple[str, _Tenant[Item]] | None:
        """Returns the tenant whose call is next, among those for which an unreserved slot is free."""
        held = [name for _, name in group.holds]
        waiting = (
            (name, one)
            for name, one in group.tenants.items()
            if one.waiting and (free > len(held) or name in held)
        )
        return min(waiting, key=lambda one: (one[1].virtual, one[1].running / one[1].weight), default=None)

    def _serve(self, group: _Class[Item], found: tuple[str, _Tenant[Item]], now: float) -> Waiting[Item]:
        name, tenant = found
        kept = next((hold for hold in group.holds if hold[1] == name), None)
        if kept is not None:
            group.holds.remove(kept)
        key = min((one for one in tenant.keys.values() if one.waiting), key=lambda one: one.virtual)
        group.clock = max(group.clock, tenant.virtual)
        tenant.clock = max(tenant.clock, key.virtual)
        entry = key.waiting.popleft()
        self._count(entry, -1)
        entry.started, group.served_at = now, now
        self._charge(entry, self.mean_s)
        tenant.running += 1
        self.started(entry.share)
        return entry

    def _is_below_share(self, group: _Class[Item], share: QueueShare, slots: int) -> bool:
        """Whether a tenant that has just returned a slot holds fewer than its weight entitles it to."""
        active = {name: one.weight for name, one in group.tenants.items() if one.waiting or one.running}
        weights = sum((active | {share.tenant: share.tenant_weight}).values())
        tenant = group.tenants.get(share.tenant)
        running = tenant.running if tenant is not None else 0
        return running < slots * share.tenant_weight / weights

    def _expire(self, now: float, slots: int) -> None:
        for group in self._classes:
            while group.holds and (group.holds[0][0] <= now or len(group.holds) >= slots):
                group.holds.popleft()
        holds = self._class_holds
        while holds and (holds[0] <= now or len(holds) > slots):
            holds.popleft()

    def _forget(self, entry: Waiting[Item]) -> None:
        """Forgets a key and a tenant that neither wait nor run, and have used no more than their share."""
        group, tenant = self._class_of(entry.share), entry.tenant
        if not self.waiting:
            for one in self._classes:  # no contention is left: all start anew
                one.tenants.clear()
                one.holds.clear()
                one.clock = 0.0
            return
        if tenant.waiting:
            return
        is_known = group.tenants.get(entry.share.tenant) is tenant
        if is_known and not tenant.running and tenant.virtual <= group.clock:
            del group.tenants[entry.share.tenant]


def _floor(known: Iterable[_Tenant[Item] | _Key[Item]], clock: float) -> float:
    """Returns where a newcomer starts: at the least of those who wait; without any, where they were."""
    return min((one.virtual for one in known if one.waiting), default=clock)


def _add_one(loads: dict[str, tuple[int, int]], name: str, weight: int) -> None:
    waiting, _ = loads.get(name, (0, 0))
    loads[name] = waiting + 1, weight


def _most_loaded(loads: dict[str, tuple[int, int]], newcomer: str | None) -> str:
    """Returns who has most calls for their weight; of equals the newcomer."""
    return max(loads, key=lambda name: (loads[name][0] / loads[name][1], name == newcomer))
