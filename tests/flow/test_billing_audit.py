"""A small billing audit: the books of callers, provider, gateways and sidecar agree."""

from collections.abc import Iterator

import pytest
from billing.audit import SETTINGS, Size, audit
from billing.budgets import SCOPES
from billing.plan import KINDS, config, draft, every, plan
from stack_processes import StackProcesses, run_stack

SIZE = Size(calls=150, seed=227, running=10, kills=(0.4,), away_s=1.0)


@pytest.fixture(scope="module")
def processes() -> Iterator[StackProcesses]:
    with run_stack(config(), gateways=2, settings=SETTINGS) as running:
        yield running


@pytest.mark.timeout(240)  # a stack of its own: half a minute where the machine has other work
async def test_every_call_is_recorded_once_and_to_the_nano_dollar(processes: StackProcesses) -> None:
    """Tokens, money, outcomes and attempts of every kind of call, with Postgres killed in between."""
    found = await audit(processes, SIZE)
    assert found["first_findings"] == []
    assert found["strangers"] == 0
    assert set(found["budgets"]["checked"]) >= {*SCOPES, "tenant, callers left", "tenant, spent up"}
    assert found["findings_after"] == 0
    assert found["reconcile"]["exit_code"] == 0
    assert found["reconcile"]["unexplained"] == []
    assert found["role"]["may"] == ["INSERT llm_calls", "UPDATE llm_calls"]
    assert found["exact"] > found["calls"] / 2
    assert min(found["apis"].values()) > 0
    assert set(found["kinds"]) == {kind.name for kind in KINDS}


def test_the_calls_are_of_every_kind_and_two_fifths_are_streams() -> None:
    """The full plan has what an audit is to have."""
    calls = list(every(draft(5000, 7)))
    assert len(calls) == 5000
    assert {one.kind.name for one in calls} == {kind.name for kind in KINDS}
    assert sum(one.kind.stream for one in calls) >= 2000


def test_the_calls_are_billed_for_all_that_a_provider_bills() -> None:
    """Tokens read from its cache and written to it, for five minutes and an hour, in each tier."""
    scripts = [one.script for one in every(plan(2000, 7))]
    for name in ("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens"):
        assert sum(bool(one.get(name)) for one in scripts) > 50, name
    assert {one.get("service_tier") for one in scripts} == {None, "flex", "priority"}
