"""Reads keys and policies from Postgres on a request's way, and decodes their rows.

Invariants: read only; every value is a bound parameter; every read has a deadline (0.5 s for one key, 5 s
for all policies). Raises: `StoreUnavailable` for every failure of Postgres, `BadRequest` for a value out of
its column's range.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Union

import asyncpg

from llm_proxy.errors import BadRequest, StoreUnavailable
from llm_proxy.identity.caller import Budget, BudgetUnit, KeyAbove, Limits
from llm_proxy.identity.guard_rules import GuardRule, guard_document, parse_guard_rule
from llm_proxy.identity.policies import KillSwitch, LimitPolicy, PolicySnapshot
from llm_proxy.identity.virtual_keys import (
    IMPORTED_LOOKUP_PREFIX,
    KeyRaise,
    KeySpec,
    StoredKey,
    display_prefix,
)
from llm_proxy.json_access import Json
from llm_proxy.schema.connections import open_command_pool
from llm_proxy.schema.database import DRIVER_ERRORS, RowsRejected, classify_error

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection = Union["asyncpg.Connection[asyncpg.Record]", "PoolConnectionProxy[asyncpg.Record]"]
Read = TypeVar("Read")
KEY_DEADLINE_S = 0.5
POLICIES_DEADLINE_S = 5.0
_MONEY_FIELD, _LIMIT_FIELD = "limit_nano_usd", "limit"
"""The JSON field of a budget's limit in the column `budgets`: of money, of any other unit."""
RAISE_COLUMNS = """r.rpm AS raised_rpm, r.tpm AS raised_tpm, r.parallel AS raised_parallel,
       r.budgets AS raised_budgets, r.until AS raised_until"""
RAISE_JOIN = (
    "LEFT JOIN key_raises r ON r.key_id = k.key_id AND r.ended_at IS NULL AND r.until > clock_timestamp()"
)
"""Joins a key's running raise to `api_keys k`; `raise_from_row` reads `RAISE_COLUMNS`."""
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


_ABOVE = """
SELECT k.*, s.lookup AS link, s.expires_at AS link_expires_at
FROM api_keys k
JOIN api_keys below ON below.ancestors[cardinality(below.ancestors)] = k.key_id
    AND (below.key_id = $2 OR below.key_id = ANY($1))
LEFT JOIN key_secrets s ON s.lookup = below.parent_lookup AND s.key_id = k.key_id
WHERE k.key_id = ANY($1)
"""
"""The keys above a child key, each with its secret by which the next of them was made."""
_HAS_IMPORTED_KEYS = "SELECT EXISTS (SELECT FROM key_secrets WHERE starts_with(lookup, $1))"


class PostgresKeyStore:
    """Reads keys and policies; a `KeyStore` and a `PolicySource`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch_key(self, lookup: str) -> StoredKey | None:
        """Returns the key with this public part; None if there is none; raises `StoreUnavailable`."""
        return await self._within_deadline(lambda connection: read_key(connection, lookup), KEY_DEADLINE_S)

    async def fetch_policies(self, known_epoch: int) -> PolicySnapshot | None:
        """Returns the policies; None if no epoch is newer than `known_epoch`; raises `StoreUnavailable`."""
        newest: int | None = await self._within_deadline(
            lambda connection: connection.fetchval("SELECT max(epoch) FROM tenant_epochs"), KEY_DEADLINE_S
        )
        if (newest or 0) == known_epoch:
            return None
        return await self._within_deadline(_fetch_snapshot, POLICIES_DEADLINE_S)

    async def _within_deadline(
        self, read: Callable[[Connection], Awaitable[Read]], deadline_s: float
    ) -> Read:
        """Returns what `read` returns; raises `StoreUnavailable` after the deadline.

        A cancelled query also waits for a silent Postgres: its task is left behind.
        """
        task = asyncio.create_task(self._read(read))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait({task}, timeout=deadline_s)
        finally:
            if not task.done():
                task.cancel()
        if not task.done():
            raise _unavailable()
        return task.result()

    async def _read(self, read: Callable[[Connection], Awaitable[Read]]) -> Read:
        async with database_errors(), self._pool.acquire() as connection:
            try:
                return await read(connection)
            except asyncio.CancelledError:
                connection.terminate()
                raise


async def read_key(connection: Connection, lookup: str) -> StoredKey | None:
    """Returns the key with this public part, with the keys above it; None if there is none.

    The epoch is read first: a change of a key above that is missed has a later one.
    """
    row = await connection.fetchrow(_READ, lookup)
    if row is None:
        return None
    key = StoredKey(
        row["key_id"],
        key_spec_from_row(row),
        row["digest"],
        row["revoked_at"],
        row["secret_expires_at"],
        row["epoch"],
        row["read_at"],
        raise_from_row(row),
        row["run_id"],
    )
    return await read_keys_above(connection, key, row["ancestors"])


async def read_keys_above(connection: Connection, key: StoredKey, ancestors: Sequence[str]) -> StoredKey:
    """Returns a key with the keys above it, whose ids these are, the root first."""
    if not ancestors:
        return key
    links = await connection.fetch(_ABOVE, list(ancestors), key.key_id)
    return _with_keys_above(key, ancestors, links)


def _with_keys_above(key: StoredKey, ancestors: Sequence[str], links: Sequence[asyncpg.Record]) -> StoredKey:
    """Returns a child key with the keys above it, from rows of `_ABOVE`."""
    by_id = {row["key_id"]: row for row in links}
    rows = [by_id[key_id] for key_id in ancestors if key_id in by_id]
    ends = [end for row in rows for end in (row["expires_at"], row["link_expires_at"]) if end is not None]
    is_whole = len(rows) == len(ancestors) and all(row["link"] is not None for row in rows)
    return replace(
        key,
        above=tuple(_key_above(row) for row in rows),
        above_ends_at=min(ends, default=None),
        above_ended=not is_whole or any(row["revoked_at"] is not None for row in rows),
    )


def _key_above(row: asyncpg.Record) -> KeyAbove:
    spec = key_spec_from_row(row)
    return KeyAbove(
        row["key_id"],
        display_prefix(row["link"] or ""),
        spec.tenant,
        spec.agent,
        spec.user,
        spec.models,
        spec.limits,
        spec.budgets,
        spec.max_tokens_cap,
        spec.cache,
        spec.tags,
        row["run_id"],
    )


async def _fetch_snapshot(connection: Connection) -> PolicySnapshot:
    # Epochs first: a change between the reads is then read again, never missed.
    epochs = await connection.fetch("SELECT * FROM tenant_epochs")
    policies = await connection.fetch("SELECT * FROM limit_rules")
    switches = await connection.fetch("SELECT * FROM kill_switches")
    has_imported_keys = await connection.fetchval(_HAS_IMPORTED_KEYS, IMPORTED_LOOKUP_PREFIX)
    return PolicySnapshot(
        tuple(policy_from_row(row) for row in policies),
        frozenset(KillSwitch(row["kind"], row["subject"], row["tenant"]) for row in switches),
        {row["tenant"]: row["epoch"] for row in epochs},
        has_imported_keys,
    )


@asynccontextmanager
async def database_errors() -> AsyncGenerator[None]:
    """Raises `StoreUnavailable` for every failure of Postgres, `BadRequest` for values it rejects.

    The cause of `StoreUnavailable` is a `DatabaseUnavailable`, which names the reason.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        fault = classify_error(error)
        if isinstance(fault, RowsRejected):
            raise BadRequest("A value is out of its range.") from fault
        raise _unavailable() from fault


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The database does not answer; please try again.", retry_after_s=1)


