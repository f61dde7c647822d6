"""Rate limit headers and errors."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    REJECTED,
    CallEstimate,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.rate_limit_response import (
    format_duration,
    limit_statuses,
    rate_limit_error,
    rate_limit_headers,
)
from llm_proxy.errors import APIError, BudgetExceeded, BudgetHeld, RateLimited

AGENT = LimitCheck("requests", "agent", "agent scout", "r", 10)
TOKENS = LimitCheck("tokens", "tenant", "tenant t", "t", 1_000)
SLOTS = LimitCheck("parallel", "key", "key k", "p", 1)
NOTHING = CallEstimate()
DECEMBER_MS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
MONEY = LimitCheck("budget", "key", "key k", "b", 5, period="month", period_end_ms=DECEMBER_MS)


def request(
    amounts: tuple[int, ...], *checks: LimitCheck, estimate: CallEstimate = NOTHING
) -> LimiterRequest:
    """A request that takes so much of these checks."""
    return LimiterRequest(
        LimitPlan("t", "{t}", checks, 0), amounts, NO_EPOCH, "lease", 30_000, estimate=estimate
    )


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (20, "20ms"), (8_640, "8.64s"), (1_000, "1s"), (60_000, "1m0s"), (359_999, "5m59.999s")],
)
def test_durations_have_openais_format(ms: int, text: str) -> None:
    """Clients parse them."""
    assert format_duration(ms) == text


def test_headers_of_an_admitted_call_show_what_is_left_after_it() -> None:
    """Of the tightest limit of each kind."""
    wider = LimitCheck("requests", "key", "key k", "r2", 500)
    headers = dict(
        rate_limit_headers(
            request((1, 1, 40), wider, AGENT, TOKENS),
            LimiterResult(ADMITTED, 0, 0, (3, 7, 0), (0, 0, 0)),
            "enforced",
        )
    )
    assert headers == {
        b"x-llm-proxy-limits": b"enforced",
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"960",
        b"x-ratelimit-reset-tokens": b"1m1s",
    }


def error_for(
    amounts: tuple[int, ...], result: LimiterResult, *checks: LimitCheck, estimate: CallEstimate = NOTHING
) -> APIError:
    """The error of a call that these checks reject."""
    return rate_limit_error(request(amounts, *checks, estimate=estimate), result, "enforced")


def test_an_error_promises_the_longest_wait_of_all_rejecting_checks() -> None:
    """After a shorter one, another check would reject."""
    error = error_for((1, 40), LimiterResult(REJECTED, 0, 0, (10, 1_000), (1_500, 30_000)), AGENT, TOKENS)
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.error_type, error.code) == (30.0, "tokens", "rate_limit_exceeded")
    assert ("x-ratelimit-remaining-requests", "0") in error.headers
    assert ("x-ratelimit-reset-requests", "1.5s") in error.headers


def test_exhausted_slots_promise_a_guess_of_one_second() -> None:
    """The end of a call is unknown."""
    error = error_for((1,), LimiterResult(REJECTED, 0, 0, (1,), (0,)), SLOTS)
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.error_type) == (1.0, "requests")


def test_a_spent_budget_promises_no_wait_and_forbids_retries() -> None:
    """Also when a limit rejects as well; it says when it resets."""
    error = error_for((1, 2), LimiterResult(REJECTED, 0, 0, (10, 5), (1_500, 0)), AGENT, MONEY)
    assert isinstance(error, BudgetExceeded)
    assert (error.retry_after_s, error.retryable, error.code) == (None, False, "insufficient_quota")
    assert error.message.startswith("The budget of key k is used up: $")
    assert error.message.endswith("It resets at 2026-12-01 00:00 UTC.")
    assert ("x-llm-proxy-budget-reset", "2026-12-01T00:00:00+00:00") in error.headers


def test_a_budget_of_zero_says_so() -> None:
    """In its message."""
    error = error_for((7,), LimiterResult(REJECTED, 0, 0, (0,), (0,)), replace(MONEY, limit=0))
    assert isinstance(error, BudgetExceeded)
    assert error.message == "The budget of key k is $0.00 a month: nothing may be spent."


def test_a_held_budget_shows_what_is_needed_and_left_and_may_be_retried() -> None:
    """Times are in the budget's time zone."""
    ends_ms = int(datetime(2026, 11, 26, 23, tzinfo=UTC).timestamp() * 1000)
    check = replace(MONEY, limit=10**9, period="day", period_end_ms=ends_ms, zone="Europe/Berlin")
    result = LimiterResult(REJECTED, 0, 0, (600_000_000,), (200_000_000,), (2,), (0,))
    error = error_for((301_234_567,), result, check, estimate=CallEstimate(2_500, 4_096, 9_876_543))
    assert isinstance(error, BudgetHeld)
    assert (error.status, error.code, error.retryable, error.retry_after_s) == (
        429, "rate_limit_exceeded", True, 2.0,
    )  # fmt: skip
    assert error.message == (
        "The budget of key k is held by calls that run: $0.60 of $1.00 a day spent, $0.20 held by 2 running"
        " calls, $0.20 left. This call needs about $0.31 (prompt $0.0099, answer up to 4,096 tokens)."
        " It resets at 2026-11-27 00:00 Europe/Berlin."
    )


def test_money_kept_for_a_waiting_call_is_shown_separately() -> None:
    """A budget without a period does not reset."""
    check = replace(MONEY, limit=1_000, period="total", period_end_ms=0)
    error = error_for((400,), LimiterResult(REJECTED, 0, 0, (100,), (200,), (1,), (500,)), check)
    assert (
        ": $0.0000001 of $0.000001 spent, $0.0000002 held by 1 running call,"
        " $0.0000005 kept for a call that waits, $0.0000002 left. This call needs"
    ) in error.message
    assert "resets" not in error.message


@pytest.mark.parametrize(
    ("held", "kept", "state"),
    [
        (1, 0, "is held by calls that run"),
        (0, 1, "is kept for a call that waits"),
        (1, 1, "is held by calls that run and kept for a call that waits"),
    ],
)
def test_an_error_says_what_has_the_rest_of_a_budget(held: int, kept: int, state: str) -> None:
    """Running calls or waiting ones; the figures of a status add up."""
    result = LimiterResult(REJECTED, 0, 0, (1,), (held,), (held,), (kept,))
    check = replace(MONEY, limit=5)
    assert error_for((4,), result, check).message.startswith(f"The budget of key k {state}: ")
    [one] = limit_statuses(request((4,), check), result)
    assert (one.used or 0) + one.held + one.kept + one.remaining == check.limit


def test_shadow_limits_are_not_in_headers() -> None:
    """They do not hold."""
    shadowed = LimitCheck("requests", "agent", "agent scout", "r", 10, enforced=False)
    assert rate_limit_headers(
        request((1,), shadowed), LimiterResult(ADMITTED, 0, 0, (3,), (0,)), "shadow"
    ) == ((b"x-llm-proxy-limits", b"shadow"),)
