"""Usage records for tests, plain and random, and a running ledger to record them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from llm_proxy.dialects import Call
from llm_proxy.identity import Caller
from llm_proxy.ledger import Ledger, LedgerStore, UsageRecord
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.ledger.worker_slot import acquire_slot
from llm_proxy.schema.connections import close_pool, gateway_pools
from llm_proxy.telemetry import Metrics, timestamp_of, uuid7

if TYPE_CHECKING:
    from llm_proxy.identity.postgres_store import Connection, Pool

CALLER = Caller("key-1", "virtual", "acme", "agent:sofia", key_prefix="sk-one")
CALL = Call("chat.completions", "openai", "gpt-4o-mini", "gpt-4o-mini", {})


def record(**changes: Any) -> UsageRecord:
    """A successful call of today, with these fields changed."""
    request_id = uuid7()
    plain = UsageRecord(
        request_id=request_id, started_at=timestamp_of(request_id), key_id="key-1", key_prefix="sk-one",
        tenant="acme", agent="agent:sofia", user=None, session=None, channel=None, client_request_id=None,
        door="chat.completions", dialect="openai", model="gpt-4o-mini", group="gpt-4o-mini",
        model_resolved="gpt-4o-mini-2024-07-18", provider="openai", deployment="d-1", streamed=False,
        status=200, outcome="ok", refusal_code=None, prompt_tokens=12, completion_tokens=34,
        cached_tokens=None, reasoning_tokens=None, cost_nano_usd=56_789, usage_source="provider",
        cache="miss", attempts=1, latency_ms=812.5, ttft_ms=None,
    )  # fmt: skip
    return plain._replace(**changes)


def random_record(random: Random, now: datetime | None = None) -> UsageRecord:
    """A call of one of the last three days, with anything unknown that may be."""
    now = now or datetime.now(UTC)
    maybe = random.choice
    known = random.random() < 0.8
    return record(
        request_id=UUID(int=random.getrandbits(128)),
        started_at=now - timedelta(seconds=random.uniform(0, 3 * 86_400)),
        key_id=maybe(["k1", "k2", "k3"]),
        tenant=maybe([None, "acme", "zeta"]),
        agent=maybe([None, "a1", "a2", "a3"]),
        user=maybe([None, "u1", "u2"]),
        group=maybe(["gpt", "claude", "llama"]),
        provider=maybe([None, "openai", "anthropic"]),
        outcome=maybe(["ok", "ok", "ok", "error", "client_gone", "cut", "lost"]),
        prompt_tokens=random.randrange(10_000) if known else None,
        completion_tokens=random.randrange(10_000) if known else None,
        cached_tokens=random.randrange(100) if known else None,
        reasoning_tokens=None,
        cost_nano_usd=random.randrange(10**12) if random.random() < 0.8 else None,
        usage_source="provider" if known else "unknown",
        cache=maybe(["hit", "miss", "off"]),
        latency_ms=random.uniform(0, 10_000),
        images=maybe([None, None, 1, 4]),
        audio_ms=maybe([None, None, 61_500]),
        characters=maybe([None, None, 4096]),
        search_units=maybe([None, None, 3]),
        queue_ms=maybe([None, 0.0, 812.5]),
        priority=maybe([None, "interactive", "batch"]),
        ttft_ms=maybe([None, random.uniform(1, 3000)]),
    )


@asynccontextmanager
async def run_ledger(
    dsn: str | None,
    spool: Path,
    *,
    spool_max_bytes: int = 2**26,
    retention_days: int = 90,
    metrics: Metrics | None = None,
) -> AsyncGenerator[Ledger]:
    """A started ledger with a slot under `spool`; stopped in order at the end."""
    slot = acquire_slot(spool)
    pool = await gateway_pools(dsn, None, "auto")[0] if dsn else None
    kept = DEFAULT_DAYS | dict.fromkeys(("requests", "llm_calls"), retention_days)
    store = LedgerStore(pool, kept) if pool else None
    ledger = Ledger(store, metrics or Metrics(), slot=slot, spool_max_bytes=spool_max_bytes)
    try:
        await ledger.start()
        yield ledger
        await ledger.stop()
    finally:
        if pool:
            await close_pool(pool)
        slot.release()


async def until_written(ledger: Ledger) -> None:
    """Waits until every record is in Postgres; fails after 20 s."""
    async with asyncio.timeout(20):
        while ledger.state().queued or ledger.state().spool_records:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)


async def add_child_keys(database: "Pool | Connection", ancestors: Mapping[str, Sequence[str]]) -> None:
    """Writes rows of child keys, named as their ids, by the ids of the keys above each, the root first."""
    for key_id, above in ancestors.items():
        await database.execute(
            "INSERT INTO api_keys (key_id, name, ancestors) VALUES ($1, $1, $2)", key_id, list(above)
        )


async def write_records(pool: "Pool", records: Sequence[UsageRecord]) -> None:
    """Writes records as a ledger does, into a database that has the schema."""
    for day in sorted({one.started_at.date() for one in records}):
        await pool.execute("SELECT requests_partition($1)", day)
    store = LedgerStore(pool, DEFAULT_DAYS)
    for at in range(0, len(records), 200):
        await store.insert_records([(row_of(one), encode(row_of(one))) for one in records[at : at + 200]])


async def rows_of_calls(
    database_url: str, ids: Sequence[str], table: str = "requests", column: str = "request_id"
) -> dict[str, int]:
    """How many rows each call has, when every call has one or 20 s have passed."""
    connection, found = await asyncpg.connect(database_url), Counter[str]()
    statement = f"SELECT {column}::text AS id FROM {table} WHERE {column}::text = ANY($1)"  # noqa: S608 -- the test's own names
    try:
        end = time.monotonic() + 20
        while len(found) < len(ids) and time.monotonic() < end:
            found = Counter(str(row["id"]) for row in await connection.fetch(statement, ids))
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    return dict(found)
