"""When a sidecar has had its share."""

import os

import pytest

from llm_proxy.stack.process_specs import HARD_MIB, NEVER, SOFT_MIB, Share, resident_mib, share


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
    assert Share(soft_mib=1000).why_enough(mib, born_mib, answered) == why


def test_one_that_has_answered_enough_gives_way() -> None:
    """Where a number of calls is set."""
    assert Share(calls=7).why_enough(400, 400, 6) is None
    assert Share(calls=7).why_enough(400, 400, 7) == "has answered 7 calls"


def test_limits_are_read_from_names_and_nought_means_none() -> None:
    """Memory is limited unless somebody says otherwise; what is no number is named."""
    assert share({}) == Share(SOFT_MIB, HARD_MIB, NEVER)
    given = {"LLM_PROXY_SIDECAR_MAX_MIB": "700", "LLM_PROXY_SIDECAR_HARD_MIB": "0"}
    assert share(given | {"LLM_PROXY_SIDECAR_MAX_CALLS": "5"}) == Share(700, NEVER, 5)
    with pytest.raises(ValueError, match="LLM_PROXY_SIDECAR_HARD_MIB is not a number: 1G"):
        share({"LLM_PROXY_SIDECAR_HARD_MIB": "1G"})


def test_the_memory_of_a_process_is_seen_and_that_of_none_is_nought() -> None:
    """A process that has just ended is no error."""
    assert resident_mib(os.getpid()) > 5
    assert resident_mib(2**22 + 1) == 0
