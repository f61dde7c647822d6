"""The launcher's care for its processes: none is left behind, what dies is started again, and it says so."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import lives

from llm_proxy.stack import ManagedProcess, ProcessFailed, ProcessSpec, start, stop
from llm_proxy.stack.supervisor import MAX_FAILURES, RestartState, check_process, restart_pause_s

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""
LAUNCHER = """
import os, sys, time
from pathlib import Path
from llm_proxy.stack import Part
from llm_proxy.stack.supervisor import Household
folder = Path(sys.argv[1])
household = Household(folder, print)
noted = folder / "grandchild"
part = Part("part", (sys.executable, "-c", sys.argv[2], str(noted)), os.environ, lambda _: noted.exists())
running = household.start(part)
household.wait([running])
print(running.process.pid, noted.read_text(), flush=True)
time.sleep(60)
"""


def part_that_runs(*code: str) -> ProcessSpec:
    return ProcessSpec("part", (sys.executable, "-c", *code), os.environ, lambda _: True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_launcher_leaves_no_process_not_even_a_stubborn_grandchild(tmp_path: Path) -> None:
    """Kill -9 of the launcher ends its children at once, and what they left behind within seconds."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), PARENT], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout
    with launcher.stdout as said:
        said.readline()
        pids = [int(word) for word in said.readline().split()]
        assert [lives(pid) for pid in pids] == [True, True]
        launcher.kill()
        launcher.wait()
    deadline_s = time.monotonic() + 10
    while any(map(lives, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [lives(pid) for pid in pids] == [False, False]


def test_a_part_that_does_not_end_is_killed_and_named(tmp_path: Path) -> None:
    """Patience ends; nobody wonders which part took so long."""
    running = start(part_that_runs(STUBBORN + "# " + "x"), tmp_path)
    time.sleep(0.3)
    assert stop([running], timeout_s=0.2) == ["part"]
    assert not running.is_alive()


def test_a_part_that_dies_is_named_and_started_again_after_a_pause(tmp_path: Path) -> None:
    """The line says which part, how it ended, when it comes back, and where its log is."""
    said: list[str] = []
    began: list[ProcessSpec] = []

    def start_again(part: ProcessSpec) -> ManagedProcess:
        began.append(part)
        return start(part, tmp_path)

    watched = RestartState(start(part_that_runs("raise SystemExit(9)"), tmp_path))
    watched.process.popen.wait()
    now_s = watched.process.started_s
    check_process(watched, start_again, said.append, now_s)
    check_process(watched, start_again, said.append, now_s + restart_pause_s(1) - 0.01)
    assert began == []
    check_process(watched, start_again, said.append, now_s + restart_pause_s(1))
    assert [part.name for part in began] == ["part"]
    assert said == [f"part ended with code 9; starting it again in 0.5 s (log: {tmp_path / 'part.log'})"]
    stop([watched.process])


def test_a_part_that_cannot_stay_up_ends_the_stack_with_its_last_words(tmp_path: Path) -> None:
    """After so many starts in a row that came to nothing, nobody is served by trying on."""
    running = start(part_that_runs("raise SystemExit('no such colour')"), tmp_path)
    running.popen.wait()
    watched = RestartState(running, failed_starts=MAX_FAILURES, ready_reported=False)
    with pytest.raises(ProcessFailed, match=r"part ended with code 1(?s:.*)no such colour"):
        check_process(watched, lambda part: start(part, tmp_path), print, running.started_s)


def test_a_part_that_comes_up_each_time_is_never_given_up(tmp_path: Path) -> None:
    """However often it dies later on: the others go on serving, and so does it in between."""
    said: list[str] = []
    running = start(part_that_runs("raise SystemExit(9)"), tmp_path)
    running.popen.wait()
    watched = RestartState(running, failures=100)
    check_process(watched, lambda part: start(part, tmp_path), said.append, running.started_s)
    assert said == [f"part ended with code 9; starting it again in 15 s (log: {tmp_path / 'part.log'})"]


def test_a_part_without_a_log_speaks_where_the_launcher_does(capfd: pytest.CaptureFixture[str]) -> None:
    """As containers want it; an error then says where to look."""
    running = start(part_that_runs("import sys; print('out'); print('err', file=sys.stderr)"), None)
    running.popen.wait()
    assert sorted(capfd.readouterr().out.split()) == ["err", "out"]
    assert running.log_end() == "what it said stands above"


def test_pauses_grow_to_a_limit() -> None:
    """Quick at first, never longer than a quarter of a minute."""
    assert [restart_pause_s(failures) for failures in (1, 2, 3, 4, 20)] == [0.5, 1.0, 2.0, 4.0, 15.0]


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    """Not a traceback but the part and the reason."""
    with pytest.raises(ProcessFailed, match=r"part cannot be started: .*no/such/program"):
        start(ProcessSpec("part", ("/no/such/program",), {}, lambda _: True), tmp_path)


def test_a_part_inherits_nothing_from_the_launcher(tmp_path: Path) -> None:
    """A part's environment is the one it was given."""
    code = "import os; print(sorted(os.environ))"
    only = ProcessSpec(
        "part", (sys.executable, "-I", "-c", code), {"ONLY": "this", "LC_ALL": "C"}, lambda _: True
    )
    running = start(only, tmp_path)
    running.popen.wait()
    assert (tmp_path / "part.log").read_text().strip() == "['LC_ALL', 'ONLY']"
    assert running.popen.returncode != -signal.SIGKILL
