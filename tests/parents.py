"""A program that forks one worker from its parent process, and that answers with the worker's process id."""

import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import descendants, signal_all
from waiting import until

from llm_proxy.stack import probe


@dataclass(frozen=True, slots=True)
class Parent:
    """A running parent of one worker."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    def worker(self) -> int:
        """The process that answers at the port; 0 if the port refuses."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                return int(connection.recv(16) or 0)
        except ConnectionError:
            return 0

    def wait_for_worker(self) -> int:
        """The process that answers, as soon as one does."""
        until(lambda: self.worker() > 0)
        return self.worker()

    def waits(self) -> int:
        """How often the parent has waited for something (proc(5), status)."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text(encoding="ascii").splitlines()
        [count] = [int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:")]
        return count

    def waits_for_signals(self) -> bool:
        """Whether it handles SIGTERM by now (proc(5), status)."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        [caught] = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
        return bool(caught & 1 << signal.SIGTERM - 1)


@contextmanager
def run_program(folder: Path, program: Path, first: str, *words: str, before: str = "") -> Generator[Parent]:
    """Runs a program that is such a parent: with `first`, the port and the words as its arguments.

    `before` is a command that starts it.
    """
    port, log = probe.free_port(), folder / "log"
    command = [*before.split(), sys.executable, str(program), *first.split(), str(port), *words]
    with log.open("wb") as file:
        of_this_run = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a run under nohup ignores it
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        signal.signal(signal.SIGHUP, of_this_run)
    found: set[int] = set()
    try:
        yield Parent(popen, port, log)
    finally:
        popen.send_signal(signal.SIGSTOP)  # it forks none any more
        found |= descendants(popen.pid).keys()
        popen.kill()
        popen.wait()
        signal_all(found, signal.SIGKILL)
