"""Failed sign-ins: put on record with their address, and slowed where they come in bursts.

Invariants: an attempt counts from its beginning, so that parallel ones do not slip through, and no longer if
it succeeds; memory is bounded; an address of IPv6 counts with its /64, which one holder has as a whole.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from llm_proxy.identity import AuthFailureLog

BURST = 20
"""Attempts that one address may fail at once."""
SECONDS_PER_ATTEMPT = 15.0
"""After which one of them is forgotten."""
MAX_ADDRESSES = 10_000
_PREFIX_BITS = 64
_MAX_CREDENTIAL_BYTES = 512


class SignInThrottle:
    """Counts the failed attempts of each address; pure but for the clock."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def begin(self, address: str | None) -> float:
        """Counts an attempt and returns 0; for one too many, returns the seconds until the next may begin."""
        source, now = _source(address), self._clock_s()
        level = self._level(source, now) + 1
        if level > BURST:
            return (level - BURST) * SECONDS_PER_ATTEMPT
        self._levels[source] = level, now
        self._levels.move_to_end(source)
        if len(self._levels) > MAX_ADDRESSES:
            self._levels.popitem(last=False)
        return 0.0

    def forget(self, address: str | None) -> None:
        """Takes back an attempt that did not fail: others of this address still count."""
        source, now = _source(address), self._clock_s()
        level = self._level(source, now) - 1
        if level > 0:
            self._levels[source] = level, now
        else:
            self._levels.pop(source, None)

    def _level(self, source: str, now: float) -> float:
        level, at = self._levels.get(source, (0.0, now))
        return max(0.0, level - (now - at) / SECONDS_PER_ATTEMPT)

    def __len__(self) -> int:
        """Returns the number of addresses in memory."""
        return len(self._levels)


class SignInAttempts:
    """What each attempt to sign in passes."""

    def __init__(self, failures: AuthFailureLog) -> None:
        self.failures = failures
        self._throttle = SignInThrottle()

    def begin(self, address: str | None) -> int:
        """Counts an attempt with a key and returns 0; after a burst of failed ones, seconds to wait."""
        return math.ceil(self._throttle.begin(address))

    def did_not_fail(self, address: str | None) -> None:
        """Takes the attempt back: it succeeded, or its credential could not be checked."""
        self._throttle.forget(address)

    def failed(self, address: str | None, path: str, credential: str = "") -> None:
        """Puts a failed attempt on record; of a key its public part."""
        raw = credential.encode("utf-8", "replace")[:_MAX_CREDENTIAL_BYTES]
        self.failures.record(client_ip=address, path=path, credential=raw)


def _source(address: str | None) -> str:
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> _PREFIX_BITS << _PREFIX_BITS))
    return str(parsed)
