"""The last turns of each run, for the loop guard: what a store keeps of them, and the store of one process.

Invariants: a run is known by a digest of its tenant, key and name; a turn is added and the ones before it are
returned in one step, so that every replica sees each turn once; a run that is idle for an hour, or whose
quarantine ends, starts anew; `MemoryTurns` does what `redis/lua/turn.lua` and `settle.lua` do. Units: integer
milliseconds, nano-dollars.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from llm_proxy.admission.limiter import tenant_tag
from llm_proxy.admission.loop_guard import (
    MAX_TURNS_KEPT,
    RECORD_BYTES,
    SPEND_MINUTES,
    TIMES_BYTES,
    encode_times,
)
from llm_proxy.admission.run_limits import digest_of

IDLE_TTL_MS = 3_600_000
_SWEEP_INTERVAL = 4096
_MINUTE_MS = 60_000


class RunName(NamedTuple):
    """A run: the name is the caller's, below the key and the tenant that named it."""

    tenant: str | None
    key_id: str
    name: str

    @property
    def digest(self) -> str:
        """What stores know it by."""
        return digest_of(self.tenant, self.key_id, self.name)

    @property
    def key(self) -> str:
        """The key of its turns."""
        return f"lp:{tenant_tag(self.tenant)}:turns:{self.digest}"


class RunTurns(NamedTuple):
    """What the store answers to a new turn.

    Attributes:
        number: The turn's number, by which its end is noted; 0 in a quarantine, which notes none.
        kept: The records of the turns before (`loop_guard.decode_turns`).
        spent_nano_usd: What the run spent in the last `SPEND_MINUTES`.
        evidence: Why the run is in quarantine; empty where it is not.
        until_ms: When the quarantine ends.
    """

    now_ms: int
    number: int
    kept: bytes = b""
    spent_nano_usd: int = 0
    evidence: bytes = b""
    until_ms: int = 0


OnLateTurn = Callable[[int], None]


class TurnStore(Protocol):
    """Where the turns of runs are kept; every method raises `LimiterUnavailable`."""

    def add(self, key: str, turn: bytes, on_late: OnLateTurn | None = None) -> Awaitable[RunTurns]:
        """Adds a turn that runs now; returns the turns before it, to be awaited once.

        `on_late` is called with the number of a turn that was added, but whose caller no longer waits.
        """
        ...

    async def quarantine(self, run: RunName, evidence: bytes, duration_ms: int) -> int:
        """Puts a run into quarantine, if it is in none, and forgets its turns; returns when that ends."""
        ...

    async def release(self, run: RunName) -> bool:
        """Ends a run's quarantine; returns False if it was in none."""
        ...

    async def quarantined(self) -> list[tuple[bytes, int]]:
        """Returns the evidence of every run in quarantine, and when that ends."""
        ...


@dataclass(slots=True)
class _Run:
    """One run; `spent` is nano-dollars by minute."""

    kept: bytes = b""
    count: int = 0
    expires_ms: int = 0
    evidence: bytes = b""
    until_ms: int = 0
    spent: dict[int, int] = field(default_factory=dict[int, int])


class MemoryTurns:
    """The turns of the runs of this process."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._runs: dict[str, _Run] = {}
        self._added = 0

    async def add(self, key: str, turn: bytes, on_late: OnLateTurn | None = None) -> RunTurns:  # noqa: ARG002 -- the protocol's; nothing is late here
        """Adds a turn that runs now; returns the turns before it."""
        now_ms = self._clock_ms()
        self._sweep(now_ms)
        run = self._run(key, now_ms) or self._runs.setdefault(key, _Run())
        if run.until_ms > now_ms:
            return RunTurns(now_ms, 0, evidence=run.evidence, until_ms=run.until_ms)
        run.evidence, run.until_ms = b"", 0
        kept = run.kept
        run.count += 1
        run.kept = (kept + encode_times(now_ms) + turn)[-MAX_TURNS_KEPT * RECORD_BYTES :]
        run.expires_ms = now_ms + IDLE_TTL_MS
        minute = now_ms // _MINUTE_MS
        spent = sum(cost for at, cost in run.spent.items() if at > minute - SPEND_MINUTES)
        return RunTurns(now_ms, run.count, kept, spent)

    def end(self, key: str, number: int, outcome: str, cost_nano_usd: int) -> None:
        """Notes how a turn ended, and its cost."""
        now_ms = self._clock_ms()
        run = self._run(key, now_ms)
        if run is None or not run.count:
            return
        start = len(run.kept) - (run.count - number + 1) * RECORD_BYTES
        if 0 <= start <= len(run.kept) - RECORD_BYTES:
            ended = run.kept[start : start + 13] + b"%013d%s" % (now_ms, outcome.encode())
            run.kept = run.kept[:start] + ended + run.kept[start + TIMES_BYTES :]
        if cost_nano_usd > 0:
            minute = now_ms // _MINUTE_MS
            run.spent = {at: cost for at, cost in run.spent.items() if at > minute - SPEND_MINUTES}
            run.spent[minute] = run.spent.get(minute, 0) + cost_nano_usd

    async def quarantine(self, run: RunName, evidence: bytes, duration_ms: int) -> int:
        """Puts a run into quarantine, if it is in none, and forgets its turns; returns when that ends."""
        now_ms = self._clock_ms()
        found = self._run(run.key, now_ms) or self._runs.setdefault(run.key, _Run())
        if found.until_ms <= now_ms:
            found.evidence, found.until_ms = evidence, now_ms + duration_ms
            found.kept, found.expires_ms = b"", found.until_ms + IDLE_TTL_MS
        return found.until_ms

    async def release(self, run: RunName) -> bool:
        """Ends a run's quarantine; returns False if it was in none."""
        now_ms = self._clock_ms()
        found = self._run(run.key, now_ms)
        if found is None or found.until_ms <= now_ms:
            return False
        found.evidence, found.until_ms = b"", 0
        return True

    async def quarantined(self) -> list[tuple[bytes, int]]:
        """Returns the evidence of every run in quarantine, and when that ends."""
        now_ms = self._clock_ms()
        return [(one.evidence, one.until_ms) for one in self._runs.values() if one.until_ms > now_ms]

    def _run(self, key: str, now_ms: int) -> _Run | None:
        run = self._runs.get(key)
        if run is not None and run.expires_ms <= now_ms:
            del self._runs[key]
            return None
        return run

    def _sweep(self, now_ms: int) -> None:
        self._added += 1
        if self._added % _SWEEP_INTERVAL == 0:
            self._runs = {key: run for key, run in self._runs.items() if run.expires_ms > now_ms}
