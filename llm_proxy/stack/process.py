"""One child process: start, readiness, stop; the orphan reaper; files that arrive in wheels.

Invariants: a child leads its own process group and gets a signal from the kernel when the launcher's
thread dies (prctl(2), PR_SET_PDEATHSIG), so children start from the main thread only. A child inherits no
environment variable. This file also runs as the orphan reaper, `python -I -S process.py`, so it imports
only the standard library. No wheel is imported to find its files.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

PR_SET_PDEATHSIG = 1
READY_POLL_S = 0.05


class ProcessFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """A process ended before it was ready, or was not ready in time; the message names it and its log."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A program to run.

    Attributes:
        readiness_probe: Takes the process id, returns whether the program serves; called about every 50 ms.
        stdin: Bytes the program reads at its start: what no process list may show.
        stop_signal: Signal that requests an orderly end.
        user: Numeric user and group to run as; None keeps the launcher's.
        ready_timeout_s: Longest time from the start to readiness.
        is_optional: Whether the stack goes on without it if it fails too often.
        inherited: Descriptors that it gets from the launcher.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    readiness_probe: Callable[[int], bool]
    cwd: Path = Path("/")
    stdin: bytes = b""
    stop_signal: signal.Signals = signal.SIGTERM
    user: tuple[int, int] | None = None
    ready_timeout_s: float = 60.0
    is_optional: bool = False
    inherited: tuple[int, ...] = ()


@dataclass(slots=True)
class ManagedProcess:
    """A started process.

    Attributes:
        log: Its log file; None when it writes to the launcher's standard output.
    """

    spec: ProcessSpec
    popen: "subprocess.Popen[bytes]"
    log: Path | None
    started_s: float = field(default_factory=time.monotonic)

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.popen.poll() is None

    def is_ready(self) -> bool:
        """Whether the process runs and its readiness probe succeeds."""
        return self.is_alive() and self.spec.readiness_probe(self.popen.pid)

    def log_end(self) -> str:
        """Returns the last lines of its log for an error message, or a pointer to them."""
        return f"the end of {self.log}:\n{tail(self.log)}" if self.log else "its output is above"


def start(spec: ProcessSpec, logs: Path | None) -> ManagedProcess:
    """Starts a process; its output is appended to `logs/<name>.log`, or goes where the launcher's goes.

    Raises `ProcessFailed` when the program cannot be executed.
    """
    log = logs / f"{spec.name}.log" if logs else None
    if logs:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    user, group = spec.user or (None, None)
    launcher = os.getpid()
    with _open_log(log) if log else contextlib.nullcontext() as output:
        try:
            popen = subprocess.Popen(
                spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.PIPE if spec.stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=spec.inherited,
                preexec_fn=lambda: die_with_parent(launcher, spec.stop_signal),  # noqa: PLW1509 -- one thread
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        except OSError as fault:
            raise ProcessFailed(f"{spec.name} cannot be started: {fault}") from fault
    if popen.stdin:
        with contextlib.suppress(BrokenPipeError), popen.stdin as pipe:
            pipe.write(spec.stdin)
    return ManagedProcess(spec, popen, log)


def _open_log(log: Path) -> BinaryIO:
    """Opens a log for appending; its mode is 0600 even if it existed with another."""
    file = os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
    os.fchmod(file.fileno(), 0o600)
    return file


def wait_until_ready(
    processes: Iterable[ManagedProcess], on_ready: Callable[[ManagedProcess], None] = lambda _: None
) -> None:
    """Waits for all processes at once; raises `ProcessFailed` for the first that ends or is late."""
    waiting = list(processes)
    while waiting:
        for process in list(waiting):
            if process.is_ready():
                waiting.remove(process)
                on_ready(process)
            else:
                raise_if_failed(process)
        if waiting:
            time.sleep(READY_POLL_S)


def stop(processes: Iterable[ManagedProcess], timeout_s: float = 5.0) -> list[str]:
    """Sends each its stop signal, then kills what is left of its group after `timeout_s` for all.

    Returns the names of the processes that were killed.
    """
    stopping = list(processes)
    for process in stopping:
        if process.is_alive():
            process.popen.send_signal(process.spec.stop_signal)
    deadline_s = time.monotonic() + timeout_s
    killed: list[str] = []
    for process in stopping:
        try:
            process.popen.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(process.spec.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
    return killed


def tail(log: Path, lines: int = 8) -> str:
    """Returns the last `lines` lines of a log, indented for an error message."""
    if not log.exists():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return "\n".join("    " + line[:300] for line in text.splitlines()[-lines:])


def raise_if_failed(process: ManagedProcess) -> None:
    """Raises `ProcessFailed` when a process that is not ready has ended, or is over its `ready_timeout_s`."""
    spec, code = process.spec, process.popen.poll()
    if code is not None:
        raise ProcessFailed(f"{spec.name} ended with code {code}; {process.log_end()}")
    if time.monotonic() - process.started_s > spec.ready_timeout_s:
        late = f"{spec.name} was not ready within {spec.ready_timeout_s:.0f} s"
        raise ProcessFailed(f"{late}; {process.log_end()}")


def die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """Makes Linux signal this process when `parent` dies; exits at once if `parent` is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


class NotInstalled(Exception):  # noqa: N818 -- errors are named for the state they report
    """A program or a model of the stack is not installed; the message names the command that installs it."""


def wheel_folder(package: str) -> Path:
    """Returns the folder of an installed package; raises `NotInstalled`."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(f"the wheel of `{package}` is not installed here: run `make setup` first")
    return Path(spec.submodule_search_locations[0])


def wheel_file(package: str, pattern: str) -> Path:
    """Returns the first file of an installed package that matches `pattern`; raises `NotInstalled`."""
    folder = wheel_folder(package)
    found = next(folder.glob(pattern), None)
    if found is None:
        raise NotInstalled(f"`{package}` holds no {pattern} for this machine: run `make setup` again")
    return found


def openmp_folder() -> Path | None:
    """The folder of OpenMP's library from the `cmeel-libomp` wheel; None when that wheel is not installed."""
    try:
        found = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found))


REAPER_GRACE_S = 3.0


class OrphanReaper:
    """A small process that outlives a killed launcher until the launcher's process groups have ended.

    The launcher's side: it sends `+number` and `-number` lines, a process group each.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def guard(self, group: int) -> None:
        """Ends this process group when the launcher dies."""
        self._send(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Stops guarding a process group that has ended."""
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Ends the reaper, which kills the groups it still guards."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _send(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def reap_orphans(lines: TextIO) -> None:
    """Reads `lines` until the launcher closes them, then sends the guarded groups SIGTERM and SIGKILL.

    Groups that end within `REAPER_GRACE_S` get no SIGKILL.
    """
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, signal.SIG_IGN)
    groups: set[int] = set()
    for line in lines:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    deadline_s = time.monotonic() + REAPER_GRACE_S
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, wanted)
        while any(map(group_lives, groups)) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def group_lives(group: int) -> bool:
    """Whether the process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    reap_orphans(sys.stdin)
