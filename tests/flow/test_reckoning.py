"""A small reckoning: what callers got, what the provider said, the records and the sidecar's log agree."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench.reckoning import Shape, reckon
from bench.reckoning_house import House, house
from bench.reckoning_plan import KINDS, draft, every

SHAPE = Shape(calls=150, seed=18, at_once=10, kills=(0.4,), away_s=1.0)


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house() as running:
        yield running


@pytest.mark.timeout(240)  # a house of its own: half a minute where the machine has other work
async def test_every_call_is_recorded_once_and_to_the_nano_dollar(home: House) -> None:
    """Tokens, money, outcomes and attempts of every kind of call, with Postgres killed in between."""
    found: dict[str, Any] = await reckon(home, SHAPE)
    assert found["first_findings"] == []
    assert found["strangers"] == 0
    assert found["findings_after"] == 0
    assert found["reconciled"]["exit_code"] == 0
    assert found["reconciled"]["unexplained"] == []
    assert found["role"]["may"] == ["INSERT llm_calls", "UPDATE llm_calls"]
    assert found["exact"] > found["calls"] / 2
    assert set(found["kinds"]) == {kind.name for kind in KINDS}


def test_the_calls_are_of_every_kind_and_two_fifths_are_streams() -> None:
    """The full plan has what a reckoning is to have."""
    calls = list(every(draft(5000, 7)))
    assert len(calls) == 5000
    assert {one.kind.name for one in calls} == {kind.name for kind in KINDS}
    assert sum(one.kind.stream for one in calls) >= 2000
