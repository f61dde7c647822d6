"""The parent of forked workers: signals, workers that never serve, and one that ends while another starts."""

import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from parents import Parent, run_program
from processes import descendants, lives
from waiting import until

PROGRAM = Path(__file__).parents[2] / "prefork_program.py"
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at processes through /proc")


def run_parent(
    folder: Path, *words: str, start_timeout_s: float = 60, before: str = ""
) -> AbstractContextManager[Parent]:
    """A parent whose workers act the words; `before` is a command that starts it."""
    return run_program(folder, PROGRAM, str(start_timeout_s), *words, before=before)


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
