"""Replaces sidecars: new ones start, take over, and the old ones drain and stop.

All sidecars are replaced on request or when a watched file changes; one alone when it is over its recycle
limits. Invariants: old sidecars serve until every new one is ready; a configuration that is invalid or
does not start changes nothing and its reason is reported; one replacement at a time; `step` never waits
long. A file change is reported once, after the file stayed the same for one poll: editors write in steps.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import StackPlan
from llm_proxy.stack.probe import completed_calls, free_port, in_flight
from llm_proxy.stack.process import ManagedProcess, ProcessFailed, raise_if_failed
from llm_proxy.stack.process_specs import HARD_MIB_VARIABLE, UNLIMITED, resident_mib
from llm_proxy.stack.state_dir import ReloadStatus
from llm_proxy.stack.supervisor import PrintLine, Supervisor

FILE_POLL_EVERY_S = 1.0

FileSignature = tuple[tuple[str, int, int], ...]


class FileWatcher:
    """Looks at files once a second; the list of files is asked for anew each time."""

    def __init__(self, now_s: float, files: Iterable[Path]) -> None:
        self._told = self._seen = _file_signature(files)
        self._looked_at_s = now_s

    def has_changed(self, now_s: float, files: Iterable[Path]) -> bool:
        """Whether something has changed since the last change that was told."""
        if now_s - self._looked_at_s < FILE_POLL_EVERY_S:
            return False
        self._looked_at_s = now_s
        before, self._seen = self._seen, _file_signature(files)
        if self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True

    def mark_read(self, files: Iterable[Path]) -> None:
        """Count what the files hold now as found: a reload is about to read it."""
        self._told = self._seen = _file_signature(files)


def _file_signature(files: Iterable[Path]) -> FileSignature:
    found: list[tuple[str, int, int]] = []
    for file in files:
        try:
            seen = file.stat()
        except OSError:
            continue
        found.append((str(file), seen.st_mtime_ns, seen.st_size))
    return tuple(sorted(found))


LIST_READ_AFTER_S = 3.0
"""By then every gateway process has read the new list: it looks once a second."""

DRAIN_POLL_EVERY_S = 0.5
CALLS_POLL_EVERY_S = 5.0
"""Answered calls; memory is looked at every time."""
RETRY_AFTER_S = 60.0
"""After a fresh one did not come up in the place of one that has had its share."""

ReadOperatorEnv = Callable[[], OperatorEnv]
CheckConfig = Callable[[Path, Mapping[str, str]], list[str]]
"""What is wrong with a configuration, given these names; nothing when it may be served."""


@dataclass(slots=True)
class _Replacement:
    """New sidecars on their way.

    Attributes:
        plan: What holds when they have taken over; its ports are theirs alone.
        places: The numbers of those whose places they take.
        why: Why, when nobody asked; None when somebody waits for the outcome.
        said: What was told so far.
        ready: Which are ready, by number.
    """

    plan: StackPlan
    sidecars: dict[int, ManagedProcess]
    places: tuple[int, ...]
    began_ns: int
    why: str | None = None
    said: list[str] = field(default_factory=list[str])
    ready: set[int] = field(default_factory=set[int])


@dataclass(slots=True)
class _DrainingSidecar:
    """An old sidecar that finishes what runs at it."""

    running: ManagedProcess
    port: int
    since_s: float
    asked_at_s: float


class RollingRestart:
    """Exchanges the sidecars of a running stack when asked to, or when a watched file changes."""

    def __init__(
        self,
        household: Supervisor,
        plan: StackPlan,
        *,
        look: ReadOperatorEnv,
        check: CheckConfig,
        say: PrintLine,
    ) -> None:
        """Look at the files before a sidecar reads them: what changes while it starts is not missed.

        Args:
            household: What runs.
            plan: As it is about to be started.
            look: Reads anew what the operator gives.
            check: What is wrong with a configuration; faults it started with are not held against it.
            say: Where people read.
        """
        self._household, self._plan, self._start = household, plan, plan
        self._sidecars: dict[int, ManagedProcess] = {}
        self._born_mib: dict[int, float] = {}
        self._counted_at_s = self._not_before_s = 0.0
        self._look, self._check, self._say = look, check, say
        self._known = frozenset(check(plan.config, plan.operator_env.variables))
        self._asked = False
        self._coming: _Replacement | None = None
        self._leaving: list[_DrainingSidecar] = []
        self._changes = FileWatcher(time.monotonic(), plan.watched_files()) if plan.is_development else None

    def adopt(self, sidecars: dict[int, ManagedProcess]) -> None:
        """Take charge of the sidecars the stack has started with, by number."""
        self._sidecars = sidecars
        self._weigh()

    def request(self) -> None:
        """Exchange them soon; safe in a signal handler."""
        self._asked = True

    def tick(self, now_s: float) -> None:
        """One look; called ten times a second."""
        if self._changes is not None and self._changes.has_changed(now_s, self._plan.watched_files()):
            self._say(f"{self._plan.config} or a key has changed")
            self._asked = True
        self._bound()
        if self._asked and self._coming is None:
            self._asked = False
            self._begin()
        elif self._coming is None and now_s >= self._not_before_s:
            self._refresh(now_s)
        if self._coming is not None:
            self._await(self._coming, now_s)
        self._leaving = [one for one in self._leaving if not self._gone(one, now_s)]

    def _begin(self) -> None:
        began_ns = time.monotonic_ns()
        if self._changes is not None:
            self._changes.mark_read(self._plan.watched_files())
        try:
            given = self._look()
            plan = self._plan.with_operator_env(given, self._numbers(len(self._sidecars)))
            faults = [
                one for one in self._check(plan.config, plan.operator_env.variables) if one not in self._known
            ]
            if faults:
                self._refuse(began_ns, faults)
                return
            started = {number: self._household.start(part) for number, part in plan.sidecar_specs()}
        except (OSError, UnicodeDecodeError, ProcessFailed) as fault:
            self._refuse(began_ns, [str(fault)])
            return
        self._coming = coming = _Replacement(plan, started, tuple(self._sidecars), began_ns)
        if unheeded := self._start.changed_start_settings(given):
            self._tell(coming, f"changed, and read at a start alone: {', '.join(unheeded)}")
        self._tell(coming, f"starting {_named(started)} with the new configuration")

    def _tell(self, coming: _Replacement, line: str, *, done: bool | None = None) -> None:
        self._say(line)
        coming.said.append(line)
        if coming.why is None:
            ReloadStatus(coming.began_ns, done=done, said=tuple(coming.said)).write(self._plan.state)

    def _refresh(self, now_s: float) -> None:
        """Start a fresh one for the first that has had its share."""
        counting = (
            self._plan.recycle_limits.max_calls < UNLIMITED
            and now_s - self._counted_at_s >= CALLS_POLL_EVERY_S
        )
        self._counted_at_s = now_s if counting else self._counted_at_s
        for number, port in self._plan.sidecar_ports.items():
            mib = resident_mib(self._running(number).popen.pid)
            calls = completed_calls(port) if counting else 0
            why = self._plan.recycle_limits.recycle_reason(mib, self._born_mib[number], calls)
            if why:
                self._replace(number, why, now_s)
                return

    def _replace(self, number: int, why: str, now_s: float) -> None:
        plan = replace(self._plan, sidecar_ports=self._numbers(1))
        try:
            started = {new: self._household.start(part) for new, part in plan.sidecar_specs()}
        except (OSError, UnicodeDecodeError, ProcessFailed) as fault:
            self._stays(why, str(fault), now_s)
            return
        self._say(f"sidecar-{number} {why}: starting {_named(started)} to take its place")
        self._coming = _Replacement(plan, started, (number,), time.monotonic_ns(), why)

    def _bound(self) -> None:
        """Kill what holds more than it ever may; who keeps the parts up starts it again."""
        every = [self._running(number) for number in self._sidecars]
        for running in (*every, *(one.running for one in self._leaving)):
            mib = resident_mib(running.popen.pid) if running.is_alive() else 0.0
            if mib > self._plan.recycle_limits.hard_mib:
                self._say(
                    f"{running.spec.name} holds {mib:.0f} MiB, more than {HARD_MIB_VARIABLE} allows: killed"
                )
                running.popen.kill()

    def _weigh(self) -> None:
        """Note what each holds when it begins to serve."""
        for number in self._sidecars:
            mib = resident_mib(self._running(number).popen.pid)
            self._born_mib.setdefault(number, mib)

    def _running(self, number: int) -> ManagedProcess:
        """A sidecar as it runs now, perhaps not for the first time."""
        return self._household.current(self._sidecars[number].spec.name)

    def _numbers(self, how_many: int) -> dict[int, int]:
        """A free number and port for each."""
        taken = set(self._sidecars) | {int(one.running.spec.name.rpartition("-")[2]) for one in self._leaving}
        free = (number for number in range(1, 1000) if number not in taken)
        return {next(free): free_port() for _ in range(how_many)}

    def _await(self, coming: _Replacement, now_s: float) -> None:
        try:
            for number, running in coming.sidecars.items():
                if number in coming.ready:
                    continue
                if not running.is_ready():
                    raise_if_failed(running)
                    return
                coming.ready.add(number)
                after_s = (time.monotonic_ns() - coming.began_ns) / 1e9
                self._tell(coming, f"{running.spec.name} is ready after {after_s:.1f} s")
        except ProcessFailed as fault:
            self._coming = None
            self._household.retire(coming.sidecars.values())
            if coming.why is None:
                self._refuse(coming.began_ns, [str(fault)], coming.said)
            else:
                self._stays(coming.why, str(fault), now_s)
        else:
            self._take_over(coming, now_s)

    def _take_over(self, coming: _Replacement, now_s: float) -> None:
        self._coming = None
        old = {number: self._running(number) for number in coming.places}
        ports = self._plan.sidecar_ports
        kept = {number: port for number, port in ports.items() if number not in old}
        self._plan = replace(coming.plan, sidecar_ports={**kept, **coming.plan.sidecar_ports})
        self._sidecars = {number: self._sidecars[number] for number in kept} | coming.sidecars
        self._born_mib = {number: self._born_mib[number] for number in kept}
        self._weigh()
        self._plan.write_sidecar_list()
        self._household.hand_over(old.values(), coming.sidecars.values())
        self._leaving += [_DrainingSidecar(one, ports[number], now_s, now_s) for number, one in old.items()]
        self._tell(coming, f"{_named(coming.sidecars)} took over from {_named(old)}", done=True)

    def _stays(self, why: str, fault: str, now_s: float) -> None:
        self._not_before_s = now_s + RETRY_AFTER_S
        self._say(f"no other sidecar came up, so the one that {why} stays: {fault}")

    def _refuse(self, began_ns: int, faults: list[str], said: Sequence[str] = ()) -> None:
        self._say("the new configuration is refused, the old one stays:")
        for fault in faults:
            self._say(f"  {fault}")
        ReloadStatus(began_ns, done=False, said=(*said, *faults)).write(self._plan.state)

    def _gone(self, one: _DrainingSidecar, now_s: float) -> bool:
        """Whether an old sidecar has ended; it is told to when nothing runs at it any more."""
        waited_s = now_s - one.since_s
        if one.running.is_alive():
            if waited_s < LIST_READ_AFTER_S or now_s - one.asked_at_s < DRAIN_POLL_EVERY_S:
                return False
            one.asked_at_s = now_s
            if waited_s < self._plan.settings.total_timeout_s and in_flight(one.port) != 0:
                return False
        self._household.retire([one.running])
        self._say(f"{one.running.spec.name} has drained and stopped")
        return True


def _named(sidecars: Mapping[int, ManagedProcess]) -> str:
    return ", ".join(running.spec.name for running in sidecars.values())
