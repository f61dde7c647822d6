"""Requests rejected before admission: all counts by the minute, a bounded sample stored as rows.

Invariants: counting never waits. A counter row holds all of its minute at this worker, so that writing it
twice counts once; memory holds a bounded number of rows. The sample has at most `SAMPLE_PER_S` rows
a second of one worker, for unknown and for known callers each. A row holds no text of the caller's but the
names of its key, tenant, agent, user, model and run, and the limit it reached; users' names are not logged.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from llm_proxy.call_context import CallContext
from llm_proxy.errors import APIError, ReachedLimit
from llm_proxy.identity import Caller
from llm_proxy.identity.postgres_store import Connection
from llm_proxy.ledger.key_families import of_family
from llm_proxy.ledger.record import MAX_NAME_CHARS, PARTITION_MARGIN
from llm_proxy.money import usd_text
from llm_proxy.quantities import shown_amount
from llm_proxy.schema.database import sanitize_text
from llm_proxy.telemetry import timestamp_of
from llm_proxy.telemetry.privacy import redact

SAMPLE_PER_S = 10
_MAX_SUBJECT_CHARS = 300  # a subject may hold two names
_MAX_READ_CHARS = 4 * MAX_NAME_CHARS  # of a model: a secret that the bound cuts is still found
_AMOUNTS = ("limit", "used", "held", "kept", "wanted")


@dataclass(frozen=True, slots=True)
class RejectedRequest:
    """A request that was answered with an error before its call was admitted.

    The order of the fields is that of the columns of `refusals`.
    """

    request_id: UUID
    rejected_at: datetime
    status: int
    code: str | None
    origin: str
    door: str | None
    key_id: str | None
    key_prefix: str | None
    tenant: str | None
    agent: str | None
    group: str | None
    user: str | None
    reached: ReachedLimit | None
    run_name: str | None = None
    model: str | None = None

    def as_row(self) -> tuple[Any, ...]:
        """Returns the values in the order of the table's columns, in texts that Postgres accepts."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(_column_value(value) for value in values)

    def as_log_fields(self) -> dict[str, Any]:
        """Returns the fields of the log line, without unknown ones and without users' names."""
        fields_of_line = {
            "request_id": str(self.request_id),
            "status": self.status,
            "code": self.code,
            "refused_by": self.origin,
            "door": self.door,
            "key_prefix": self.key_prefix,
            "tenant": _redacted(self.tenant),
            "agent": _redacted(self.agent),
            "group": _redacted(self.group),
            "model": self.model if self.model != self.group else None,
            "run_name": _redacted(self.run_name),
        }
        line: dict[str, Any] = {name: value for name, value in fields_of_line.items() if value is not None}
        if self.reached is not None:
            line["limit"] = limit_as_json(self.reached) | {"subject": self._limit_subject(self.reached)}
        return line

    def _limit_subject(self, reached: ReachedLimit) -> str | None:
        """Returns the limit's subject for the log: a key by its public part, a user without the name."""
        if reached.scope == "user_model":
            return "a user"
        return reached.subject if reached.subject == f"key {self.key_prefix}" else _redacted(reached.subject)


def rejected_request(context: CallContext, error: APIError) -> RejectedRequest:
    """Builds the record of a rejected request; what is not known of it is None."""
    caller, call = context.caller, context.call
    model = call.model if call else context.find_model() if context.find_model else None
    return RejectedRequest(
        request_id=context.request_id,
        rejected_at=datetime.fromtimestamp(context.started_at, UTC),
        status=error.status,
        code=error.code,
        origin=error.origin,
        door=call.endpoint if call else None,
        key_id=caller.key_id if caller else None,
        key_prefix=caller.key_prefix if caller else None,
        tenant=caller.tenant if caller else None,
        agent=caller.agent if caller else None,
        group=call.group if call else None,
        user=caller.user if caller else None,
        reached=error.reached_limit,
        run_name=caller.run_id if caller else None,
        model=_shown_model(model),
    )


