"""The limits store of one process; also the oracle that the Lua scripts are tested against.

Pure but for the clock: it is an argument. Invariants: every check is made before anything is taken; a
missing budget counter is unknown, never 0; the same history gives the same results as `redis/lua/*.lua`. A
window counts exactly 60 s of requests, and 60 to 61 s of tokens. Units: integer milliseconds; requests,
tokens, slots, nano-dollars.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from llm_proxy.admission.limiter import (
    ADMITTED,
    EPOCH_UNKNOWN,
    REJECTED,
    SPEND_UNKNOWN,
    STALE,
    UNKNOWN,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
    SettlementEntry,
)

REQUEST_WINDOW_MS = 60_000
TOKEN_WINDOW_MS = 61_000
"""From a bucket's first moment until it no longer counts: its own second and the window."""
GUESSED_WAIT_MS = 2_000
CheckState = tuple[int, int, int, int]
"""What is counted at one check, as in `LimiterResult`: used, extra, running, kept."""
CheckVerdict = Literal["fits", "full", "held", "unknown"]
SWEEP_INTERVAL = 4096
MAX_SMALL_ENTRIES = 100_000
"""Epochs and batch numbers kept: both are found again when they are missing."""
RUN_IDLE_MS = 86_400_000
"""Idle time after which a run ends; a setting can change it."""
MAX_RUNS = 10_000
"""The limited runs of one key that are known; one more ends the one that was idle for longest."""
WAITER_TTL_MS = 5_000
"""How long after its last try a call that waits for held money is known; its error advises 2 s."""
KEPT_AFTER_TRIES = 2
"""From this try on, the money that the call needs is kept for it."""
MAX_WAITERS = 16
"""The maximum of calls that wait in order for one budget; further ones have no place in the order."""


def forget_requests(times: deque[int], now_ms: int) -> None:
    """Drops the requests that no longer count; `times` are in the order of admission."""
    while times and times[0] <= now_ms - REQUEST_WINDOW_MS:
        times.popleft()


def requests_wait_ms(times: deque[int], now_ms: int, *, limit: int, amount: int = 1) -> int:
    """Returns the time until `amount` more requests fit, 0 when they fit now; `amount` is at most `limit`."""
    over = len(times) + amount - limit
    return times[over - 1] + REQUEST_WINDOW_MS - now_ms if over > 0 else 0


def requests_reset_ms(times: deque[int], now_ms: int) -> int:
    """Returns the time until the window is empty."""
    return times[-1] + REQUEST_WINDOW_MS - now_ms if times else 0


@dataclass(slots=True)
class TokenWindow:
    """The tokens of one scope, by the second they were counted in.

    Attributes:
        reservations: What running calls have reserved of them, and until when that counts, by lease.
    """

    by_second: dict[int, int] = field(default_factory=dict[int, int])
    total: int = 0
    reservations: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def forget(self, now_ms: int) -> None:
        """Drops the buckets, and the reservations, that no longer count."""
        for lease_id in [
            lease_id for lease_id, (_, until_ms) in self.reservations.items() if until_ms <= now_ms
        ]:
            del self.reservations[lease_id]
        for second in [at for at in self.by_second if not bucket_counts(at, now_ms)]:
            self.total -= self.by_second.pop(second)

    def add(self, tokens: int, now_ms: int) -> None:
        """Counts tokens now."""
        second = now_ms // 1000
        self.by_second[second] = self.by_second.get(second, 0) + tokens
        self.total += tokens

    def correct(self, second: int, tokens: int, now_ms: int) -> None:
        """Settles: surplus leaves the bucket it was reserved in, a deficit counts now."""
        if tokens > 0:
            self.add(tokens, now_ms)
        elif bucket_counts(second, now_ms) and second in self.by_second:
            self.by_second[second] += tokens
            self.total += tokens

    def fits(self, limit: int, amount: int) -> bool:
        """Whether `amount` more fit: they are left, or some are and no running call holds any."""
        return self.total + amount <= limit or (not self.reservations and self.total < limit)

    def wait_ms(self, now_ms: int, *, limit: int, amount: int) -> int:
        """Returns the time until `amount` more fit, 0 when they fit now; `amount` is at most `limit`.

        What running calls hold may be released at any time, so where only that is missing the wait is a
        guess.
        """
        if self.fits(limit, amount):
            return 0
        missing = self.total + (amount if self.reservations else 1) - limit
        if missing <= sum(amount for amount, _ in self.reservations.values()):
            return GUESSED_WAIT_MS
        for second in sorted(self.by_second):
            missing -= self.by_second[second]
            if missing <= 0:
                return second * 1000 + TOKEN_WINDOW_MS - now_ms
        return TOKEN_WINDOW_MS

    def reset_ms(self, now_ms: int) -> int:
        """Returns the time until nothing counts any more."""
        return max(self.by_second) * 1000 + TOKEN_WINDOW_MS - now_ms if self.by_second else 0


