"""Refusals as Postgres has them: the sample that is kept, and the exact counts beside it.

Invariants: nothing is written; who may see one key's, or one tenant's, sees no other's; a filter that no
refusal is kept by is refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from llm_proxy.errors import BadRequest
from llm_proxy.identity.store import Connection
from llm_proxy.ledger.refusal import SAMPLE_PER_S
from llm_proxy.telemetry import time_of

COLUMNS = {
    "key": "key_id", "tenant": "tenant", "agent": "agent", "user": "user_id", "model": "model_group",
}  # fmt: skip
"""What refusals may be filtered by, and their columns."""
MOST_COUNTS = 10_000
_COUNTED_BY = ("key", "tenant")
_MINUTE = timedelta(minutes=1)
_NEAR = timedelta(hours=1)
_KEPT = "SELECT r.*, k.name AS key_name FROM refusals AS r LEFT JOIN api_keys AS k ON k.key_id = r.key_id"
_COUNTS = (
    "SELECT minute, c.key_id, k.name AS key_name, c.tenant, code, limit_scope, limit_kind,"
    " sum(times)::int8 AS times"
    " FROM refusal_counts AS c LEFT JOIN api_keys AS k USING (key_id)"
    " WHERE minute >= date_trunc('minute', $1::timestamptz) AND minute < $2"
    " AND ($3::text IS NULL OR c.key_id = $3) AND ($4::text IS NULL OR c.tenant = $4)"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1 DESC, times DESC, 2, 5, 6, 7 LIMIT $5"
)


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose refusals may be told; None for everybody's.

    Attributes:
        key: The id of the one key.
        tenant: The one tenant.
    """

    key: str | None = None
    tenant: str | None = None


async def fetch_rejected(connection: Connection, request_id: UUID) -> Any:  # noqa: ANN401 -- a row of the driver's
    """The refusal of a request; None if it is not in the sample."""
    moment = time_of(request_id)
    return await connection.fetchrow(
        f"{_KEPT} WHERE r.request_id = $1 AND r.refused_at BETWEEN $2 AND $3",
        request_id, moment - _NEAR, moment + _NEAR,
    )  # fmt: skip


async def fetch_latest_rejected(
    connection: Connection, since: datetime, until: datetime, where: Mapping[str, str], limit: int
) -> list[Any]:
    """The latest refusals of the sample, newest first; raises `BadRequest`."""
    unknown = next((name for name in where if name not in COLUMNS), None)
    if unknown is not None:
        raise BadRequest(f"No refusal is kept by '{unknown[:40]}'.", param=unknown[:40])
    conditions = [f"r.{COLUMNS[name]} = ${at}" for at, name in enumerate(where, 4)]
    found = " AND ".join(["r.refused_at >= $1", "r.refused_at < $2", *conditions])
    statement = f"{_KEPT} WHERE {found} ORDER BY r.refused_at DESC LIMIT $3"
    rows: list[Any] = await connection.fetch(statement, since, until, limit, *where.values())
    return rows


async def fetch_rejection_counts(
    connection: Connection, since: datetime, until: datetime, whose: Whose
) -> list[dict[str, Any]]:
    """How many were refused, by minute, key, code and limit, newest first; at most `MOST_COUNTS` lines."""
    rows = await connection.fetch(_COUNTS, since, until, whose.key, whose.tenant, MOST_COUNTS)
    return [dict(row) for row in rows]


def counted_by(where: Mapping[str, str]) -> Whose:
    """What of a question the counts can be narrowed to."""
    return Whose(*(where.get(name) for name in _COUNTED_BY))


def minute_around(request_id: UUID) -> tuple[datetime, datetime]:
    """The minute in which the request with this id came."""
    begin = time_of(request_id).replace(second=0, microsecond=0)
    return begin, begin + _MINUTE


def summed(counted: Iterable[Mapping[str, Any]]) -> str:
    """All counts together, by limit or code: `13 (11 by key:requests, 2 by invalid_api_key)`."""
    reasons: dict[str, int] = {}
    for row in counted:
        reason = f"{row['limit_scope']}:{row['limit_kind']}" if row["limit_kind"] else row["code"]
        reasons[reason] = reasons.get(reason, 0) + row["times"]
    most_first = sorted(reasons.items(), key=lambda one: -one[1])
    told = ", ".join(f"{times:,} by {reason}" for reason, times in most_first)
    return f"{sum(reasons.values()):,} ({told})" if told else "0"


def not_kept(request_id: UUID, counted: Iterable[Mapping[str, Any]]) -> str:
    """What is known of a request that is neither on record nor in the sample."""
    begin, _ = minute_around(request_id)
    return (
        "No record has this id. Of refused requests a sample is kept"
        f" ({SAMPLE_PER_S} a second of each worker), so it may have been refused: in its minute"
        f" ({begin:%Y-%m-%d %H:%M} UTC) {summed(counted)} were refused."
    )