def limit_as_json(reached: ReachedLimit) -> dict[str, Any]:
    """Returns a reached limit as a JSON object without unknown fields; money is text in dollars."""
    document: dict[str, Any] = reached._asdict()
    document["resets_at"] = reached.resets_at.isoformat() if reached.resets_at else None
    if reached.unit == "usd":
        document |= {name: usd_text(document[name]) for name in _AMOUNTS}
    else:
        known = {name: document[name] for name in _AMOUNTS if document[name] is not None}
        document |= {name: shown_amount(amount, reached.unit) for name, amount in known.items()}
    return {name: value for name, value in document.items() if value is not None}


def _column_value(value: object) -> object:
    if isinstance(value, ReachedLimit):
        cleaned = {
            name: sanitize_text(text)[:_MAX_SUBJECT_CHARS] if isinstance(text, str) else text
            for name, text in limit_as_json(value).items()
        }
        return orjson.dumps(cleaned).decode()
    return sanitize_text(value)[:MAX_NAME_CHARS] if isinstance(value, str) else value


def _shown_model(model: str | None) -> str | None:
    """Returns a model's name as a caller wrote it: bounded, printable, without secrets."""
    if not model:
        return None
    shown = "".join(sign if sign.isprintable() else "?" for sign in model[:_MAX_READ_CHARS])
    return redact(shown)[:MAX_NAME_CHARS]


def _redacted(name: str | None) -> str | None:
    return None if name is None else redact(name)


