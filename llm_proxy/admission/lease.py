"""What an admitted call holds until it is settled, and the queue of settlements to the limits store.

Invariants: `settle` counts once, enqueues and never waits or raises; `settled` waits until the store has
it, at most its timeout; one batch a tenant is under way, sent again until the store has it, and counted
once. While the store is unreachable, slots, token windows and reservations may be dropped (they expire),
money spent never is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

from llm_proxy.admission.limiter import UNKNOWN, Answer, Check, Entry, Plan, Store, StoreAway
from llm_proxy.admission.memory_limiter import judge
from llm_proxy.background import Loop, spawn

log = logging.getLogger(__name__)

AGAIN_S = 0.25
BATCH = 500
MOST_PERISHABLE = 50_000
"""Entries kept per tenant while the store is away; of more, only what was spent, by budget."""

Settled = asyncio.Future[None]


@dataclass(slots=True)
class _Gathered:
    """What is to be settled for one tenant next, and the future that is done when it was sent."""

    settled: Settled
    entries: dict[tuple[str, str, int, str, bool], Entry] = field(
        default_factory=dict[tuple[str, str, int, str, bool], Entry]
    )

    def add(self, entry: Entry) -> None:
        rises = entry.amount > 0 if entry.kind == "tokens" else True
        key = entry.kind, entry.key, entry.at, entry.lease, rises
        before = self.entries.get(key)
        if before is not None:
            entry = replace(entry, amount=before.amount + entry.amount)
        self.entries[key] = entry

    def shrink(self) -> None:
        """Keep only what was spent; reservations expire by themselves."""
        entries = [*self.entries.values()]
        self.entries.clear()
        for entry in entries:
            if entry.kind == "budget":
                self.add(replace(entry, lease=""))


class Desk:
    """What is to be settled, by tenant."""

    def __init__(self, store: Store, replica: str, patience_s: float) -> None:
        self._store = store
        self._replica = replica
        self._patience_s = patience_s
        self._gathered: dict[str, _Gathered] = {}
        self._sending: dict[str, tuple[int, tuple[Entry, ...], Settled]] = {}
        self._number = 0
        self._noted = asyncio.Event()
        self._loop = Loop("settlements", self._step)

    @property
    def waiting(self) -> int:
        """Entries the store does not have yet."""
        sending = sum(len(entries) for _, entries, _ in self._sending.values())
        return sending + sum(len(one.entries) for one in self._gathered.values())

    def note(self, tag: str, entries: Iterable[Entry]) -> Settled:
        """Settle at once; the future is done when the store has it, or has not taken it at the first try."""
        gathered = self._gathered.get(tag)
        if gathered is None:
            gathered = self._gathered[tag] = _Gathered(asyncio.get_running_loop().create_future())
        for entry in entries:
            gathered.add(entry)
        if len(gathered.entries) > MOST_PERISHABLE:
            gathered.shrink()
        self._noted.set()
        return gathered.settled

    async def settled(self, noted: Settled) -> None:
        """Wait until the store has what was noted; not for a store that is away."""
        if self._store.answering and not noted.done():
            await asyncio.wait([noted], timeout=self._patience_s)

    async def start(self) -> None:
        """Begin to send."""
        self._loop.start()

    async def stop(self, within_s: float = 2.0) -> None:
        """Send what is left, if the store takes it in time."""
        await self._loop.stop()
        try:
            async with asyncio.timeout(within_s):
                while self.waiting and await self.flush():
                    pass
        except TimeoutError:
            pass
        if self.waiting:
            log.error("settlements lost at the end: %d", self.waiting)

    async def flush(self) -> bool:
        """Send what was gathered; False when the store did not take all of it."""
        for tag in [*self._gathered]:
            if tag not in self._sending:
                self._sending[tag] = self._next(tag)
        results = await asyncio.gather(*(self._send(tag) for tag in [*self._sending]))
        return all(results)

    def _next(self, tag: str) -> tuple[int, tuple[Entry, ...], Settled]:
        gathered = self._gathered.pop(tag)
        entries, settled = tuple(gathered.entries.values()), gathered.settled
        if len(entries) > BATCH:
            gathered.entries = dict([*gathered.entries.items()][BATCH:])
            self._gathered[tag] = gathered
            settled = asyncio.get_running_loop().create_future()
        self._number += 1
        return self._number, entries[:BATCH], settled

    async def _send(self, tag: str) -> bool:
        number, entries, settled = self._sending[tag]
        try:
            await self._store.settle(f"lp:{tag}:settled:{self._replica}", number, entries)
        except StoreAway:
            return False
        finally:
            if not settled.done():
                settled.set_result(None)
        del self._sending[tag]
        return True

    async def _step(self) -> None:
        await self._noted.wait()
        self._noted.clear()
        try:
            if not await self.flush():
                await asyncio.sleep(AGAIN_S)
        finally:
            if self.waiting:
                self._noted.set()


Raw = tuple[tuple[bytes, bytes], ...]
RELAID_S = 0.5
"""So long the end of a call waits at most to be counted by budgets laid down meanwhile."""


class Used(NamedTuple):
    """What a call used; None where nobody knows.

    Attributes:
        provider: Who served it; None too when nobody did.
    """

    tokens: int | None
    cost_nano_usd: int | None
    provider: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What one store counted for a call, and where to settle it."""

    plan: Plan
    wants: tuple[int, ...]
    answer: Answer
    lease: str
    store: Store
    desk: Desk

    def entries(self, used_up: Used) -> Iterator[Entry]:
        """The settlement by what the call used; no other provider's counters than its own keep anything."""
        second = self.answer.now_ms // 1000
        running = self.answer.running or (0,) * len(self.wants)
        rows = zip(self.plan.checks, self.wants, self.answer.used, running, strict=True)
        for check, want, used, calls in rows:
            if check.kind == "tokens":
                idle = used_up.provider is not None and not _serves(check, used_up.provider)
                counted = 0 if idle else used_up.tokens
                # Not taken, it only watched, and would have refused.
                if judge(check, want, (used, 0, calls, 0)) == "fits":
                    more = 0 if counted is None else counted - want
                    yield Entry("tokens", check.key, second, more, self.lease)
            elif check.kind == "budget":
                amount = _counted(check, want, used_up, everywhere=True)
                yield Entry("budget", check.key, amount=amount, lease=self.lease)
            elif check.kind == "parallel":
                yield Entry("parallel", check.key, lease=self.lease)
        for check in self.plan.elsewhere:  # of a provider that served it as a fallback
            if check.spent_by == used_up.provider and check.kind == "tokens":
                yield Entry("tokens", check.key, second, used_up.tokens or 0)
            elif check.spent_by == used_up.provider:
                amount = _counted(check, 0, used_up, everywhere=False)
                yield Entry("budget", check.key, amount=amount, lease=self.lease)

    def undone(self) -> Iterator[Entry]:
        """The settlement of a call that never was: no budget counts it, not even one of calls."""
        for entry in self.entries(Used(0, 0)):
            yield replace(entry, amount=0) if entry.kind == "budget" else entry

    def corrections(self, before: Used, after: Used, known_ms: int) -> Iterator[Entry]:
        """What budgets count more, or less, when one thing was settled and another is true.

        `known_ms`: when the ledger did not have the truth yet.
        """
        own, others = zip(self.plan.checks, self.wants, strict=True), zip(self.plan.elsewhere, repeat(0))
        for checks, everywhere in ((own, True), (others, False)):
            for check, want in checks:
                if check.kind == "budget":
                    was, is_now = (
                        _counted(check, want, one, everywhere=everywhere) for one in (before, after)
                    )
                    if was != is_now:
                        yield Entry("budget", check.key, known_ms, is_now - was)

    def held(self) -> Iterator[Entry]:
        """The parallel places and the money held, as they are kept."""
        for check, want, used in zip(self.plan.checks, self.wants, self.answer.used, strict=True):
            if check.kind == "parallel" and used < check.limit:
                yield Entry("parallel", check.key, lease=self.lease)
            elif check.kind == "budget" and used != UNKNOWN:
                yield Entry("budget", check.key, amount=want, lease=self.lease)


