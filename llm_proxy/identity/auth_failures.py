"""Counts failed authentications by client address, path and public key part, and stores the counts.

Invariants: `AuthFailureLog.record` never waits and never raises; one worker stores a bounded number of
rows a minute and an hour for one address, and rows of a bounded number of addresses an hour; every failure is
counted in some row. Nothing secret of a key is stored. Rows are written under a database role that may do
nothing else, where that role exists.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from llm_proxy.background import BackgroundLoop
from llm_proxy.identity.postgres_store import Pool, database_errors
from llm_proxy.identity.virtual_keys import display_prefix, lookup_from_key
from llm_proxy.json_access import Json
from llm_proxy.schema.database import DatabaseUnavailable, db_deadline, sanitize_text, write_rows

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 10.0
RETENTION_INTERVAL_S = 3600.0
MAX_ROWS_PER_MINUTE, MAX_ROWS_PER_HOUR = 5, 30
MAX_ADDRESSES = 500
MAX_QUEUED_COUNTS = 20_000
DATABASE_ROLE = "llm_proxy_audit"
_MAX_PATH_CHARS, _MAX_ADDRESS_CHARS = 100, 64
_BATCH = 500
_DEADLINE_S = 5.0
_NOTE = """
SELECT note_refused_credentials($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::bigint[])
"""
_MAY_BECOME = """
SELECT CASE WHEN to_regrole($1) IS NOT NULL THEN pg_has_role($1, 'SET') ELSE false END
"""
_RETIRE = """
SELECT retire_refused_credentials((clock_timestamp() AT TIME ZONE 'UTC')::date - $1::int)
"""
_PAGE = """
SELECT * FROM (SELECT * FROM refused_credentials WHERE $1::timestamptz IS NULL OR at < $1
               ORDER BY at DESC FETCH FIRST ($2) ROWS WITH TIES) AS page
ORDER BY at DESC, times DESC, client_ip, path, prefix
"""

FailureKey = tuple[int, str, str, str]
"""Minute or hour (seconds since 1970), client address, path and the key's public part."""


class _AddressQuota:
    """The rows that one address has filled in the current minute and hour."""

    __slots__ = ("in_hour", "minute", "seen")

    def __init__(self) -> None:
        self.minute = 0
        self.in_hour = 0
        self.seen: set[tuple[str, str]] = set()

    def has_room(self, minute: int, failure: tuple[str, str]) -> bool:
        """Whether a failure (path, public key part) has a row of its own in this minute, or may have one."""
        if minute != self.minute:
            self.minute, self.seen = minute, set()
        if failure in self.seen:
            return True
        if len(self.seen) >= MAX_ROWS_PER_MINUTE or self.in_hour >= MAX_ROWS_PER_HOUR:
            return False
        self.seen.add(failure)
        self.in_hour += 1
        return True


class AuthFailureLog:
    """Counts failures in memory and writes the counts every `every_s` seconds."""

    def __init__(
        self,
        pool: Pool,
        *,
        retention_days: int = 30,
        clock_s: Callable[[], float] = time.time,
        every_s: float = WRITE_INTERVAL_S,
    ) -> None:
        self._pool = pool
        self._retention_days = retention_days
        self._clock_s = clock_s
        self._counts: dict[FailureKey, int] = {}
        self._hour = 0
        self._addresses: dict[str, _AddressQuota] = {}
        self._next_drop_s = 0.0
        self._writing = asyncio.Lock()
        self._loop = BackgroundLoop("refused-credentials", self.flush, every_s=every_s)

    def record(self, *, client_ip: str | None, path: str, credential: bytes = b"") -> None:
        """Counts a request whose credential was rejected."""
        lookup = lookup_from_key(credential)
        failure = sanitize_text(path)[:_MAX_PATH_CHARS], display_prefix(lookup) if lookup else ""
        key = self._counter_key(sanitize_text(client_ip or "")[:_MAX_ADDRESS_CHARS], failure)
        if key not in self._counts and len(self._counts) >= MAX_QUEUED_COUNTS:
            key = (self._hour, "", "", "")
        self._counts[key] = self._counts.get(key, 0) + 1

    def _counter_key(self, client_ip: str, failure: tuple[str, str]) -> FailureKey:
        now = int(self._clock_s())
        hour, minute = now - now % 3600, now - now % 60
        if hour != self._hour:
            self._hour, self._addresses = hour, {}
        quota = self._addresses.get(client_ip)
        if quota is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                return hour, "", "", ""
            quota = self._addresses[client_ip] = _AddressQuota()
        return (minute, client_ip, *failure) if quota.has_room(minute, failure) else (hour, client_ip, "", "")

    async def start(self) -> None:
        """Starts the writing loop."""
        self._loop.start()

    async def stop(self) -> None:
        """Stops the loop and writes the remaining counts."""
        async with self._writing:  # a write that is cancelled may be committed, and would be repeated
            await self._loop.stop()
        await self.flush()

    async def flush(self) -> None:
        """Writes the counts and deletes rows past their retention; keeps counts that cannot be written."""
        async with self._writing:
            if await self._write_counts():
                await self._drop_old_days()

    async def _write_counts(self) -> bool:
        """Returns whether Postgres has accepted, or will never accept, every count."""
        counts, self._counts = self._counts, {}
        rows = list(counts.items())
        try:
            while rows:
                batch = rows[:_BATCH]
                try:
                    for _, why in await write_rows(batch, self._write):
                        log.warning("a rejected credential cannot be recorded", extra={"why": why})
                finally:
                    rows[:_BATCH] = batch
        except DatabaseUnavailable as fault:
            log.warning(
                "rejected credentials are not recorded yet",
                extra={"rows": len(rows), "why": fault.reason},
            )
            return False
        finally:
            for key, times in rows:
                self._counts[key] = self._counts.get(key, 0) + times
        return True

    async def list_counts(self, *, limit: int = 100, before: datetime | None = None) -> list[Json]:
        """Returns the newest counts, or the newest before a time; raises `StoreUnavailable`.

        A page ends with all rows of its last time, whatever the limit: the next page begins before it.
        """
        async with database_errors(), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            return [dict(row) for row in await connection.fetch(_PAGE, before, limit)]

    async def _write(self, rows: Sequence[tuple[FailureKey, int]]) -> None:
        values = ((datetime.fromtimestamp(at, UTC), *rest, times) for (at, *rest), times in rows)
        async with (
            db_deadline(_DEADLINE_S),
            self._pool.acquire(timeout=_DEADLINE_S) as connection,
            connection.transaction(),
        ):
            if await connection.fetchval(_MAY_BECOME, DATABASE_ROLE):
                await connection.execute(f"SET LOCAL ROLE {DATABASE_ROLE}")
            await connection.execute(_NOTE, *zip(*values, strict=True))

    async def _drop_old_days(self) -> None:
        now_s = self._clock_s()
        if now_s < self._next_drop_s:
            return
        try:
            async with db_deadline(_DEADLINE_S):
                await self._pool.execute(_RETIRE, self._retention_days)
        except DatabaseUnavailable as fault:
            log.warning("old days of rejected credentials are not deleted yet", extra={"why": fault.reason})
        else:
            self._next_drop_s = now_s + RETENTION_INTERVAL_S
