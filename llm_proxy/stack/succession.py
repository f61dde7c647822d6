"""How sidecars are exchanged: new ones come up, take over, and the old ones drain and stop.

Invariants: the old ones serve until every new one is ready; what does not validate or does not come up
leaves them as they are, and says why; one exchange at a time; `step` never waits long.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.stack.changes import Changes
from llm_proxy.stack.household import Household, Say
from llm_proxy.stack.outcome import Outcome
from llm_proxy.stack.part import PartDied, Running, refuse_to_wait
from llm_proxy.stack.plan import Plan
from llm_proxy.stack.ports import free_port
from llm_proxy.stack.probe import in_flight
from llm_proxy.stack.surroundings import Surroundings

HEARD_AFTER_S = 3.0
"""By then every gateway process has read the new list: it looks once a second."""

ASK_EVERY_S = 0.5

Look = Callable[[], Surroundings]
Check = Callable[[Path, Mapping[str, str]], list[str]]
"""What is wrong with a configuration, given these names; nothing when it may be served."""


@dataclass(slots=True)
class _Coming:
    """New sidecars on their way."""

    plan: Plan
    sidecars: dict[int, Running]
    began_ns: int


@dataclass(slots=True)
class _Leaving:
    """An old sidecar that finishes what runs at it."""

    running: Running
    port: int
    since_s: float
    asked_at_s: float


class Succession:
    """Exchanges the sidecars of a running stack when asked to, or when a watched file changes."""

    def __init__(
        self,
        household: Household,
        plan: Plan,
        *,
        look: Look,
        check: Check,
        say: Say,
    ) -> None:
        """Look at the files before a sidecar reads them: what changes while it starts is not missed.

        Args:
            household: What runs.
            plan: As it is about to be started.
            look: Reads anew what the operator gives.
            check: What is wrong with a configuration; faults it started with are not held against it.
            say: Where people read.
        """
        self._household, self._plan = household, plan
        self._sidecars: dict[int, Running] = {}
        self._look, self._check, self._say = look, check, say
        self._known = frozenset(check(plan.config, plan.given.names))
        self._asked = False
        self._coming: _Coming | None = None
        self._leaving: list[_Leaving] = []
        self._changes = Changes(time.monotonic(), plan.watched()) if plan.development else None

    def begin_with(self, sidecars: dict[int, Running]) -> None:
        """Take charge of the sidecars the stack has started with, by number."""
        self._sidecars = sidecars

    def ask(self) -> None:
        """Exchange them soon; safe in a signal handler."""
        self._asked = True

    def step(self, now_s: float) -> None:
        """One look; called ten times a second."""
        if self._changes is not None and self._changes.found(now_s, self._plan.watched()):
            self._say(f"{self._plan.config} or a key has changed")
            self._asked = True
        if self._asked and self._coming is None:
            self._asked = False
            self._begin()
        if self._coming is not None:
            self._await(self._coming, now_s)
        self._leaving = [one for one in self._leaving if not self._gone(one, now_s)]

    def _begin(self) -> None:
        began_ns = time.monotonic_ns()
        try:
            plan = self._plan.with_given(self._look(), self._numbers())
            faults = [one for one in self._check(plan.config, plan.given.names) if one not in self._known]
            if faults:
                self._refuse(began_ns, faults)
                return
            started = {number: self._household.start(part) for number, part in plan.sidecars()}
        except (OSError, UnicodeDecodeError, PartDied) as fault:
            self._refuse(began_ns, [str(fault)])
            return
        self._say(f"starting {_named(started)} with the new configuration")
        self._coming = _Coming(plan, started, began_ns)

    def _numbers(self) -> dict[int, int]:
        """A free number and port for each."""
        taken = set(self._sidecars) | {int(one.running.part.name.rpartition("-")[2]) for one in self._leaving}
        free = (number for number in range(1, 1000) if number not in taken)
        return {next(free): free_port() for _ in self._sidecars}

    def _await(self, coming: _Coming, now_s: float) -> None:
        try:
            for running in coming.sidecars.values():
                if not running.ready():
                    refuse_to_wait(running)
                    return
        except PartDied as fault:
            self._coming = None
            self._household.end(coming.sidecars.values())
            self._refuse(coming.began_ns, [str(fault)])
        else:
            self._take_over(coming, now_s)

    def _take_over(self, coming: _Coming, now_s: float) -> None:
        self._coming = None
        old = {number: self._household.running(one.part.name) for number, one in self._sidecars.items()}
        ports = self._plan.sidecar_ports
        self._plan, self._sidecars = coming.plan, coming.sidecars
        self._plan.list_sidecars()
        self._household.exchange(old.values(), coming.sidecars.values())
        self._leaving += [_Leaving(one, ports[number], now_s, now_s) for number, one in old.items()]
        said = f"{_named(coming.sidecars)} took over from {_named(old)}"
        self._say(said)
        Outcome(coming.began_ns, done=True, said=(said,)).write(self._plan.state)

    def _refuse(self, began_ns: int, faults: list[str]) -> None:
        self._say("the new configuration is refused, the old one stays:")
        for fault in faults:
            self._say(f"  {fault}")
        Outcome(began_ns, done=False, said=tuple(faults)).write(self._plan.state)

    def _gone(self, one: _Leaving, now_s: float) -> bool:
        """Whether an old sidecar has ended; it is told to when nothing runs at it any more."""
        waited_s = now_s - one.since_s
        if one.running.alive():
            if waited_s < HEARD_AFTER_S or now_s - one.asked_at_s < ASK_EVERY_S:
                return False
            one.asked_at_s = now_s
            if waited_s < self._plan.settings.total_timeout_s and in_flight(one.port) != 0:
                return False
        self._household.end([one.running])
        self._say(f"{one.running.part.name} has drained and stopped")
        return True


def _named(sidecars: Mapping[int, Running]) -> str:
    return ", ".join(running.part.name for running in sidecars.values())
