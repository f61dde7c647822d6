"""How long the rows of each table are kept, what ends them, and their deletion when that time is over.

Invariants: every table of the schema has a line here; what a dry run counts is what a purge deletes; a purge
works in batches beside the calls, and leaves an entry in the audit log. Raises `DatabaseUnavailable`,
`RowsRejected`, `StoreUnavailable`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from llm_proxy.identity import Actor, admin_transaction
from llm_proxy.identity.audit import drop_months, write_audit
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.schema import PgConnection
from llm_proxy.schema.database import db_deadline
from llm_proxy.settings import Settings

How = Literal["rows", "days", "months", "old audit", "follows", "stays"]
_CONNECT_S, _LONG_DEADLINE_S = 10.0, 300.0
BATCH_ROWS = 5000
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('llm-proxy retirement'))"
_NO_TOTAL_BUDGET = """
    NOT EXISTS (SELECT FROM api_keys AS k WHERE k.revoked_at IS NULL AND k.budgets @> '[{"period": "total"}]')
    AND NOT EXISTS (SELECT FROM limit_rules AS l WHERE l.budgets @> '[{"period": "total"}]')"""
"""Budgets that last for ever are counted from the sums of all days."""
_IS_CHILD, _ENDED_AT = "ancestors <> '{}'", "coalesce(revoked_at, expires_at)"


@dataclass(frozen=True, slots=True)
class RetainedTable:
    """One table's line.

    Attributes:
        how: `rows` are deleted in batches, partitions dropped by `days` or `months`; `follows`: rows end with
            those of another table; `stays`: nothing ends them by time.
        ends: What ends its rows, for people.
        column: The time by which a row ages, or an expression of it.
        days: The default; None: for ever.
        setting: The setting's field; None: an entry of `retention_days`, or not to be set.
        least: The fewest days that may be set; None: it is not to be set in `retention_days`.
        only: A condition for rows that may end.
    """

    name: str
    how: How
    ends: str
    column: str = ""
    days: int | None = None
    setting: str | None = None
    least: int | None = None
    only: str = "true"


def _stays(name: str, ends: str) -> RetainedTable:
    return RetainedTable(name, "stays", ends)


_OF_DAYS = "the gateway drops whole days"
_OF_ROWS = "the gateway deletes rows"
_IF_SET = "nothing, unless a time is set"
_MONTHS = "the gateway drops whole months, if a time is set"
_OLD_AUDIT = "`purge`, if a time is set; nothing writes there any more"
_NOTIFIED = "the gateway deletes rows after 30 days; a budget's not before its period ends"
_SESSIONS = "the console, 30 days after a session ended"
_ADMINS = "keys of sessions: the console, 30 days after; issued keys stay, revoked"
_CHILDREN = "child keys that ended: nothing, unless a time is set; other keys stay, revoked"
_SECRETS = "secrets that a rotation ended: the gateway deletes rows"
_RAISES = "raises that ended: the gateway deletes rows"
RETENTION: tuple[RetainedTable, ...] = (
    RetainedTable("requests", "days", _OF_DAYS, "started_at", 90, "requests_retention_days"),
    RetainedTable("llm_calls", "days", _OF_DAYS, "started_at", 90, "requests_retention_days"),
    RetainedTable("payloads", "rows", _OF_ROWS, "started_at", 30, "payloads_retention_days"),
    RetainedTable("stored_responses", "rows", _OF_ROWS, "created_at", 30, "stored_responses_retention_days"),
    RetainedTable("refused_credentials", "days", _OF_DAYS, "at", 30, "refused_credentials_retention_days"),
    RetainedTable("audit_entries", "months", _MONTHS, "at", None, "audit_retention_days"),
    RetainedTable("audit_log", "old audit", _OLD_AUDIT, "at", None, "audit_retention_days"),
    RetainedTable("refusals", "rows", _OF_ROWS, "refused_at", 14, least=1),
    RetainedTable("refusal_counts", "rows", _OF_ROWS, "minute", 14, least=1),
    RetainedTable("usage_hourly", "rows", _OF_ROWS, "hour", 35),
    RetainedTable("usage_daily", "rows", _IF_SET, "day", None, least=400, only=_NO_TOTAL_BUDGET),
    RetainedTable("usage_users", "rows", _IF_SET, "day", None, least=35, only=_NO_TOTAL_BUDGET),
    RetainedTable("usage_user_days", "rows", _IF_SET, "day", None, least=35),
    RetainedTable("usage_name_days", "follows", "with `usage_daily`"),
    RetainedTable("usage_name_hours", "follows", "with `usage_hourly`"),
    RetainedTable("usage_summed_days", "follows", "with `usage_daily`"),
    RetainedTable("lost_usage", "rows", _IF_SET, "day", None, least=400, only=_NO_TOTAL_BUDGET),
    RetainedTable("notifications", "rows", _NOTIFIED, "keep_until", 0),
    RetainedTable("notification_deliveries", "follows", "with `notifications`"),
    RetainedTable("console_sessions", "rows", _SESSIONS, "least(expires_at, ended_at)", 30),
    RetainedTable("console_links", "rows", "the console, when a link has expired", "expires_at", 0),
    RetainedTable("admin_keys", "rows", _ADMINS, "expires_at", 30, only="session_id IS NOT NULL"),
    RetainedTable("api_keys", "rows", _CHILDREN, _ENDED_AT, None, least=35, only=_IS_CHILD),
    RetainedTable("key_secrets", "rows", _SECRETS, "expires_at", 400, least=35),
    RetainedTable("key_raises", "rows", _RAISES, "ended_at", 400, least=1),
    RetainedTable("backups", "rows", _OF_ROWS, "started_at", 400, least=35),
    _stays("limit_rules", "`limits drop`"),
    _stays("kill_switches", "`keys switch-on`"),
    _stays("tenant_epochs", "a row a tenant"),
    _stays("erasures", "nothing: an erased person must stay erased after a restore"),
    _stays("audit_people", "an erasure deletes the name; a row a person that did or met something"),
    _stays("audit_head", "one row"),
    _stays("litellm_imports", "a row for each thing that was imported"),
    _stays("opening_spend", "a row for each budget that was imported"),
    _stays("database_marker", "one row"),
    _stays("schema_steps", "a row a migration"),
    _stays("schema_floor", "one row"),
    _stays("schema_work", "a row for each long work of a migration"),
)  # fmt: skip
DEFAULT_DAYS = {one.name: one.days for one in RETENTION if one.days is not None}
"""The days for which rows are kept where no setting says otherwise; other tables' are kept for ever."""
OFTEN = frozenset({"payloads", "stored_responses", "refusals", "refusal_counts", "usage_hourly"})
"""Tables that grow with every call: a batch of each at a time."""


