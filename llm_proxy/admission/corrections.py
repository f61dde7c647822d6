"""What calls used that were settled by an estimate, when the sidecar's log has made it exact.

Invariants: a correction is counted once, in the counters the estimate was counted in; a provider's budget has
what the ledger says it served, nothing of calls of which the ledger never learns who did. Bounded memory, of
this process, `LONGEST_S` a call; asks the ledger only while something waits. Money: integer nano-dollars.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from llm_proxy.admission.lease import Lease
from llm_proxy.admission.spend import Spent
from llm_proxy.background import Loop

EVERY_S = 15.0
LONGEST_S = 1_200.0
MOST_WAITING, BATCH = 10_000, 500
NOBODY = ""
"""The provider of a call that nobody is known to have served."""


@dataclass(slots=True)
class _Estimated:
    """A settled estimate; at `known_ms` the ledger did not know better."""

    lease: Lease
    since_s: float
    known_ms: int


class Corrections:
    """Settled estimates that may still be corrected.

    Attributes:
        longest_s: So long the ledger is asked about a call.
    """

    def __init__(
        self, spent: Spent | None, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        """`clock_ms` is the store's."""
        self._spent = spent
        self._clock_ms = clock_ms
        self.longest_s = LONGEST_S
        self._waiting: dict[UUID, _Estimated] = {}
        self._loop = Loop("budget-corrections", self.step, every_s=EVERY_S)

    async def start(self) -> None:
        """Begin to look for corrections."""
        if self._spent is not None:
            self._loop.start()

    async def stop(self) -> None:
        """Stop."""
        await self._loop.stop()

    def add(self, request_id: UUID, lease: Lease) -> None:
        """A call was settled by an estimate."""
        if self._spent is None or not lease.has_budget:
            return
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[request_id] = _Estimated(lease, time.monotonic(), self._clock_ms())

    async def step(self) -> None:
        """Correct what can be corrected now."""
        waiting = [*self._waiting]
        for at in range(0, len(waiting), BATCH):
            await self._correct(waiting[at : at + BATCH])
        now_s = time.monotonic()
        for request_id in [
            one for one, kept in self._waiting.items() if now_s - kept.since_s > self.longest_s
        ]:
            kept = self._waiting.pop(request_id)
            if kept.lease.used is not None and kept.lease.used.provider is None:
                kept.lease.correct(kept.lease.used._replace(provider=NOBODY), kept.known_ms)

    async def _correct(self, requests: Sequence[UUID]) -> None:
        assert self._spent is not None  # noqa: S101 -- nothing waits without
        asked_ms = self._clock_ms()
        known = await self._spent.known(requests)
        if known is None:
            return
        for request_id in requests:
            kept = self._waiting.get(request_id)
            if kept is None:
                continue
            if request_id in known:
                used, exact = known[request_id]
                kept.lease.correct(used, kept.known_ms)
                if exact:
                    del self._waiting[request_id]
            kept.known_ms = asked_ms
