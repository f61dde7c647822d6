"""When a budget is used up, if its use goes on like this."""

from datetime import UTC, datetime, timedelta

import pytest

from llm_proxy.admission.limiter import LimitCheck
from llm_proxy.admission.rate_limit_response import LimitStatus
from llm_proxy.edge.routes.limits import limit_status_row

DAY = timedelta(days=1)


def exhausted_at(limit: int, used: int) -> str | None:
    """The projection for a budget of tokens, ten days into a period of thirty."""
    start = datetime.now(UTC) - 10 * DAY
    check = LimitCheck(
        "budget", "key", "key k", "k", limit,
        unit="tokens", period="month", period_start=start,
        period_end_ms=int((start + 30 * DAY).timestamp() * 1000),
    )  # fmt: skip
    row = limit_status_row(LimitStatus(check, used, 1, 0, None), shows_shared=True)
    found: str | None = row["exhausted_at"]
    return found


@pytest.mark.parametrize(("limit", "used"), [(2**53, 1), (10**9, 7), (3_001, 1_000), (100, 0)])
def test_a_budget_that_lasts_has_no_end_however_large_it_is(limit: int, used: int) -> None:
    assert exhausted_at(limit, used) is None


def test_a_budget_ends_where_its_pace_meets_the_limit() -> None:
    """Half is used after ten days: the rest lasts ten more."""
    at = datetime.fromisoformat(exhausted_at(200, 100) or "")
    assert abs(at - (datetime.now(UTC) + 10 * DAY)) < timedelta(seconds=5)
