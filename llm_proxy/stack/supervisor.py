"""Starts the stack's processes, restarts those that end, stops all of them in order.

Invariants: the orphan reaper knows a process from its start. A process that ends is named with its log
file and restarted after a growing pause; one that does not become ready `MAX_FAILURES` times in a row
ends the stack. The gateway stops first and the stores last, because every process writes to the stores
until it ends.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.background import report_failure
from llm_proxy.stack.process import (
    ManagedProcess,
    OrphanReaper,
    ProcessFailed,
    ProcessSpec,
    start,
    stop,
    wait_until_ready,
)

MIN_RESTART_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
STABLE_AFTER_S = 60.0
"""A part that ran so long starts again with the first pause."""

MAX_FAILURES = 6
POLL_EVERY_S = 0.1

PrintLine = Callable[[str], None]
StartProcess = Callable[[ProcessSpec], ManagedProcess]


@dataclass(slots=True)
class RestartState:
    """A running part and how often it has failed of late.

    Attributes:
        failures: How often in a row it ended before it had run steadily.
        failed_starts: How often in a row it ended before it was ready.
        restart_at_s: When it is started again; None while it runs.
        ready_reported: Whether it was ready since it was started, and that was told.
    """

    process: ManagedProcess
    failures: int = 0
    failed_starts: int = 0
    restart_at_s: float | None = None
    ready_reported: bool = True


def restart_pause_s(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row."""
    return min(MIN_RESTART_PAUSE_S * 2.0 ** max(0, failures - 1), LONGEST_PAUSE_S)


def supervise(
    parts: Mapping[str, RestartState], start: StartProcess, say: PrintLine, also: Callable[[float], None]
) -> None:
    """Watches the processes and restarts those that end; raises `ProcessFailed` when one cannot be kept up.

    Args:
        parts: Who is watched; may change between two looks.
        start: Starts a part again.
        say: Told what ended and came back.
        also: Called after every look, with the time.
    """
    while True:
        time.sleep(POLL_EVERY_S)
        now_s = time.monotonic()
        for part in parts.values():
            check_process(part, start, say, now_s)
        run_after_check(also, now_s, say)


def run_after_check(also: Callable[[float], None], now_s: float, say: PrintLine) -> None:
    """What is done after a look; unless a part cannot be kept up, its failure ends nothing that runs."""
    try:
        also(now_s)
    except ProcessFailed:
        raise
    except Exception as fault:  # noqa: BLE001 -- the parts must outlive whatever an exchange meets
        if report_failure("succession", fault):
            say(f"exchanging sidecars failed, what runs goes on: {type(fault).__name__}: {fault}")


def check_process(part: RestartState, start: StartProcess, say: PrintLine, now_s: float) -> None:
    """One look at one part; raises `ProcessFailed` when it has failed too often in a row."""
    if part.restart_at_s is not None:
        if now_s >= part.restart_at_s:
            part.process = start(part.process.spec)
            part.restart_at_s, part.ready_reported = None, False
        return
    if part.process.is_alive():
        if not part.ready_reported and part.process.is_ready():
            part.ready_reported = True
            say(f"{part.process.spec.name} is back")
        return
    _schedule_restart(part, say, now_s)


def _schedule_restart(part: RestartState, say: PrintLine, now_s: float) -> None:
    running = part.process
    steady = now_s - running.started_s > STABLE_AFTER_S
    part.failures = 1 if steady else part.failures + 1
    part.failed_starts = 0 if part.ready_reported else part.failed_starts + 1
    ended = f"{running.spec.name} ended with code {running.popen.returncode}"
    if part.failed_starts > MAX_FAILURES:
        raise ProcessFailed(f"{ended}, for the {part.failed_starts}th time; {running.log_end()}")
    wait_s = restart_pause_s(part.failures)
    part.restart_at_s = now_s + wait_s
    where = f" (log: {running.log})" if running.log else ""
    say(f"{ended}; starting it again in {wait_s:g} s{where}")


STOPPED_FIRST, STOPPED_LAST = ("gateway",), ("postgres", "valkey-")


class Supervisor:
    """Everything this launcher has started."""

    def __init__(self, logs: Path | None, say: PrintLine) -> None:
        self.logs = logs
        self._say = say
        self._watchdog = OrphanReaper()
        self._parts: dict[str, ManagedProcess] = {}
        self._watched: dict[str, RestartState] = {}
        self._began_s = time.monotonic()

    def start(self, part: ProcessSpec) -> ManagedProcess:
        """Starts a part, for the first time or again."""
        before = self._parts.get(part.name)
        running = self._parts[part.name] = start(part, self.logs)
        self._watchdog.guard(running.popen.pid)
        if before:
            self._watchdog.forget(before.popen.pid)
        return running

    def start_all(self, parts: Iterable[ProcessSpec]) -> list[ManagedProcess]:
        """Starts several, one after the other, without waiting for any."""
        return [self.start(part) for part in parts]

    def wait_until_ready(self, parts: Iterable[ManagedProcess]) -> None:
        """Waits until these are ready and says so of each; raises `ProcessFailed`."""
        wait_until_ready(
            parts, lambda running: self._say(f"  {running.spec.name:<14} {self.uptime_s():5.1f} s")
        )

    def run_forever(self, also: Callable[[float], None]) -> None:
        """Keeps everything up for ever, and calls `also` at every look; raises `ProcessFailed`."""
        self._watched = {name: RestartState(running) for name, running in self._parts.items()}
        supervise(self._watched, self.start, self._say, also)

    def current(self, name: str) -> ManagedProcess:
        """A part as it runs now, perhaps not for the first time."""
        return self._parts[name]

    def hand_over(self, old: Iterable[ManagedProcess], new: Iterable[ManagedProcess]) -> None:
        """From now on keeps the new ones up, and the old ones no longer."""
        for running in old:
            del self._watched[running.spec.name]
        self._watched |= {running.spec.name: RestartState(running) for running in new}

    def retire(self, parts: Iterable[ManagedProcess]) -> None:
        """Stops parts that are not kept up."""
        ending = list(parts)
        stop(ending)
        for running in ending:
            self._watchdog.forget(running.popen.pid)
            del self._parts[running.spec.name]

    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def stop_all(self) -> None:
        """Stops everything, and says which part had to be killed."""
        for at in range(3):
            for name in stop(running for running in self._parts.values() if _stop_order(running) == at):
                self._say(f"  {name} did not end by itself and was killed")
        for running in self._parts.values():
            self._watchdog.forget(running.popen.pid)
        self._watchdog.close()


def _stop_order(running: ManagedProcess) -> int:
    """When it is asked to stop: first, second or last."""
    if running.spec.name.startswith(STOPPED_FIRST):
        return 0
    return 2 if running.spec.name.startswith(STOPPED_LAST) else 1
