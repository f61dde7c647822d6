"""Reads keys and policies from Postgres on a request's way, and decodes their rows.

Invariants: read only; every value is a bound parameter; every read has a deadline (0.5 s for one key, 5 s
for all policies). Raises: `StoreUnavailable` for every failure of Postgres, `BadRequest` for a value out of
its column's range.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union

import asyncpg

from llm_proxy.errors import BadRequest, StoreUnavailable
from llm_proxy.identity.caller import Budget, Limits, Unit
from llm_proxy.identity.policies import Kill, Rule, Rulebook
from llm_proxy.identity.virtual_keys import FoundKey, KeySpec, Raise
from llm_proxy.schema.database import DRIVER_ERRORS, RowsRejected, failure_of

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


Connection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]
Read = TypeVar("Read")
DEADLINE_S = 0.5
READ_ALL_S = 5.0
_LIMIT: dict[Unit, str] = {"usd": "limit_nano_usd", "requests": "limit", "tokens": "limit"}
"""What a budget's limit is called in its column, by its unit."""

RAISED = """r.rpm AS raised_rpm, r.tpm AS raised_tpm, r.parallel AS raised_parallel,
       r.budgets AS raised_budgets, r.until AS raised_until"""
RAISES = (
    "LEFT JOIN key_raises r ON r.key_id = k.key_id AND r.ended_at IS NULL AND r.until > clock_timestamp()"
)
"""A key's running raise, joined to `api_keys k`, and its columns for `raise_of`."""
_READ = f"""
SELECT k.*, {RAISED}, s.digest, s.expires_at AS secret_expires_at, clock_timestamp() AS read_at,
       greatest(coalesce(own.epoch, 0), coalesce(everybody.epoch, 0)) AS epoch
FROM key_secrets s
JOIN api_keys k USING (key_id)
{RAISES}
LEFT JOIN tenant_epochs own ON own.tenant = coalesce(k.tenant, '')
LEFT JOIN tenant_epochs everybody ON everybody.tenant = '*'
WHERE s.lookup = $1
"""  # noqa: S608 -- our own column names


class PostgresKeys:
    """Reads keys and rules; a `KeyStore`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, deadline_s: float = DEADLINE_S) -> None:
        self._pool = pool
        self._deadline_s = deadline_s

    async def read(self, lookup: str) -> FoundKey | None:
        """The key with this public part; raises `StoreUnavailable`."""
        row = await self._soon(lambda connection: connection.fetchrow(_READ, lookup), self._deadline_s)
        if row is None:
            return None
        return FoundKey(
            row["key_id"],
            spec_of(row),
            row["digest"],
            row["revoked_at"],
            row["secret_expires_at"],
            row["epoch"],
            row["read_at"],
            raise_of(row),
        )

    async def rulebook(self, known: int) -> Rulebook | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        newest: int | None = await self._soon(
            lambda connection: connection.fetchval("SELECT max(epoch) FROM tenant_epochs"), self._deadline_s
        )
        return None if (newest or 0) == known else await self._soon(_rulebook, READ_ALL_S)

    async def _soon(self, read: Callable[[Connection], Awaitable[Read]], within_s: float) -> Read:
        """What is read, in time. A silent Postgres also leaves a cancelled query waiting: so nobody waits."""
        reading = asyncio.create_task(self._read(read))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({reading}, timeout=within_s)
        finally:
            if not reading.done():
                reading.cancel()
        if not reading.done():
            raise _away()
        return reading.result()

    async def _read(self, read: Callable[[Connection], Awaitable[Read]]) -> Read:
        async with available(), self._pool.acquire() as connection:
            try:
                return await read(connection)
            except asyncio.CancelledError:
                connection.terminate()
                raise


async def _rulebook(connection: Connection) -> Rulebook:
    # Epochs first: a change between the reads is then read again, never missed.
    epochs = await connection.fetch("SELECT * FROM tenant_epochs")
    rules = await connection.fetch("SELECT * FROM limit_rules")
    kills = await connection.fetch("SELECT * FROM kill_switches")
    return Rulebook(
        tuple(rule_of(row) for row in rules),
        frozenset(Kill(row["kind"], row["subject"], row["tenant"]) for row in kills),
        {row["tenant"]: row["epoch"] for row in epochs},
    )


@asynccontextmanager
async def available() -> AsyncGenerator[None]:
    """Postgres's failures as ours: `StoreUnavailable`, caused by a `DatabaseUnavailable`, or `BadRequest`."""
    try:
        yield
    except DRIVER_ERRORS as error:
        fault = failure_of(error)
        if isinstance(fault, RowsRejected):
            raise BadRequest("A value is out of its range.") from fault
        raise _away() from fault


def _away() -> StoreUnavailable:
    return StoreUnavailable("The database cannot be asked right now.", retry_after_s=1)


def spec_of(row: asyncpg.Record) -> KeySpec:
    """What an operator said about a key, from its row."""
    models = row["models"]
    return KeySpec(
        name=row["name"],
        tenant=row["tenant"],
        agent=row["agent"],
        user=row["user_id"],
        models=tuple(models) if models is not None else None,
        limits=Limits(row["rpm"], row["tpm"], row["parallel"]),
        budgets=budgets_of(row["budgets"]),
        max_tokens_cap=row["max_tokens_cap"],
        cache=row["cache"],
        expires_at=row["expires_at"],
        tags=tuple(row["tags"] or ()),
    )


def raise_of(row: asyncpg.Record) -> Raise | None:
    """A key's raise from the columns of `RAISED`; None when none runs."""
    if row["raised_until"] is None:
        return None
    limits = Limits(row["raised_rpm"], row["raised_tpm"], row["raised_parallel"])
    return Raise(limits, budgets_of(row["raised_budgets"]), row["raised_until"])


def rule_of(row: asyncpg.Record) -> Rule:
    """A rule from its row."""
    return Rule(
        row["scope"],
        row["tenant"],
        row["subject"],
        row["model_group"],
        Limits(row["rpm"], row["tpm"], row["parallel"]),
        budgets_of(row["budgets"]),
        row["mode"],
        row["on_store_failure"],
    )


def budgets_of(text: str) -> tuple[Budget, ...]:
    """Budgets from their column."""
    entries: list[dict[str, Any]] = json.loads(text)
    return tuple(
        Budget(
            int(one[_LIMIT[one.get("unit", "usd")]]),
            one["period"],
            one.get("zone", "UTC"),
            one.get("unit", "usd"),
            one.get("laid_us", 0),
        )
        for one in entries
    )


def budgets_text(budgets: tuple[Budget, ...]) -> str:
    """Budgets for their column."""
    return json.dumps(
        [
            {_LIMIT[one.unit]: one.limit, "period": one.period}
            | ({"zone": one.zone} if one.zone != "UTC" else {})
            | ({"unit": one.unit} if one.unit != "usd" else {})
            | ({"laid_us": one.laid_us} if one.laid_us else {})
            for one in budgets
        ]
    )


Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@asynccontextmanager
async def opened_pool(url: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pool]:
    """A pool on the database at this address; `tls` says whom to trust there. Raises `StoreUnavailable`."""
    async with available(), asyncpg.create_pool(url, min_size=0, max_size=2, ssl=tls) as pool:
        yield pool
