"""The noun admission makes: what a call holds until it has ended.

Invariants: `settle` counts once, enqueues and never waits; a parallel place is given back at most once,
before the last byte by `give_back` or else by `settle`; what was reserved and cannot be settled (nobody
knows the cost) stays counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from llm_proxy.admission.check import UNKNOWN, Answer, Plan
from llm_proxy.admission.desk import Desk
from llm_proxy.admission.model import Entry
from llm_proxy.admission.store import Store
from llm_proxy.admission.wire import StoreAway

Raw = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What one store counted for a call, and where to settle it.

    Attributes:
        reborn: By key, the generation of a counter in which the reservation was made again.
    """

    plan: Plan
    wants: tuple[int, ...]
    answer: Answer
    lease: str
    store: Store
    desk: Desk
    reborn: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """The parallel places held: key and lease."""
        if "parallel" not in self.plan.kinds:
            return ()
        return tuple((check.key, self.lease) for check in self.plan.checks if check.kind == "parallel")

    def entries(self, tokens: int | None, cost_nano_usd: int | None) -> Iterator[Entry]:
        """The settlement of tokens and money; None means nobody knows."""
        second = self.answer.now_ms // 1000
        for check, want, born in zip(self.plan.checks, self.wants, self.answer.extra, strict=True):
            if check.kind == "tokens" and tokens is not None and tokens != want:
                yield Entry("tokens", check.key, second, tokens - want)
            elif check.kind == "budget":
                cost = want if cost_nano_usd is None else cost_nano_usd
                yield Entry("budget", check.key, self.reborn.get(check.key, born), cost - want, cost)

    def freed(self) -> tuple[Entry, ...]:
        """The settlement of parallel places; to keep them, the same is said."""
        return tuple(Entry("parallel", key, lease=lease) for key, lease in self.places)

    def reserved(self) -> Iterator[Entry]:
        """The money held, by the counter it is held in."""
        rows = zip(self.plan.checks, self.wants, self.answer.used, self.answer.extra, strict=True)
        for check, want, used, born in rows:
            if check.kind == "budget" and want and used != UNKNOWN:
                yield Entry("budget", check.key, self.reborn.get(check.key, born), want)


class Living:
    """The calls that hold a parallel place or money now, so that it can be kept."""

    def __init__(self) -> None:
        self.placed: dict[str, Taken] = {}
        self.reserving: dict[str, Taken] = {}

    def began(self, taken: Taken) -> None:
        """A call holds what the store counted for it."""
        kinds = taken.plan.kinds
        if "parallel" in kinds:
            self.placed[taken.lease] = taken
        if "budget" in kinds:
            self.reserving[taken.lease] = taken

    def held(self, store: Store) -> dict[str, list[tuple[Taken, Entry]]]:
        """What is held at a store, by the tenant's tag."""
        found: dict[str, list[tuple[Taken, Entry]]] = {}
        for taken in self.placed.values():
            if taken.store is store:
                found.setdefault(taken.plan.tag, []).extend((taken, entry) for entry in taken.freed())
        for taken in self.reserving.values():
            if taken.store is store:
                found.setdefault(taken.plan.tag, []).extend((taken, entry) for entry in taken.reserved())
        return found


class Lease:
    """A call's place in the world: headers to tell of it, and its end.

    Attributes:
        headers: Where the caller stands, for the response.
        holds_place: A parallel place is held and should be given back before the last byte is sent.
    """

    __slots__ = ("_living", "_settled", "_taken", "headers", "holds_place")

    def __init__(self, headers: Raw, taken: tuple[Taken, ...], living: Living) -> None:
        self.headers = headers
        self._taken = taken
        self._living = living
        self._settled = False
        self.holds_place = any(one.places for one in taken)
        if taken:
            living.began(taken[0])

    async def give_back(self) -> None:
        """Free the parallel place now; a store that is away hears of it later."""
        for taken in self._let_go():
            try:
                for key, lease in taken.places:
                    await taken.store.free(key, lease)
            except StoreAway:
                taken.desk.note(taken.plan.tag, taken.freed())

    def settle(self, tokens: int | None, cost_nano_usd: int | None) -> None:
        """Replace what was reserved by the truth, as far as it is known."""
        if self._settled:
            return
        self._settled = True
        held = self._let_go()
        for taken in self._taken:
            self._living.reserving.pop(taken.lease, None)
            entries = [*taken.entries(tokens, cost_nano_usd), *(taken.freed() if taken in held else ())]
            if entries:
                taken.desk.note(taken.plan.tag, entries)

    def _let_go(self) -> tuple[Taken, ...]:
        if not self.holds_place:
            return ()
        self.holds_place = False
        self._living.placed.pop(self._taken[0].lease, None)
        return tuple(taken for taken in self._taken if taken.places)
