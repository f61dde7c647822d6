"""How each model group and deployment has fared of late, seen from the calls that ended here.

Invariants: nobody is ever called to find out; a caller's own fault and a caller who left say nothing of a
model; what a retry inside the sidecar mended stays unseen. Of one gateway process. Units: seconds since 1970.
"""

import time
from collections.abc import Callable

from llm_proxy.ledger.record import UsageRecord

MINUTES = 5
MOST_NAMES = 2000
A_PROVIDERS = frozenset({401, 403, 408, 429})
"""Refusals below 500 that a call which was admitted can only owe to a provider."""


class Vital:
    """One group or deployment.

    Attributes:
        code: Of the last failure.
    """

    __slots__ = ("_calls", "_failures", "_minutes", "code", "last_failure_s", "last_success_s")

    def __init__(self) -> None:
        self.last_success_s: float | None = None
        self.last_failure_s: float | None = None
        self.code: str | None = None
        self._minutes, self._calls, self._failures = [0] * MINUTES, [0] * MINUTES, [0] * MINUTES

    def saw(self, now_s: float, failure: str | None) -> None:
        """A call ended, well or with this code."""
        minute = int(now_s) // 60
        at = minute % MINUTES
        if self._minutes[at] != minute:
            self._minutes[at], self._calls[at], self._failures[at] = minute, 0, 0
        self._calls[at] += 1
        if failure is None:
            self.last_success_s = now_s
        else:
            self._failures[at] += 1
            self.last_failure_s, self.code = now_s, failure

    def lately(self, now_s: float) -> tuple[int, int]:
        """Calls and failures of the last minutes."""
        oldest = int(now_s) // 60 - MINUTES
        recent = [at for at in range(MINUTES) if self._minutes[at] > oldest]
        return sum(self._calls[at] for at in recent), sum(self._failures[at] for at in recent)


class Vitals:
    """What is known of all of them."""

    def __init__(self, clock_s: Callable[[], float] = time.time) -> None:
        self._clock_s = clock_s
        self._groups: dict[str, Vital] = {}
        self._deployments: dict[str, Vital] = {}

    def finished(self, record: UsageRecord) -> None:
        """A call ended."""
        if record.cache == "hit":
            return
        if record.outcome == "ok":
            failure = None
        elif record.outcome == "cut" or (
            record.outcome == "error" and (record.status >= 500 or record.status in A_PROVIDERS)
        ):
            failure = record.refusal_code or str(record.status)
        else:
            return
        now_s = self._clock_s()
        _of(self._groups, record.group).saw(now_s, failure)
        if record.deployment is not None:
            _of(self._deployments, record.deployment).saw(now_s, failure)

    def group(self, name: str) -> Vital | None:
        """A group; None while nobody has called it."""
        return self._groups.get(name)

    def deployment(self, name: str) -> Vital | None:
        """A deployment, by its id; an error seldom says whose it was, a success or a cut does."""
        return self._deployments.get(name)

    def now_s(self) -> float:
        """The time all this is measured in."""
        return self._clock_s()


def _of(known: dict[str, Vital], name: str) -> Vital:
    found = known.get(name)
    if found is None:
        if len(known) >= MOST_NAMES:
            known.pop(next(iter(known)))
        found = known[name] = Vital()
    return found
