"""The limits store of one process; also the oracle that the Lua scripts are tested against.

Pure but for the clock: it is an argument. Invariants: every check is made before anything is taken; a
missing budget counter is unknown, never 0; the same history gives the same results as `redis/lua/*.lua`. A
window counts exactly 60 s of requests, and 60 to 61 s of tokens. Units: integer milliseconds; requests,
tokens, slots, nano-dollars.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from llm_proxy.admission.limiter import (
    ADMITTED,
    EPOCH_UNKNOWN,
    REFUSED,
    SPEND_UNKNOWN,
    STALE,
    UNKNOWN,
    Answer,
    Ask,
    Check,
    Entry,
)

WINDOW_MS = 60_000


def forget_requests(times: deque[int], now_ms: int) -> None:
    """Drop what no longer counts; times are in the order of admission."""
    while times and times[0] <= now_ms - WINDOW_MS:
        times.popleft()


def requests_wait_ms(times: deque[int], now_ms: int, *, limit: int, want: int = 1) -> int:
    """How long until `want` more requests fit, 0 when they fit now; `want` is at most `limit`."""
    over = len(times) + want - limit
    return times[over - 1] + WINDOW_MS - now_ms if over > 0 else 0


def requests_reset_ms(times: deque[int], now_ms: int) -> int:
    """How long until the window is empty again."""
    return times[-1] + WINDOW_MS - now_ms if times else 0


SPAN_MS = 61_000
"""From a bucket's first moment until it counts no more: its own second and the window."""
POLITE_MS = 2_000


@dataclass(slots=True)
class Buckets:
    """The tokens of one scope, by the second they were counted in.

    Attributes:
        holds: What running calls have reserved of them, and until when that counts, by lease.
    """

    by_second: dict[int, int] = field(default_factory=dict[int, int])
    total: int = 0
    holds: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def forget(self, now_ms: int) -> None:
        """Drop the buckets, and the reservations, that no longer count."""
        for lease in [lease for lease, (_, until_ms) in self.holds.items() if until_ms <= now_ms]:
            del self.holds[lease]
        for second in [at for at in self.by_second if not bucket_counts(at, now_ms)]:
            self.total -= self.by_second.pop(second)

    def take(self, tokens: int, now_ms: int) -> None:
        """Count tokens now."""
        second = now_ms // 1000
        self.by_second[second] = self.by_second.get(second, 0) + tokens
        self.total += tokens

    def correct(self, second: int, tokens: int, now_ms: int) -> None:
        """Settle: what was too much leaves the bucket it was reserved in, what was too little counts now."""
        if tokens > 0:
            self.take(tokens, now_ms)
        elif bucket_counts(second, now_ms) and second in self.by_second:
            self.by_second[second] += tokens
            self.total += tokens

    def fits(self, limit: int, want: int) -> bool:
        """Whether `want` more may be taken: they are left, or some are and no running call holds any."""
        return self.total + want <= limit or (not self.holds and self.total < limit)

    def wait_ms(self, now_ms: int, *, limit: int, want: int) -> int:
        """How long until `want` more fit, 0 when they fit now; `want` is at most `limit`.

        What running calls hold may come free at any time, so where only that is missing the wait is a guess.
        """
        if self.fits(limit, want):
            return 0
        need = self.total + (want if self.holds else 1) - limit
        if need <= sum(amount for amount, _ in self.holds.values()):
            return POLITE_MS
        for second in sorted(self.by_second):
            need -= self.by_second[second]
            if need <= 0:
                return second * 1000 + SPAN_MS - now_ms
        return SPAN_MS

    def reset_ms(self, now_ms: int) -> int:
        """How long until nothing counts any more."""
        return max(self.by_second) * 1000 + SPAN_MS - now_ms if self.by_second else 0


def bucket_counts(second: int, now_ms: int) -> bool:
    """Whether a bucket still counts."""
    return second * 1000 + SPAN_MS > now_ms


Look = tuple[int, int, int, int]
"""What is counted at one check, as `Answer` has it: used, extra, running, kept."""
Verdict = Literal["fits", "full", "held", "unknown"]
SWEEP_EVERY = 4096
MOST_SMALL = 100_000
"""Epochs and numbers of batches kept: both are found again when they are missing."""


WAIT_MS = 5_000
"""So long after its last try a call that waits for held money is remembered; it was told to come in 2 s."""
KEPT_AFTER = 2
"""From this try on its share is kept for it."""
MOST_WAITING = 16
"""So many calls wait in turn for one budget; others take their chance."""


