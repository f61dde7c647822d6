"""What calls cost that were settled by an estimate, when the sidecar's log has made it exact.

Invariants: a correction is counted once, in the counters the estimate was counted in; bounded memory, of this
process, `LONGEST_S` a call; asks the ledger only while something waits. Money: integer nano-dollars.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from llm_proxy.admission.lease import Lease
from llm_proxy.admission.model import Entry
from llm_proxy.admission.spend import Spent
from llm_proxy.background import Loop

EVERY_S = 15.0
LONGEST_S = 1_200.0
MOST_WAITING, BATCH = 10_000, 500


@dataclass(frozen=True, slots=True)
class _Estimated:
    lease: Lease
    cost_nano_usd: int
    since_s: float


class Corrections:
    """Settled estimates that may still be corrected."""

    def __init__(self, spent: Spent | None) -> None:
        self._spent = spent
        self._waiting: dict[UUID, _Estimated] = {}
        self._loop = Loop("budget-corrections", self.step, every_s=EVERY_S)

    async def start(self) -> None:
        """Begin to look for corrections."""
        if self._spent is not None:
            self._loop.start()

    async def stop(self) -> None:
        """Stop."""
        await self._loop.stop()

    def add(self, request_id: UUID, lease: Lease, cost_nano_usd: int) -> None:
        """A call was settled by an estimate."""
        if self._spent is None or not lease.charged:
            return
        if len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[request_id] = _Estimated(lease, cost_nano_usd, time.monotonic())

    async def step(self) -> None:
        """Correct what can be corrected now."""
        now_s = time.monotonic()
        for request_id in [one for one, kept in self._waiting.items() if now_s - kept.since_s > LONGEST_S]:
            del self._waiting[request_id]
        waiting = [*self._waiting]
        for at in range(0, len(waiting), BATCH):
            await self._correct(waiting[at : at + BATCH])

    async def _correct(self, requests: Sequence[UUID]) -> None:
        assert self._spent is not None  # noqa: S101 -- nothing waits without
        for request_id, cost_nano_usd in (await self._spent.exact_nano_usd(requests)).items():
            found = self._waiting.pop(request_id, None)
            more = cost_nano_usd - found.cost_nano_usd if found else 0
            if found is None or not more:
                continue
            for desk, tag, key in found.lease.charged:
                desk.note(tag, (Entry("budget", key, amount=more),))
