"""What an older version left: rows in the database, lines on the disk, and rejected records."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from usage_records import random_record, record, run_ledger, until_written, write_records

from llm_proxy import schema
from llm_proxy.identity import Actor, AuditLog, record_action
from llm_proxy.identity.audit_log import verify_audit_log
from llm_proxy.ledger import MemoryUsage, PostgresUsage
from llm_proxy.ledger.latency_histogram import MAX_RELATIVE_ERROR
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.spool import Journal, Spool
from llm_proxy.ledger.usage_query import UsageQuery, UsageResult
from llm_proxy.ledger.worker_slot import acquire_slot
from llm_proxy.quantities import NOTHING
from llm_proxy.schema import Migration

Pool = asyncpg.Pool
STEPS = 8
"""The schema of the version that wrote the lines below."""
REPLAYS_APART = 42
"""The step from which roll-ups count no replayed answer as a request."""
DAYS, A_DAY = 5, 800

# As that version wrote them: two records, and a call that was admitted.
ENDED = [
    (
        b'["01a1f84a-95c0-7000-8000-000000000001","2026-11-20T09:30:00.123456+00:00","key-1","sk-one","acme",'
        b'"agent:sofia","u1",null,null,null,"chat.completions","openai","gpt-4o-mini","gpt-4o-mini",'
        b'"gpt-4o-mini-2024-07-18","openai","d-1",false,200,"ok",null,12,34,null,null,56789,"provider","miss",1,'
        b"812.5,null]"
    ),
    (
        b'["01a1f84a-95c0-7000-8000-000000000002","2026-11-20T09:30:00.123456+00:00","key-1","sk-one","acme",'
        b'"agent:sofia","u1",null,null,null,"chat.completions","openai","gpt-4o-mini","gpt-4o-mini",'
        b'"gpt-4o-mini-2024-07-18","openai","d-1",false,200,"ok",null,12,34,null,null,56789,"provider","miss",1,'
        b"812.5,null]"
    ),
]
ADMITTED = (
    b'["01a1f84a-95c0-7000-8000-000000000003",1795167000.0,"key-1","sk-one","acme","agent:sofia","u1",null,null,'
    b'null,"chat.completions","openai","gpt-4o-mini","gpt-4o-mini",false]'
)
FOREVER_DAYS = 36_500
_SOFIAS = "SELECT count(*) FROM requests WHERE agent = 'agent:sofia'"

_FILL_REQUESTS = """
    INSERT INTO requests (request_id, started_at, key_id, key_prefix, tenant, agent, user_id, door, dialect,
        model, model_group, provider, streamed, status, outcome, prompt_tokens, completion_tokens, cost_usd,
        usage_source, cache, attempts, latency_ms)
    SELECT id, at, 'key-1', 'sk-one', 'acme', 'agent:old', 'u1', 'chat.completions', 'openai', 'm', 'm', 'p',
        false, 200, 'ok', 10, 5, 0.000001, 'provider', 'miss', 1, 100
    FROM unnest($1::uuid[], $2::timestamptz[]) AS given (id, at)
"""
_FILL_CALLS = """
    INSERT INTO llm_calls (call_id, started_at, status, prompt_tokens, completion_tokens, cost_usd)
    SELECT id, at, 'success', 10, 5, 0.000001 FROM unnest($1::uuid[], $2::timestamptz[]) AS given (id, at)
"""
_FILL_AUDIT = """
    INSERT INTO audit_log (at, actor, action, target, client_ip, detail)
    SELECT at, 'unknown', 'credential.refused', '/v1/models', '192.0.2.1', '{"prefix": ""}'
    FROM unnest($1::timestamptz[]) AS at
"""


def an_id(at: datetime, number: int) -> UUID:
    """A request's id of that moment."""
    return UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)


