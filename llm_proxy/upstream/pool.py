"""The sidecars: health, calls in flight, ejection.

A sidecar is `away` after a refused connection, two missed checks or a notice that it drains, until its next
good check. It is `ejected` after a burst of failed calls; one trial call brings it back. Invariants: the
live sidecar with the fewest calls is chosen; with none live, the others are tried. Units: seconds of one
monotonic clock.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from llm_proxy.call_guard import CallGuard

SidecarState = Literal["live", "away", "ejected", "unknown"]
SIDECAR_STATES: tuple[SidecarState, ...] = get_args(SidecarState)
EJECT_S = 1.0
EJECT_MAX_S = 30.0
EJECT_AFTER_FAILURES = 5
DOWN_AFTER_MISSES = 2

_RANGE = re.compile(r"^(https?://[^/]+:)(\d+)-(\d+)(/.*)?$")


def expand_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """Base URLs with port ranges expanded, without a trailing slash or `/v1`."""
    found: list[str] = []
    for url in urls:
        ranged = _RANGE.match(url)
        if ranged:
            start, end = int(ranged[2]), int(ranged[3])
            found.extend(f"{ranged[1]}{port}{ranged[4] or ''}" for port in range(start, end + 1))
        else:
            found.append(url)
    return tuple(url.rstrip("/").removesuffix("/v1") for url in found)


class Sidecar:
    """One LiteLLM process: its address and its recent behaviour.

    Attributes:
        successes: Good checks and answers so far; 0 until the first one.
        is_down: It cannot be reached, does not answer, or is draining.
        silent_since: When the first unanswered check was sent; None while it answers.
        failures: Calls that broke at it, in a row.
        ejected_until: When one call may try it again after a burst of failures; 0 while it is not ejected.
        on_trial: Whether that call runs.
        calls: The calls running at it.
    """

    __slots__ = (
        "calls", "eject_s", "ejected_until", "failures", "host", "in_flight", "is_down", "misses",
        "on_trial", "silent_since", "successes", "url",
    )  # fmt: skip

    def __init__(self, url: str, *, host: str | None = None) -> None:
        self.url = url
        self.host = host
        self.in_flight = 0
        self.successes = 0
        self.is_down = False
        self.misses = 0
        self.silent_since: float | None = None
        self.failures = 0
        self.ejected_until = 0.0
        self.eject_s = EJECT_S
        self.on_trial = False
        self.calls: set[CallGuard] = set()

    @property
    def is_live(self) -> bool:
        """Neither down nor ejected."""
        return not self.is_down and not self.ejected_until

    @property
    def state(self) -> SidecarState:
        """Its state as metrics name it; `unknown` until it has answered for the first time."""
        if self.is_down:
            return "away"
        if self.ejected_until:
            return "ejected"
        return "live" if self.successes > 0 else "unknown"

    def accepts_call(self, now: float) -> bool:
        """Whether a call may be sent: it is live, or due for its one trial."""
        return not self.is_down and (
            not self.ejected_until or (now >= self.ejected_until and not self.on_trial)
        )

    def begin_call(self, now: float) -> None:
        """Counts a call that begins."""
        self.in_flight += 1
        if self.ejected_until and now >= self.ejected_until:
            self.on_trial = True

    def end_call(self) -> None:
        """Counts a call that has ended."""
        self.in_flight = max(0, self.in_flight - 1)
        self.on_trial = False

    def mark_healthy(self) -> None:
        """Records an answered check; failures of calls stay counted."""
        self.successes += 1
        self.misses, self.is_down, self.silent_since = 0, False, None

    def mark_down(self) -> None:
        """Takes the sidecar out until a good check: it refused a connection, or is draining."""
        self.is_down = True

    def mark_busy(self) -> None:
        """Records a late check of a sidecar that sends data of calls meanwhile."""
        self.misses, self.silent_since = 0, None

    def record_miss(self, asked_at: float) -> None:
        """Records a check, sent at `asked_at`, without any answer; the second in a row takes it out."""
        self.misses += 1
        if self.silent_since is None:
            self.silent_since = asked_at
        self.is_down = self.is_down or self.misses >= DOWN_AFTER_MISSES

    def record_success(self) -> None:
        """Records an answered call; resets failures and misses."""
        self.successes += 1
        self.failures = 0
        self.on_trial = False
        self.misses, self.is_down, self.silent_since = 0, False, None
        if self.ejected_until:
            self.ejected_until, self.eject_s = 0.0, EJECT_S

    def record_failure(self, now: float) -> None:
        """Records a call that broke; a burst of them ejects the sidecar."""
        self.failures += 1
        self.on_trial = False
        if self.failures >= EJECT_AFTER_FAILURES or self.ejected_until:
            self.ejected_until = now + self.eject_s
            self.eject_s = min(self.eject_s * 2, EJECT_MAX_S)


class SidecarPool:
    """The sidecars behind this gateway."""

    def __init__(self, urls: Iterable[str], *, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.sidecars: list[Sidecar] = [Sidecar(url) for url in expand_urls(urls) if url[0] != "@"]
        self._next_start = 0

    def liveness(self) -> dict[str, bool]:
        """Returns, by address, whether each sidecar is live and has answered a check."""
        return {one.url: one.is_live and one.successes > 0 for one in self.sidecars}

    def pick(self, now: float, tried: Iterable[Sidecar] = ()) -> Sidecar | None:
        """Returns the live sidecar with the fewest calls, round robin among equals; None when all are full.

        Args:
            now: The time.
            tried: Sidecars at which this call has already failed.
        """
        left = [one for one in self.sidecars if one not in tried] if tried else self.sidecars
        if len(left) == 1:
            return left[0] if left[0].in_flight < self.max_in_flight else None
        left = self._usable(left, now)
        if not left:
            return None
        self._next_start += 1
        start = self._next_start % len(left)
        chosen = min(left[start:] + left[:start], key=lambda one: one.in_flight)
        return chosen if chosen.in_flight < self.max_in_flight else None

    def _usable(self, left: list[Sidecar], now: float) -> list[Sidecar]:
        return (
            [one for one in left if one.accepts_call(now)] or [one for one in left if not one.is_down] or left
        )

    def replace(self, urls: Iterable[tuple[str, str | None]]) -> None:
        """Follows a changed list of addresses; sidecars that stay keep their state."""
        known = {(one.url, one.host): one for one in self.sidecars}
        self.sidecars = [known.get(key) or Sidecar(key[0], host=key[1]) for key in urls] or self.sidecars

    @property
    def live(self) -> int:
        """The number of sidecars that are neither down nor ejected."""
        return sum(one.is_live for one in self.sidecars)

    def slots(self, now: float) -> tuple[int, int]:
        """Returns how many slots are free at the sidecars that calls are sent to, and how many they have."""
        used = [one.in_flight for one in self._usable(self.sidecars, now)]
        return sum(max(0, self.max_in_flight - one) for one in used), self.max_in_flight * len(used)

    @property
    def in_flight(self) -> int:
        """The number of calls running at all of them."""
        return sum(one.in_flight for one in self.sidecars)
