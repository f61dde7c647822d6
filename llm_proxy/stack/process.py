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
POLL_S = 0.05


class PartDied(Exception):  # noqa: N818 -- errors are named for the state they report
    """A part ended before it was ready, or was not ready in time; the message names it and its log."""


@dataclass(frozen=True, slots=True)
class Part:
    """A program to run.

    Attributes:
        ready: Given its process id, says whether it serves; called about twenty times a second.
        stdin: Bytes it reads at the start, for what must not show in a process list.
        stop_signal: Asks it to end in order.
        user: Numeric user and group to run as; None keeps the launcher's.
        patience_s: How long it may take to become ready.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready: Callable[[int], bool]
    cwd: Path = Path("/")
    stdin: bytes = b""
    stop_signal: signal.Signals = signal.SIGTERM
    user: tuple[int, int] | None = None
    patience_s: float = 60.0


@dataclass(slots=True)
class Running:
    """A started part.

    Attributes:
        log: None when it speaks where the launcher does.
    """

    part: Part
    process: "subprocess.Popen[bytes]"
    log: Path | None
    started_s: float = field(default_factory=time.monotonic)

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def ready(self) -> bool:
        """Whether it runs and serves."""
        return self.alive() and self.part.ready(self.process.pid)

    def last_words(self) -> str:
        """The end of what it said, for an error message."""
        return f"the end of {self.log}:\n{tail(self.log)}" if self.log else "what it said stands above"


def start(part: Part, logs: Path | None) -> Running:
    """Starts a process, its output appended to `logs/<name>.log` or ours; raises `PartDied`."""
    log = logs / f"{part.name}.log" if logs else None
    if logs:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    user, group = part.user or (None, None)
    launcher = os.getpid()
    with _appended(log) if log else contextlib.nullcontext() as output:
        try:
            process = subprocess.Popen(
                part.argv,
                env=dict(part.env),
                cwd=part.cwd,
                stdin=subprocess.PIPE if part.stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: tether(launcher, part.stop_signal),  # noqa: PLW1509 -- one thread
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        except OSError as fault:
            raise PartDied(f"{part.name} cannot be started: {fault}") from fault
    if process.stdin:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(part.stdin)
    return Running(part, process, log)


def _appended(log: Path) -> BinaryIO:
    """A log for its owner's eyes, also when an earlier version made it."""
    file = os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
    os.fchmod(file.fileno(), 0o600)
    return file


def wait_until_ready(parts: Iterable[Running], on_ready: Callable[[Running], None] = lambda _: None) -> None:
    """Waits for all of them at once; raises `PartDied` for the first that ends or is late."""
    waiting = list(parts)
    while waiting:
        for running in list(waiting):
            if running.ready():
                waiting.remove(running)
                on_ready(running)
            else:
                refuse_to_wait(running)
        if waiting:
            time.sleep(POLL_S)


def stop(parts: Iterable[Running], patience_s: float = 5.0) -> list[str]:
    """Asks all of them to end, kills what is left of their groups; returns the names of those killed."""
    stopping = list(parts)
    for running in stopping:
        if running.alive():
            running.process.send_signal(running.part.stop_signal)
    deadline_s = time.monotonic() + patience_s
    killed: list[str] = []
    for running in stopping:
        try:
            running.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(running.part.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
    return killed


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, indented for an error message."""
    if not log.exists():
        return ""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return "\n".join("    " + line[:300] for line in text.splitlines()[-lines:])


def refuse_to_wait(running: Running) -> None:
    """Raises `PartDied` when a part has ended before it was ready, or is late."""
    part, code = running.part, running.process.poll()
    if code is not None:
        raise PartDied(f"{part.name} ended with code {code}; {running.last_words()}")
    if time.monotonic() - running.started_s > part.patience_s:
        late = f"{part.name} was not ready within {part.patience_s:.0f} s"
        raise PartDied(f"{late}; {running.last_words()}")


def tether(parent: int, death_signal: signal.Signals) -> None:
    """Has the kernel send this process a signal when its parent dies; ends it when that has already died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


class Missing(Exception):  # noqa: N818 -- errors are named for the state they report
    """A part of the stack is not installed; the message says what to type."""


def folder_of(package: str) -> Path:
    """The folder an installed package lies in; raises `Missing` when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"the wheel of `{package}` is not installed here: run `make setup` first")
    return Path(spec.submodule_search_locations[0])


def file_of(package: str, pattern: str) -> Path:
    """The first file of an installed package that matches; raises `Missing` when there is none."""
    folder = folder_of(package)
    found = next(folder.glob(pattern), None)
    if found is None:
        raise Missing(f"`{package}` holds no {pattern} for this machine: run `make setup` again")
    return found


def openmp_folder() -> Path | None:
    """Where the OpenMP library of the `cmeel-libomp` wheel lies; None when that wheel is not installed."""
    try:
        found = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found))


GRACE_S = 3.0


class Watchdog:
    """The launcher's end: tells the watchdog which groups are alive."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def guard(self, group: int) -> None:
        """From now on this group must not outlive the launcher."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """This group has ended in order."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Ends the watchdog; what it still guards is killed."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _tell(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def watch(told: TextIO) -> None:
    """Listens until the launcher is gone, then ends every group it still guards."""
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, signal.SIG_IGN)
    groups: set[int] = set()
    for line in told:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    deadline_s = time.monotonic() + GRACE_S
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, wanted)
        while any(map(_lives, groups)) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    watch(sys.stdin)
