"""The slots at all sidecars: taken at once while calls may start, else in the order of the fair queue.

Invariants: no slot is left free while a call waits for it, but for those that `fair_queue` keeps a moment; a
call waits at most its class's time; from a full queue a call of the key with most of them leaves, or the new
one is rejected. Fairness is this process's own. Units: seconds of one monotonic clock.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llm_proxy.errors import Overloaded
from llm_proxy.identity import QueueShare, QueueShares
from llm_proxy.upstream.fair_queue import FairQueue, Waiting
from llm_proxy.upstream.pool import Sidecar, SidecarPool

RATE_WINDOW_S = 10.0
MAX_ESTIMATE_S = 30.0
_FULL = "Too many requests are running; please try again."
_EXPIRED = "Too many requests are running, and none ended in time; please try again."
_MOST_ARE_YOURS = (
    "Too many requests are running, and of those that wait most are yours; please send fewer at once."
)
_BATCH_IS_LAST = "Too many requests are running, and interactive ones come first; please try again later."


@dataclass(frozen=True, slots=True)
class QueueTimes:
    """How long calls may wait, by class."""

    interactive_s: float
    batch_s: float


@dataclass(slots=True, eq=False)
class QueuePlace:
    """A call that waits: where its slot arrives, and the sidecars at which it has failed."""

    slot: "asyncio.Future[Slot]"
    tried: Sequence[Sidecar]


Entry = Waiting[QueuePlace]


class Slot(NamedTuple):
    """A slot that a call holds, to be released once.

    Attributes:
        entry: Its place in the queue; None for a call that did not wait.
    """

    sidecar: Sidecar
    share: QueueShare
    entry: Entry | None = None


class CompletionRate:
    """How fast calls ended lately, to estimate waits."""

    __slots__ = ("_before", "_last", "_now", "_since")

    def __init__(self) -> None:
        self._since, self._now, self._before = 0.0, 0, 0
        self._last: float | None = None

    def record(self, now: float) -> None:
        """Counts a call that has ended."""
        self._start_half(now)
        self._now += 1
        self._last = now

    def seconds_until_free(self, slots: int, now: float) -> float:
        """Returns the time until so many more slots are free, at the rate of the last seconds."""
        self._start_half(now)
        ended = self._now + self._before
        half = RATE_WINDOW_S / 2
        passed = now - self._since + (half if self._before else 0.0)
        if not ended:
            self._last = now if self._last is None else self._last
            return MAX_ESTIMATE_S if now - self._last >= half else 1.0
        return min(max(slots * max(passed, 0.1) / ended, 1.0), MAX_ESTIMATE_S)

    def _start_half(self, now: float) -> None:
        half = RATE_WINDOW_S / 2
        if now - self._since >= half:
            self._before = self._now if now - self._since < RATE_WINDOW_S else 0
            self._now, self._since = 0, now


class SlotQueue:
    """The slots at all sidecars, and the queue for them.

    Attributes:
        pool: The sidecars.
        shares: Whose a call is, and how it counts; the same for all by default.
    """

    def __init__(
        self, pool: SidecarPool, times: QueueTimes, *, max_waiting: int, shares: QueueShares | None = None
    ) -> None:
        self.pool = pool
        self.shares = shares or QueueShares()
        self._times, self._max_waiting = times, max_waiting
        self._fair = FairQueue[QueuePlace](max_waiting=max_waiting)
        self._rate = CompletionRate()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return self._fair.waiting

    @property
    def is_full(self) -> bool:
        """Whether one more call can wait only in another's place."""
        return self._fair.waiting >= self._max_waiting

    def check(self, share: QueueShare, now: float) -> None:
        """Raises `Overloaded` when a new call would find neither a slot nor a place in the queue."""
        try:
            self._fair.victim_for(share)
        except LookupError:
            if not self._may_start(share, now) or self.pool.pick(now) is None:
                raise self._overloaded(share, now, self._full_message(share)) from None

    def take(self, share: QueueShare, now: float, tried: Sequence[Sidecar] = ()) -> Slot | None:
        """Takes a slot at a sidecar not tried yet; returns None where the call has to wait for one."""
        fair = self._fair
        is_plain = not (fair.waiting or fair.batch_running or share.is_batch)
        if not is_plain and not self._may_start(share, now):
            return None
        sidecar = self.pool.pick(now, tried)
        if sidecar is None:
            return None
        sidecar.begin_call(now)
        if not is_plain:
            fair.started(share)
        return Slot(sidecar, share)

    async def wait(self, share: QueueShare, now: float, tried: Sequence[Sidecar] = ()) -> Slot:
        """Returns a slot at a sidecar not tried yet, once the call has one; raises `Overloaded`."""
        entry = self._enter(share, now, tried)
        future, loop = entry.item.slot, asyncio.get_running_loop()
        self.dispatch(now)
        timer = loop.call_later(
            self._times.batch_s if share.is_batch else self._times.interactive_s, future.cancel
        )
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result(), loop.time())
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._overloaded(share, loop.time(), _EXPIRED) from None
        finally:
            timer.cancel()
            self._fair.remove(entry)

    def release(self, slot: Slot, now: float) -> None:
        """Releases a call's slot, for the next that waits."""
        slot.sidecar.end_call()
        self._rate.record(now)
        fair = self._fair
        if slot.entry is not None or fair.waiting or fair.batch_running:
            fair.ended(slot.share, slot.entry, self.pool.slots(now)[1], now)
            if fair.waiting:
                self.dispatch(now)

    def dispatch(self, now: float) -> None:
        """Gives free slots to the calls that wait, in order; those that are kept, once their time is over."""
        fair, unfit = self._fair, list[Entry]()
        while fair.waiting:
            free, slots = self.pool.slots(now)
            entry = fair.take_next(free, slots, now)
            if entry is None:
                break
            if entry.item.slot.done():  # its time is over, and its task has not noticed
                fair.undo(entry)
            elif not self._give(entry, now):
                unfit.append(entry)
        for entry in reversed(unfit):
            fair.put_back(entry)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        free, slots = self.pool.slots(now) if fair.waiting else (0, 0)
        if free and (at := fair.held_until(slots)) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.001, at - now), lambda: self.dispatch(loop.time()))

    def _may_start(self, share: QueueShare, now: float) -> bool:
        return self._fair.may_start(share, *self.pool.slots(now), now)

    def _enter(self, share: QueueShare, now: float, tried: Sequence[Sidecar]) -> Entry:
        """Adds a call to the queue; of a full one another leaves, or `Overloaded` is raised."""
        try:
            victim = self._fair.victim_for(share)
        except LookupError:
            raise self._overloaded(share, now, self._full_message(share)) from None
        if victim is not None:
            self._fair.remove(victim)
            if not victim.item.slot.done():
                why = _MOST_ARE_YOURS if victim.share.is_batch == share.is_batch else _BATCH_IS_LAST
                victim.item.slot.set_exception(self._overloaded(victim.share, now, why))
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        return self._fair.add(QueuePlace(future, tried), share, now)

    def _give(self, entry: Entry, now: float) -> bool:
        """Gives a call a slot; False where only sidecars are free at which it has failed."""
        place = entry.item
        sidecar = self.pool.pick(now, place.tried)
        if sidecar is None:
            return False
        sidecar.begin_call(now)
        place.slot.set_result(Slot(sidecar, entry.share, entry))
        return True

    def _full_message(self, share: QueueShare) -> str:
        if share.is_batch and self._fair.interactive_waiting:
            return _BATCH_IS_LAST
        return _MOST_ARE_YOURS if self._fair.waiting else _FULL

    def _overloaded(self, share: QueueShare, now: float, message: str) -> Overloaded:
        ahead = self._fair.slots_ahead(share)
        return Overloaded(message, retry_after_s=self._rate.seconds_until_free(ahead + 1, now))
