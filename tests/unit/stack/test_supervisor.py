"""What follows each check of the supervised processes."""

import sys
from pathlib import Path

import pytest

from llm_proxy.stack.process import ProcessFailed, ProcessSpec, start
from llm_proxy.stack.supervisor import MAX_FAILURES, RestartState, check_process, run_after_check


def test_a_failed_rolling_restart_ends_no_process(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once with its traceback; a process that failed too often still ends the stack."""
    printed: list[str] = []

    def disk_full(_: float) -> None:
        raise OSError(28, "No space left on device")

    def failed(_: float) -> None:
        raise ProcessFailed("postgres ended")

    for now_s in (1.0, 2.0):
        run_after_check(disk_full, now_s, printed.append)
    assert len(printed) == len([one for one in caplog.records if one.exc_info]) == 1
    assert "No space left" in printed[0]
    with pytest.raises(ProcessFailed):
        run_after_check(failed, 3.0, printed.append)


@pytest.mark.parametrize("is_optional", [True, False])
def test_only_what_the_stack_needs_ends_it_by_failing(tmp_path: Path, *, is_optional: bool) -> None:
    """The console may fail for ever."""
    spec = ProcessSpec(
        "console", (sys.executable, "-c", ""), {}, readiness_probe=lambda _: False, is_optional=is_optional
    )
    state, printed = RestartState(start(spec, tmp_path), failed_starts=MAX_FAILURES), list[str]()
    state.ready_reported = False
    state.process.popen.wait()

    def check(now_s: float) -> None:
        check_process(state, lambda one: start(one, tmp_path), printed.append, now_s)

    if not is_optional:
        with pytest.raises(ProcessFailed):
            check(1.0)
        return
    check(1.0)
    check(1e9)
    assert len(printed) == 1
    assert "left alone" in printed[0]
