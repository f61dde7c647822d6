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
from llm_proxy.identity.caller import Budget, BudgetUnit, Limits
from llm_proxy.identity.policies import KillSwitch, LimitPolicy, PolicySnapshot
from llm_proxy.identity.virtual_keys import KeyRaise, KeySpec, StoredKey
from llm_proxy.schema.database import DRIVER_ERRORS, RowsRejected, classify_error

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


Connection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]
Read = TypeVar("Read")
KEY_DEADLINE_S = 0.5
POLICIES_DEADLINE_S = 5.0
_LIMIT_FIELD: dict[BudgetUnit, str] = {"usd": "limit_nano_usd", "requests": "limit", "tokens": "limit"}
"""What a budget's limit is called in its column, by its unit."""

RAISE_COLUMNS = """r.rpm AS raised_rpm, r.tpm AS raised_tpm, r.parallel AS raised_parallel,
       r.budgets AS raised_budgets, r.until AS raised_until"""
RAISE_JOIN = (
    "LEFT JOIN key_raises r ON r.key_id = k.key_id AND r.ended_at IS NULL AND r.until > clock_timestamp()"
)
"""A key's running raise, joined to `api_keys k`, and its columns for `raise_of`."""
_READ = f"""
SELECT k.*, {RAISE_COLUMNS}, s.digest, s.expires_at AS secret_expires_at, clock_timestamp() AS read_at,
       greatest(coalesce(own.epoch, 0), coalesce(everybody.epoch, 0)) AS epoch
FROM key_secrets s
JOIN api_keys k USING (key_id)
{RAISE_JOIN}
LEFT JOIN tenant_epochs own ON own.tenant = coalesce(k.tenant, '')
LEFT JOIN tenant_epochs everybody ON everybody.tenant = '*'
WHERE s.lookup = $1
"""  # noqa: S608 -- our own column names


class PostgresKeyStore:
    """Reads keys and rules; a `KeyStore`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, deadline_s: float = KEY_DEADLINE_S) -> None:
        self._pool = pool
        self._deadline_s = deadline_s

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """The key with this public part; raises `StoreUnavailable`."""
        row = await self._within_deadline(
            lambda connection: connection.fetchrow(_READ, lookup), self._deadline_s
        )
        if row is None:
            return None
        return StoredKey(
            row["key_id"],
            key_spec_from_row(row),
            row["digest"],
            row["revoked_at"],
            row["secret_expires_at"],
            row["epoch"],
            row["read_at"],
            raise_from_row(row),
        )

    async def fetch_policies(self, known: int) -> PolicySnapshot | None:
        """The rules, or None when nothing is newer than the epoch known; raises `StoreUnavailable`."""
        newest: int | None = await self._within_deadline(
            lambda connection: connection.fetchval("SELECT max(epoch) FROM tenant_epochs"), self._deadline_s
        )
        return (
            None
            if (newest or 0) == known
            else await self._within_deadline(_fetch_snapshot, POLICIES_DEADLINE_S)
        )

    async def _within_deadline(self, read: Callable[[Connection], Awaitable[Read]], within_s: float) -> Read:
        """What is read, in time. A silent Postgres also leaves a cancelled query waiting: so nobody waits."""
        reading = asyncio.create_task(self._read(read))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({reading}, timeout=within_s)
        finally:
            if not reading.done():
                reading.cancel()
        if not reading.done():
            raise _unavailable()
        return reading.result()

    async def _read(self, read: Callable[[Connection], Awaitable[Read]]) -> Read:
        async with database_errors(), self._pool.acquire() as connection:
            try:
                return await read(connection)
            except asyncio.CancelledError:
                connection.terminate()
                raise


async def _fetch_snapshot(connection: Connection) -> PolicySnapshot:
    # Epochs first: a change between the reads is then read again, never missed.
    epochs = await connection.fetch("SELECT * FROM tenant_epochs")
    rules = await connection.fetch("SELECT * FROM limit_rules")
    kills = await connection.fetch("SELECT * FROM kill_switches")
    return PolicySnapshot(
        tuple(policy_from_row(row) for row in rules),
        frozenset(KillSwitch(row["kind"], row["subject"], row["tenant"]) for row in kills),
        {row["tenant"]: row["epoch"] for row in epochs},
    )


@asynccontextmanager
async def database_errors() -> AsyncGenerator[None]:
    """Postgres's failures as ours: `StoreUnavailable`, caused by a `DatabaseUnavailable`, or `BadRequest`."""
    try:
        yield
    except DRIVER_ERRORS as error:
        fault = classify_error(error)
        if isinstance(fault, RowsRejected):
            raise BadRequest("A value is out of its range.") from fault
        raise _unavailable() from fault


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The database cannot be asked right now.", retry_after_s=1)


def key_spec_from_row(row: asyncpg.Record) -> KeySpec:
    """What an operator said about a key, from its row."""
    models = row["models"]
    return KeySpec(
        name=row["name"],
        tenant=row["tenant"],
        agent=row["agent"],
        user=row["user_id"],
        models=tuple(models) if models is not None else None,
        limits=Limits(row["rpm"], row["tpm"], row["parallel"]),
        budgets=budgets_from_json(row["budgets"]),
        max_tokens_cap=row["max_tokens_cap"],
        cache=row["cache"],
        expires_at=row["expires_at"],
        tags=tuple(row["tags"] or ()),
    )


def raise_from_row(row: asyncpg.Record) -> KeyRaise | None:
    """A key's raise from the columns of `RAISE_COLUMNS`; None when none runs."""
    if row["raised_until"] is None:
        return None
    limits = Limits(row["raised_rpm"], row["raised_tpm"], row["raised_parallel"])
    return KeyRaise(limits, budgets_from_json(row["raised_budgets"]), row["raised_until"])


def policy_from_row(row: asyncpg.Record) -> LimitPolicy:
    """A rule from its row."""
    return LimitPolicy(
        row["scope"],
        row["tenant"],
        row["subject"],
        row["model_group"],
        Limits(row["rpm"], row["tpm"], row["parallel"]),
        budgets_from_json(row["budgets"]),
        row["mode"],
        row["on_store_failure"],
    )


def budgets_from_json(text: str) -> tuple[Budget, ...]:
    """Budgets from their column."""
    entries: list[dict[str, Any]] = json.loads(text)
    return tuple(
        Budget(
            int(one[_LIMIT_FIELD[one.get("unit", "usd")]]),
            one["period"],
            one.get("zone", "UTC"),
            one.get("unit", "usd"),
            one.get("laid_us", 0),
        )
        for one in entries
    )


def budgets_to_json(budgets: tuple[Budget, ...]) -> str:
    """Budgets for their column."""
    return json.dumps(
        [
            {_LIMIT_FIELD[one.unit]: one.limit, "period": one.period}
            | ({"zone": one.zone} if one.zone != "UTC" else {})
            | ({"unit": one.unit} if one.unit != "usd" else {})
            | ({"laid_us": one.counting_since_us} if one.counting_since_us else {})
            for one in budgets
        ]
    )


Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@asynccontextmanager
async def open_pool(url: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pool]:
    """A pool on the database at this address; `tls` says whom to trust there. Raises `StoreUnavailable`."""
    async with database_errors(), asyncpg.create_pool(url, min_size=0, max_size=2, ssl=tls) as pool:
        yield pool
