"""When a sidecar has had its share."""

import os

import pytest

from llm_proxy.stack.process_specs import (
    DEFAULT_HARD_MIB,
    DEFAULT_SOFT_MIB,
    UNLIMITED,
    RecycleLimits,
    read_recycle_limits,
    resident_mib,
)


@pytest.mark.parametrize(
    ("mib", "born_mib", "answered", "why"),
    [
        (1000, 400, 10**9, None),
        (1001, 400, 0, "holds 1001 MiB"),
        (1240, 1000, 0, None),
        (1251, 1000, 0, "holds 1251 MiB"),
    ],
)
def test_one_that_has_grown_past_its_share_gives_way(
    mib: float, born_mib: float, answered: int, why: str | None
) -> None:
    """One that is born large only after it has grown: its successor would be no smaller."""
    assert RecycleLimits(soft_mib=1000).recycle_reason(mib, born_mib, answered) == why


def test_one_that_has_answered_enough_gives_way() -> None:
    """Where a number of calls is set."""
    assert RecycleLimits(max_calls=7).recycle_reason(400, 400, 6) is None
    assert RecycleLimits(max_calls=7).recycle_reason(400, 400, 7) == "has answered 7 calls"


def test_limits_are_read_from_names_and_nought_means_none() -> None:
    """Memory is limited unless somebody says otherwise; what is no number is named."""
    assert read_recycle_limits({}) == RecycleLimits(DEFAULT_SOFT_MIB, DEFAULT_HARD_MIB, UNLIMITED)
    given = {"LLM_PROXY_SIDECAR_MAX_MIB": "700", "LLM_PROXY_SIDECAR_HARD_MIB": "0"}
    assert read_recycle_limits(given | {"LLM_PROXY_SIDECAR_MAX_CALLS": "5"}) == RecycleLimits(
        700, UNLIMITED, 5
    )
    with pytest.raises(ValueError, match="LLM_PROXY_SIDECAR_HARD_MIB is not a number: 1G"):
        read_recycle_limits({"LLM_PROXY_SIDECAR_HARD_MIB": "1G"})


def test_the_memory_of_a_process_is_seen_and_that_of_none_is_nought() -> None:
    """A process that has just ended is no error."""
    assert resident_mib(os.getpid()) > 5
    assert resident_mib(2**22 + 1) == 0
