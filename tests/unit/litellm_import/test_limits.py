"""LiteLLM's durations, limits and amounts, sane and odd, as limits and budgets of ours."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.identity import Budget, Limits
from llm_proxy.identity.caller import Period
from llm_proxy.litellm_import.limits import NO_REQUESTS, Allowance, model_allowances, read_allowance, stricter
from llm_proxy.litellm_import.plan import ImportPlan

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def read(**row: Any) -> tuple[Allowance, ImportPlan]:
    """What a row allows, and the notes."""
    plan = ImportPlan()
    return read_allowance(row, "key k", plan, NOW), plan


@pytest.mark.parametrize(
    ("duration", "period", "dollars"),
    [
        (None, "total", 6),
        ("", "total", 6),
        ("1d", "day", 6),
        ("24h", "day", 6),
        ("daily", "day", 6),
        ("86400s", "day", 6),
        ("7d", "week", 6),
        ("1w", "week", 6),
        ("weekly", "week", 6),
        ("30d", "month", 6),
        ("1mo", "month", 6),
        ("monthly", "month", 6),
        ("1h", "day", 144),
        ("hourly", "day", 144),
        ("12h", "day", 12),
        ("2d", "week", 21),
        ("14d", "month", 6 * 30 / 14),
        ("60d", "month", 3),
        ("3mo", "month", 2),
        ("every full moon", "day", 6),
        ("0d", "day", 6),
    ],
)
def test_a_duration_is_a_calendar_period_or_the_next_longer_one(
    duration: str | None, period: Period, dollars: float
) -> None:
    """In proportion, and noted where it is another."""
    allowance, plan = read(max_budget=6.0, budget_duration=duration)
    assert allowance.budgets == (Budget(int(dollars * 10**9), period),)
    is_same = dollars == 6 and duration != "every full moon"
    assert [note.kind for note in plan.notes] == ([] if is_same else ["changed"])


def test_spend_counts_in_the_running_period_only() -> None:
    """Not that of a period that is over, nor of one unlike ours."""
    later, before = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
    running, _ = read(max_budget=5, budget_duration="7d", spend=1.5, budget_reset_at=later)
    assert running.opening is not None
    assert (running.opening.cost_nano_usd, running.opening.period_start) == (
        1_500_000_000,
        datetime(2026, 11, 23, tzinfo=UTC),
    )
    over, plan = read(max_budget=5, budget_duration="7d", spend=1.5, budget_reset_at=before)
    assert (over.opening, [note.kind for note in plan.notes]) == (None, ["changed"])
    unlike, _ = read(max_budget=5, budget_duration="1h", spend=1.5, budget_reset_at=later)
    assert unlike.opening is None
    whole, _ = read(max_budget=5, spend=1.5)
    assert whole.opening is not None
    assert whole.opening.period_start == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["rpm_limit", "tpm_limit", "max_parallel_requests", "tpd_limit"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_of_nothing_admits_nothing(name: str, value: int) -> None:
    """0 means no limit here."""
    allowance, _ = read(**{name: value})
    assert (allowance.limits, allowance.budgets) == (Limits(), (NO_REQUESTS,))


def test_several_windows_and_tokens_a_day_are_budgets_beside_each_other() -> None:
    """Of one period the lower one holds."""
    windows = [{"budget_duration": "1d", "max_budget": 2}, {"budget_duration": "30d", "max_budget": 50}]
    allowance, _ = read(max_budget=3, budget_duration="1d", budget_limits=windows, tpd_limit=1000)
    assert allowance.budgets == (
        Budget(2_000_000_000, "day"),
        Budget(50_000_000_000, "month"),
        Budget(1000, "day", unit="tokens"),
    )


def test_the_stricter_of_two_keeps_the_spend_of_the_budget_that_holds() -> None:
    """A key's and its owner's."""
    key, _ = read(max_budget=10, budget_duration="1d", spend=4, rpm_limit=5)
    owner, _ = read(max_budget=3, budget_duration="1d", spend=1, tpm_limit=7)
    both = stricter(key, owner)
    assert (both.limits, both.budgets) == (Limits(5, 7), (Budget(3_000_000_000, "day"),))
    assert both.opening is not None
    assert both.opening.cost_nano_usd == 1_000_000_000


def test_limits_at_single_models_of_every_form() -> None:
    """A budget's object of either generation, a bare amount, and rate limits in the metadata."""
    row = {
        "model_max_budget": {"a": {"budget_limit": 1, "time_period": "1d"}, "b": {"max_budget": 2}, "c": 3.0},
        "metadata": '{"model_rpm_limit": {"a": 9}, "model_tpm_limit": {"d": 8}}',
    }
    found = model_allowances(row, "team t", ImportPlan(), NOW)
    assert found["a"].limits == Limits(rpm=9)
    assert {model: [budget.period for budget in one.budgets] for model, one in found.items()} == {
        "a": ["day"],
        "b": ["total"],
        "c": ["total"],
        "d": [],
    }


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("{"), st.just([1])
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "max_budget",
                "budget_duration",
                "spend",
                "rpm_limit",
                "tpd_limit",
                "budget_limits",
                "model_max_budget",
                "metadata",
                "budget_reset_at",
            ]
        ),
        odd,
    )
)
def test_no_row_is_too_odd(row: dict[str, Any]) -> None:
    """What LiteLLM's columns could hold at worst raises nothing, and no limit is out of range."""
    allowance = read_allowance(row, "key k", ImportPlan(), NOW)
    model_allowances(row, "key k", ImportPlan(), NOW)
    assert all(0 <= budget.limit <= 2**53 for budget in allowance.budgets)
    assert all(limit is None or 0 < limit <= 2**53 for limit in (allowance.limits.rpm, allowance.limits.tpm))
