"""The sidecars: which are live, and which has the fewest calls running.

Pure but for the clock passed in. Ejection: a refused connection, or a burst of failures, takes a sidecar
out for a while that doubles up to a bound; then one call tries it (half open), a good answer brings it back.
Invariants: `in_flight` counts calls, never below zero; with every sidecar ejected the one due back first is
tried, so that a pool of one recovers by itself. Units: seconds of one monotonic clock.
"""

import re
from collections.abc import Iterable

EJECT_S = 1.0
EJECT_MAX_S = 30.0
BURST = 5

_RANGE = re.compile(r"^(https?://[^/]+:)(\d+)-(\d+)(/.*)?$")


def expand(urls: Iterable[str]) -> tuple[str, ...]:
    """Base URLs with port ranges written out, without a trailing slash or `/v1`."""
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
    """One LiteLLM process: its address and how it has behaved lately."""

    __slots__ = (
        "eject_s",
        "ejected_until",
        "failures",
        "host",
        "in_flight",
        "served",
        "since",
        "trial",
        "url",
    )

    def __init__(self, url: str, *, host: str | None = None) -> None:
        self.url = url
        self.host = host
        self.in_flight = 0
        self.served = 0
        self.failures = 0
        self.ejected_until = 0.0
        self.eject_s = EJECT_S
        self.trial = False
        self.since = 0.0

    @property
    def live(self) -> bool:
        """Not ejected."""
        return not self.ejected_until

    def open_to(self, now: float) -> bool:
        """Whether a call may be sent: live, or due for its one trial."""
        return not self.ejected_until or (now >= self.ejected_until and not self.trial)

    def take(self, now: float) -> None:
        """A call begins."""
        self.in_flight += 1
        if self.ejected_until and now >= self.ejected_until:
            self.trial = True

    def give(self) -> None:
        """A call has ended."""
        self.in_flight = max(0, self.in_flight - 1)
        self.trial = False

    def succeeded(self) -> None:
        """It answered: back in, with a clean slate."""
        self.served += 1
        self.failures = 0
        self.trial = False
        if self.ejected_until:
            self.ejected_until = 0.0
            self.eject_s = EJECT_S

    def failed(self, now: float, *, fatal: bool) -> None:
        """It did not answer, or broke. A fatal failure (refused, dead) ejects at once, others by a burst."""
        self.failures += 1
        self.trial = False
        if fatal or self.failures >= BURST or self.ejected_until:
            if not self.ejected_until:
                self.since = now
            self.ejected_until = now + self.eject_s
            self.eject_s = min(self.eject_s * 2, EJECT_MAX_S)


class Pool:
    """The sidecars behind this gateway."""

    def __init__(self, urls: Iterable[str], *, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.sidecars: list[Sidecar] = [Sidecar(url) for url in expand(urls)]
        self._turn = 0

    def pick(self, now: float, tried: Iterable[Sidecar] = ()) -> Sidecar | None:
        """The open sidecar with the fewest calls running, in turn among equals; None when all are full.

        Args:
            now: The present.
            tried: Sidecars this call was already refused by.
        """
        left = [one for one in self.sidecars if one not in tried]
        if not left:
            return None
        if len(left) == 1:
            chosen = left[0]
            return chosen if chosen.in_flight < self.max_in_flight else None
        ready = [one for one in left if one.open_to(now)] or [min(left, key=lambda one: one.ejected_until)]
        self._turn += 1
        start = self._turn % len(ready)
        chosen = min(ready[start:] + ready[:start], key=lambda one: one.in_flight)
        return chosen if chosen.in_flight < self.max_in_flight else None

    def replace(self, urls: Iterable[tuple[str, str | None]]) -> None:
        """Follow a changed list of addresses; sidecars that stay keep their state."""
        known = {(one.url, one.host): one for one in self.sidecars}
        self.sidecars = [known.get(key) or Sidecar(key[0], host=key[1]) for key in urls] or self.sidecars

    @property
    def live(self) -> int:
        """How many are not ejected."""
        return sum(one.live for one in self.sidecars)

    @property
    def in_flight(self) -> int:
        """Calls running in all of them."""
        return sum(one.in_flight for one in self.sidecars)