class RejectionSampler:
    """Accepts the first `SAMPLE_PER_S` rejected requests of each second."""

    __slots__ = ("_left", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._left = SAMPLE_PER_S

    def accepts(self, now_s: float) -> bool:
        """Whether one more request is stored; `now_s` may be of any clock that counts seconds."""
        second = int(now_s)
        if second != self._second:
            self._second, self._left = second, SAMPLE_PER_S
        self._left -= 1
        return self._left >= 0


MAX_COUNTERS = 50_000
OPEN_MINUTES = 15
"""Time in which a written row can grow: a request is rejected within minutes of its beginning."""
_MS_PER_MINUTE = 60_000

CounterKey = tuple[int, str, str, str, str, str]
"""Minute since 1970, key, tenant, error code, scope and kind of the limit."""
CounterRow = tuple[Any, ...]


class RejectionCounts:
    """Counts the rejected requests of this worker until Postgres has them.

    Attributes:
        worker: A random name of this process, which separates its rows from those of others.
    """

    def __init__(self) -> None:
        self.worker = secrets.token_hex(8)
        self._times: dict[CounterKey, int] = {}
        self._changed: set[CounterKey] = set()
        self._newest = 0

    def add(self, request_id: UUID, caller: Caller | None, error: APIError) -> None:
        """Counts a request that was rejected with `error` before its call was admitted."""
        minute = minute_of(request_id)
        self._newest = max(self._newest, minute)
        minute = max(minute, self._newest - OPEN_MINUTES)  # older rows may be gone from memory
        reached = error.reached_limit
        tenant = caller.tenant if caller is not None and caller.kind == "virtual" else None
        key = (
            minute,
            _counted_text(caller.key_id if caller else ""),
            _counted_text(tenant or ""),
            _counted_text(error.code or str(error.status)),
            reached.scope if reached else "",
            reached.kind if reached else "",
        )
        if key not in self._times and len(self._times) >= MAX_COUNTERS:
            key = (minute, "", "", "other", "", "")
        self._times[key] = self._times.get(key, 0) + 1
        self._changed.add(key)

    def pending_rows(self) -> list[CounterRow]:
        """Returns the rows that changed since Postgres had them, in the order of the table's columns."""
        return [
            (datetime.fromtimestamp(key[0] * 60, UTC), *key[1:], self.worker, self._times[key])
            for key in self._changed
        ]

    def mark_written(self, rows: Sequence[CounterRow]) -> None:
        """Notes that Postgres has these rows; removes rows that cannot grow any more."""
        for row in rows:
            key = (int(row[0].timestamp()) // 60, *row[1:6])
            if self._times.get(key) == row[-1]:
                self._changed.discard(key)
        oldest = self._newest - OPEN_MINUTES
        for key in [key for key in self._times if key[0] < oldest and key not in self._changed]:
            del self._times[key]


def minute_of(request_id: UUID) -> int:
    """Returns the minute (since 1970) in which a request id was made."""
    return (request_id.int >> 80) // _MS_PER_MINUTE


@lru_cache(maxsize=1024)
def _counted_text(name: str) -> str:
    return sanitize_text(name)[:MAX_NAME_CHARS]


MAX_COUNT_ROWS = 10_000
_MINUTE = timedelta(minutes=1)
_SAMPLE = (
    "SELECT r.*, k.name AS key_name, nullif(k.ancestors, '{}') AS key_ancestors"
    " FROM refusals AS r LEFT JOIN api_keys AS k ON k.key_id = r.key_id"
)
_COUNTS = (
    "SELECT minute, c.key_id, k.name AS key_name, c.tenant, code, limit_scope, limit_kind,"  # noqa: S608 -- own text
    " sum(times)::int8 AS times"
    " FROM refusal_counts AS c LEFT JOIN api_keys AS k USING (key_id)"
    " WHERE minute >= date_trunc('minute', $1::timestamptz) AND minute < $2"
    f" AND ($3::text IS NULL OR c.key_id = $3 OR ($6 AND {of_family('c.key_id', '$3')}))"
    " AND ($4::text IS NULL OR c.tenant = $4)"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1 DESC, times DESC, 2, 5, 6, 7 LIMIT $5"
)


@dataclass(frozen=True, slots=True)
class RejectionScope:
    """Limits counts to a key (its id) and a tenant; None means any.

    Attributes:
        with_below: Whether those of the keys below the key are counted too.
    """

    key: str | None = None
    tenant: str | None = None
    with_below: bool = False


async def fetch_rejected(connection: Connection, request_id: UUID) -> Any:  # noqa: ANN401 -- a row of the driver's
    """Returns the row of a rejected request; None if it is not in the sample."""
    moment = timestamp_of(request_id)
    return await connection.fetchrow(
        f"{_SAMPLE} WHERE r.request_id = $1 AND r.refused_at BETWEEN $2 AND $3",
        request_id, moment - PARTITION_MARGIN, moment + PARTITION_MARGIN,
    )  # fmt: skip


async def fetch_rejection_counts(
    connection: Connection, since: datetime, until: datetime, scope: RejectionScope
) -> list[dict[str, Any]]:
    """Returns counts by minute, key, tenant, code and limit, newest first; at most `MAX_COUNT_ROWS`."""
    rows = await connection.fetch(
        _COUNTS, since, until, scope.key, scope.tenant, MAX_COUNT_ROWS, scope.with_below
    )
    return [dict(row) for row in rows]


def minute_around(request_id: UUID) -> tuple[datetime, datetime]:
    """Returns the beginning and the end of the minute in which a request id was made."""
    begin = timestamp_of(request_id).replace(second=0, microsecond=0)
    return begin, begin + _MINUTE


def summarize_counts(counts: Iterable[Mapping[str, Any]]) -> str:
    """Returns the sum of the counts, by limit or code: `13 (11 by key:requests, 2 by invalid_api_key)`."""
    reasons: dict[str, int] = {}
    for row in counts:
        reason = f"{row['limit_scope']}:{row['limit_kind']}" if row["limit_kind"] else row["code"]
        reasons[reason] = reasons.get(reason, 0) + row["times"]
    most_first = sorted(reasons.items(), key=lambda reason: -reason[1])
    parts = ", ".join(f"{times:,} by {reason}" for reason, times in most_first)
    return f"{sum(reasons.values()):,} ({parts})" if parts else "0"


def not_recorded_message(request_id: UUID, counts: Iterable[Mapping[str, Any]]) -> str:
    """Returns the message for a request id that is neither recorded nor in the sample."""
    begin, _ = minute_around(request_id)
    return (
        "No record has this id. Of rejected requests only a sample is kept"
        f" ({SAMPLE_PER_S} a second of each worker), so it may have been rejected: in its minute"
        f" ({begin:%Y-%m-%d %H:%M} UTC) {summarize_counts(counts)} were rejected."
    )
