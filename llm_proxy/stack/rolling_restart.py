"""Replaces sidecars and the gateway: new ones start, take over, and the old ones finish their calls and stop.

All sidecars are replaced on request or when a watched file changes, then the gateway if its settings changed.
Invariants: old ones serve until new ones do; what is invalid or does not start changes nothing and is
reported; one replacement at a time; `tick` never blocks. Sidecars that ended start again on other ports,
because their orphans still serve the old ones. A file change is reported once the file stays the same.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from llm_proxy.secret_files import SecretFileUnreadable
from llm_proxy.service_urls import InvalidURL
from llm_proxy.settings import setting_errors
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.plan import StackPlan, StartRefused
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.process import ManagedProcess, ProcessFailed, raise_if_failed
from llm_proxy.stack.process_specs import sidecars_name
from llm_proxy.stack.state_dir import ReloadStatus, write_addresses
from llm_proxy.stack.supervisor import GATEWAY, PrintLine, Supervisor

FILE_POLL_EVERY_S = 1.0
LIST_READ_AFTER_S = 3.0
"""By then every gateway process has read the new list of sidecars, which it polls once a second."""

FINISH_CALLS = signal.SIGUSR1
"""To sidecars and gateways: end by yourself after the running calls."""

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
        plan: The plan that holds when they take over.
        sidecars: The process whose children they are.
        requested_ns: When it was requested last; its status answers the requests until then.
        noticed: The watched files as a rolling restart read them that began because one had changed.
        lines: What was printed so far.
        gateway: The new gateway, started when they have taken over; None before, and where none is needed.
        former_default: The model of calls that name none, at the old gateway.
    """

    plan: StackPlan
    sidecars: ManagedProcess
    began_ns: int
    requested_ns: int
    noticed: FileSignature | None = None
    lines: list[str] = field(default_factory=list[str])
    gateway: ManagedProcess | None = None
    former_default: str = ""


