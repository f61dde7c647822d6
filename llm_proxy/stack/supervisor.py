"""Starts the stack's processes, restarts those that end, stops all of them in order.

Invariants: the orphan reaper knows a process from its start. A process that ends is named with its log
file and restarted after a growing pause; one that does not become ready `MAX_FAILURES` times in a row
ends the stack, unless it is optional. The gateway stops first, after its running calls, which need all the
others; the stores stop last, because every process writes to them until it ends.
"""

import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.background import report_failure
from llm_proxy.restart_pauses import STABLE_AFTER_S, restart_pause_s
from llm_proxy.stack.process import (
    ManagedProcess,
    OrphanReaper,
    ProcessFailed,
    ProcessSpec,
    group_lives,
    start,
    stop,
    wait_until_ready,
)

MAX_FAILURES = 6
POLL_EVERY_S = 0.1

PrintLine = Callable[[str], None]
StartProcess = Callable[[ProcessSpec], ManagedProcess]


@dataclass(slots=True)
class RestartState:
    """A supervised process and its recent failures. Times are monotonic.

    Attributes:
        failures: Ends in a row, each within `STABLE_AFTER_S` of the start.
        failed_starts: Ends in a row, each before the process was ready.
        restart_at_s: When the process is restarted; None while it runs.
        ready_reported: Whether readiness since the last start was printed.
        end_is_wanted: Whether its next end is ours: no failure, and restarted at once.
    """

    process: ManagedProcess
    failures: int = 0
    failed_starts: int = 0
    restart_at_s: float | None = None
    ready_reported: bool = True
    end_is_wanted: bool = False


def supervise(
    states: Mapping[str, RestartState],
    start: StartProcess,
    print_line: PrintLine,
    after_check: Callable[[float], None],
    is_over: Callable[[], bool],
) -> None:
    """Checks the processes every `POLL_EVERY_S` until `is_over`, and restarts those that ended.

    Args:
        states: The supervised processes; may change between two checks.
        start: Restarts a process.
        print_line: Gets a line for each end and each return.
        after_check: Called after every check with the monotonic time.
        is_over: Whether to return; called before every check.

    Raises:
        ProcessFailed: A process failed to start too often in a row.
    """
    while not is_over():
        time.sleep(POLL_EVERY_S)
        now_s = time.monotonic()
        for state in states.values():
            check_process(state, start, print_line, now_s)
        run_after_check(after_check, now_s, print_line)


def run_after_check(after_check: Callable[[float], None], now_s: float, print_line: PrintLine) -> None:
    """Calls `after_check` and reports its exceptions; only `ProcessFailed` is raised."""
    try:
        after_check(now_s)
    except ProcessFailed:
        raise
    except Exception as fault:  # noqa: BLE001 -- the processes must outlive a failed rolling restart
        if report_failure("succession", fault):
            print_line(
                f"replacing sidecars failed, everything keeps running: {type(fault).__name__}: {fault}"
            )


def check_process(state: RestartState, start: StartProcess, print_line: PrintLine, now_s: float) -> None:
    """Checks one process; raises `ProcessFailed` after too many failed starts in a row."""
    if state.restart_at_s is not None:
        if now_s >= state.restart_at_s:
            state.process = start(state.process.spec)
            state.restart_at_s, state.ready_reported = None, False
        return
    if state.process.is_alive():
        if not state.ready_reported and state.process.is_ready():
            state.ready_reported = True
            print_line(f"{state.process.spec.name} is back")
        return
    _schedule_restart(state, print_line, now_s)


def _schedule_restart(state: RestartState, print_line: PrintLine, now_s: float) -> None:
    process = state.process
    if state.end_is_wanted:
        state.end_is_wanted, state.restart_at_s = False, now_s
        print_line(f"{process.spec.name} restarts with its new settings")
        return
    stable = now_s - process.started_s > STABLE_AFTER_S
    state.failures = 1 if stable else state.failures + 1
    state.failed_starts = 0 if state.ready_reported else state.failed_starts + 1
    ended = f"{process.spec.name} ended with code {process.popen.returncode}"
    if state.failed_starts > MAX_FAILURES and process.spec.is_optional:
        state.restart_at_s = float("inf")
        print_line(f"{ended}, for the {state.failed_starts}th time; it is left alone{_log_of(process)}")
        return
    if state.failed_starts > MAX_FAILURES:
        raise ProcessFailed(f"{ended}, for the {state.failed_starts}th time; {process.log_end()}")
    pause_s = restart_pause_s(state.failures)
    state.restart_at_s = now_s + pause_s
    print_line(f"{ended}; restarting it in {pause_s:g} s{_log_of(process)}")


def _log_of(process: ManagedProcess) -> str:
    return f" (log: {process.log})" if process.log else ""


RECORDS_S = 10.0
"""What a gateway may take after its drain to write its records."""

GATEWAY = "gateway"
STOPPED_FIRST, STOPPED_LAST = (GATEWAY,), ("postgres", "valkey-")


