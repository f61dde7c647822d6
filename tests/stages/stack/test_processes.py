"""The launcher's processes: none outlives it, each that ends is restarted and named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import lives

from llm_proxy.restart_pauses import restart_pause_s
from llm_proxy.stack import ManagedProcess, ProcessFailed, ProcessSpec, start, stop
from llm_proxy.stack.supervisor import MAX_FAILURES, RestartState, Supervisor, check_process

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ignoring SIGTERM", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""
LAUNCHER = """
import os, sys, time
from pathlib import Path
from llm_proxy.stack import ProcessSpec
from llm_proxy.stack.supervisor import Supervisor
folder = Path(sys.argv[1])
supervisor = Supervisor(folder, print)
noted = folder / "grandchild"
argv = (sys.executable, "-c", sys.argv[2], str(noted))
process = supervisor.start(ProcessSpec("child", argv, os.environ, lambda _: noted.exists()))
supervisor.wait_until_ready([process])
print(process.popen.pid, noted.read_text(), flush=True)
time.sleep(60)
"""


def spec(*code: str) -> ProcessSpec:
    return ProcessSpec("child", (sys.executable, "-c", *code), os.environ, lambda _: True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_a_killed_launcher_not_even_a_stubborn_grandchild(tmp_path: Path) -> None:
    """`kill -9` of the launcher ends its children at once, and their children within seconds."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), PARENT], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout
    with launcher.stdout as printed:
        printed.readline()
        pids = [int(word) for word in printed.readline().split()]
        assert [lives(pid) for pid in pids] == [True, True]
        launcher.kill()
        launcher.wait()
    deadline_s = time.monotonic() + 10
    while any(map(lives, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [lives(pid) for pid in pids] == [False, False]


def test_a_process_that_does_not_end_is_killed_and_named(tmp_path: Path) -> None:
    """After the timeout of all."""
    process = start(spec(STUBBORN), tmp_path)
    deadline_s = time.monotonic() + 10
    while not (tmp_path / "child.log").read_text() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert stop([process], timeout_s=0.2) == ["child"]
    assert not process.is_alive()


def test_a_process_that_ends_is_named_and_restarted_after_a_pause(tmp_path: Path) -> None:
    """The line holds the name, the exit code, the pause and the log."""
    printed: list[str] = []
    restarted: list[ProcessSpec] = []

    def restart(one: ProcessSpec) -> ManagedProcess:
        restarted.append(one)
        return start(one, tmp_path)

    state = RestartState(start(spec("raise SystemExit(9)"), tmp_path))
    state.process.popen.wait()
    now_s = state.process.started_s
    check_process(state, restart, printed.append, now_s)
    check_process(state, restart, printed.append, now_s + restart_pause_s(1) - 0.01)
    assert restarted == []
    check_process(state, restart, printed.append, now_s + restart_pause_s(1))
    assert [one.name for one in restarted] == ["child"]
    assert printed == [f"child ended with code 9; restarting it in 0.5 s (log: {tmp_path / 'child.log'})"]
    stop([state.process])


def test_a_process_that_does_not_start_ends_the_stack_with_the_end_of_its_log(tmp_path: Path) -> None:
    """After `MAX_FAILURES` failed starts in a row."""
    process = start(spec("raise SystemExit('no such colour')"), tmp_path)
    process.popen.wait()
    state = RestartState(process, failed_starts=MAX_FAILURES, ready_reported=False)
    with pytest.raises(ProcessFailed, match=r"child ended with code 1(?s:.*)no such colour"):
        check_process(state, lambda one: start(one, tmp_path), print, process.started_s)


def test_a_process_that_becomes_ready_each_time_is_always_restarted(tmp_path: Path) -> None:
    """However often it ends later: it serves in between, and so do the others."""
    printed: list[str] = []
    process = start(spec("raise SystemExit(9)"), tmp_path)
    process.popen.wait()
    state = RestartState(process, failures=100)
    check_process(state, lambda one: start(one, tmp_path), printed.append, process.started_s)
    assert printed == [f"child ended with code 9; restarting it in 15 s (log: {tmp_path / 'child.log'})"]


def test_a_process_without_a_log_writes_to_the_launchers_output(capfd: pytest.CaptureFixture[str]) -> None:
    """As containers want it; an error then says where to look."""
    process = start(spec("import sys; print('out'); print('err', file=sys.stderr)"), None)
    process.popen.wait()
    assert sorted(capfd.readouterr().out.split()) == ["err", "out"]
    assert process.log_end() == "its output is above"


def test_pauses_grow_to_a_limit() -> None:
    """From 0.5 s to 15 s."""
    assert [restart_pause_s(failures) for failures in (1, 2, 3, 4, 20)] == [0.5, 1.0, 2.0, 4.0, 15.0]


def test_a_program_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    """With the reason, and without a traceback."""
    with pytest.raises(ProcessFailed, match=r"child cannot be started: .*no/such/program"):
        start(ProcessSpec("child", ("/no/such/program",), {}, lambda _: True), tmp_path)


def test_a_process_inherits_no_variable_of_the_launcher(tmp_path: Path) -> None:
    """Its environment is the one of its spec."""
    code = "import os; print(sorted(os.environ))"
    only = {"ONLY": "this", "LC_ALL": "C"}
    process = start(ProcessSpec("child", (sys.executable, "-I", "-c", code), only, lambda _: True), tmp_path)
    process.popen.wait()
    assert (tmp_path / "child.log").read_text().strip() == "['LC_ALL', 'ONLY']"
    assert process.popen.returncode != -signal.SIGKILL


def test_a_process_whose_end_is_wanted_has_not_failed(tmp_path: Path) -> None:
    """It is restarted at once, whatever was before, and the line does not look like a crash."""
    printed: list[str] = []
    state = RestartState(
        start(spec(""), tmp_path), failures=3, failed_starts=MAX_FAILURES, end_is_wanted=True
    )
    state.process.popen.wait()
    check_process(state, lambda _: state.process, printed.append, 5.0)
    assert printed == ["child restarts with its new settings"]
    assert (state.failures, state.restart_at_s, state.end_is_wanted) == (3, 5.0, False)
    check_process(state, lambda _: state.process, printed.append, 5.0)
    assert state.restart_at_s is None


def test_a_new_process_that_is_discarded_is_not_reported_as_the_one_before(tmp_path: Path) -> None:
    """It is stopped and forgotten; one that was exchanged is reported when it has ended."""
    supervisor = Supervisor(tmp_path, print)
    waits = spec("import time; time.sleep(60)")
    try:
        old = supervisor.start(waits)
        failed = supervisor.start_beside(waits)
        supervisor.discard(failed)
        assert not failed.is_alive()
        assert supervisor.forget_ended() == []
        supervisor.exchange(supervisor.start_beside(waits), signal.SIGKILL)
        old.popen.wait()
        assert supervisor.forget_ended() == [old]
    finally:
        supervisor.stop_all()