def _serves(check: Check, provider: str) -> bool:
    """Whether a check counts what a provider served."""
    return check.scope != "provider" or check.spent_by == provider


def _counted(check: Check, want: int, used: Used, *, everywhere: bool) -> int:
    """What a budget counts of a call; `everywhere` also while nobody knows which provider served it."""
    if not (everywhere if used.provider is None else _serves(check, used.provider)):
        return 0
    counted = {"usd": used.cost_nano_usd, "tokens": used.tokens, "requests": 1}[check.unit]
    return want if counted is None else counted


class Living:
    """The calls that hold a parallel place or money now, so that it can be kept."""

    def __init__(self) -> None:
        self.calls: dict[str, Taken] = {}
        self._settled: Callable[[Taken], None] | None = None

    def watch_spending(self, settled: Callable[[Taken], None]) -> None:
        """From now on tell of settled calls under a budget, and of those that are corrected later."""
        self._settled = settled

    def began(self, taken: Taken) -> None:
        """A call holds what the store counted for it."""
        if not taken.plan.kinds.isdisjoint({"parallel", "budget"}):
            self.calls[taken.lease] = taken

    def ended(self, taken: Taken) -> None:
        """A call holds nothing any more."""
        self.calls.pop(taken.lease, None)
        self.counted(taken)

    def counted(self, taken: Taken) -> None:
        """What a call spent has changed."""
        if self._settled is not None and ("budget" in taken.plan.kinds or taken.plan.elsewhere):
            self._settled(taken)

    def held(self) -> dict[tuple[Store, str], list[tuple[Taken, Entry]]]:
        """What is held, by store and the tenant's tag."""
        found: dict[tuple[Store, str], list[tuple[Taken, Entry]]] = {}
        for taken in self.calls.values():
            entries = ((taken, entry) for entry in taken.held())
            found.setdefault((taken.store, taken.plan.tag), []).extend(entries)
        return found