@dataclass(slots=True)
class _DrainingSidecars:
    """Old sidecars that still run calls.

    Attributes:
        was_signalled: Whether they got `FINISH_CALLS`.
    """

    process: ManagedProcess
    since_s: float
    was_signalled: bool = False


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
        self._read_operator_env, self._check_config = read_operator_env, check_config
        self._print_line = print_line
        self._known_faults = frozenset(check_config(plan.config, plan.operator_env.variables))
        self._requested = self._noticed = self._stopping = False
        self._replacement: _Replacement | None = None
        self._draining: list[_DrainingSidecars] = []
        self._ended: ManagedProcess | None = None
        self._orphans: list[tuple[int, float]] = []
        self._watcher = FileWatcher(time.monotonic(), plan.watched_files()) if plan.is_development else None

    def request(self) -> None:
        """Requests a rolling restart; safe in a signal handler."""
        self._requested = True

    def stop(self) -> None:
        """Rejects the replacement that runs and all that are requested later: the stack is stopping.

        Sidecars that drain keep their calls until the stack ends them.
        """
        self._stopping = True

    def tick(self, now_s: float) -> None:
        """Advances a replacement, or begins one that is due; called ten times a second."""
        self._follow_restart(now_s)
        if self._stopping:
            self._reject_all()
            return
        if self._watcher is not None and self._watcher.has_changed(now_s, self._plan.watched_files()):
            self._print_line(f"{self._plan.config} or a key has changed")
            self._requested = self._noticed = True
        if self._requested and self._replacement is None:
            is_noticed, self._requested, self._noticed = self._noticed, False, False
            self._begin(is_noticed=is_noticed)
        elif self._requested and self._replacement is not None and self._has_same_files(self._replacement):
            self._requested = False
            self._replacement.requested_ns = time.monotonic_ns()
            self._write_status(self._replacement)
        if self._replacement is not None:
            self._advance(self._replacement, now_s)
        self._draining = [one for one in self._draining if not self._has_drained(one, now_s)]
        for process in self._supervisor.forget_ended():
            self._print_line(f"the {process.spec.name} before has drained and stopped")

    def _reject_all(self) -> None:
        """Rejects what runs and what is requested."""
        running, self._replacement = self._replacement, None
        if running is not None:
            self._reject(running.requested_ns, [STACK_STOPS], running.lines)
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
            plan = self._plan.with_operator_env(env, self._free_number(), self._free_ports())
            faults = self._check_config(plan.config, plan.operator_env.variables)
            if new_faults := [one for one in faults if one not in self._known_faults]:
                self._reject(began_ns, new_faults)
                return
            started = self._supervisor.start(plan.sidecars_spec())
        except ValidationError as fault:
            self._reject(began_ns, setting_errors(fault))
            return
        except _START_FAILURES as fault:
            self._reject(began_ns, [str(fault)])
            return
        self._replacement = replacement = _Replacement(plan, started, began_ns, began_ns, noticed)
        if ignored := self._first_plan.changed_start_settings(env):
            self._report(replacement, f"changed, but read at the start only: {', '.join(ignored)}")
        self._report(replacement, f"starting {started.spec.name} with the new configuration")

    def _report(self, replacement: _Replacement, line: str, *, done: bool | None = None) -> None:
        self._print_line(line)
        replacement.lines.append(line)
        self._write_status(replacement, done=done)

    def _write_status(self, replacement: _Replacement, *, done: bool | None = None) -> None:
        ReloadStatus(replacement.requested_ns, done, tuple(replacement.lines)).write(self._plan.state)

    def _follow_restart(self, now_s: float) -> None:
        """Gives sidecars that ended other ports; ends their orphans once gateways know these ports."""
        current = self._supervisor.current(self._plan.sidecars_name())
        if not current.is_alive() and current is not self._ended:
            with suppress(*_START_FAILURES):
                plan = replace(self._plan, sidecar_ports=self._free_ports())
                current.spec = plan.sidecars_spec()
                self._plan, self._ended = plan, current
        elif self._ended is not None and self._ended is not current and current.is_ready():
            self._orphans.append((self._ended.popen.pid, now_s))
            self._ended = None
            self._plan.write_sidecar_list()
        for group, since_s in self._orphans:
            if now_s - since_s >= LIST_READ_AFTER_S:
                self._orphans.remove((group, since_s))
                with suppress(ProcessLookupError):
                    os.killpg(group, FINISH_CALLS)
                return

    def _free_number(self) -> int:
        used = {one.process.spec.name for one in self._draining} | {self._plan.sidecars_name()}
        return next(number for number in itertools.count(1) if sidecars_name(number) not in used)

    def _free_ports(self) -> tuple[int, ...]:
        return tuple(free_port() for _ in self._plan.sidecar_ports)

    def _advance(self, replacement: _Replacement, now_s: float) -> None:
        if replacement.gateway is not None:
            self._advance_gateway(replacement.gateway, replacement)
            return
        process = replacement.sidecars
        try:
            if not process.is_ready():
                raise_if_failed(process)
                return
        except ProcessFailed as fault:
            self._replacement = None
            self._supervisor.retire([process])
            self._reject(replacement.requested_ns, [str(fault)], replacement.lines)
            return
        after_s = (time.monotonic_ns() - replacement.began_ns) / 1e9
        self._report(replacement, f"{process.spec.name} is ready after {after_s:.1f} s")
        self._take_over(replacement, now_s)

    def _take_over(self, replacement: _Replacement, now_s: float) -> None:
        self._replacement = None
        old, new = self._supervisor.current(self._plan.sidecars_name()), replacement.sidecars
        replacement.former_default = self._plan.default_model()
        self._plan = replacement.plan
        self._plan.write_sidecar_list()
        self._supervisor.hand_over([old], [new])
        self._draining.append(_DrainingSidecars(old, now_s))
        taken_over = f"{new.spec.name} took over from {old.spec.name}"
        gateway = self._plan.gateway_spec()
        if gateway.env == self._supervisor.current(GATEWAY).spec.env:
            self._report(replacement, taken_over, done=True)
            return
        self._report(replacement, taken_over)
        try:
            replacement.gateway = self._supervisor.start_beside(gateway)
        except ProcessFailed as fault:
            self._reject(replacement.requested_ns, [str(fault)], replacement.lines)
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
            self._reject(replacement.requested_ns, [f"the old gateway stays: {fault}"], replacement.lines)
            return
        self._replacement = None
        self._supervisor.exchange(new, FINISH_CALLS)
        console = self._plan.console_spec()
        if console is not None and console.env != self._supervisor.current(console.name).spec.env:
            self._supervisor.change(console)
        write_addresses(self._plan.state, self._plan.published_addresses())
        default = self._plan.default_model()
        if default != replacement.former_default:
            self._report(
                replacement,
                f"calls that name no model go to {default} now, before to {replacement.former_default};"
                " LLM_PROXY__DEFAULT_MODEL names another",
            )
        self._report(replacement, "the new gateway took over", done=True)

    def _reject(self, began_ns: int, faults: list[str], lines: Sequence[str] = ()) -> None:
        self._print_line("the new configuration is rejected, the old one stays:")
        for fault in faults:
            self._print_line(f"  {fault}")
        ReloadStatus(began_ns, done=False, lines=(*lines, *faults)).write(self._plan.state)

    def _has_drained(self, sidecars: _DrainingSidecars, now_s: float) -> bool:
        """Has sidecars end after their calls; kills them after the total timeout. True when ended."""
        process, waited_s = sidecars.process, now_s - sidecars.since_s
        if process.is_alive() and waited_s < self._plan.settings.total_timeout_s:
            if waited_s >= LIST_READ_AFTER_S and not sidecars.was_signalled:
                sidecars.was_signalled = True
                process.popen.send_signal(FINISH_CALLS)
            return False
        self._supervisor.retire([process])
        self._print_line(f"{process.spec.name} has drained and stopped")
        return True
