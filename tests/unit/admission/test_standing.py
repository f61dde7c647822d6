"""What callers read of limits."""

import pytest

from llm_proxy.admission.check import ADMITTED, REFUSED, Answer, Check, Plan
from llm_proxy.admission.standing import duration, headers, refusal
from llm_proxy.errors import BudgetExceeded, RateLimited

AGENT = Check("requests", "agent", "agent scout", "r", 10)
TOKENS = Check("tokens", "tenant", "tenant t", "t", 1_000)
PLACES = Check("parallel", "key", "key k", "p", 1)
MONEY = Check("budget", "key", "key k", "b", 5, period="month")


def plan(*checks: Check) -> Plan:
    """A plan of these checks."""
    return Plan("t", "{t}", checks, 0)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (20, "20ms"), (8_640, "8.64s"), (1_000, "1s"), (60_000, "1m0s"), (359_999, "5m59.999s")],
)
def test_durations_read_as_openai_writes_them(ms: int, text: str) -> None:
    """Clients parse them."""
    assert duration(ms) == text


def test_an_admitted_call_is_told_what_is_left_after_it() -> None:
    """Of the tightest limit of each kind."""
    wider = Check("requests", "key", "key k", "r2", 500)
    told = dict(
        headers(
            plan(wider, AGENT, TOKENS), (1, 1, 40), Answer(ADMITTED, 0, 0, (3, 7, 0), (0, 0, 0)), "enforced"
        )
    )
    assert told == {
        b"x-llm-proxy-limits": b"enforced",
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"960",
        b"x-ratelimit-reset-tokens": b"1m1s",
    }


def test_a_refusal_promises_the_longest_wait_of_all_that_refuse() -> None:
    """Waiting for one limit only would be refused by the other."""
    refused = refusal(
        plan(AGENT, TOKENS), (1, 40), Answer(REFUSED, 0, 0, (10, 990), (1_500, 30_000)), "enforced"
    )
    assert isinstance(refused, RateLimited)
    assert (refused.retry_after_s, refused.kind, refused.code) == (30.0, "tokens", "rate_limit_exceeded")
    assert ("x-ratelimit-remaining-requests", "0") in refused.headers
    assert ("x-ratelimit-reset-requests", "1.5s") in refused.headers


def test_a_full_house_of_parallel_calls_promises_a_polite_second() -> None:
    """Nobody knows when a call ends."""
    refused = refusal(plan(PLACES), (1,), Answer(REFUSED, 0, 0, (1,), (0,)), "enforced")
    assert isinstance(refused, RateLimited)
    assert (refused.retry_after_s, refused.kind) == (1.0, "requests")


def test_a_spent_budget_promises_nothing_and_forbids_retries() -> None:
    """Even when a limit refuses as well."""
    refused = refusal(plan(AGENT, MONEY), (1, 2), Answer(REFUSED, 0, 0, (10, 4), (1_500, 77)), "enforced")
    assert isinstance(refused, BudgetExceeded)
    assert (refused.retry_after_s, refused.retryable, refused.code) == (None, False, "insufficient_quota")
    assert "monthly budget of key k" in refused.message


def test_a_shadowed_limit_is_not_told() -> None:
    """It does not hold, so it would mislead."""
    shadowed = Check("requests", "agent", "agent scout", "r", 10, enforced=False)
    assert headers(plan(shadowed), (1,), Answer(ADMITTED, 0, 0, (3,), (0,)), "shadow") == (
        (b"x-llm-proxy-limits", b"shadow"),
    )
