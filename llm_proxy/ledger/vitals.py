"""How each model group and deployment has fared of late, seen from the calls that ended here.

Invariants: nobody is ever called to find out; a caller's own fault and a caller who left say nothing of a
model; what a retry inside the sidecar mended stays unseen. Of one process: `vitals_shared` adds several up.
Units: seconds since 1970.
"""

import time
from collections.abc import Callable
from typing import Any

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

    def state(self) -> list[Any]:
        """All of it, for another process."""
        minutes = [list(one) for one in zip(self._minutes, self._calls, self._failures, strict=True)]
        return [self.last_success_s, self.last_failure_s, self.code, minutes]

    def add(self, state: list[Any]) -> None:
        """What another process saw counts too."""
        success_s, failure_s, code, minutes = state
        self.last_success_s = max(filter(None, (self.last_success_s, success_s)), default=None)
        if failure_s is not None and failure_s > (self.last_failure_s or 0):
            self.last_failure_s, self.code = failure_s, code
        for at, (minute, calls, failures) in enumerate(minutes[:MINUTES]):
            if minute > self._minutes[at]:
                self._minutes[at], self._calls[at], self._failures[at] = minute, calls, failures
            elif minute == self._minutes[at]:
                self._calls[at] += calls
                self._failures[at] += failures

    def lately(self, now_s: float) -> tuple[int, int]:
        """Calls and failures of the last minutes."""
        oldest = int(now_s) // 60 - MINUTES
        recent = [at for at in range(MINUTES) if self._minutes[at] > oldest]
        return sum(self._calls[at] for at in recent), sum(self._failures[at] for at in recent)


class Vitals:
    """What is known of all of them.

    Attributes:
        seen: How many calls it was told of.
    """

    def __init__(self, clock_s: Callable[[], float] = time.time) -> None:
        self._clock_s = clock_s
        self._groups: dict[str, Vital] = {}
        self._deployments: dict[str, Vital] = {}
        self.seen = 0

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
        self.seen += 1
        _of(self._groups, record.group).saw(now_s, failure)
        if record.deployment is not None:
            _of(self._deployments, record.deployment).saw(now_s, failure)

    def group(self, name: str) -> Vital | None:
        """A group; None while nobody has called it."""
        return self._groups.get(name)

    def deployment(self, name: str) -> Vital | None:
        """A deployment, by its id; an error seldom says whose it was, a success or a cut does."""
        return self._deployments.get(name)

    def state(self) -> dict[str, dict[str, list[Any]]]:
        """All of it, for another process."""
        return {
            "groups": {name: one.state() for name, one in self._groups.items()},
            "deployments": {name: one.state() for name, one in self._deployments.items()},
        }

    def add(self, state: dict[str, dict[str, list[Any]]]) -> None:
        """What another process saw counts too."""
        for known, named in ((self._groups, state["groups"]), (self._deployments, state["deployments"])):
            for name, one in named.items():
                _of(known, name).add(one)

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
