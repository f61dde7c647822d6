"""An answer about usage as others read it: JSON, or CSV for a spreadsheet.

Pure. Invariants: CSV has a column for whatever JSON has a field for; money in CSV is exact, in JSON a number
rounded to the nano-dollar; no cell is taken for a formula.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from llm_proxy.ledger.known import columns_of
from llm_proxy.ledger.question import Line
from llm_proxy.ledger.zones import Span

COLUMNS = (
    "requests", "succeeded", "success_rate", "avg_latency_ms", "prompt_tokens", "completion_tokens",
    "total_tokens", "cached_tokens", "reasoning_tokens", "cache_hits", "cost_usd", "unpriced_requests",
    "estimated_requests",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_json(line: Line) -> dict[str, Any]:
    """One line as an object: its group, then its sums."""
    return {
        **{name: _plain(value) for name, value in line.group.items()},
        **{column: _as_number(getattr(line, column)) for column in COLUMNS},
    }


def as_spans(spans: Iterable[Span]) -> list[dict[str, str]]:
    """Spans of time as objects."""
    return [{"since": since.isoformat(), "until": until.isoformat()} for since, until in spans]


def as_csv(lines: Iterable[Line], by: Sequence[str]) -> str:
    """A header and the lines, comma-separated (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    groups = columns_of(by)
    writer.writerow([*groups, *COLUMNS])
    for line in lines:
        group = [cell(_plain(line.group[name])) for name in groups]
        writer.writerow([*group, *(_number(getattr(line, column)) for column in COLUMNS)])
    return out.getvalue()


def _as_number(value: object) -> object:
    if isinstance(value, Decimal):
        return round(float(value), 9)
    return round(value, 6) if isinstance(value, float) else value


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def cell(value: object) -> object:
    """A value as no spreadsheet takes it for a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _number(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return "" if value is None else f"{value:f}" if hasattr(value, "as_tuple") else value