Relaying = Callable[[tuple[Taken, ...]], Coroutine[Any, Any, tuple[Taken, int] | None] | None]
"""What budgets laid down meanwhile count of a settled call, and when it was; None: nothing changed."""


class Lease:
    """A call's place in the world: headers to tell of it, and its end.

    Attributes:
        headers: Where the caller stands, for the response.
        used: What it was settled by; None while it is not.
        would_refuse: The checks that only watched and would have refused, as `scope:kind`; None for none.
    """

    __slots__ = (
        "_counting", "_living", "_noted", "_open", "_relaid", "_taken", "headers", "used", "would_refuse"
    )  # fmt: skip

    def __init__(
        self,
        headers: Raw,
        taken: tuple[Taken, ...],
        living: Living,
        would_refuse: str | None = None,
        relaid: Relaying | None = None,
    ) -> None:
        self.headers = headers
        self.would_refuse = would_refuse
        self._taken = taken
        self._living = living
        self._relaid = relaid
        self._counting: asyncio.Task[None] | None = None
        self._open = True
        self._noted: list[tuple[Desk, Settled]] = []
        self.used: Used | None = None
        if taken:
            living.began(taken[0])

    def settle(self, tokens: int | None, cost_nano_usd: int | None, provider: str | None = None) -> None:
        """Replace what was reserved by the truth, as far as it is known, and give the place back.

        `provider` is who served; None when nobody did, or nobody knows.
        """
        if not self._open:
            return
        self._open = False
        self.used = Used(tokens, cost_nano_usd, provider)
        for taken in self._taken:
            self._living.ended(taken)
            entries = [*taken.entries(self.used)]
            if entries:
                self._noted.append((taken.desk, taken.desk.note(taken.plan.tag, entries)))
        if self._relaid is not None and (counting := self._relaid(self._taken)) is not None:
            self._counting = spawn("budgets-laid-meanwhile", self._count_also(counting))

    async def _count_also(self, counting: Coroutine[Any, Any, tuple[Taken, int] | None]) -> None:
        """Count the call in budgets that were laid down while it ran, unless the ledger told them of it."""
        found = await counting
        if found is None or self.used is None:
            return
        taken, known_ms = found
        self._taken = (*self._taken, taken)
        entries = [replace(entry, at=known_ms) for entry in taken.entries(self.used)]
        self._noted.append((taken.desk, taken.desk.note(taken.plan.tag, entries)))
        self._living.counted(taken)

    @property
    def has_budget(self) -> bool:
        """Whether a budget counts it."""
        return self._counting is not None or any(
            "budget" in taken.plan.kinds or taken.plan.elsewhere for taken in self._taken
        )

    def correct(self, after: Used, known_ms: int) -> None:
        """Correct what it was settled by, in the budgets that have it; as in `Taken.corrections`."""
        before = self.used
        if before is None:
            return
        # The ledger may know who served a failed call and nothing it used: then what was settled stays.
        tokens = before.tokens if after.tokens is None else after.tokens
        cost_nano_usd = before.cost_nano_usd if after.cost_nano_usd is None else after.cost_nano_usd
        self.used = after = Used(tokens, cost_nano_usd, after.provider)
        for taken in self._taken:
            if entries := [*taken.corrections(before, after, known_ms)]:
                taken.desk.note(taken.plan.tag, entries)
                self._living.counted(taken)

    async def settled(self) -> None:
        """Wait until the store has it: what this caller asks next then meets nothing of this call."""
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=RELAID_S)
        while self._noted:
            desk, noted = self._noted.pop()
            await desk.settled(noted)