def bucket_counts(second: int, now_ms: int) -> bool:
    """Whether a bucket still counts."""
    return second * 1000 + TOKEN_WINDOW_MS > now_ms


@dataclass(slots=True)
class Waiter:
    """A call that waits for money that is merely held."""

    name: str
    tries: int
    amount: int
    until_ms: int


@dataclass(slots=True)
class BudgetCounter:
    """Money of a budget's period: spent, and held by running calls.

    Attributes:
        seeded_ms: When the counter was made.
        reservations: By lease the amount, and when the reservation expires.
        waiters: The calls that wait for money that is merely held, in order of arrival.
    """

    spent: int
    expires_ms: int = 0
    seeded_ms: int = 0
    reservations: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    waiters: list[Waiter] = field(default_factory=list[Waiter])

    @property
    def held(self) -> int:
        """What running calls hold."""
        return sum(amount for amount, _ in self.reservations.values())

    def expire(self, now_ms: int) -> None:
        """Drops reservations that were not renewed in time."""
        for lease_id in [
            lease_id for lease_id, (_, until_ms) in self.reservations.items() if until_ms <= now_ms
        ]:
            del self.reservations[lease_id]

    def kept(self, name: str, limit: int, now_ms: int) -> int:
        """What is kept for calls that wait, and arrived before this one."""
        kept = 0
        for waiter in self.waiters:
            if waiter.name == name:
                break
            if waiter.tries >= KEPT_AFTER_TRIES and waiter.until_ms > now_ms:
                kept += waiter.amount
        return min(kept, max(0, limit - self.spent))

    def enqueue(self, name: str, amount: int, now_ms: int) -> None:
        """Adds a call to the waiters, or counts one more try of it."""
        found = next((one for one in self.waiters if one.name == name), None)
        if found is not None:
            found.tries, found.amount, found.until_ms = found.tries + 1, amount, now_ms + WAITER_TTL_MS
        self.waiters = [one for one in self.waiters if one.until_ms > now_ms]
        if found is None and len(self.waiters) < MAX_WAITERS:
            self.waiters.append(Waiter(name, 1, amount, now_ms + WAITER_TTL_MS))

    def dequeue(self, name: str, now_ms: int) -> None:
        """Removes a call from the waiters."""
        if name:
            self.waiters = [one for one in self.waiters if one.name != name and one.until_ms > now_ms]


def check_verdict(check: LimitCheck, amount: int, state: CheckState) -> CheckVerdict:
    """Returns the verdict of one check on a call of `amount`.

    A budget is `full` when it is spent, and `held` when what is left is held by running calls or kept for one
    that waits; a call that is alone with what is left, of a budget or of tokens, fits whatever it may use.
    """
    used, held, running, kept = state
    if used == UNKNOWN:
        return "unknown"
    if check.kind == "tokens" and not running and used < check.limit:
        return "fits"
    if check.kind != "budget":
        return "full" if used + amount > check.limit else "fits"
    if used >= check.limit:
        return "full"
    return "fits" if used + held + kept + amount <= check.limit or held + kept == 0 else "held"


