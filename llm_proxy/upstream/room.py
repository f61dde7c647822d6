"""Who waits for a place at a sidecar, in order, and how long that will take.

Invariants: a place that comes free goes to who has waited longest, never to a newcomer; nobody waits longer
than the queue's time, and no more than its length wait; a place handed to a call that was cancelled at that
moment is handed on. Units: seconds of the event loop's clock.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from llm_proxy.errors import Overloaded
from llm_proxy.upstream.pool import Pool, Sidecar

WINDOW_S = 10.0
LONGEST_S = 30.0


class Drained:
    """How fast calls end: counted in two halves of a window, so that one look costs nothing. Pure."""

    __slots__ = ("_before", "_last", "_now", "_since")

    def __init__(self) -> None:
        self._since, self._now, self._before = 0.0, 0, 0
        self._last: float | None = None

    def note(self, now: float) -> None:
        """A call has ended."""
        self._turn(now)
        self._now += 1
        self._last = now

    def seconds(self, places: int, now: float) -> float:
        """How long until so many more places will have come free, at the pace of the last seconds."""
        self._turn(now)
        ended = self._now + self._before
        half = WINDOW_S / 2
        passed = now - self._since + (half if self._before else 0.0)
        if not ended:
            self._last = now if self._last is None else self._last
            return LONGEST_S if now - self._last >= half else 1.0
        return min(max(places * max(passed, 0.1) / ended, 1.0), LONGEST_S)

    def _turn(self, now: float) -> None:
        half = WINDOW_S / 2
        if now - self._since >= half:
            self._before = self._now if now - self._since < WINDOW_S else 0
            self._now, self._since = 0, now


class Room:
    """The places at all sidecars, and the queue for them."""

    def __init__(self, pool: Pool, *, queue_s: float, most_waiting: int) -> None:
        self._pool = pool
        self._queue_s = queue_s
        self._most = most_waiting
        self._waiting: deque[tuple[asyncio.Future[Sidecar], Sequence[Sidecar]]] = deque()
        self._drained = Drained()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def check(self, now: float) -> None:
        """Raises `Overloaded` when a call that came now could not even wait."""
        if len(self._waiting) >= self._most and (self._waiting or self._pool.pick(now) is None):
            raise self._overloaded(now)

    async def take(self, now: float, tried: Sequence[Sidecar] = ()) -> Sidecar:
        """A place at a sidecar not tried yet, now or after a wait; raises `Overloaded` when there is none."""
        found = None if self._waiting else self._pool.pick(now, tried)
        if found is not None:
            found.take(now)
            return found
        self.check(now)
        return await self._wait(tried)

    def give(self, sidecar: Sidecar, now: float) -> None:
        """A call has ended: its place goes to who waits."""
        sidecar.give()
        self._drained.note(now)
        if self._waiting:
            self.offer(now)

    def offer(self, now: float) -> None:
        """Hand out whatever places there are to those who wait, in order."""
        left: deque[tuple[asyncio.Future[Sidecar], Sequence[Sidecar]]] = deque()
        while self._waiting:
            turn, tried = self._waiting.popleft()
            found = None if turn.done() else self._pool.pick(now, tried)
            if found is not None:
                found.take(now)
                turn.set_result(found)
            elif not turn.done():
                left.append((turn, tried))
        self._waiting = left

    async def _wait(self, tried: Sequence[Sidecar]) -> Sidecar:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Sidecar] = loop.create_future()
        mine = (turn, tried)
        self._waiting.append(mine)
        late = loop.call_later(self._queue_s, turn.cancel)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(turn.result(), loop.time())
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._overloaded(loop.time()) from None
        finally:
            late.cancel()
            if mine in self._waiting:
                self._waiting.remove(mine)

    def _overloaded(self, now: float) -> Overloaded:
        message = "Too many requests are running; please try again."
        return Overloaded(message, retry_after_s=self._drained.seconds(len(self._waiting) + 1, now))
