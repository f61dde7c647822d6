"""What the store's scripts do, in Python: the store of one process, and the oracle the scripts are tested by.

Pure: the clock is an argument. Invariants: check all, then take all; a missing counter is unknown, never 0;
the same history gives the same answers as `lua/*.lua`.
Units: integer milliseconds; requests, tokens, places, nano-dollars.
"""

from collections import deque
from dataclasses import dataclass, field

from llm_proxy.admission import window
from llm_proxy.admission.bucket import Buckets
from llm_proxy.admission.check import (
    ADMITTED,
    EPOCH_UNKNOWN,
    REFUSED,
    SPEND_UNKNOWN,
    STALE,
    UNKNOWN,
    Answer,
    Ask,
    Check,
)

SWEEP_EVERY = 4096
MOST_SMALL = 100_000
"""Epochs and numbers of batches kept: both are found again when they are missing."""


@dataclass(slots=True)
class Counter:
    """Money spent in a period; `born` tells a rebuilt counter from the one before."""

    spent: int
    born: int
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a settlement.

    Attributes:
        kind: The check's kind; `requests` never settle.
        at: The bucket's second (tokens) or the counter's generation (budget).
        delta: What came to more, or less, than was reserved.
        full: All of it, for a counter that knows no reservation.
        lease: Whose place is free (parallel).
    """

    kind: str
    key: str
    at: int = 0
    delta: int = 0
    full: int = 0
    lease: str = ""


@dataclass(slots=True)
class Model:
    """Everything a limits store holds."""

    windows: dict[str, deque[int]] = field(default_factory=dict[str, deque[int]])
    buckets: dict[str, Buckets] = field(default_factory=dict[str, Buckets])
    places: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    counters: dict[str, Counter] = field(default_factory=dict[str, Counter])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    settled: dict[str, int] = field(default_factory=dict[str, int])
    asked: int = 0

    def admit(self, ask: Ask, now_ms: int) -> Answer:
        """Admit a call if every check passes."""
        self._sweep(now_ms)
        epoch = 0
        if ask.epoch >= 0:
            epoch = self.epochs.get(ask.plan.epoch_key, -1)
            if epoch < 0:
                return Answer(EPOCH_UNKNOWN, now_ms, 0)
            if epoch > ask.epoch:
                return Answer(STALE, now_ms, epoch)
        checks = ask.plan.checks
        looks = [self._look(check, want, ask, now_ms) for check, want in zip(checks, ask.wants, strict=True)]
        status = ADMITTED
        for check, want, (used, _) in zip(checks, ask.wants, looks, strict=True):
            if check.enforced and used == UNKNOWN:
                status = max(status, SPEND_UNKNOWN)
            elif check.enforced and used + want > check.limit:
                status = REFUSED
        if status == ADMITTED and ask.take:
            for check, want, (used, _) in zip(checks, ask.wants, looks, strict=True):
                self._take(check, want, used, ask, now_ms)
        used_all, extra_all = [used for used, _ in looks], [extra for _, extra in looks]
        return Answer(status, now_ms, epoch, tuple(used_all), tuple(extra_all))

    def settle(self, ledger_key: str, number: int, entries: tuple[Entry, ...], now_ms: int) -> bool:
        """Settle a batch; False when it was settled before."""
        if self.settled.get(ledger_key, -1) >= number:
            return False
        self.settled[ledger_key] = number
        for entry in entries:
            if entry.kind == "parallel":
                self.free(entry.key, entry.lease)
            elif entry.kind == "tokens":
                if entry.delta > 0 or entry.key in self.buckets:
                    self.buckets.setdefault(entry.key, Buckets()).correct(entry.at, entry.delta, now_ms)
            elif (counter := self._counter(entry.key, now_ms)) is not None:
                counter.spent += entry.delta if counter.born == entry.at else entry.full
        return True

    def note(self, key: str, now_ms: int) -> None:
        """Count a request that was admitted elsewhere."""
        self._sweep(now_ms)
        times = self.windows.setdefault(key, deque())
        window.forget(times, now_ms)
        times.append(now_ms)

    def free(self, key: str, lease: str) -> None:
        """Give a place back."""
        self.places.get(key, {}).pop(lease, None)

    def keep(self, entries: tuple[Entry, ...], ttl_ms: int, now_ms: int) -> list[int]:
        """Keep what living calls hold; by entry the birth of a counter that took the money anew, or 0."""
        born = [0] * len(entries)
        for at, entry in enumerate(entries):
            if entry.kind == "parallel":
                self.places.setdefault(entry.key, {})[entry.lease] = now_ms + ttl_ms
            elif (counter := self._counter(entry.key, now_ms)) is not None and counter.born != entry.at:
                counter.spent += entry.delta
                born[at] = counter.born
        return born

    def seed(self, key: str, counter: Counter) -> None:
        """Give a missing counter its value."""
        self.counters.setdefault(key, counter)

    def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch; it never falls."""
        self.epochs[key] = max(epoch, self.epochs.get(key, epoch))

    def _look(self, check: Check, want: int, ask: Ask, now_ms: int) -> tuple[int, int]:
        if check.kind == "requests":
            times = self.windows.get(check.key) or deque()
            window.forget(times, now_ms)
            wait = window.wait_ms(times, now_ms, limit=check.limit, want=want)
            return len(times), wait or (0 if ask.take else window.reset_ms(times, now_ms))
        if check.kind == "tokens":
            buckets = self.buckets.get(check.key) or Buckets()
            buckets.forget(now_ms)
            wait = buckets.wait_ms(now_ms, limit=check.limit, want=want)
            return buckets.total, wait or (0 if ask.take else buckets.reset_ms(now_ms))
        if check.kind == "parallel":
            held = self.places.get(check.key, {})
            for lease in [lease for lease, until in held.items() if until <= now_ms]:
                del held[lease]
            return len(held), 0
        counter = self._counter(check.key, now_ms)
        return (counter.spent, counter.born) if counter else (UNKNOWN, 0)

    def _take(self, check: Check, want: int, used: int, ask: Ask, now_ms: int) -> None:
        fits = used + want <= check.limit
        if check.kind == "requests" and fits:
            self.windows.setdefault(check.key, deque()).append(now_ms)
        elif check.kind == "tokens":
            self.buckets.setdefault(check.key, Buckets()).take(want, now_ms)
        elif check.kind == "parallel" and fits:
            self.places.setdefault(check.key, {})[ask.lease] = now_ms + ask.ttl_ms
        elif check.kind == "budget" and used != UNKNOWN:
            self.counters[check.key].spent += want

    def _counter(self, key: str, now_ms: int) -> Counter | None:
        counter = self.counters.get(key)
        if counter is not None and 0 < counter.expires_ms <= now_ms:
            del self.counters[key]
            return None
        return counter

    def _sweep(self, now_ms: int) -> None:
        """Forget subjects nobody counts any more, now and then."""
        self.asked += 1
        if self.asked % SWEEP_EVERY:
            return
        for times in self.windows.values():
            window.forget(times, now_ms)
        for buckets in self.buckets.values():
            buckets.forget(now_ms)
        self.windows = {key: times for key, times in self.windows.items() if times}
        self.buckets = {key: buckets for key, buckets in self.buckets.items() if buckets.by_second}
        self.places = {
            key: held for key, held in self.places.items() if any(until > now_ms for until in held.values())
        }
        for key in list(self.counters):
            self._counter(key, now_ms)
        for small in (self.settled, self.epochs):
            if len(small) > MOST_SMALL:
                small.clear()
