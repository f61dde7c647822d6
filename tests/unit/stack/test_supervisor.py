"""What follows each check of the supervised processes."""

import pytest

from llm_proxy.stack.process import ProcessFailed
from llm_proxy.stack.supervisor import run_after_check


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
