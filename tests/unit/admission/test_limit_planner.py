"""Budget periods, token estimates, and a key's cap on `max_tokens`."""

from datetime import UTC, datetime, timedelta
from typing import cast, get_args

import pytest
from hypothesis import strategies as st

from llm_proxy.admission import limit_planner
from llm_proxy.admission.limiter import LimitCheck, LimitPlan
from llm_proxy.admission.policy_resolver import next_day_ms, period_end_ms, period_stamp, period_start
from llm_proxy.dialects import Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import Budget
from llm_proxy.identity.caller import BudgetUnit, Period
from llm_proxy.money import Price
from llm_proxy.quantities import units_of

LEAP_DAY_MS = int(datetime(2028, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC).timestamp() * 1000)
counts = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        ("month", datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_periods_are_calendar_days_and_months(period: Period, start: datetime, end: datetime) -> None:
    """On a leap day, a millisecond before midnight."""
    budget = Budget(1, period)
    assert period_start(budget, LEAP_DAY_MS) == start
    assert period_end_ms(budget, LEAP_DAY_MS) == int(end.timestamp() * 1000)
    assert next_day_ms(LEAP_DAY_MS) == LEAP_DAY_MS + 1
    assert period_start(budget, LEAP_DAY_MS + 1) == end


def test_a_week_begins_on_monday_in_the_budget_s_zone() -> None:
    """Across the end of a month and of summer time."""
    assert period_start(Budget(1, "week"), LEAP_DAY_MS) == datetime(2028, 2, 28, tzinfo=UTC)
    assert period_end_ms(Budget(1, "week"), LEAP_DAY_MS) == int(
        datetime(2028, 3, 6, tzinfo=UTC).timestamp() * 1000
    )
    berlin, at = Budget(1, "week", "Europe/Berlin"), datetime(2026, 10, 26, 12, tzinfo=UTC)
    assert period_start(berlin, int(at.timestamp() * 1000)) == datetime(2026, 10, 25, 23, tzinfo=UTC)
    before = at - timedelta(days=1)
    assert period_start(berlin, int(before.timestamp() * 1000)) == datetime(2026, 10, 18, 22, tzinfo=UTC)


def test_a_total_budget_has_no_period() -> None:
    """Its counter never ends."""
    assert period_start(Budget(1, "total"), LEAP_DAY_MS).year == 1970
    assert period_end_ms(Budget(1, "total"), LEAP_DAY_MS) == 0


def test_december_ends_with_the_year() -> None:
    """Months have different lengths."""
    december_ms = int(datetime(2026, 12, 31, 12, tzinfo=UTC).timestamp() * 1000)
    assert period_end_ms(Budget(1, "month"), december_ms) == int(
        datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000
    )


@pytest.mark.parametrize(
    ("requested", "maximum", "percentile", "choices", "completion"),
    [
        (None, None, None, 1, 4096),
        (None, 128_000, None, 1, 4096),
        (None, 300, None, 1, 300),
        (None, 128_000, 77, 1, 77),
        (None, 50, 77, 1, 50),
        (2**31, 128_000, None, 1, 4096),
        (50, None, None, 1, 50),
        (9_000, 128_000, 77, 1, 9_000),
        (500, 300, None, 1, 300),
        (50, 300, None, 4, 200),
        (None, 300, 7, 4, 28),
    ],
)
def test_an_answer_is_estimated_by_its_limit_else_the_percentile_else_the_models_maximum(
    requested: int | None, maximum: int | None, percentile: int | None, choices: int, completion: int
) -> None:
    """A prompt is a token for four bytes; at most 4,096 where no answers of the group are known."""
    call = _call(prompt_bytes=10, max_tokens=requested, choices=choices)
    assert limit_planner.estimate_tokens(call, Price(1, 1, maximum), percentile) == (3, completion)


@pytest.mark.parametrize("percentile", [None, 0, 70])
def test_an_answer_that_is_not_parsed_is_as_long_as_the_latest_ones(percentile: int | None) -> None:
    """Most have no tokens: 4,096 of them would block a limit for nothing."""
    call = _call(prompt_bytes=10)._replace(endpoint="images.generations")
    assert limit_planner.estimate_tokens(call, Price(1, 1), percentile) == (3, percentile or 0)


def test_a_call_is_planned_without_budgets_of_units_it_cannot_use() -> None:
    """Money, requests and tokens count everywhere; without a budget to leave out it is the same plan."""
    units = get_args(BudgetUnit)
    checks = tuple(LimitCheck("budget", "key", "key k", unit, 1, unit=unit) for unit in units)
    plan = LimitPlan("t", "{t}", (*checks, LimitCheck("requests", "key", "key k", "r", 9)), 7, checks)
    everywhere = ["usd", "requests", "tokens"]
    for endpoint, own in (
        ("chat.completions", ["turns"]),
        ("images.edits", ["images"]),
        ("audio.speech", ["characters"]),
        ("audio.translations", ["audio_seconds"]),
        ("rerank", ["search_units"]),
    ):
        planned = plan.for_units(units_of(cast("Endpoint", endpoint)))
        assert [one.unit for one in planned.checks[:-1]] == [*everywhere, *own]
        assert [one.unit for one in planned.fallback_checks] == [*everywhere, *own]
        assert (planned.checks[-1].kind, planned.valid_until_ms) == ("requests", 7)
    assert plan.for_units(units) is plan


def test_the_percentile_is_of_the_groups_last_200_answers() -> None:
    """Per choice; fewer than 20 answers give none."""
    lengths, call = limit_planner.AnswerLengths(), _call(choices=2)
    for tokens in range(1, 20):
        lengths.add(call, 2 * tokens)
    assert lengths.percentile("m") is None
    lengths.add(call, 2 * 20)
    assert lengths.percentile("m") == 19
    for _ in range(190):
        lengths.add(call, 14)
    assert lengths.percentile("m") == 7
    assert lengths.percentile("other") is None


def test_loaded_answers_are_older_than_added_ones() -> None:
    """A new process knows the answers of all replicas."""
    lengths, call = limit_planner.AnswerLengths(), _call()
    lengths.add(call, 90)
    lengths.load([("m", 10)] * 18 + [("m", 70)])
    assert lengths.percentile("m") == 70
    for _ in range(limit_planner.MAX_LENGTHS - 1):
        lengths.add(call, 5)
    lengths.load([("m", 900)] * 300)
    assert lengths.percentile("m") == 5


def test_the_memory_of_answers_is_bounded() -> None:
    """However many groups there are."""
    lengths = limit_planner.AnswerLengths()
    for number in range(2 * limit_planner.MAX_GROUPS):
        for _ in range(limit_planner.MIN_LENGTHS):
            lengths.add(_call()._replace(group=f"g{number}"), 5)
    known = sum(lengths.percentile(f"g{at}") == 5 for at in range(2 * limit_planner.MAX_GROUPS))
    assert known <= limit_planner.MAX_GROUPS


def test_embeddings_reserve_only_their_prompt() -> None:
    """They have no completion."""
    assert limit_planner.estimate_tokens(
        Call("embeddings", "openai", "m", "m", {}, prompt_bytes=9), None, 50
    ) == (3, 0)


def test_a_period_begins_and_ends_in_the_budgets_time_zone() -> None:
    """At midnight there, also on a day of 25 hours, with a counter of its own."""
    berlin = Budget(1, "day", "Europe/Berlin")
    at_ms = int(datetime(2026, 10, 24, 23, 30, tzinfo=UTC).timestamp() * 1000)
    assert period_start(berlin, at_ms) == datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert period_end_ms(berlin, at_ms) == int(datetime(2026, 10, 25, 23, tzinfo=UTC).timestamp() * 1000)
    assert period_stamp(berlin, at_ms) == "20261025:Europe/Berlin"
    assert period_stamp(Budget(1, "day"), at_ms) == "20261024"
    month = Budget(1, "month", "Asia/Kolkata")
    assert period_end_ms(month, at_ms) == int(datetime(2026, 10, 31, 18, 30, tzinfo=UTC).timestamp() * 1000)


def _call(
    *,
    body: dict[str, int] | None = None,
    prompt_bytes: int = 0,
    max_tokens: int | None = None,
    choices: int = 1,
) -> Call:
    return Call(
        "chat.completions",
        "openai",
        "m",
        "m",
        dict(body or {}),
        prompt_bytes=prompt_bytes,
        max_tokens=max_tokens,
        choices=choices,
    )