def key_spec_from_row(row: asyncpg.Record) -> KeySpec:
    """Decodes a key's specification from its row of `api_keys`."""
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
    """Decodes a key's running raise from the columns `RAISE_COLUMNS`; None when there is none."""
    if row["raised_until"] is None:
        return None
    limits = Limits(row["raised_rpm"], row["raised_tpm"], row["raised_parallel"])
    return KeyRaise(limits, budgets_from_json(row["raised_budgets"]), row["raised_until"])


def policy_from_row(row: asyncpg.Record) -> LimitPolicy:
    """Decodes a limit policy from its row of `limit_rules`."""
    return LimitPolicy(
        row["scope"],
        row["tenant"],
        row["subject"],
        row["model_group"],
        Limits(row["rpm"], row["tpm"], row["parallel"]),
        budgets_from_json(row["budgets"]),
        row["mode"],
        row["on_store_failure"],
        row["duration_s"],
        row["weight"],
        row["priority"],
        guard_from_json(row["loop_guard"]),
    )


def _limit_field(unit: BudgetUnit) -> str:
    return _MONEY_FIELD if unit == "usd" else _LIMIT_FIELD


def budgets_from_json(text: str) -> tuple[Budget, ...]:
    """Decodes the column `budgets`."""
    entries: list[Json] = json.loads(text)
    return tuple(
        Budget(
            int(entry[_limit_field(entry.get("unit", "usd"))]),
            entry["period"],
            entry.get("zone", "UTC"),
            entry.get("unit", "usd"),
            entry.get("laid_us", 0),
        )
        for entry in entries
    )


def budgets_to_json(budgets: tuple[Budget, ...]) -> str:
    """Encodes budgets for the column `budgets`."""
    return json.dumps(
        [
            {_limit_field(budget.unit): budget.limit, "period": budget.period}
            | ({"zone": budget.zone} if budget.zone != "UTC" else {})
            | ({"unit": budget.unit} if budget.unit != "usd" else {})
            | ({"laid_us": budget.counting_since_us} if budget.counting_since_us else {})
            for budget in budgets
        ]
    )


def guard_from_json(text: str | None) -> GuardRule | None:
    """Decodes the column `loop_guard`."""
    return None if text is None else parse_guard_rule(json.loads(text))


def guard_to_json(rule: GuardRule | None) -> str | None:
    """Encodes a rule of the loop guard for its column."""
    return None if rule is None else json.dumps(guard_document(rule))


@asynccontextmanager
async def open_pool(url: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pool]:
    """Opens a pool of at most two connections for one command; raises `StoreUnavailable`.

    Args:
        url: The database's URL.
        tls: None means that the URL says how to connect.
    """
    async with database_errors(), open_command_pool(url, tls) as pool:
        yield pool
