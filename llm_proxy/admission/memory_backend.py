"""The limits of one process as a limits store: `MemoryLimiter` with a clock."""

import asyncio
import time
from collections.abc import Callable

from llm_proxy.admission.limiter import LimiterRequest, LimiterResult, SettlementEntry
from llm_proxy.admission.memory_limiter import RUN_IDLE_MS, BudgetCounter, MemoryLimiter
from llm_proxy.admission.turns import MemoryTurns


class MemoryBackend:
    """The limits of this process alone."""

    def __init__(
        self,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        run_idle_ms: int = RUN_IDLE_MS,
    ) -> None:
        """`run_idle_ms` is how long a run may be idle before it ends."""
        self.limiter = MemoryLimiter(run_idle_ms)
        self.clock_ms = clock_ms
        self.turns = MemoryTurns(clock_ms)

    @property
    def is_available(self) -> bool:
        """Always."""
        return True

    @property
    def fault(self) -> str:
        """None."""
        return ""

    @property
    def single_slot(self) -> bool:
        """Never: it reaches every counter."""
        return False

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Does nothing."""

    async def reserve(
        self,
        request: LimiterRequest,
        on_late_result: Callable[[LimiterResult], None] | None = None,  # noqa: ARG002 -- never late
    ) -> LimiterResult:
        """Reserves a call's amounts if every check passes."""
        return self.limiter.reserve(request, self.clock_ms())

    async def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]) -> None:
        """Settles a batch of one tenant, once."""
        await self.send_settlement(ledger_key, number, entries)

    def send_settlement(
        self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...]
    ) -> "asyncio.Future[None]":
        """Settles a batch of one tenant, once."""
        if self.limiter.settle(ledger_key, number, entries, self.clock_ms()):
            for entry in entries:
                if entry.kind == "turn":
                    self.turns.end(entry.key, entry.at, entry.lease_id, entry.amount)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int) -> None:
        """Renews what running calls hold."""
        self.limiter.renew(entries, ttl_ms, self.clock_ms())

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Gives a missing counter its value."""
        self.limiter.seed(key, BudgetCounter(spent, expires_ms, self.clock_ms()))

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Raises a tenant's epoch; it never falls."""
        self.limiter.raise_epoch(key, epoch)

    async def heartbeat(self, name: str) -> int:  # noqa: ARG002 -- there is no other
        """This replica alone."""
        return 1