@dataclass(slots=True)
class Waiter:
    """A call that waits for money that is merely held."""

    name: str
    tries: int
    want: int
    until_ms: int


@dataclass(slots=True)
class Counter:
    """Money of a budget's period: spent, and held by running calls.

    Attributes:
        seeded_ms: When it was made.
        holds: By lease the amount, and when the reservation expires.
        queue: The calls that wait for money that is merely held, in the order they came.
    """

    spent: int
    expires_ms: int = 0
    seeded_ms: int = 0
    holds: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    queue: list[Waiter] = field(default_factory=list[Waiter])

    @property
    def held(self) -> int:
        """What running calls hold."""
        return sum(amount for amount, _ in self.holds.values())

    def expire(self, now_ms: int) -> None:
        """Drop the reservations of calls that gave no sign of life until now."""
        for lease in [lease for lease, (_, until_ms) in self.holds.items() if until_ms <= now_ms]:
            del self.holds[lease]

    def kept(self, name: str, limit: int, now_ms: int) -> int:
        """What is kept for calls that wait, and came before this one."""
        kept = 0
        for waiter in self.queue:
            if waiter.name == name:
                break
            if waiter.tries >= KEPT_AFTER and waiter.until_ms > now_ms:
                kept += waiter.want
        return min(kept, max(0, limit - self.spent))

    def wait(self, name: str, want: int, now_ms: int) -> None:
        """Let a call wait for its turn."""
        found = next((one for one in self.queue if one.name == name), None)
        if found is not None:
            found.tries, found.want, found.until_ms = found.tries + 1, want, now_ms + WAIT_MS
        self.queue = [one for one in self.queue if one.until_ms > now_ms]
        if found is None and len(self.queue) < MOST_WAITING:
            self.queue.append(Waiter(name, 1, want, now_ms + WAIT_MS))

    def go(self, name: str, now_ms: int) -> None:
        """A call waits no more."""
        if name:
            self.queue = [one for one in self.queue if one.name != name and one.until_ms > now_ms]