@dataclass(slots=True)
class MemoryLimiter:
    """Everything a limits store holds."""

    run_idle_ms: int = RUN_IDLE_MS
    max_runs: int = MAX_RUNS
    request_windows: dict[str, deque[int]] = field(default_factory=dict[str, deque[int]])
    token_windows: dict[str, TokenWindow] = field(default_factory=dict[str, TokenWindow])
    slots: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    budgets: dict[str, BudgetCounter] = field(default_factory=dict[str, BudgetCounter])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    runs: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    settled_batches: dict[str, int] = field(default_factory=dict[str, int])
    requests: int = 0

    def reserve(self, request: LimiterRequest, now_ms: int) -> LimiterResult:
        """Reserves a call's amounts if every check passes."""
        self._sweep(now_ms)
        epoch = 0
        if request.epoch >= 0:
            epoch = self.epochs.get(request.plan.epoch_key, -1)
            if epoch < 0:
                return LimiterResult(EPOCH_UNKNOWN, now_ms, 0)
            if epoch > request.epoch:
                return LimiterResult(STALE, now_ms, epoch)
        checks = request.plan.checks
        states = [
            self._check_state(check, amount, request, now_ms)
            for check, amount in zip(checks, request.amounts, strict=True)
        ]
        verdicts: list[CheckVerdict] = [
            check_verdict(check, amount, state) if check.enforced else "fits"
            for check, amount, state in zip(checks, request.amounts, states, strict=True)
        ]
        status = ADMITTED
        if "unknown" in verdicts:
            status = SPEND_UNKNOWN
        if "full" in verdicts or "held" in verdicts:
            status = REJECTED
        if request.reserve and request.retry_id and not {"full", "unknown"} & {*verdicts}:
            self._enqueue_waiters(request, verdicts, now_ms)
        if status == ADMITTED and request.reserve:
            for check, amount, state in zip(checks, request.amounts, states, strict=True):
                self._take(check, amount, state, request, now_ms)
            if request.plan.run:
                self._note_run(request.plan, now_ms)
        return LimiterResult(status, now_ms, epoch, *zip(*states, strict=True))

    def settle(self, ledger_key: str, number: int, entries: tuple[SettlementEntry, ...], now_ms: int) -> bool:
        """Settles a batch; returns False when it was settled before."""
        if self.settled_batches.get(ledger_key, -1) >= number:
            return False
        self.settled_batches[ledger_key] = number
        for entry in entries:
            if entry.kind == "parallel":
                self.release(entry.key, entry.lease_id)
            elif entry.kind == "tokens":
                if entry.amount > 0 or entry.key in self.token_windows:
                    buckets = self.token_windows.setdefault(entry.key, TokenWindow())
                    buckets.reservations.pop(entry.lease_id, None)
                    buckets.correct(entry.at, entry.amount, now_ms)
            elif entry.kind == "run" and entry.amount > 0 and not entry.at:
                self._settle_budget(self._touch(entry.key, now_ms), entry)
            elif (
                entry.kind != "turn"
                and (counter := self._counter(entry.key, now_ms)) is not None
                and (not entry.at or counter.seeded_ms <= entry.at)
            ):
                self._settle_budget(counter, entry)
        return True

    @staticmethod
    def _settle_budget(counter: BudgetCounter, entry: SettlementEntry) -> None:
        counter.reservations.pop(entry.lease_id, None)
        counter.spent = max(0, counter.spent + entry.amount)

    def record_request(self, key: str, now_ms: int) -> None:
        """Counts a request that was admitted elsewhere."""
        self._sweep(now_ms)
        times = self.request_windows.setdefault(key, deque())
        forget_requests(times, now_ms)
        times.append(now_ms)

    def release(self, key: str, lease_id: str) -> None:
        """Releases a slot."""
        self.slots.get(key, {}).pop(lease_id, None)

    def renew(self, entries: tuple[SettlementEntry, ...], ttl_ms: int, now_ms: int) -> None:
        """Renews what running calls hold, and takes it again where it was lost."""
        for entry in entries:
            if entry.kind == "parallel":
                self.slots.setdefault(entry.key, {})[entry.lease_id] = now_ms + ttl_ms
            elif entry.kind == "duration":
                self._touch(entry.key, now_ms)
            elif entry.kind == "run":
                self._touch(entry.key, now_ms).reservations[entry.lease_id] = entry.amount, now_ms + ttl_ms
            elif (counter := self._counter(entry.key, now_ms)) is not None:
                counter.reservations[entry.lease_id] = entry.amount, now_ms + ttl_ms

    def seed(self, key: str, counter: BudgetCounter) -> None:
        """Gives a missing counter its value."""
        self.budgets.setdefault(key, counter)

    def raise_epoch(self, key: str, epoch: int) -> None:
        """Raises a tenant's epoch; it never falls."""
        self.epochs[key] = max(epoch, self.epochs.get(key, epoch))

    def _check_state(
        self, check: LimitCheck, amount: int, request: LimiterRequest, now_ms: int
    ) -> CheckState:
        if check.kind == "requests":
            times = self.request_windows.get(check.key) or deque()
            forget_requests(times, now_ms)
            wait = requests_wait_ms(times, now_ms, limit=check.limit, amount=amount) if amount else 0
            return len(times), wait or (0 if request.reserve else requests_reset_ms(times, now_ms)), 0, 0
        if check.kind == "tokens":
            buckets = self.token_windows.get(check.key) or TokenWindow()
            buckets.forget(now_ms)
            wait = buckets.wait_ms(now_ms, limit=check.limit, amount=amount) if amount else 0
            reset_ms = 0 if request.reserve else buckets.reset_ms(now_ms)
            return buckets.total, wait or reset_ms, len(buckets.reservations), 0
        if check.kind == "parallel":
            held = self.slots.get(check.key, {})
            for lease_id in [lease_id for lease_id, until in held.items() if until <= now_ms]:
                del held[lease_id]
            return len(held), 0, 0, 0
        counter = self._counter(check.key, now_ms)
        if counter is None:
            return 0 if check.scope == "run" else UNKNOWN, 0, 0, 0
        if check.kind == "duration":
            return now_ms - counter.seeded_ms, 0, 0, 0
        counter.expire(now_ms)
        return (
            counter.spent,
            counter.held,
            len(counter.reservations),
            counter.kept(request.retry_id, check.limit, now_ms),
        )

    def _enqueue_waiters(self, request: LimiterRequest, verdicts: list[CheckVerdict], now_ms: int) -> None:
        for check, amount, verdict in zip(request.plan.checks, request.amounts, verdicts, strict=True):
            if verdict == "held":
                self.budgets[check.key].enqueue(request.retry_id, amount, now_ms)

    def _take(
        self, check: LimitCheck, amount: int, state: CheckState, request: LimiterRequest, now_ms: int
    ) -> None:
        used = state[0]
        fits = used + amount <= check.limit
        if check.kind == "requests" and fits:
            self.request_windows.setdefault(check.key, deque()).append(now_ms)
        elif check.kind == "tokens" and check_verdict(check, amount, state) == "fits":
            buckets = self.token_windows.setdefault(check.key, TokenWindow())
            buckets.add(amount, now_ms)
            buckets.reservations[request.lease_id] = amount, now_ms + TOKEN_WINDOW_MS
        elif check.kind == "parallel" and fits:
            self.slots.setdefault(check.key, {})[request.lease_id] = now_ms + request.ttl_ms
        elif check.kind == "duration":
            self._touch(check.key, now_ms)
        elif check.kind == "budget" and used != UNKNOWN:
            counter = self._touch(check.key, now_ms) if check.is_run_budget else self.budgets[check.key]
            counter.reservations[request.lease_id] = amount, now_ms + request.ttl_ms
            counter.dequeue(request.retry_id, now_ms)

    def _touch(self, key: str, now_ms: int) -> BudgetCounter:
        """Returns a run's counter, which begins with its first call and ends when it was idle."""
        counter = self._counter(key, now_ms)
        if counter is None:
            counter = self.budgets[key] = BudgetCounter(0, seeded_ms=now_ms)
        counter.expires_ms = now_ms + self.run_idle_ms
        return counter

    def _note_run(self, plan: LimitPlan, now_ms: int) -> None:
        """Notes that a run is in use; of too many of a key, forgets the one that was idle for longest."""
        latest = self.runs.setdefault(plan.runs_key, {})
        latest[plan.run] = now_ms
        if len(latest) > self.max_runs:
            oldest = min(latest, key=lambda run: (latest[run], run))
            del latest[oldest]
            for check in plan.checks:
                if check.scope == "run":
                    self.budgets.pop(check.key.removesuffix(plan.run) + oldest, None)

    def _counter(self, key: str, now_ms: int) -> BudgetCounter | None:
        counter = self.budgets.get(key)
        if counter is not None and 0 < counter.expires_ms <= now_ms:
            del self.budgets[key]
            return None
        return counter

    def _sweep(self, now_ms: int) -> None:
        """Removes subjects that nothing counts any more, every `SWEEP_INTERVAL` requests."""
        self.requests += 1
        if self.requests % SWEEP_INTERVAL:
            return
        for times in self.request_windows.values():
            forget_requests(times, now_ms)
        for buckets in self.token_windows.values():
            buckets.forget(now_ms)
        self.request_windows = {key: times for key, times in self.request_windows.items() if times}
        self.token_windows = {
            key: buckets for key, buckets in self.token_windows.items() if buckets.by_second
        }
        self.slots = {
            key: held for key, held in self.slots.items() if any(until > now_ms for until in held.values())
        }
        for key in list(self.budgets):
            self._counter(key, now_ms)
        self.runs = {
            key: latest
            for key, latest in self.runs.items()
            if any(at_ms + self.run_idle_ms > now_ms for at_ms in latest.values())
        }
        for small in (self.settled_batches, self.epochs):
            if len(small) > MAX_SMALL_ENTRIES:
                small.clear()
