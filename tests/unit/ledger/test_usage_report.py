"""Usage rows as CSV and JSON."""

import csv
import io
from datetime import date
from decimal import Decimal
from typing import Any

from llm_proxy.ledger.rejected_requests import SAMPLE_PER_S, RejectionSampler
from llm_proxy.ledger.usage_query import UsageRow
from llm_proxy.ledger.usage_report import row_as_json, rows_as_csv


def line(**group: Any) -> UsageRow:
    """A line of this group."""
    return UsageRow(group, 4, 3, 1, 100, 50, 10, 0, Decimal("0.000000123"), 1, 0, 812.1234567)


def test_a_csv_has_a_column_for_every_json_field() -> None:
    """The group first; money exact; unknown values empty."""
    rows = list(csv.reader(io.StringIO(rows_as_csv([line(agent="a,b"), line(agent=None)], ["agent"]))))
    assert rows[0] == [
        "agent", "requests", "succeeded", "success_rate", "avg_latency_ms", "prompt_tokens",
        "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "cache_hits", "cost_usd",
        "unpriced_requests", "estimated_requests",
    ]  # fmt: skip
    assert rows[0] == [*row_as_json(line(agent="a"))]
    assert rows[1] == [
        "a,b", "4", "3", "0.75", "812.123457", "100", "50", "150", "10", "0", "1", "0.000000123", "1", "0",
    ]  # fmt: skip
    assert rows[2][0] == ""


def test_no_cell_is_a_formula() -> None:
    """A spreadsheet would run it."""
    assert rows_as_csv([line(agent="=cmd()")], ["agent"]).splitlines()[1].startswith("'=cmd()")


def test_json_has_the_group_and_the_sums() -> None:
    """Days as dates, money as a number of dollars."""
    reported = row_as_json(line(day=date(2026, 11, 1)))
    assert (reported["day"], reported["total_tokens"], reported["cost_usd"]) == ("2026-11-01", 150, 1.23e-07)
    assert reported["success_rate"] == 0.75


def test_the_success_rate_of_no_requests_is_0() -> None:
    """Not an error."""
    assert UsageRow({}, 0, 0, 0, 0, 0, 0, 0, Decimal(0), 0, 0, None).success_rate == 0.0


def test_the_sampler_accepts_a_few_of_each_second() -> None:
    """However many come."""
    sample = RejectionSampler()
    taken = [sum(sample.accepts(second + part / 1000) for part in range(1000)) for second in (100, 101, 205)]
    assert taken == [SAMPLE_PER_S] * 3
