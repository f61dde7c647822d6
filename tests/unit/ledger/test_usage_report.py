"""Usage rows as CSV and JSON."""

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from llm_proxy.ledger.latency_histogram import LatencyHistogram
from llm_proxy.ledger.rejected_requests import SAMPLE_PER_S, RejectionSampler
from llm_proxy.ledger.usage_query import UsageQuery, UsageRow
from llm_proxy.ledger.usage_report import row_as_json, rows_as_csv, rows_as_focus_csv
from llm_proxy.quantities import Quantities


def line(**group: Any) -> UsageRow:
    """A line of this group."""
    latencies = LatencyHistogram.count([600.0, 800.0, 900.0])
    return UsageRow(
        group, 4, 3, 1, 100, 50, 10, 0, Decimal("0.000000123"), 1, 0, 812.1234567, latencies=latencies
    )


def test_a_csv_has_a_column_for_every_json_field() -> None:
    """The group first; money exact; unknown values empty."""
    rows = list(csv.reader(io.StringIO(rows_as_csv([line(agent="a,b"), line(agent=None)], ["agent"]))))
    assert rows[0] == [
        "agent", "requests", "succeeded", "success_rate", "avg_latency_ms", "prompt_tokens",
        "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "cache_hits", "cost_usd",
        "unpriced_requests", "estimated_requests", "images", "audio_seconds", "characters", "search_units",
        "p50_latency_ms", "p95_latency_ms", "latency_requests", "p50_ttft_ms", "p95_ttft_ms", "ttft_requests",
    ]  # fmt: skip
    assert rows[0] == [*row_as_json(line(agent="a"))]
    assert rows[1] == [
        "a,b", "4", "3", "0.75", "812.123457", "100", "50", "150", "10", "0", "1", "0.000000123", "1", "0",
        "0", "0.0", "0", "0", "786.657", "935.499", "3", "", "", "0",
    ]  # fmt: skip
    assert rows[2][0] == ""


def test_quantities_are_columns_of_every_report() -> None:
    """FOCUS names the unit of a model that uses no tokens; audio is in seconds."""
    month = {"day": date(2026, 11, 1), "tenant": "a", "agent": None, "key": "k", "key_name": None,
             "model": "m", "provider": "p"}  # fmt: skip
    used = replace(line(**month), quantities=Quantities(2, 61_500, 300, 4))
    reported = row_as_json(used)
    found = [reported[name] for name in ("images", "audio_seconds", "characters", "search_units")]
    assert found == [2, 61.5, 300, 4]
    spoken = replace(used, prompt_tokens=0, completion_tokens=0, quantities=Quantities(audio_ms=61_500))
    query = UsageQuery(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC), ("day",))
    rows = list(csv.DictReader(io.StringIO(rows_as_focus_csv([used, spoken], query))))
    assert [(row["ConsumedQuantity"], row["ConsumedUnit"]) for row in rows] == [
        ("150", "Tokens"),
        ("61.5", "Seconds"),
    ]
    assert [rows[0][name] for name in ("x_Images", "x_AudioSeconds", "x_Characters", "x_SearchUnits")] == [
        "2", "61.5", "300", "4",
    ]  # fmt: skip


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
