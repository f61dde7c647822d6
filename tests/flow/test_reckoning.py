"""A small reckoning: what callers got, what the provider said, the records and the sidecar's log agree."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench.reckoning import Shape, reckon
from bench.reckoning_budgets import SCOPES
from bench.reckoning_house import House, house
from bench.reckoning_plan import KINDS, draft, every, plan

SHAPE = Shape(calls=150, seed=36, at_once=10, kills=(0.4,), away_s=1.0)


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
    assert set(found["budgets"]["checked"]) >= {*SCOPES, "tenant, callers left", "tenant, spent up"}
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


def test_the_calls_are_billed_for_all_that_a_provider_bills() -> None:
    """Tokens read from its cache and written to it, for five minutes and an hour, in each tier."""
    play = [one.play for one in every(plan(2000, 7))]
    for name in ("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens"):
        assert sum(bool(one.get(name)) for one in play) > 50, name
    assert {one.get("service_tier") for one in play} == {None, "flex", "priority"}
