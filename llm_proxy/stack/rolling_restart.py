"""Replaces sidecars and the gateway: new ones start, take over, and the old ones drain and stop.

All sidecars are replaced on request or when a watched file changes, then the gateway if its settings changed;
one sidecar alone when it is over its recycle limits. Invariants: old ones serve until new ones do; what is
invalid or does not start changes nothing and is reported; one replacement at a time; `tick` never blocks. A
file change is reported once, after the file stayed the same for one poll: editors write in steps.
"""

import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from llm_proxy.secret_files import SecretFileUnreadable
from llm_proxy.service_urls import InvalidURL
from llm_proxy.settings import setting_errors
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import StackPlan, StartRefused
from llm_proxy.stack.probe import completed_calls, free_port, in_flight
from llm_proxy.stack.process import ManagedProcess, ProcessFailed, raise_if_failed
from llm_proxy.stack.process_specs import HARD_MIB_VARIABLE, UNLIMITED, resident_mib
from llm_proxy.stack.state_dir import ReloadStatus, write_addresses
from llm_proxy.stack.supervisor import GATEWAY, PrintLine, Supervisor

FILE_POLL_EVERY_S = 1.0
LIST_READ_AFTER_S = 3.0
"""By then every gateway process has read the new list of sidecars, which it polls once a second."""

DRAIN_POLL_EVERY_S = 0.5
CALLS_POLL_EVERY_S = 5.0
RETRY_AFTER_S = 60.0
"""Pause after the replacement of a sidecar over its limits did not start."""

STACK_STOPS = "the stack is stopping"
_START_FAILURES = (OSError, UnicodeDecodeError, ProcessFailed, SecretFileUnreadable, InvalidURL, StartRefused)

FileSignature = tuple[tuple[str, int, int], ...]
ReadOperatorEnv = Callable[[], OperatorEnv]
CheckConfig = Callable[[Path, Mapping[str, str]], list[str]]
"""Takes a configuration and the operator's variables; returns the faults for which it is rejected."""


class FileWatcher:
    """Polls files for changes, at most once a second."""

    def __init__(self, now_s: float, files: Iterable[Path]) -> None:
        self._reported = self._seen = _file_signature(files)
        self._polled_at_s = now_s

    def has_changed(self, now_s: float, files: Iterable[Path]) -> bool:
        """Whether the files differ from those at the last reported change."""
        if now_s - self._polled_at_s < FILE_POLL_EVERY_S:
            return False
        self._polled_at_s = now_s
        before, self._seen = self._seen, _file_signature(files)
        if self._seen == self._reported or self._seen != before:
            return False
        self._reported = self._seen
        return True

    def mark_read(self, files: Iterable[Path]) -> None:
        """Counts the files' present state as reported: a rolling restart is about to read them."""
        self._reported = self._seen = _file_signature(files)


def _file_signature(files: Iterable[Path]) -> FileSignature:
    signature: list[tuple[str, int, int]] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        signature.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(sorted(signature))


@dataclass(slots=True)
class _Replacement:
    """New sidecars that are starting.

    Attributes:
        plan: The plan that holds when they take over; its ports are those of the new sidecars alone.
        sidecars: The new sidecars by number.
        replaces: The numbers of the sidecars they replace.
        asked_ns: When it was requested last; its status answers the requests until then.
        noticed: The watched files as a rolling restart read them that began because one had changed.
        reason: Why one sidecar is replaced; None for a rolling restart, whose status a command waits for.
        lines: What was printed so far.
        ready: The numbers of those that are ready.
        gateway: The new gateway, started when they have taken over; None before, and where none is needed.
    """

    plan: StackPlan
    sidecars: dict[int, ManagedProcess]
    replaces: tuple[int, ...]
    began_ns: int
    asked_ns: int
    noticed: FileSignature | None = None
    reason: str | None = None
    lines: list[str] = field(default_factory=list[str])
    ready: set[int] = field(default_factory=set[int])
    gateway: ManagedProcess | None = None


@dataclass(slots=True)
class _DrainingSidecar:
    """An old sidecar that still runs calls."""

    process: ManagedProcess
    port: int
    since_s: float
    polled_at_s: float


