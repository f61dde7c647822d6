"""A record as a row: the tuple Postgres gets, and the line of JSON that waits on disk.

Pure. Invariants: `decode(encode(record))` is the record's row, to the microsecond and the nano-dollar;
neither raises for text no database takes, which is repaired instead (lone surrogates, NUL).
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from llm_proxy.ledger.record import UsageRecord

Row = tuple[Any, ...]
Written = tuple[Row, bytes]
"""A row and its line."""

FIELDS = UsageRecord._fields
COLUMNS = {"user": "user_id", "session": "session_id", "group": "model_group", "cost_nano_usd": "cost_usd"}
"""Fields that are called otherwise in the table."""

_STARTED = FIELDS.index("started_at")
_LARGEST = 2**63 - 1
_LARGEST_BY_FIELD = {"status": 2**15 - 1, "attempts": 2**31 - 1}


def row_of(record: UsageRecord) -> Row:
    """The record's values in the order of its fields, as JSON takes them."""
    return tuple(record)


def encode(row: Row) -> bytes:
    """The row as one line of JSON, without its newline."""
    try:
        return orjson.dumps(row)
    except TypeError:
        return orjson.dumps(repaired(row))


def decode(line: bytes) -> Row:
    """The row of a line; raises `ValueError` when it is not one, or torn."""
    values = _list(line, len(FIELDS))
    return (UUID(values[0]), datetime.fromisoformat(values[_STARTED]), *values[_STARTED + 1 :])


def started_at(row: Row) -> datetime:
    """When the row's request began."""
    moment: datetime = row[_STARTED]
    return moment


def repaired(row: Row) -> Row:
    """The row with what no database takes taken out: text that is not UTF-8, numbers beyond their column."""
    return tuple(_repaired(name, value) for name, value in zip(FIELDS, row, strict=True))


def _repaired(name: str, value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "")[:200]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= _LARGEST_BY_FIELD.get(name, _LARGEST) else None
    return value


OPENED = (
    "request_id", "started_at", "key_id", "key_prefix", "tenant", "agent", "user", "session", "channel",
    "client_request_id", "door", "dialect", "model", "group", "streamed",
)  # fmt: skip
"""What is written down when a call is admitted; `started_at` in seconds since 1970."""

_LOST: dict[str, object] = {
    "model_resolved": None, "provider": None, "deployment": None, "status": 0, "outcome": "lost",
    "refusal_code": None, "prompt_tokens": None, "completion_tokens": None, "cached_tokens": None,
    "reasoning_tokens": None, "cost_nano_usd": None, "usage_source": "unknown", "cache": "miss",
    "attempts": None, "latency_ms": 0.0, "ttft_ms": None,
}  # fmt: skip


def lost(line: bytes) -> Row:
    """The row of a call that was admitted and whose worker died; raises `ValueError` when it is not one."""
    values = _list(line, len(OPENED))
    opened = dict(zip(OPENED, values, strict=True))
    opened["request_id"] = UUID(opened["request_id"])
    opened["started_at"] = datetime.fromtimestamp(opened["started_at"], UTC)
    return tuple({**_LOST, **opened}[name] for name in FIELDS)


def _list(line: bytes, length: int) -> list[Any]:
    values: list[Any] = orjson.loads(line)
    if not isinstance(values, list) or len(values) != length:  # pyright: ignore[reportUnnecessaryIsInstance] -- it comes from a disk
        raise ValueError("not a row")
    return values
