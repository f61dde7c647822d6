"""Rows of a search of requests as CSV; a column that a row lacks is empty.

Pure. Invariants: a text that a spreadsheet would take for a formula is quoted; money is a decimal; times are
UTC.
"""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from llm_proxy.json_access import Json
from llm_proxy.ledger.request_detail import describe_limit
from llm_proxy.ledger.usage_report import csv_cell

CSV_COLUMNS = (
    "started_at", "request_id", "client_request_id", "outcome", "status", "cause", "limit", "key_id",
    "key_name", "key_prefix", "tenant", "agent", "user_id", "session_id", "run_id", "tags", "door",
    "dialect", "streamed", "model", "group_asked", "model_group", "provider", "deployment", "attempts",
    "cache", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "images",
    "audio_ms", "characters", "search_units", "cost_usd", "usage_source", "queue_ms", "ttft_ms",
    "latency_ms", "would_refuse",
)  # fmt: skip
"""The header; `cause` is why a request failed, `limit` what rejected it."""


def csv_header() -> str:
    """Returns the line of the columns' names."""
    return ",".join(CSV_COLUMNS) + "\r\n"


def csv_lines(rows: Iterable[Json]) -> str:
    """Returns the lines of rows, comma-separated."""
    out = io.StringIO()
    writer = csv.writer(out)
    for row in rows:
        reached = row.get("reached")
        full = row | {
            "started_at": row.get("started_at") or row.get("refused_at"),
            "cause": row.get("refusal_code") or row.get("code"),
            "limit": describe_limit(reached) if reached else None,
            "tags": ",".join(row.get("tags") or ()),
        }
        writer.writerow(csv_cell(_plain(full.get(name))) for name in CSV_COLUMNS)
    return out.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str) else str(value)
