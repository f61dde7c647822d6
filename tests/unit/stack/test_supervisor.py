"""Keeping the parts of a stack up."""

import pytest

from llm_proxy.stack.process import ProcessFailed
from llm_proxy.stack.supervisor import run_after_check


def test_an_exchange_that_fails_ends_nothing_that_runs(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once with its traceback; a part that cannot be kept up still ends the stack."""
    said: list[str] = []

    def full(_: float) -> None:
        raise OSError(28, "No space left on device")

    def dead(_: float) -> None:
        raise ProcessFailed("postgres ended")

    for now_s in (1.0, 2.0):
        run_after_check(full, now_s, said.append)
    assert len(said) == len([one for one in caplog.records if one.exc_info]) == 1
    assert "No space left" in said[0]
    with pytest.raises(ProcessFailed):
        run_after_check(dead, 3.0, said.append)
