"""Refused credentials on their way to the audit log: who tried, where, how often.

Invariants: `note` never waits and never fails; however many are refused, at most `MOST_ROWS` rows are written
in `EVERY_S`, and every refusal is counted in one of them; no part of a secret is kept, only the public part
of a key of our own form. Written under the insert-only role where the database has it.
"""

import asyncio
import json
import logging
from collections import Counter

import asyncpg

from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity.keys import lookup_of, prefix_of
from llm_proxy.identity.store import available

log = logging.getLogger(__name__)

EVERY_S = 10.0
MOST_ROWS = 50
ROLE = "llm_proxy_audit"
_INSERT = "INSERT INTO audit_log (actor, action, target, client_ip, detail) VALUES ($1, $2, $3, $4, $5)"
_MAY_BECOME = """
SELECT CASE WHEN to_regrole($1) IS NOT NULL THEN pg_has_role($1, 'SET') ELSE false END
"""

Tried = tuple[str | None, str, str]
OTHERS: Tried = (None, "", "")


class RefusedCredentials:
    """Gathers refusals and writes them now and then."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self._tried: Counter[Tried] = Counter()
        self._task: asyncio.Task[None] | None = None

    def note(self, *, client_ip: str | None, path: str, credential: bytes = b"") -> None:
        """Somebody's credential was refused at a path."""
        lookup = lookup_of(credential)
        tried = (client_ip, path[:100], prefix_of(lookup) if lookup else "")
        self._tried[tried if tried in self._tried or len(self._tried) < MOST_ROWS - 1 else OTHERS] += 1

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def flush(self) -> None:
        """Write what was gathered; what cannot be written waits for the next time."""
        tried, self._tried = self._tried, Counter()
        if not tried:
            return
        rows = [
            ("refused caller", "credential.refused", prefix, address, _detail(path, times))
            for (address, path, prefix), times in tried.items()
        ]
        try:
            async with available(), self._pool.acquire(timeout=1) as connection, connection.transaction():
                if await connection.fetchval(_MAY_BECOME, ROLE):
                    await connection.execute(f"SET LOCAL ROLE {ROLE}")
                await connection.executemany(_INSERT, rows)
        except StoreUnavailable:
            log.warning("refused credentials not put on record yet", extra={"tried": sum(tried.values())})
            self._keep(tried)

    def _keep(self, tried: "Counter[Tried]") -> None:
        for one, times in tried.items():
            self._tried[one if one in self._tried or len(self._tried) < MOST_ROWS - 1 else OTHERS] += times

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()


def _detail(path: str, times: int) -> str:
    return json.dumps({"path": path, "times": times})