def judge(check: Check, want: int, look: Look) -> Verdict:
    """What one check says to a call that wants so much.

    A budget is full when it is spent, and `held` when what is left is held by running calls or kept for one
    that waits; a call that is alone with what is left, of a budget or of tokens, goes whatever it may use.
    """
    used, held, running, kept = look
    if used == UNKNOWN:
        return "unknown"
    if check.kind == "tokens" and not running and used < check.limit:
        return "fits"
    if check.kind != "budget":
        return "full" if used + want > check.limit else "fits"
    if used >= check.limit:
        return "full"
    return "fits" if used + held + kept + want <= check.limit or held + kept == 0 else "held"


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
        verdicts: list[Verdict] = [
            judge(check, want, look) if check.enforced else "fits"
            for check, want, look in zip(checks, ask.wants, looks, strict=True)
        ]
        status = ADMITTED
        if "unknown" in verdicts:
            status = SPEND_UNKNOWN
        if "full" in verdicts or "held" in verdicts:
            status = REFUSED
        if ask.take and ask.name and not {"full", "unknown"} & {*verdicts}:
            self._wait(ask, verdicts, now_ms)
        if status == ADMITTED and ask.take:
            for check, want, look in zip(checks, ask.wants, looks, strict=True):
                self._take(check, want, look, ask, now_ms)
        return Answer(status, now_ms, epoch, *zip(*looks, strict=True))

    def settle(self, ledger_key: str, number: int, entries: tuple[Entry, ...], now_ms: int) -> bool:
        """Settle a batch; False when it was settled before."""
        if self.settled.get(ledger_key, -1) >= number:
            return False
        self.settled[ledger_key] = number
        for entry in entries:
            if entry.kind == "parallel":
                self.free(entry.key, entry.lease)
            elif entry.kind == "tokens":
                if entry.amount > 0 or entry.key in self.buckets:
                    buckets = self.buckets.setdefault(entry.key, Buckets())
                    buckets.holds.pop(entry.lease, None)
                    buckets.correct(entry.at, entry.amount, now_ms)
            elif (counter := self._counter(entry.key, now_ms)) is not None and (
                not entry.at or counter.seeded_ms <= entry.at
            ):
                counter.holds.pop(entry.lease, None)
                counter.spent = max(0, counter.spent + entry.amount)
        return True

    def note(self, key: str, now_ms: int) -> None:
        """Count a request that was admitted elsewhere."""
        self._sweep(now_ms)
        times = self.windows.setdefault(key, deque())
        forget_requests(times, now_ms)
        times.append(now_ms)

    def free(self, key: str, lease: str) -> None:
        """Give a place back."""
        self.places.get(key, {}).pop(lease, None)

    def keep(self, entries: tuple[Entry, ...], ttl_ms: int, now_ms: int) -> None:
        """Keep what living calls hold, and take it anew where it was forgotten."""
        for entry in entries:
            if entry.kind == "parallel":
                self.places.setdefault(entry.key, {})[entry.lease] = now_ms + ttl_ms
            elif (counter := self._counter(entry.key, now_ms)) is not None:
                counter.holds[entry.lease] = entry.amount, now_ms + ttl_ms

    def seed(self, key: str, counter: Counter) -> None:
        """Give a missing counter its value."""
        self.counters.setdefault(key, counter)

    def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch; it never falls."""
        self.epochs[key] = max(epoch, self.epochs.get(key, epoch))

    def _look(self, check: Check, want: int, ask: Ask, now_ms: int) -> Look:
        if check.kind == "requests":
            times = self.windows.get(check.key) or deque()
            forget_requests(times, now_ms)
            wait = requests_wait_ms(times, now_ms, limit=check.limit, want=want) if want else 0
            return len(times), wait or (0 if ask.take else requests_reset_ms(times, now_ms)), 0, 0
        if check.kind == "tokens":
            buckets = self.buckets.get(check.key) or Buckets()
            buckets.forget(now_ms)
            wait = buckets.wait_ms(now_ms, limit=check.limit, want=want) if want else 0
            reset_ms = 0 if ask.take else buckets.reset_ms(now_ms)
            return buckets.total, wait or reset_ms, len(buckets.holds), 0
        if check.kind == "parallel":
            held = self.places.get(check.key, {})
            for lease in [lease for lease, until in held.items() if until <= now_ms]:
                del held[lease]
            return len(held), 0, 0, 0
        counter = self._counter(check.key, now_ms)
        if counter is None:
            return UNKNOWN, 0, 0, 0
        counter.expire(now_ms)
        return counter.spent, counter.held, len(counter.holds), counter.kept(ask.name, check.limit, now_ms)

    def _wait(self, ask: Ask, verdicts: list[Verdict], now_ms: int) -> None:
        for check, want, verdict in zip(ask.plan.checks, ask.wants, verdicts, strict=True):
            if verdict == "held":
                self.counters[check.key].wait(ask.name, want, now_ms)

    def _take(self, check: Check, want: int, look: Look, ask: Ask, now_ms: int) -> None:
        used = look[0]
        fits = used + want <= check.limit
        if check.kind == "requests" and fits:
            self.windows.setdefault(check.key, deque()).append(now_ms)
        elif check.kind == "tokens" and judge(check, want, look) == "fits":
            buckets = self.buckets.setdefault(check.key, Buckets())
            buckets.take(want, now_ms)
            buckets.holds[ask.lease] = want, now_ms + SPAN_MS
        elif check.kind == "parallel" and fits:
            self.places.setdefault(check.key, {})[ask.lease] = now_ms + ask.ttl_ms
        elif check.kind == "budget" and used != UNKNOWN:
            counter = self.counters[check.key]
            counter.holds[ask.lease] = want, now_ms + ask.ttl_ms
            counter.go(ask.name, now_ms)

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
            forget_requests(times, now_ms)
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


class ProcessStore:
    """Limits of this process alone."""

    def __init__(self, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.model = Model()
        self.clock_ms = clock_ms

    @property
    def answering(self) -> bool:
        """Always."""
        return True

    @property
    def one_slot(self) -> bool:
        """It reaches all."""
        return False

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def admit(self, ask: Ask, orphan: Callable[[Answer], None] | None = None) -> Answer:  # noqa: ARG002 -- never late
        """Admit a call if every check passes."""
        return self.model.admit(ask, self.clock_ms())

    async def settle(self, ledger_key: str, number: int, entries: tuple[Entry, ...]) -> None:
        """Settle a batch of one tenant, once."""
        self.model.settle(ledger_key, number, entries, self.clock_ms())

    async def keep(self, entries: tuple[Entry, ...], ttl_ms: int) -> None:
        """Keep what living calls hold."""
        self.model.keep(entries, ttl_ms, self.clock_ms())

    async def seed(self, key: str, spent: int, expires_ms: int = 0) -> None:
        """Give a missing counter its value."""
        self.model.seed(key, Counter(spent, expires_ms, self.clock_ms()))

    async def raise_epoch(self, key: str, epoch: int) -> None:
        """Give a tenant its epoch."""
        self.model.raise_epoch(key, epoch)

    async def replicas(self, name: str) -> int:  # noqa: ARG002 -- there is no other
        """This one."""
        return 1