@dataclass(frozen=True, slots=True)
class DueRows:
    """What is past its retention in one table.

    Attributes:
        size_bytes: About.
        oldest: The oldest row's time; None without one.
    """

    table: str
    days: int
    rows: int
    size_bytes: int
    oldest: datetime | None


def days_kept(settings: Settings) -> dict[str, int]:
    """Returns the days for which each table's rows are kept; tables that are kept for ever are left out."""
    found = DEFAULT_DAYS | settings.retention_days.model_dump()
    found |= {one.name: getattr(settings, one.setting) for one in RETENTION if one.setting is not None}
    if (kept := found["usage_user_days"]) is not None:  # an erasure finds a person's requests by it
        found["usage_user_days"] = max(kept, settings.requests_retention_days)
    return {name: days for name, days in found.items() if days is not None}


async def delete_due(connection: PgConnection, table: RetainedTable, days: int) -> int:
    """Deletes a batch of rows past their retention of a table whose rows are deleted; returns how many."""
    status = await connection.execute(
        f"DELETE FROM {table.name} WHERE ctid = ANY(ARRAY("  # noqa: S608 -- our own names
        f"SELECT ctid FROM {table.name} WHERE {_is_due(table)} LIMIT $2))",
        days, BATCH_ROWS, timeout=_LONG_DEADLINE_S,
    )  # fmt: skip
    return int(status.rpartition(" ")[2])


async def delete_expired(connection: PgConnection, kept: Mapping[str, int]) -> int:
    """Deletes a batch of each table that grows with calls, unless another worker does; returns the rows."""
    async with connection.transaction():
        if not await connection.fetchval(_LOCK):
            return 0
        total = sum(
            [await delete_due(connection, one, kept[one.name]) for one in RETENTION if one.name in OFTEN]
        )
        return total + await delete_due(connection, _CALLS_WITHOUT_A_DAY, kept["llm_calls"])


async def delete_seldom(connection: PgConnection, kept: Mapping[str, int]) -> None:
    """Deletes a batch of each other table whose rows the gateway deletes."""
    for one in RETENTION:
        if one.how == "rows" and one.least is not None and one.name in kept and one.name not in OFTEN:
            await delete_due(connection, one, kept[one.name])


async def find_due(pool: Pool, kept: Mapping[str, int]) -> list[DueRows]:
    """Returns what a purge would delete, table by table; tables without any are left out."""
    found: list[DueRows] = []
    async with db_deadline(None), pool.acquire(timeout=_CONNECT_S) as connection:
        for table in RETENTION:
            if table.name in kept:
                due = await _due_of(connection, table, kept[table.name])
                found += [due] if due.rows else []
    return found