class Supervisor:
    """Every process this launcher has started, by name.

    Attributes:
        logs: The folder of the log files; None when every process writes to standard output.
    """

    def __init__(self, logs: Path | None, print_line: PrintLine) -> None:
        self.logs = logs
        self._print_line = print_line
        self._reaper = OrphanReaper()
        self._processes: dict[str, ManagedProcess] = {}
        self._supervised: dict[str, RestartState] = {}
        self._beside: list[ManagedProcess] = []
        self._began_s = time.monotonic()

    def start(self, spec: ProcessSpec) -> ManagedProcess:
        """Starts a process, for the first time or again; raises `ProcessFailed`.

        The reaper still guards the children that an ended process left behind.
        """
        before = self._processes.get(spec.name)
        process = self._processes[spec.name] = start(spec, self.logs)
        self._reaper.guard(process.popen.pid)
        if before and not group_lives(before.popen.pid):
            self._reaper.forget(before.popen.pid)
        return process

    def start_all(self, specs: Iterable[ProcessSpec]) -> list[ManagedProcess]:
        """Starts several processes without waiting for any to be ready."""
        return [self.start(spec) for spec in specs]

    def wait_until_ready(self, processes: Iterable[ManagedProcess]) -> None:
        """Waits until these processes are ready and prints a line for each; raises `ProcessFailed`."""
        wait_until_ready(
            processes, lambda one: self._print_line(f"  {one.spec.name:<14} {self.uptime_s():5.1f} s")
        )

    def run(self, after_check: Callable[[float], None], is_over: Callable[[], bool]) -> None:
        """Supervises every process until `is_over` or `ProcessFailed`; each check ends in `after_check`."""
        self._supervised = {name: RestartState(process) for name, process in self._processes.items()}
        supervise(self._supervised, self.start, self._print_line, after_check, is_over)

    def drain_gateway(
        self, limit_s: float, after_check: Callable[[float], None], is_over: Callable[[], bool]
    ) -> None:
        """Has the gateway finish its running calls; everything they need is supervised meanwhile.

        Returns when the gateway has ended, when `is_over`, or `RECORDS_S` after `limit_s`, when the gateway
        ends its calls itself. A process that fails too often ends nothing: calls that run elsewhere go on.
        """
        gateway = self._processes.get(GATEWAY)
        if gateway is None or not gateway.is_alive():
            return
        self._supervised.pop(GATEWAY, None)
        until_s = time.monotonic() + limit_s + RECORDS_S
        self._print_line(f"running calls have {limit_s:g} s; a second signal ends them at once")
        gateway.popen.send_signal(gateway.spec.stop_signal)

        def has_drained() -> bool:
            return not gateway.is_alive() or is_over() or time.monotonic() > until_s

        while not has_drained():
            try:
                supervise(self._supervised, self.start, self._print_line, after_check, has_drained)
            except ProcessFailed as fault:
                self._print_line(f"restarting nothing any more: {fault}")
                self._supervised = {}
        if gateway.popen.returncode:
            self._print_line(f"gateway ended with code {gateway.popen.returncode}")

    def current(self, name: str) -> ManagedProcess:
        """Returns the process of that name, after restarts the latest."""
        return self._processes[name]

    def hand_over(self, old: Iterable[ManagedProcess], new: Iterable[ManagedProcess]) -> None:
        """Supervises the new processes instead of the old ones, which keep running."""
        for process in old:
            del self._supervised[process.spec.name]
        self._supervised |= {process.spec.name: RestartState(process) for process in new}

    def start_beside(self, spec: ProcessSpec) -> ManagedProcess:
        """Starts a process beside the one of its name, which goes on; raises `ProcessFailed`."""
        process = start(spec, self.logs)
        self._reaper.guard(process.popen.pid)
        self._beside.append(process)
        return process

    def exchange(self, new: ManagedProcess, handover: signal.Signals) -> None:
        """Supervises a process that was started beside another, which gets a signal and ends by itself."""
        old = self._processes[new.spec.name]
        self._beside.remove(new)
        self._beside.append(old)
        self._processes[new.spec.name] = new
        self._supervised[new.spec.name] = RestartState(new)
        old.popen.send_signal(handover)

    def discard(self, process: ManagedProcess) -> None:
        """Stops a process that was started beside another and did not become ready."""
        stop([process])
        self._beside.remove(process)
        self._reaper.forget(process.popen.pid)

    def forget_ended(self) -> list[ManagedProcess]:
        """Returns the processes beside others that have ended since the last call."""
        ended = [one for one in self._beside if not one.is_alive()]
        for process in ended:
            self._beside.remove(process)
            self._reaper.forget(process.popen.pid)
        return ended

    def change(self, spec: ProcessSpec) -> None:
        """Ends a process, which is restarted by its new specification at once."""
        process = self._processes[spec.name]
        process.spec = spec
        if process.is_alive():
            if (state := self._supervised.get(spec.name)) is not None:
                state.end_is_wanted = True
            process.popen.send_signal(spec.stop_signal)

    def retire(self, processes: Iterable[ManagedProcess]) -> None:
        """Stops processes that are not supervised."""
        retired = list(processes)
        stop(retired)
        for process in retired:
            self._reaper.forget(process.popen.pid)
            del self._processes[process.spec.name]

    def uptime_s(self) -> float:
        """Seconds since this supervisor was created."""
        return time.monotonic() - self._began_s

    def stop_all(self) -> None:
        """Stops every process in order and prints which had to be killed."""
        for position in range(3):
            running = (*self._processes.values(), *self._beside)
            stopping = [one for one in running if _stop_order(one) == position]
            for name in stop(stopping):
                self._print_line(f"  {name} did not end by itself and was killed")
        for process in (*self._processes.values(), *self._beside):
            self._reaper.forget(process.popen.pid)
        self._reaper.close()


def _stop_order(process: ManagedProcess) -> int:
    """Returns 0, 1 or 2: the round in which the process gets its stop signal."""
    if process.spec.name.startswith(STOPPED_FIRST):
        return 0
    return 2 if process.spec.name.startswith(STOPPED_LAST) else 1
