"""Rows for `llm_calls` on their way to Postgres: a bounded queue in memory, written in batches.

Invariants: posting never waits and never raises; Postgres away costs rows beyond the bound, counted, and
nothing else; a row it refuses is left out alone, counted and said. Its role may read nothing, so a row
written twice stays as it was first.
"""

import asyncio
import contextlib
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence

import asyncpg

from llm_proxy.background import Loop
from llm_proxy.database import DatabaseUnavailable, deadline, write_each
from llm_proxy.sidecar.call_row import COLUMNS, Row

LONGEST_QUEUE, BATCH = 10_000, 500
EVERY_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_S, DEADLINE_S = 0.5, 1.0, 30.0, 3.0, 10.0
KEY = ("call_id", "attempt")
_ARRAYS = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(COLUMNS.values(), 1))
INSERT = (
    f"INSERT INTO llm_calls ({', '.join(COLUMNS)}) SELECT * FROM unnest({_ARRAYS}) "  # noqa: S608 -- names of ours
    f"ON CONFLICT ({', '.join(KEY)}) DO NOTHING"
)


class CallLog:
    """The queue and its writer; `dropped` counts rows that were given up."""

    def __init__(self, url: str) -> None:
        self._url = url
        names_none = "sslmode=verify" in url and "sslrootcert=" not in url
        self._trusted = ssl.create_default_context() if names_none else None
        self._waiting: deque[Row] = deque()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._writer = Loop("call-log", self._step, every_s=EVERY_S)
        self._pause_s, self._silent_until = FIRST_PAUSE_S, 0.0
        self.dropped = 0

    def post(self, row: Row) -> None:
        """Queue a row; the oldest gives way when the queue is full."""
        if len(self._waiting) >= LONGEST_QUEUE:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(row)

    async def start(self) -> None:
        """Begin writing; Postgres need not be there yet."""
        self._writer.start()

    async def stop(self) -> None:
        """Write what is left, for a few seconds at most."""
        await self._writer.stop()
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                while self._waiting:
                    await self._write_batch()
        self.dropped += len(self._waiting)
        await self._disconnect()

    async def _step(self) -> None:
        try:
            while self._waiting:
                await self._write_batch()
            self._pause_s = FIRST_PAUSE_S
        except DatabaseUnavailable as problem:
            await self._disconnect()
            if time.monotonic() > self._silent_until:
                self._silent_until = time.monotonic() + 60
                self._say(f"{problem.reason}; {len(self._waiting)} rows wait, {self.dropped} dropped")
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    async def _write_batch(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            for row, why in await write_each(taken, self._insert):
                self.dropped += 1
                self._say(f"postgres refuses the row of call {row[0]}: {why}")
        finally:
            self._waiting.extendleft(reversed(taken))

    async def _insert(self, rows: Sequence[Row]) -> None:
        async with deadline(DEADLINE_S):
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._url, ssl=self._trusted)
            await self._connection.execute(INSERT, *map(list, zip(*rows, strict=True)))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    @staticmethod
    def _say(message: str) -> None:
        print(f"sidecar: call log: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