class RollingRestart:
    """Replaces the sidecars of a running stack."""

    def __init__(
        self,
        supervisor: Supervisor,
        plan: StackPlan,
        *,
        read_operator_env: ReadOperatorEnv,
        check_config: CheckConfig,
        print_line: PrintLine,
    ) -> None:
        """Reads the watched files before a sidecar does, so that no change during the start is missed.

        Args:
            supervisor: Runs the stack.
            plan: The plan about to be started.
            read_operator_env: Reads the operator's variables again.
            check_config: Checks a configuration. Faults of the first configuration do not reject a later one.
            print_line: Prints a line for the operator.
        """
        self._supervisor, self._plan, self._first_plan = supervisor, plan, plan
        self._sidecars: dict[int, ManagedProcess] = {}
        self._initial_mib: dict[int, float] = {}
        self._calls_polled_at_s = self._not_before_s = 0.0
        self._read_operator_env, self._check_config = read_operator_env, check_config
        self._print_line = print_line
        self._known_faults = frozenset(check_config(plan.config, plan.operator_env.variables))
        self._requested = self._noticed = self._stopping = False
        self._replacement: _Replacement | None = None
        self._draining: list[_DrainingSidecar] = []
        self._watcher = FileWatcher(time.monotonic(), plan.watched_files()) if plan.is_development else None

    def adopt(self, sidecars: dict[int, ManagedProcess]) -> None:
        """Takes over the sidecars the stack started with, by number."""
        self._sidecars = sidecars
        self._note_initial_memory()

    def request(self) -> None:
        """Requests a rolling restart; safe in a signal handler."""
        self._requested = True

    def stop(self) -> None:
        """Rejects the replacement that runs and all that are requested later: the stack is stopping.

        `tick` guards the memory limits only. Sidecars that drain keep their calls until the stack ends them.
        """
        self._stopping = True

    def tick(self, now_s: float) -> None:
        """Advances a replacement, or begins one that is due; called ten times a second."""
        if self._stopping:
            self._kill_over_hard_limit()
            self._reject_all()
            return
        if self._watcher is not None and self._watcher.has_changed(now_s, self._plan.watched_files()):
            self._print_line(f"{self._plan.config} or a key has changed")
            self._requested = self._noticed = True
        self._kill_over_hard_limit()
        if self._requested and self._replacement is None:
            is_noticed, self._requested, self._noticed = self._noticed, False, False
            self._begin(is_noticed=is_noticed)
        elif self._requested and self._replacement is not None and self._has_same_files(self._replacement):
            self._requested = False
            self._replacement.asked_ns = time.monotonic_ns()
            self._write_status(self._replacement)
        elif self._replacement is None and now_s >= self._not_before_s:
            self._recycle(now_s)
        if self._replacement is not None:
            self._advance(self._replacement, now_s)
        self._draining = [one for one in self._draining if not self._has_drained(one, now_s)]
        for process in self._supervisor.forget_ended():
            self._print_line(f"the {process.spec.name} before has drained and stopped")

    def _reject_all(self) -> None:
        """Rejects what runs and what is requested."""
        running, self._replacement = self._replacement, None
        if running is not None and running.reason is None:
            self._reject(running.asked_ns, [STACK_STOPS], running.lines)
        if self._requested:
            self._requested = False
            self._reject(time.monotonic_ns(), [STACK_STOPS])

    def _has_same_files(self, replacement: _Replacement) -> bool:
        """Whether the change that is being applied is the requested one: `reload` right after an edit."""
        return replacement.noticed is not None and replacement.noticed == self._noticed_files()

    def _noticed_files(self) -> FileSignature:
        """The watched files, and others beside the configuration that it may include."""
        beside = self._plan.config.parent.glob("*.y*ml")
        return _file_signature(sorted({*self._plan.watched_files(), *beside}))

    def _begin(self, *, is_noticed: bool) -> None:
        began_ns = time.monotonic_ns()
        noticed = self._noticed_files() if is_noticed else None
        if self._watcher is not None:
            self._watcher.mark_read(self._plan.watched_files())
        try:
            env = self._read_operator_env()
            plan = self._plan.with_operator_env(env, self._free_slots(len(self._sidecars)))
            faults = self._check_config(plan.config, plan.operator_env.variables)
            if new_faults := [one for one in faults if one not in self._known_faults]:
                self._reject(began_ns, new_faults)
                return
            started = self._start_sidecars(plan)
        except ValidationError as fault:
            self._reject(began_ns, setting_errors(fault))
            return
        except _START_FAILURES as fault:
            self._reject(began_ns, [str(fault)])
            return
        self._replacement = replacement = _Replacement(
            plan, started, tuple(self._sidecars), began_ns, began_ns, noticed
        )
        if ignored := self._first_plan.changed_start_settings(env):
            self._report(replacement, f"changed, but read at the start only: {', '.join(ignored)}")
        self._report(replacement, f"starting {_names(started)} with the new configuration")

    def _start_sidecars(self, plan: StackPlan) -> dict[int, ManagedProcess]:
        """Starts the plan's sidecars; if one cannot start, stops the others and raises its error."""
        started: dict[int, ManagedProcess] = {}
        try:
            for number, spec in plan.sidecar_specs():
                started[number] = self._supervisor.start(spec)
        except _START_FAILURES:
            self._supervisor.retire(started.values())
            raise
        return started

    def _report(self, replacement: _Replacement, line: str, *, done: bool | None = None) -> None:
        self._print_line(line)
        replacement.lines.append(line)
        if replacement.reason is None:
            self._write_status(replacement, done=done)

    def _write_status(self, replacement: _Replacement, *, done: bool | None = None) -> None:
        ReloadStatus(replacement.asked_ns, done, tuple(replacement.lines)).write(self._plan.state)

    def _recycle(self, now_s: float) -> None:
        """Begins to replace the first sidecar that is over its recycle limits."""
        limits = self._plan.recycle_limits
        polls_calls = limits.max_calls < UNLIMITED and now_s - self._calls_polled_at_s >= CALLS_POLL_EVERY_S
        if polls_calls:
            self._calls_polled_at_s = now_s
        for number, port in self._plan.sidecar_ports.items():
            mib = resident_mib(self._current(number).popen.pid)
            calls = completed_calls(port) if polls_calls else 0
            if reason := limits.recycle_reason(mib, self._initial_mib[number], calls):
                self._replace_one(number, reason, now_s)
                return

    def _replace_one(self, number: int, reason: str, now_s: float) -> None:
        plan = replace(self._plan, sidecar_ports=self._free_slots(1))
        try:
            started = self._start_sidecars(plan)
        except _START_FAILURES as fault:
            self._keep_old(reason, str(fault), now_s)
            return
        self._print_line(f"sidecar-{number} {reason}: starting {_names(started)} to replace it")
        began_ns = time.monotonic_ns()
        self._replacement = _Replacement(plan, started, (number,), began_ns, began_ns, reason=reason)

    def _kill_over_hard_limit(self) -> None:
        """Kills sidecars over the hard limit; the supervisor restarts them."""
        serving = [self._current(number) for number in self._sidecars]
        for process in (*serving, *(one.process for one in self._draining)):
            mib = resident_mib(process.popen.pid) if process.is_alive() else 0.0
            if mib > self._plan.recycle_limits.hard_mib:
                name = process.spec.name
                self._print_line(f"{name} holds {mib:.0f} MiB, more than {HARD_MIB_VARIABLE} allows: killed")
                process.popen.kill()

    def _note_initial_memory(self) -> None:
        for number in self._sidecars:
            self._initial_mib.setdefault(number, resident_mib(self._current(number).popen.pid))

    def _current(self, number: int) -> ManagedProcess:
        """Returns the sidecar of that number, after restarts the latest process."""
        return self._supervisor.current(self._sidecars[number].spec.name)

    def _free_slots(self, count: int) -> dict[int, int]:
        """Returns a free number and a free port for each of `count` new sidecars."""
        draining = {int(one.process.spec.name.rpartition("-")[2]) for one in self._draining}
        free = (number for number in range(1, 1000) if number not in draining | self._sidecars.keys())
        return {next(free): free_port() for _ in range(count)}

    def _advance(self, replacement: _Replacement, now_s: float) -> None:
        if replacement.gateway is not None:
            self._advance_gateway(replacement.gateway, replacement)
            return
        try:
            for number, process in replacement.sidecars.items():
                if number in replacement.ready:
                    continue
                if not process.is_ready():
                    raise_if_failed(process)
                    return
                replacement.ready.add(number)
                after_s = (time.monotonic_ns() - replacement.began_ns) / 1e9
                self._report(replacement, f"{process.spec.name} is ready after {after_s:.1f} s")
        except ProcessFailed as fault:
            self._replacement = None
            self._supervisor.retire(replacement.sidecars.values())
            if replacement.reason is None:
                self._reject(replacement.asked_ns, [str(fault)], replacement.lines)
            else:
                self._keep_old(replacement.reason, str(fault), now_s)
        else:
            self._take_over(replacement, now_s)

    def _take_over(self, replacement: _Replacement, now_s: float) -> None:
        self._replacement = None
        old = {number: self._current(number) for number in replacement.replaces}
        ports = self._plan.sidecar_ports
        kept = {number: port for number, port in ports.items() if number not in old}
        self._plan = replace(replacement.plan, sidecar_ports={**kept, **replacement.plan.sidecar_ports})
        self._sidecars = {number: self._sidecars[number] for number in kept} | replacement.sidecars
        self._initial_mib = {number: self._initial_mib[number] for number in kept}
        self._note_initial_memory()
        self._plan.write_sidecar_list()
        self._supervisor.hand_over(old.values(), replacement.sidecars.values())
        self._draining += [
            _DrainingSidecar(process, ports[number], now_s, now_s) for number, process in old.items()
        ]
        taken_over = f"{_names(replacement.sidecars)} took over from {_names(old)}"
        gateway = self._plan.gateway_spec()
        if replacement.reason is not None or gateway.env == self._supervisor.current(GATEWAY).spec.env:
            self._report(replacement, taken_over, done=True)
            return
        self._report(replacement, taken_over)
        try:
            replacement.gateway = self._supervisor.start_beside(gateway)
        except ProcessFailed as fault:
            self._reject(replacement.asked_ns, [str(fault)], replacement.lines)
        else:
            self._replacement = replacement
            self._report(replacement, "starting a gateway with the new settings")

    def _advance_gateway(self, new: ManagedProcess, replacement: _Replacement) -> None:
        """Lets a new gateway take over once it serves; the old one keeps its calls until they end."""
        try:
            if not new.is_ready():
                raise_if_failed(new)
                return
        except ProcessFailed as fault:
            self._replacement = None
            self._supervisor.discard(new)
            self._reject(replacement.asked_ns, [f"the old gateway stays: {fault}"], replacement.lines)
            return
        self._replacement = None
        self._supervisor.exchange(new, signal.SIGUSR1)
        console = self._plan.console_spec()
        if console is not None and console.env != self._supervisor.current(console.name).spec.env:
            self._supervisor.change(console)
        write_addresses(self._plan.state, self._plan.published_addresses())
        self._report(replacement, "the new gateway took over", done=True)

    def _keep_old(self, reason: str, fault: str, now_s: float) -> None:
        self._not_before_s = now_s + RETRY_AFTER_S
        self._print_line(f"no new sidecar started, so the one that {reason} stays: {fault}")

    def _reject(self, began_ns: int, faults: list[str], lines: Sequence[str] = ()) -> None:
        self._print_line("the new configuration is rejected, the old one stays:")
        for fault in faults:
            self._print_line(f"  {fault}")
        ReloadStatus(began_ns, done=False, lines=(*lines, *faults)).write(self._plan.state)

    def _has_drained(self, sidecar: _DrainingSidecar, now_s: float) -> bool:
        """Stops a sidecar when no call runs there or the total timeout is over; True when it ended."""
        waited_s = now_s - sidecar.since_s
        if sidecar.process.is_alive():
            if waited_s < LIST_READ_AFTER_S or now_s - sidecar.polled_at_s < DRAIN_POLL_EVERY_S:
                return False
            sidecar.polled_at_s = now_s
            if waited_s < self._plan.settings.total_timeout_s and in_flight(sidecar.port) != 0:
                return False
        self._supervisor.retire([sidecar.process])
        self._print_line(f"{sidecar.process.spec.name} has drained and stopped")
        return True


def _names(sidecars: Mapping[int, ManagedProcess]) -> str:
    return ", ".join(process.spec.name for process in sidecars.values())