async def purge(pool: Pool, actor: Actor, kept: Mapping[str, int], due: list[DueRows]) -> dict[str, int]:
    """Deletes what is past its retention and returns the rows by table; leaves an audit entry."""
    by_name = {one.name: one for one in RETENTION}
    deleted: dict[str, int] = {}
    for one in due:
        table, days = by_name[one.table], kept[one.table]
        deleted[one.table] = await _purge_table(pool, actor, table, days) or one.rows
    if deleted:
        async with admin_transaction(pool) as connection:
            detail = {"rows": deleted, "days": {name: kept[name] for name in deleted}}
            await write_audit(connection, actor, "retention.purge", "tables", detail)
    return deleted


async def _purge_table(pool: Pool, actor: Actor, table: RetainedTable, days: int) -> int:
    """Returns the number of rows; 0 for partitions, which are dropped as a whole."""
    before = datetime.now(UTC) - timedelta(days=days)
    if table.how == "months":
        async with admin_transaction(pool) as connection:
            await drop_months(connection, actor, before=before.date())
        return 0
    total = 0
    async with db_deadline(None), pool.acquire(timeout=_CONNECT_S) as connection:
        if table.how == "days":
            await connection.execute(
                f"SELECT {_DROPS[table.name]}($1)", before.date(), timeout=_LONG_DEADLINE_S
            )
            if table.name != "llm_calls":
                return 0
            table = _CALLS_WITHOUT_A_DAY
        while True:
            done: int
            if table.how == "old audit":
                done = await connection.fetchval("SELECT retire_old_audit_log($1, $2)", before, BATCH_ROWS)
            else:
                done = await delete_due(connection, table, days)
            total += done
            if done < BATCH_ROWS:
                return total


_DROPS = {
    "requests": "requests_retire",
    "llm_calls": "llm_calls_retire",
    "refused_credentials": "retire_refused_credentials",
}
"""The functions that drop days; they leave a busy one for the next time."""
_CALLS_WITHOUT_A_DAY = RetainedTable("llm_calls_other", "rows", _OF_ROWS, "started_at")
_WHOLE_DAYS = OFTEN - {"stored_responses"} | {_CALLS_WITHOUT_A_DAY.name}


def _is_due(table: RetainedTable) -> str:
    """The condition of rows past `$1` days; of rows that age by a day, whole days are meant."""
    midnight = "(now() AT TIME ZONE 'UTC')::date - $1::int"
    if table.column == "day":
        return f"{table.only} AND day < {midnight}"
    if table.name in _WHOLE_DAYS or table.how in {"days", "months"}:
        return f"{table.only} AND {table.column} < ({midnight})::timestamp AT TIME ZONE 'UTC'"
    return f"{table.only} AND {table.column} < now() - make_interval(days => $1::int)"


async def _due_of(connection: PgConnection, table: RetainedTable, days: int) -> DueRows:
    if table.how in {"days", "months"}:
        return await _due_partitions(connection, table, days)
    row = await connection.fetchrow(
        f"SELECT count(*), coalesce(sum(pg_column_size(t.*)), 0), min({table.column})::timestamptz"  # noqa: S608 -- our own names
        f" FROM {table.name} AS t WHERE {_is_due(table)}",
        days, timeout=_LONG_DEADLINE_S,
    )  # fmt: skip
    assert row is not None  # noqa: S101 -- an aggregate has a row
    return DueRows(table.name, days, row[0], int(row[1]), row[2])


async def _due_partitions(connection: PgConnection, table: RetainedTable, days: int) -> DueRows:
    """Counts in the partitions that are over as a whole; other rows wait for their partition."""
    rows, size_bytes, oldest = 0, 0, None
    before = (datetime.now(UTC) - timedelta(days=days)).date()
    if table.how == "months":  # a month is over when the next one begins
        before = before.replace(day=1)
    digits = 6 if table.how == "months" else 8
    names = await connection.fetch(
        "SELECT c.oid::regclass::text AS name, pg_total_relation_size(c.oid) AS size FROM pg_inherits AS i"
        " JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = $1::text::regclass"
        " AND c.relname ~ ('_[0-9]{' || $2::int || '}$') AND right(c.relname, $2::int) < $3 ORDER BY 1",
        table.name, digits, f"{before:%Y%m%d}"[:digits],
    )  # fmt: skip
    for found in names:
        row = await connection.fetchrow(
            f"SELECT count(*), min({table.column}) FROM {found['name']}",  # noqa: S608 -- its name is quoted
            timeout=_LONG_DEADLINE_S,
        )
        assert row is not None  # noqa: S101 -- an aggregate has a row
        rows, size_bytes, oldest = rows + row[0], size_bytes + found["size"], oldest or row[1]
    return DueRows(table.name, days, rows, size_bytes, oldest)
