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
    """A part ended before it was ready, or was not ready in time; the message names it and its log."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A program to run.

    Attributes:
        readiness_probe: Given its process id, says whether it serves; called about twenty times a second.
        stdin: Bytes it reads at the start, for what must not show in a process list.
        stop_signal: Asks it to end in order.
        user: Numeric user and group to run as; None keeps the launcher's.
        ready_timeout_s: How long it may take to become ready.
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


@dataclass(slots=True)
class ManagedProcess:
    """A started part.

    Attributes:
        log: None when it speaks where the launcher does.
    """

    spec: ProcessSpec
    popen: "subprocess.Popen[bytes]"
    log: Path | None
    started_s: float = field(default_factory=time.monotonic)

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self.popen.poll() is None

    def is_ready(self) -> bool:
        """Whether it runs and serves."""
        return self.is_alive() and self.spec.readiness_probe(self.popen.pid)

    def log_end(self) -> str:
        """The end of what it said, for an error message."""
        return f"the end of {self.log}:\n{tail(self.log)}" if self.log else "what it said stands above"


def start(part: ProcessSpec, logs: Path | None) -> ManagedProcess:
    """Starts a process, its output appended to `logs/<name>.log` or ours; raises `ProcessFailed`."""
    log = logs / f"{part.name}.log" if logs else None
    if logs:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    user, group = part.user or (None, None)
    launcher = os.getpid()
    with _open_log(log) if log else contextlib.nullcontext() as output:
        try:
            process = subprocess.Popen(
                part.argv,
                env=dict(part.env),
                cwd=part.cwd,
                stdin=subprocess.PIPE if part.stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(launcher, part.stop_signal),  # noqa: PLW1509 -- one thread
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        except OSError as fault:
            raise ProcessFailed(f"{part.name} cannot be started: {fault}") from fault
    if process.stdin:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(part.stdin)
    return ManagedProcess(part, process, log)


def _open_log(log: Path) -> BinaryIO:
    """A log for its owner's eyes, also when an earlier version made it."""
    file = os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
    os.fchmod(file.fileno(), 0o600)
    return file


def wait_until_ready(
    parts: Iterable[ManagedProcess], on_ready: Callable[[ManagedProcess], None] = lambda _: None
) -> None:
    """Waits for all of them at once; raises `ProcessFailed` for the first that ends or is late."""
    waiting = list(parts)
    while waiting:
        for running in list(waiting):
            if running.is_ready():
                waiting.remove(running)
                on_ready(running)
            else:
                raise_if_failed(running)
        if waiting:
            time.sleep(READY_POLL_S)


def stop(parts: Iterable[ManagedProcess], timeout_s: float = 5.0) -> list[str]:
    """Asks all of them to end, kills what is left of their groups; returns the names of those killed."""
    stopping = list(parts)
    for running in stopping:
        if running.is_alive():
            running.popen.send_signal(running.spec.stop_signal)
    deadline_s = time.monotonic() + timeout_s
    killed: list[str] = []
    for running in stopping:
        try:
            running.popen.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(running.spec.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.popen.pid, signal.SIGKILL)
        running.popen.wait()
    return killed


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, indented for an error message."""
    if not log.exists():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return "\n".join("    " + line[:300] for line in text.splitlines()[-lines:])


def raise_if_failed(running: ManagedProcess) -> None:
    """Raises `ProcessFailed` when a part has ended before it was ready, or is late."""
    part, code = running.spec, running.popen.poll()
    if code is not None:
        raise ProcessFailed(f"{part.name} ended with code {code}; {running.log_end()}")
    if time.monotonic() - running.started_s > part.ready_timeout_s:
        late = f"{part.name} was not ready within {part.ready_timeout_s:.0f} s"
        raise ProcessFailed(f"{late}; {running.log_end()}")


def die_with_parent(parent: int, death_signal: signal.Signals) -> None:
    """Has the kernel send this process a signal when its parent dies; ends it when that has already died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


class NotInstalled(Exception):  # noqa: N818 -- errors are named for the state they report
    """A part of the stack is not installed; the message says what to type."""


def wheel_folder(package: str) -> Path:
    """The folder an installed package lies in; raises `NotInstalled` when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(f"the wheel of `{package}` is not installed here: run `make setup` first")
    return Path(spec.submodule_search_locations[0])


def wheel_file(package: str, pattern: str) -> Path:
    """The first file of an installed package that matches; raises `NotInstalled` when there is none."""
    folder = wheel_folder(package)
    found = next(folder.glob(pattern), None)
    if found is None:
        raise NotInstalled(f"`{package}` holds no {pattern} for this machine: run `make setup` again")
    return found


def openmp_folder() -> Path | None:
    """Where the OpenMP library of the `cmeel-libomp` wheel lies; None when that wheel is not installed."""
    try:
        found = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found))


REAPER_GRACE_S = 3.0


class OrphanReaper:
    """The launcher's end: tells the watchdog which groups are alive."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def guard(self, group: int) -> None:
        """From now on this group must not outlive the launcher."""
        self._send(f"+{group}\n")

    def forget(self, group: int) -> None:
        """This group has ended in order."""
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Ends the watchdog; what it still guards is killed."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _send(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def reap_orphans(told: TextIO) -> None:
    """Listens until the launcher is gone, then ends every group it still guards."""
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, signal.SIG_IGN)
    groups: set[int] = set()
    for line in told:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    deadline_s = time.monotonic() + REAPER_GRACE_S
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, wanted)
        while any(map(_is_alive, groups)) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    reap_orphans(sys.stdin)
