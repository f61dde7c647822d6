"""An answer about usage as others read it: JSON, or CSV for a spreadsheet.

Pure. Invariants: ten columns for one dimension, one more for each further; money in CSV is exact, in JSON
a number rounded to the nano-dollar; no cell is taken for a formula.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

from llm_proxy.ledger.queries import Line

COLUMNS = (
    "requests", "success_rate", "avg_latency_ms", "prompt_tokens", "completion_tokens", "cached_tokens",
    "reasoning_tokens", "cost_usd", "unpriced_requests",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_json(line: Line) -> dict[str, Any]:
    """One line as an object: its group, then its sums."""
    return {
        **{name: _plain(value) for name, value in line.group.items()},
        "requests": line.requests,
        "success_rate": round(line.success_rate, 6),
        "avg_latency_ms": line.avg_latency_ms,
        "prompt_tokens": line.prompt_tokens,
        "completion_tokens": line.completion_tokens,
        "total_tokens": line.total_tokens,
        "cached_tokens": line.cached_tokens,
        "reasoning_tokens": line.reasoning_tokens,
        "cache_hits": line.cache_hits,
        "cost_usd": round(float(line.cost_usd), 9),
        "unpriced_requests": line.unpriced_requests,
        "estimated_requests": line.estimated_requests,
    }


def as_csv(lines: Iterable[Line], by: Sequence[str]) -> str:
    """A header and the lines, comma-separated (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*by, *COLUMNS])
    for line in lines:
        group = [_cell(_plain(line.group[name])) for name in by]
        writer.writerow([*group, *(_number(getattr(line, column)) for column in COLUMNS)])
    return out.getvalue()


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, (date, datetime)) else value


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _number(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return "" if value is None else f"{value:f}" if hasattr(value, "as_tuple") else value
