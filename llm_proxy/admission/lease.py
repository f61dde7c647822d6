"""The noun admission makes: what a call holds until it has ended.

Invariants: `settle` counts once, enqueues and never waits; `settled` waits until the store has it, at most
its deadline; what was reserved and cannot be settled (nobody knows the cost) counts as spent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llm_proxy.admission.check import UNKNOWN, Answer, Check, Plan
from llm_proxy.admission.desk import Desk, Settled
from llm_proxy.admission.model import Entry, judge
from llm_proxy.admission.store import Store

Raw = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What one store counted for a call, and where to settle it."""

    plan: Plan
    wants: tuple[int, ...]
    answer: Answer
    lease: str
    store: Store
    desk: Desk

    def entries(
        self, tokens: int | None, cost_nano_usd: int | None, provider: str | None = None
    ) -> Iterator[Entry]:
        """The settlement; None means nobody knows.

        Args:
            tokens: What the call used.
            cost_nano_usd: What it cost.
            provider: Who served it: no other provider's counters keep anything.
        """
        second = self.answer.now_ms // 1000
        running = self.answer.running or (0,) * len(self.wants)
        rows = zip(self.plan.checks, self.wants, self.answer.used, running, strict=True)
        for check, want, used, calls in rows:
            idle = provider is not None and not _serves(check, provider)
            if check.kind == "tokens":
                counted = 0 if idle else tokens
                # Not taken, it only watched, and would have refused.
                if judge(check, want, (used, 0, calls, 0)) == "fits":
                    more = 0 if counted is None else counted - want
                    yield Entry("tokens", check.key, second, more, self.lease)
            elif check.kind == "budget":
                used_up = {"usd": cost_nano_usd, "tokens": tokens, "requests": 1}[check.unit]
                amount = 0 if idle else want if used_up is None else used_up
                yield Entry("budget", check.key, amount=amount, lease=self.lease)
            elif check.kind == "parallel":
                yield Entry("parallel", check.key, lease=self.lease)
        if provider is not None and self.plan.elsewhere:
            yield from self._elsewhere(tokens or 0, cost_nano_usd or 0, provider)

    def _elsewhere(self, tokens: int, cost_nano_usd: int, provider: str) -> Iterator[Entry]:
        """What a provider counts that served the call as a fallback."""
        for check in self.plan.elsewhere:
            if check.spent_by == provider and check.kind == "tokens":
                yield Entry("tokens", check.key, self.answer.now_ms // 1000, tokens)
            elif check.spent_by == provider:
                amount = {"usd": cost_nano_usd, "tokens": tokens, "requests": 1}[check.unit]
                yield Entry("budget", check.key, amount=amount, lease=self.lease)

    def charged(self, provider: str | None) -> Iterator[str]:
        """The counters of money that keep what the call cost."""
        counting = [one for one in self.plan.checks if provider is None or _serves(one, provider)]
        if provider is not None:
            counting += [one for one in self.plan.elsewhere if _serves(one, provider)]
        yield from (one.key for one in counting if one.kind == "budget" and one.unit == "usd")

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


class Living:
    """The calls that hold a parallel place or money now, so that it can be kept."""

    def __init__(self) -> None:
        self.calls: dict[str, Taken] = {}

    def began(self, taken: Taken) -> None:
        """A call holds what the store counted for it."""
        if not taken.plan.kinds.isdisjoint({"parallel", "budget"}):
            self.calls[taken.lease] = taken

    def ended(self, taken: Taken) -> None:
        """A call holds nothing any more."""
        self.calls.pop(taken.lease, None)

    def held(self) -> dict[tuple[Store, str], list[tuple[Taken, Entry]]]:
        """What is held, by store and the tenant's tag."""
        found: dict[tuple[Store, str], list[tuple[Taken, Entry]]] = {}
        for taken in self.calls.values():
            entries = ((taken, entry) for entry in taken.held())
            found.setdefault((taken.store, taken.plan.tag), []).extend(entries)
        return found


class Lease:
    """A call's place in the world: headers to tell of it, and its end.

    Attributes:
        headers: Where the caller stands, for the response.
        charged: Once it is settled, the budgets that count its cost: where, by which tag and key.
        would_refuse: The checks that only watched and would have refused, as `scope:kind`; None for none.
    """

    __slots__ = ("_living", "_noted", "_open", "_taken", "charged", "headers", "would_refuse")

    def __init__(
        self, headers: Raw, taken: tuple[Taken, ...], living: Living, would_refuse: str | None = None
    ) -> None:
        self.headers = headers
        self.would_refuse = would_refuse
        self._taken = taken
        self._living = living
        self._open = True
        self._noted: list[tuple[Desk, Settled]] = []
        self.charged: list[tuple[Desk, str, str]] = []
        if taken:
            living.began(taken[0])

    def settle(self, tokens: int | None, cost_nano_usd: int | None, provider: str | None = None) -> None:
        """Replace what was reserved by the truth, as far as it is known, and give the place back.

        `provider` is who served; None when nobody did, or nobody knows.
        """
        if not self._open:
            return
        self._open = False
        for taken in self._taken:
            self._living.ended(taken)
            entries = [*taken.entries(tokens, cost_nano_usd, provider)]
            self.charged += [(taken.desk, taken.plan.tag, key) for key in taken.charged(provider)]
            if entries:
                self._noted.append((taken.desk, taken.desk.note(taken.plan.tag, entries)))

    async def settled(self) -> None:
        """Wait until the store has it: what this caller asks next then meets nothing of this call."""
        while self._noted:
            desk, noted = self._noted.pop()
            await desk.settled(noted)
