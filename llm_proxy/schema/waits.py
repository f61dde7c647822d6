"""What a migration waits for: the sessions that hold what it needs.

Invariants: only reads; no text of a query leaves the server, which may hold values. Another role's session is
named by its pid alone where this role may not see more (`pg_read_all_stats` lets it).
"""

from collections.abc import Awaitable, Callable

import asyncpg

MIGRATION_LOCK = 0x6C6C6D70726F7879  # "llmproxy"
_HIGH, _LOW = MIGRATION_LOCK >> 32, MIGRATION_LOCK & 0xFFFFFFFF

Look = Callable[..., Awaitable[asyncpg.Record | None]]
"""Reads one row in a transaction of its own, as `fetchrow` of a pool or of an idle connection does."""

_SESSION = """a.pid, a.state,
    extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS transaction_s,
    extract(epoch FROM clock_timestamp() - a.query_start)::bigint AS query_s"""
_MIGRATOR = f"""
    SELECT {_SESSION} FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {_HIGH}::oid AND l.objid = {_LOW}::oid
      AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    LIMIT 1"""  # noqa: S608 -- numbers of this file
_HOLDER = f"""
    SELECT {_SESSION}, string_agg(DISTINCT c.relname, ', ' ORDER BY c.relname) AS tables
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a USING (pid)
    WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relkind IN ('r', 'p')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'schema_steps'::regclass)
    GROUP BY a.pid, a.state, a.xact_start, a.query_start
    ORDER BY a.xact_start NULLS LAST LIMIT 1"""  # noqa: S608 -- the text above
_BLOCKER = f"""
    SELECT {_SESSION} FROM pg_stat_activity AS w
    CROSS JOIN unnest(pg_blocking_pids(w.pid)) AS blocking (pid)
    JOIN pg_stat_activity AS a ON a.pid = blocking.pid
    WHERE w.datname = current_database() AND starts_with(w.query, left($1, 200)) AND w.pid <> pg_backend_pid()
    ORDER BY a.xact_start NULLS LAST LIMIT 1"""  # noqa: S608 -- the text above
_MAX_TABLES_CHARS = 80


async def describe_holder(look: Look) -> str:
    """Describes the session that migrates, or whose transaction has held one of our tables for longest."""
    if (migrator := await look(_MIGRATOR)) is not None:
        return f"another process migrates: {_session(migrator)}"
    if (holder := await look(_HOLDER)) is None:
        return "a table was in use"
    tables = holder["tables"]
    shown = tables if len(tables) <= _MAX_TABLES_CHARS else f"{tables[:_MAX_TABLES_CHARS]}..."
    return f"a table is in use: {_session(holder)} has a lock on {shown}"


async def describe_blocker(look: Look, statement: str) -> str | None:
    """Describes the session that blocks the one that runs this statement; None without any."""
    blocker = await look(_BLOCKER, statement)
    return _session(blocker) if blocker is not None else None


def _session(row: asyncpg.Record) -> str:
    if row["transaction_s"] is None:
        return f"pid {row['pid']}"
    return (
        f"pid {row['pid']} ({row['state']}, transaction {row['transaction_s']} s, query {row['query_s']} s)"
    )
