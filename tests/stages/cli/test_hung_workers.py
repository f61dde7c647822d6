"""A worker that hangs is killed and replaced, by the gateway's or the sidecars' parent; a busy one is not."""

import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from parents import Parent, run_program
from processes import lives
from waiting import until

HUNG_AFTER_S = 2
PROGRAM = Path(__file__).parents[2] / "hung_program.py"
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at processes through /proc"),
    pytest.mark.parametrize("kind", ["gateway", "sidecars"]),
]


def run(folder: Path, kind: str, act: str) -> AbstractContextManager[Parent]:
    """A parent of that kind, whose first worker acts."""
    return run_program(folder, PROGRAM, f"{kind} {HUNG_AFTER_S}", act)


@pytest.mark.parametrize(("act", "code"), [("block", -6), ("be_stopped", -9)])
def test_a_worker_that_hangs_is_killed_and_replaced(kind: str, act: str, code: int, tmp_path: Path) -> None:
    """The log says so, and where it hung unless it was stopped; the next one answers on the same port."""
    with run(tmp_path, kind, act) as parent:
        until(lambda: "hangs, its event loop stood still for 2 s: killed" in parent.log.read_text())
        until(lambda: "another" in parent.log.read_text())
        assert parent.wait_for_worker()
        log = parent.log.read_text()
        assert f"code {code};" in log or f"({code});" in log
        assert ("Fatal Python error: Aborted" in log and "in block\n" in log) == (act == "block")
        assert log.count("hangs, ") == 1


def test_a_busy_worker_goes_on(kind: str, tmp_path: Path) -> None:
    """Its event loop stands still for twice as long, but never in one piece."""
    with run(tmp_path, kind, "be_busy") as parent:
        until(lambda: "was busy" in parent.log.read_text())
        worker = parent.wait_for_worker()
        assert "hangs" not in parent.log.read_text()
        assert parent.worker() == worker


def test_a_draining_worker_drains_to_its_end(kind: str, tmp_path: Path) -> None:
    """For twice as long; the port refuses meanwhile."""
    with run(tmp_path, kind, "serve") as parent:
        worker = parent.wait_for_worker()
        parent.popen.send_signal(signal.SIGTERM)
        until(lambda: not parent.worker())
        assert lives(worker)
        assert parent.popen.wait(30) == 0
        log = parent.log.read_text()
        assert "hangs" not in log
        assert "has drained" in log


def test_time_in_which_the_parent_stands_still_counts_for_nothing(kind: str, tmp_path: Path) -> None:
    """As on a machine that slept, or in a paused container: both go on where they were."""
    with run(tmp_path, kind, "serve") as parent:
        worker = parent.wait_for_worker()
        for one in (parent.popen.pid, worker):
            os.kill(one, signal.SIGSTOP)
        time.sleep(HUNG_AFTER_S + 1)
        waits = parent.waits()
        os.kill(parent.popen.pid, signal.SIGCONT)
        until(lambda: parent.waits() > waits + 1)  # it has looked at the worker, which has sent nothing yet
        os.kill(worker, signal.SIGCONT)
        assert parent.worker() == worker
        time.sleep(HUNG_AFTER_S)
        assert parent.worker() == worker
        assert "hangs" not in parent.log.read_text()
