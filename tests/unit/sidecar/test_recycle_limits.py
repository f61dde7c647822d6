"""When a sidecar's process is over its recycle limits."""

import os

import pytest

from llm_proxy.sidecar.recycle_limits import UNLIMITED, RecycleLimits, read_recycle_limits, resident_mib


@pytest.mark.parametrize(
    ("mib", "initial_mib", "completed_calls", "reason"),
    [
        (1000, 400, 10**9, None),
        (1001, 400, 0, "holds 1001 MiB"),
        (1240, 1000, 0, None),
        (1251, 1000, 0, "holds 1251 MiB"),
    ],
)
def test_a_sidecar_over_its_memory_is_replaced(
    mib: float, initial_mib: float, completed_calls: int, reason: str | None
) -> None:
    """One that is large from its start only after it grew: its replacement would be no smaller."""
    assert RecycleLimits(soft_mib=1000).recycle_reason(mib, initial_mib, completed_calls) == reason


def test_a_sidecar_over_its_number_of_calls_is_replaced() -> None:
    """If a number is set."""
    assert RecycleLimits(max_calls=7).recycle_reason(400, 400, 6) is None
    assert RecycleLimits(max_calls=7).recycle_reason(400, 400, 7) == "has answered 7 calls"


def test_limits_are_read_from_variables_and_zero_means_unlimited() -> None:
    """So does an unset one; a value that is no number is named."""
    assert read_recycle_limits({}) == RecycleLimits()
    variables = {"LLM_PROXY_SIDECAR_MAX_MIB": "700", "LLM_PROXY_SIDECAR_HARD_MIB": "0"}
    limits = read_recycle_limits(variables | {"LLM_PROXY_SIDECAR_MAX_CALLS": "5"})
    assert limits == RecycleLimits(700, UNLIMITED, 5, hung_after_s=60)
    assert read_recycle_limits({"LLM_PROXY_SIDECAR_HUNG_AFTER_S": "0"}).hung_after_s == UNLIMITED
    with pytest.raises(ValueError, match="LLM_PROXY_SIDECAR_HARD_MIB is not a number: 1G"):
        read_recycle_limits({"LLM_PROXY_SIDECAR_HARD_MIB": "1G"})


def test_resident_memory_of_a_process_and_of_none() -> None:
    """A process that has just ended is no error."""
    assert resident_mib(os.getpid()) > 5
    assert resident_mib(2**22 + 1) == 0
