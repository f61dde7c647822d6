"""One program of the stack: how it is started, known to be ready, and stopped.

Invariants: a part leads its own process group and gets a signal from the kernel when the launcher's thread
dies (prctl(2), PR_SET_PDEATHSIG); parts are therefore started from the main thread only. Its environment is
the one given, nothing inherited. Its output goes to one log file, or where the launcher's own goes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

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
    """Starts a part, its words appended to `logs/<name>.log` or ours; raises `PartDied` if it cannot run."""
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
