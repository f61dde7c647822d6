"""What a process counts of its own calls: attempts at each provider, and requests of the last minute."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llm_proxy_service.response import ProviderMetrics, RateLimitStatus

WINDOW_S = 60.0
FAILING_FROM = 3


@dataclass(slots=True)
class ProviderMeter:
    """The attempts at one provider."""

    requests: int = 0
    errors: int = 0
    good: int = 0
    active: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    failed_in_a_row: int = 0
    failed_at: float = 0.0

    def begin(self) -> None:
        """Count an attempt that runs."""
        self.requests += 1
        self.active += 1

    def end(self, seconds: float, tokens: int, cost: float | None) -> None:
        """Count an attempt that succeeded."""
        self.active -= 1
        self.good += 1
        self.failed_in_a_row = 0
        self.seconds += seconds
        self.tokens += tokens
        self.cost += cost or 0.0

    def fail(self, *, blameless: bool = False) -> None:
        """Count an attempt that failed; `blameless` where the request was at fault."""
        self.active -= 1
        if not blameless:
            self.errors += 1
            self.failed_in_a_row += 1
            self.failed_at = time.monotonic()

    def abandon(self) -> None:
        """Count an attempt that the caller gave up."""
        self.active -= 1

    def is_failing(self) -> bool:
        """Whether nothing succeeded lately: several attempts in a row failed, the last within a minute."""
        recent = time.monotonic() - self.failed_at < WINDOW_S
        return recent and self.failed_in_a_row >= FAILING_FROM

    def metrics(self) -> ProviderMetrics:
        """The figures as callers see them."""
        return {
            "request_count": self.requests,
            "error_count": self.errors,
            "error_rate": self.errors / self.requests if self.requests else 0.0,
            "avg_latency": self.seconds / self.good if self.good else 0.0,
            "active_requests": self.active,
            "total_tokens": self.tokens,
            "total_cost": self.cost,
        }


class RequestWindow:
    """The requests of the last minute, against a limit."""

    def __init__(self, limit: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._times: deque[float] = deque()

    def take(self) -> bool:
        """Count a request; False, and not counted, where the limit is reached."""
        if self.limit is None:
            return True
        self._forget()
        if len(self._times) >= self.limit:
            return False
        self._times.append(self._clock())
        return True

    def status(self) -> RateLimitStatus:
        """The limit, what is left of it, and the seconds until the next request is free."""
        if self.limit is None:
            return {"limit": None, "remaining": None, "reset_in": 0.0}
        self._forget()
        remaining = self.limit - len(self._times)
        wait = self._times[0] + WINDOW_S - self._clock() if remaining <= 0 and self._times else 0.0
        return {"limit": self.limit, "remaining": remaining, "reset_in": max(wait, 0.0)}

    def _forget(self) -> None:
        oldest = self._clock() - WINDOW_S
        while self._times and self._times[0] <= oldest:
            self._times.popleft()
