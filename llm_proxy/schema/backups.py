"""The list of backups: when the database was backed up, by which tool, and whether that succeeded.

Invariants: a backup that runs or was cut off is no success; one that the operator's own tool has made counts
like one of `llm-proxy backup`. Raises: `DatabaseUnavailable`, `RowsRejected`.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from llm_proxy.schema.connections import Pool
from llm_proxy.schema.database import db_deadline

_DEADLINE_S = 5.0
_BEGIN = "INSERT INTO backups (kind) VALUES ($1) RETURNING backup_id"
_FINISH = (
    "UPDATE backups SET finished_at = clock_timestamp(), bytes = $2, ok = $3, note = $4 WHERE backup_id = $1"
)
_RECORD = """
    INSERT INTO backups (kind, started_at, finished_at, bytes, ok, note)
    SELECT $1, coalesce($2, clock_timestamp()), coalesce($2, clock_timestamp()), $3, $4, $5
    RETURNING *"""
_LAST = "SELECT max(finished_at) FROM backups WHERE ok"
_LIST = "SELECT * FROM backups ORDER BY started_at DESC, backup_id DESC LIMIT $1"


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup.

    Attributes:
        kind: `pg_dump`, or the name of the operator's tool.
        finished_at: None while it runs, and for one that was cut off.
        size_bytes: None where it is not known.
    """

    kind: str
    started_at: datetime
    finished_at: datetime | None
    size_bytes: int | None
    ok: bool
    note: str | None = None


class Backups:
    """Writes and reads the list."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def last_backup_at(self) -> datetime | None:
        """Returns when the latest successful backup ended, by any tool; None without one."""
        async with db_deadline(_DEADLINE_S):
            found: datetime | None = await self._pool.fetchval(_LAST)
        return found

    async def begin(self, kind: str) -> int:
        """Adds a backup that begins now and returns its number."""
        async with db_deadline(_DEADLINE_S):
            number: int = await self._pool.fetchval(_BEGIN, kind)
        return number

    async def finish(self, number: int, size_bytes: int | None, *, ok: bool, note: str | None = None) -> None:
        """Notes the end of a backup that began."""
        async with db_deadline(_DEADLINE_S):
            await self._pool.execute(_FINISH, number, size_bytes, ok, note)

    async def record(
        self,
        kind: str,
        *,
        at: datetime | None = None,
        size_bytes: int | None = None,
        ok: bool = True,
        note: str | None = None,
    ) -> Backup:
        """Adds a backup that another tool has made, by default now, and returns it."""
        async with db_deadline(_DEADLINE_S):
            row = await self._pool.fetchrow(_RECORD, kind, at, size_bytes, ok, note)
        assert row is not None  # noqa: S101 -- it was inserted
        return _backup_from_row(row)

    async def latest(self, most: int) -> list[Backup]:
        """Returns the latest backups, the newest first."""
        async with db_deadline(_DEADLINE_S):
            rows = await self._pool.fetch(_LIST, most)
        return [_backup_from_row(row) for row in rows]


def _backup_from_row(row: asyncpg.Record) -> Backup:
    return Backup(row["kind"], row["started_at"], row["finished_at"], row["bytes"], row["ok"], row["note"])
