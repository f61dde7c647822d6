"""Rows for `llm_calls` on their way to Postgres: a bounded queue in memory, written in batches.

Invariants: posting never waits and never raises; Postgres away costs rows beyond the bound, counted, and
nothing else. Its role may read nothing, so a row written twice stays as it was first.
"""

import asyncio
import contextlib
import ssl
import sys
import time
from collections import deque

import asyncpg

from llm_proxy.sidecar.call_row import COLUMNS, Row

LONGEST_QUEUE, BATCH = 10_000, 500
EVERY_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_S = 0.5, 1.0, 30.0, 3.0
KEY = ("call_id", "attempt")
_AWAY = (
    TimeoutError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg says when the server dies between two of its messages
)
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
        self._writer: asyncio.Task[None] | None = None
        self.dropped = 0

    def post(self, row: Row) -> None:
        """Queue a row; the oldest gives way when the queue is full."""
        if len(self._waiting) >= LONGEST_QUEUE:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(row)

    async def start(self) -> None:
        """Begin writing; Postgres need not be there yet."""
        self._writer = asyncio.create_task(self._write_on())

    async def stop(self) -> None:
        """Write what is left, for a few seconds at most."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        with contextlib.suppress(*_AWAY):
            async with asyncio.timeout(CLOSING_S):
                while self._waiting:
                    await self._write_batch()
        self.dropped += len(self._waiting)
        await self._disconnect()

    async def _write_on(self) -> None:
        pause_s, silent_until = FIRST_PAUSE_S, 0.0
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                while self._waiting:
                    await self._write_batch()
                pause_s = FIRST_PAUSE_S
            except _AWAY as problem:
                await self._disconnect()
                if time.monotonic() > silent_until:
                    silent_until = time.monotonic() + 60
                    self._say(
                        f"{type(problem).__name__}; {len(self._waiting)} rows wait, {self.dropped} dropped"
                    )
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _write_batch(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._url, timeout=5, command_timeout=10, ssl=self._trusted
                )
            await self._connection.execute(INSERT, *map(list, zip(*taken, strict=True)))
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            raise

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    @staticmethod
    def _say(message: str) -> None:
        print(f"sidecar: call log: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this part