async def make_schema(pool: "Pool[asyncpg.Record]", steps: Sequence[Migration]) -> None:
    """Applies these migrations, as their version did."""
    await pool.execute(
        "CREATE TABLE schema_steps (number integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for step in steps:
        await pool.execute(step.sql)
    await pool.executemany(
        "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3)",
        [(step.number, step.name, step.digest) for step in steps],
    )


@pytest.fixture
def older_calls() -> dict[UUID, datetime]:
    """Requests of several days, today's among them."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    moments = (today - timedelta(days=day, seconds=-number) for day in range(DAYS) for number in range(A_DAY))
    return {an_id(at, number): at for number, at in enumerate(moments)}


@pytest.fixture
async def pool(
    empty_database_url: str, older_calls: dict[UUID, datetime]
) -> AsyncIterator["Pool[asyncpg.Record]"]:
    """A pool on a database of the older version, with thousands of rows in three tables."""
    async with asyncpg.create_pool(empty_database_url, min_size=0, max_size=3) as made:
        await make_schema(made, schema.all_migrations()[:STEPS])
        for day in sorted({at.date() for at in older_calls.values()}):
            await made.execute("SELECT requests_partition($1)", day)
        ids, moments = list(older_calls), list(older_calls.values())
        await made.execute(_FILL_REQUESTS, ids, moments)
        await made.execute(_FILL_CALLS, ids, moments)
        await made.execute(_FILL_AUDIT, moments)
        yield made


async def test_a_database_with_rows_is_migrated(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, older_calls: dict[UUID, datetime], tmp_path: Path
) -> None:
    """Rows and sums stay, an old request is found, new ones are written."""
    since, now = min(older_calls.values()), datetime.now(UTC)
    query = UsageQuery(since, now + timedelta(days=1), ("agent",))
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'requests'::regclass"
    assert await pool.fetchval(partitions) == DAYS
    applied = await schema.migrate(empty_database_url)
    assert [int(name[:3]) for name in applied] == [step.number for step in schema.all_migrations()[STEPS:]]
    usage = PostgresUsage(pool)
    calls = DAYS * A_DAY
    [sums] = (await usage.query(query, now)).rows
    assert (sums.group, sums.requests, sums.cost_usd) == (
        {"agent": "agent:old"},
        calls,
        calls * Decimal("0.000001"),
    )
    assert (sums.prompt_tokens, sums.completion_tokens, sums.quantities) == (10 * calls, 5 * calls, NOTHING)
    for table in ("requests", "llm_calls", "audit_log"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == DAYS * A_DAY  # noqa: S608 -- ours
    for request_id in list(older_calls)[:: A_DAY // 2]:
        story = await usage.request_detail(request_id)
        assert story is not None
        assert (story["agent"], story["hops"], story["group_asked"], story["provider_message"]) == (
            "agent:old", None, None, None,
        )  # fmt: skip
        assert [call["call_id"] for call in story["model_calls"]] == [request_id]
    new = record(hops='[["g", "d", 200]]', group_asked="asked", provider_message="said")
    async with run_ledger(empty_database_url, tmp_path) as ledger:
        ledger.call_finished(new)
        await until_written(ledger)
        assert ledger.state().postgres == "up"
    reported = await usage.request_detail(new.request_id)
    assert reported is not None
    assert (reported["hops"], reported["group_asked"], reported["provider_message"]) == (
        [["g", "d", 200]],
        "asked",
        "said",
    )
    assert (await usage.query(query, now)).total.requests == DAYS * A_DAY + 1
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT enrich_requests($1, $2)", since, now) == 0


async def test_replays_that_were_counted_leave_the_roll_ups(empty_database_url: str) -> None:
    """Every sum is that of the calls, whatever table answers; what was replayed stays counted apart."""
    chance, memory, now = Random(42), MemoryUsage(), datetime.now(UTC)  # noqa: S311 -- repeatable
    unused: dict[str, Any] = {
        "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": None, "cost_nano_usd": 0,
        "images": None, "audio_ms": None, "characters": None, "search_units": None,
        "cache": "off", "usage_source": "sidecar",
    }  # fmt: skip
    records = [random_record(chance, now) for _ in range(300)]
    records[::3] = [one._replace(replay_of=str(one.request_id), **unused) for one in records[::3]]
    async with asyncpg.create_pool(empty_database_url, min_size=0, max_size=2) as pool:
        await make_schema(pool, [step for step in schema.all_migrations() if step.number < REPLAYS_APART])
        await pool.execute("UPDATE schema_steps SET applied_at = now() - interval '2 days'")
        await write_records(pool, records)
        assert await pool.fetchval("SELECT sum(requests) FROM usage_daily") == len(records)
        await schema.migrate(empty_database_url)
        for one in records:
            memory.add(one)
        since, until = now - timedelta(days=4), now + timedelta(days=1)
        for by in ((), ("day", "provider"), ("hour",), ("user",), ("user", "model"), ("key", "tag")):
            query = UsageQuery(since, until, by)
            kept, expected = [await keeper.query(query, now) for keeper in (PostgresUsage(pool), memory)]
            assert figures(kept) == figures(expected), by
        for table in ("usage_daily", "usage_hourly"):
            assert await pool.fetchval(f"SELECT sum(replays) FROM {table}") == 100  # noqa: S608 -- ours


def figures(result: UsageResult) -> dict[str, tuple[object, ...]]:
    """The sums of each group, and of all."""
    return {
        str(row.group): (
            row.requests, row.succeeded, row.cache_hits, row.total_tokens, row.cost_usd,
            row.unpriced_requests, row.p95_latency_ms, row.latency_requests, row.p95_ttft_ms,
            row.ttft_requests, row.quantities,
        )
        for row in (result.total, *result.rows)
    }  # fmt: skip


async def test_histograms_of_earlier_days_are_filled_beside_the_calls(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, older_calls: dict[UUID, datetime]
) -> None:
    """Each call once: also one that comes late into such a day, and one whose person is renamed meanwhile."""
    since, now = min(older_calls.values()), datetime.now(UTC)
    async with pool.acquire() as connection:
        await schema.apply(connection)
    at = since + timedelta(hours=1)
    await pool.execute(_FILL_REQUESTS, [an_id(at, 1)], [at])
    renamed = "UPDATE requests SET user_id = 'u2' WHERE started_at >= $1 AND started_at < $2"
    await pool.execute(renamed, since, at)
    await schema.migrate(empty_database_url)
    usage, until = PostgresUsage(pool), now + timedelta(days=1)
    for by in ((), ("day",), ("user",), ("hour", "model"), ("user", "model")):
        for row in (await usage.query(UsageQuery(since, until, by), now)).rows:
            assert (row.latency_requests, row.ttft_requests) == (row.requests, 0), by
            assert row.p95_latency_ms == pytest.approx(100, rel=MAX_RELATIVE_ERROR)
            assert row.p95_ttft_ms is None
    assert await AuditLog(pool).list_entries() == []  # refused credentials are no admin's actions
    await pool.execute("INSERT INTO audit_log (actor, action) VALUES ('admin:write', 'keys.create')")
    await record_action(pool, Actor("test"), "cache.purge", "tenant=*")
    report = await verify_audit_log(pool)
    assert (report.entries, report.unchained, report.faults) == (1, DAYS * A_DAY + 1, [])
    page = [(row["action"], row["chained"]) for row in await AuditLog(pool).list_entries()]
    assert page == [("cache.purge", True), ("keys.create", False)]


async def test_lines_of_an_older_version_are_replayed(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, tmp_path: Path
) -> None:
    """From its spool and its journal; the call in which its worker was killed is lost."""
    dead = acquire_slot(tmp_path)
    spool = Spool(dead.path, 2**24)
    spool.append(ENDED[:1])
    spool.close()
    journal = Journal(dead.path / "journal")
    journal.complete(UUID(orjson.loads(ENDED[1])[0]), ENDED[1])
    journal.begin(UUID(orjson.loads(ADMITTED)[0]), ADMITTED)
    dead.release()
    async with run_ledger(empty_database_url, tmp_path, retention_days=FOREVER_DAYS) as ledger:
        await until_written(ledger)
    rows = await pool.fetch(
        "SELECT outcome, started_at, cost_usd, hops FROM requests WHERE agent = 'agent:sofia'"
        " ORDER BY request_id"
    )
    known, began = Decimal("0.000056789"), datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    assert [tuple(row) for row in rows] == [
        ("ok", began.replace(microsecond=123_456), known, None),
        ("ok", began.replace(microsecond=123_456), known, None),
        ("lost", began, None, None),
    ]


async def test_rejected_records_of_an_older_version_are_replayed_by_hand(
    pool: "Pool[asyncpg.Record]", empty_database_url: str, tmp_path: Path
) -> None:
    """As `docs/operations.md` says: the file becomes a segment of a free worker slot; the gateway runs."""
    ours = [record() for _ in range(3)]
    async with run_ledger(empty_database_url, tmp_path) as ledger:
        ledger.call_finished(ours[0])
        await until_written(ledger)
        put_aside(tmp_path, [b"torn", *(encode(row_of(one)) for one in ours)])
        async with asyncio.timeout(20):
            while await pool.fetchval(_SOFIAS) < len(ours):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)
    assert await pool.fetchval("SELECT sum(requests) FROM usage_daily WHERE agent = 'agent:sofia'") == 3
    assert (tmp_path / "worker-0" / "rejected.jsonl").read_bytes() == b"torn\n"


def put_aside(spool: Path, lines: list[bytes]) -> None:
    """These lines in a worker's file of rejects, moved as an operator would."""
    for line in lines:
        Spool(spool / "worker-0", 2**24).reject(line)
    slot = spool / "worker-rejected"
    slot.mkdir()
    (spool / "worker-0" / "rejected.jsonl").rename(slot / "000000000001.records")
