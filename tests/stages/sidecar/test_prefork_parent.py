"""The parent of forked workers: signals, workers that never serve, and one that ends while another starts."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import descendants, lives
from waiting import until

from llm_proxy.stack import probe

PROGRAM = Path(__file__).parents[2] / "prefork_program.py"
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at processes through /proc")


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

    def waits_for_signals(self) -> bool:
        """Whether it handles SIGTERM by now (proc(5), status)."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        [caught] = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
        return bool(caught & 1 << signal.SIGTERM - 1)


@contextmanager
def run_parent(folder: Path, *words: str, start_timeout_s: float = 60, before: str = "") -> Generator[Parent]:
    """A parent whose workers act the words; `before` is a command that starts it."""
    port, log = probe.free_port(), folder / "log"
    command = [*before.split(), sys.executable, str(PROGRAM), str(start_timeout_s), str(port), *words]
    with log.open("wb") as file:
        of_this_run = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a run under nohup ignores it
        popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        signal.signal(signal.SIGHUP, of_this_run)
    found: set[int] = set()
    try:
        yield Parent(popen, port, log)
    finally:
        found |= descendants(popen.pid).keys()
        popen.kill()
        popen.wait()
        for pid in filter(lives, found):
            os.kill(pid, signal.SIGKILL)


def test_a_closed_terminal_ends_the_parent_and_its_worker(tmp_path: Path) -> None:
    """The worker leaves SIGHUP to its parent, which then ends it in order; also in a run under `nohup`."""
    with run_parent(tmp_path, before="env --default-signal=HUP") as parent:
        worker = parent.wait_for_worker()
        os.kill(worker, signal.SIGHUP)
        assert parent.worker() == worker
        parent.popen.send_signal(signal.SIGHUP)
        assert parent.popen.wait(10) == 0
        assert not lives(worker)
        assert "sidecar: SIGHUP: ending as at SIGTERM\n" in parent.log.read_text()


def test_under_nohup_a_closed_terminal_changes_nothing(tmp_path: Path) -> None:
    """SIGHUP is ignored as the caller wished; SIGTERM still ends all."""
    with run_parent(tmp_path, before="nohup") as parent:
        worker = parent.wait_for_worker()
        parent.popen.send_signal(signal.SIGHUP)
        parent.popen.send_signal(signal.SIGTERM)
        assert parent.popen.wait(10) == 0
        assert not lives(worker)
        assert "SIGHUP" not in parent.log.read_text()


def test_a_worker_that_hangs_before_it_serves_is_killed_and_forked_anew(tmp_path: Path) -> None:
    """The log shows where it hung; the next one has twice the time, and one that is stopped is killed too."""
    with run_parent(tmp_path, "hang", "be_stopped", start_timeout_s=0.3) as parent:
        assert parent.wait_for_worker()
        log = parent.log.read_text()
        of_port = f"sidecar: the worker of port {parent.port}"
        assert log.count(f"{of_port} does not serve after") == 2
        assert "line" in log
        assert "in hang\n" in log
        assert f"{of_port} ended with code -6; another one starts in 0.5 s" in log
        assert f"{of_port} ended with code -9; another one starts in 1 s" in log


def test_a_replacement_keeps_the_port_when_the_worker_before_it_is_killed(tmp_path: Path) -> None:
    """Also between its first listening and its report."""
    with run_parent(tmp_path, "grow", "outlive") as parent:
        until(lambda: "its replacement starts" in parent.log.read_text())
        worker = parent.wait_for_worker()
        assert descendants(parent.popen.pid).keys() == {worker}


def test_a_signal_ends_a_parent_whose_worker_never_serves(tmp_path: Path) -> None:
    """It is the worker's end that it waits for, not its readiness."""
    with run_parent(tmp_path, "hang") as parent:
        until(lambda: parent.waits_for_signals() and bool(descendants(parent.popen.pid)))
        parent.popen.send_signal(signal.SIGTERM)
        assert parent.popen.wait(10) == 0
