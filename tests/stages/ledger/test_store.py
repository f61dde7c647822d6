"""The rows that the ledger writes to Postgres, and the roll-ups made of them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
from prometheus_page import value
from usage_records import random_record, record, run_ledger

from llm_proxy import schema
from llm_proxy.call_context import CallContext
from llm_proxy.errors import RateLimited
from llm_proxy.identity import Actor
from llm_proxy.ledger import LedgerStore, UsageRecord
from llm_proxy.ledger.observers import Payload
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.ledger.usage_store import open_usage
from llm_proxy.quantities import Quantities
from llm_proxy.telemetry import Metrics, uuid7

COMPARED = """
    WITH raw AS (
        SELECT (started_at AT TIME ZONE 'UTC')::date AS day, key_id, coalesce(tenant, '') AS tenant,
               coalesce(agent, '') AS agent, model_group, coalesce(provider, '') AS provider,
               count(*) AS requests, count(*) FILTER (WHERE outcome = 'ok') AS succeeded,
               coalesce(sum(prompt_tokens), 0) AS prompt_tokens, coalesce(sum(cost_usd), 0) AS cost_usd,
               count(*) FILTER (WHERE cost_usd IS NULL AND (outcome = 'ok' OR prompt_tokens > 0
                                OR completion_tokens > 0 OR images > 0 OR audio_ms > 0 OR characters > 0
                                OR search_units > 0)) AS unpriced,
               coalesce(sum(images), 0) AS images, coalesce(sum(audio_ms), 0) AS audio_ms,
               coalesce(sum(characters), 0) AS characters, coalesce(sum(search_units), 0) AS search_units,
               count(*) FILTER (WHERE outcome <> 'lost') AS timed,
               sum(latency_bucket(CASE WHEN outcome <> 'lost' THEN latency_ms END)) AS latency_buckets,
               sum(latency_bucket(ttft_ms)) AS ttft_buckets
        FROM requests GROUP BY 1, 2, 3, 4, 5, 6)
    SELECT * FROM raw FULL JOIN (SELECT * FROM usage_daily WHERE requests > 0) AS u
        USING (day, key_id, tenant, agent, model_group, provider, requests, succeeded, prompt_tokens,
               cost_usd, unpriced, timed, images, audio_ms, characters, search_units, latency_buckets,
               ttft_buckets)
    WHERE raw.day IS NULL OR u.day IS NULL"""


async def fetch(dsn: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    """Rows, over a connection of the test's own."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def test_a_record_equals_its_row(database_url: str, tmp_path: Path) -> None:
    """To the microsecond and the nano-dollar; unknown stays unknown."""
    posted = record(
        cost_nano_usd=123_456_789_012, cached_tokens=7, user="u", ttft_ms=None, run="r-1",
        tags="a,Équipe 7", images=2, audio_ms=1, characters=3, search_units=4,
    )  # fmt: skip
    unpriced = record(cost_nano_usd=None, prompt_tokens=None)
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.call_finished(posted)
        ledger.call_finished(unpriced)
    rows = {row["request_id"]: row for row in await fetch(database_url, "SELECT * FROM requests")}
    row = rows[posted.request_id]
    assert row["started_at"] == posted.started_at
    assert row["cost_usd"] == Decimal("123.456789012")
    assert (row["user_id"], row["cached_tokens"], row["ttft_ms"], row["status"]) == ("u", 7, None, 200)
    assert (row["run_id"], row["tags"]) == ("r-1", ["a", "Équipe 7"])
    assert [row[name] for name in Quantities._fields] == [2, 1, 3, 4]
    assert [rows[unpriced.request_id][name] for name in Quantities._fields] == [None] * 4
    assert (rows[unpriced.request_id]["run_id"], rows[unpriced.request_id]["tags"]) == (None, None)
    assert rows[unpriced.request_id]["cost_usd"] is None
    assert rows[unpriced.request_id]["prompt_tokens"] is None


async def test_a_record_written_twice_is_one_row_and_counts_once(database_url: str, tmp_path: Path) -> None:
    """Within a batch and in two batches."""
    once = record()
    for _ in range(2):
        async with run_ledger(database_url, tmp_path) as ledger:
            ledger.call_finished(once)
            ledger.call_finished(once)
    assert len(await fetch(database_url, "SELECT 1 FROM requests")) == 1
    assert (await fetch(database_url, "SELECT requests, cost_usd FROM usage_daily"))[0]["requests"] == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_roll_ups_equal_the_rows(database_url: str, tmp_path: Path, seed: int) -> None:
    """Whatever was written, twice or out of order: by day, hour and user."""
    random = Random(seed)  # noqa: S311 -- repeatable
    records = [random_record(random) for _ in range(400)]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in [*records, *random.sample(records, 100)]:
            ledger.call_finished(one)
    assert await fetch(database_url, COMPARED) == []
    whole = await fetch(database_url, "SELECT count(*) AS n, sum(cost_usd) AS cost FROM requests")
    hours = await fetch(database_url, "SELECT sum(requests) AS n, sum(cost_usd) AS cost FROM usage_hourly")
    named = await fetch(
        database_url,
        "SELECT count(*), sum(prompt_tokens), sum(cost_usd), sum(images), sum(audio_ms) FROM requests"
        " WHERE user_id IS NOT NULL",
    )
    assert (whole[0]["n"], whole[0]["cost"]) == (400, sum_usd(records)) == (hours[0]["n"], hours[0]["cost"])
    for table in ("usage_users", "usage_user_days"):
        counted = "sum(requests), sum(prompt_tokens), sum(cost_usd), sum(images), sum(audio_ms)"
        sums = f"SELECT {counted} FROM {table}"  # noqa: S608 -- the names above
        users = await fetch(database_url, sums)
        assert users == named


async def test_an_enriched_estimate_changes_the_sums_by_the_difference(
    database_url: str, tmp_path: Path
) -> None:
    """The sidecar's log replaces estimates and unknown figures, never the provider's."""
    ago = datetime.now(UTC) - timedelta(minutes=5)
    estimated = record(
        usage_source="estimated", prompt_tokens=100, completion_tokens=1, cost_nano_usd=None, started_at=ago
    )
    unknown = {"prompt_tokens": None, "completion_tokens": None, "provider": None, "cost_nano_usd": None}
    lost = record(usage_source="unknown", outcome="lost", started_at=ago, **unknown)
    stated = record(started_at=ago)
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (estimated, lost, stated):
            ledger.call_finished(one)
    await logged(database_url, [estimated, lost, stated], ago)
    pool = await asyncpg.create_pool(database_url, min_size=0)
    assert await LedgerStore(pool, DEFAULT_DAYS).enrich(datetime.now(UTC)) == 2
    await pool.close()
    rows = {row["request_id"]: row for row in await fetch(database_url, "SELECT * FROM requests")}
    for one in (estimated, lost):
        row = rows[one.request_id]
        assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (11, 22, "sidecar")
        assert row["cost_usd"] == Decimal("0.000000033")
    assert rows[stated.request_id]["prompt_tokens"] == stated.prompt_tokens
    assert await fetch(database_url, COMPARED) == []


async def test_an_unacceptable_record_is_repaired(database_url: str, tmp_path: Path) -> None:
    """Without NUL and lone surrogates, too large numbers unknown; no other row suffers."""
    odd = [record(user="a\0b"), record(agent="\udc80x"), record(attempts=2**40), record(prompt_tokens=2**70)]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in [record(), *odd, record()]:
            ledger.call_finished(one)
    rows = {row["request_id"]: row for row in await fetch(database_url, "SELECT * FROM requests")}
    assert len(rows) == 6
    assert rows[odd[0].request_id]["user_id"] == "ab"
    assert rows[odd[1].request_id]["agent"] == "?x"
    assert rows[odd[2].request_id]["attempts"] is None
    assert rows[odd[3].request_id]["prompt_tokens"] is None


async def test_partitions_are_made_ahead_and_dropped_when_expired(database_url: str, tmp_path: Path) -> None:
    """An expired row is dropped and counted."""
    now = datetime.now(UTC)
    async with run_ledger(database_url, tmp_path, retention_days=90) as ledger:
        ledger.call_finished(record(started_at=now - timedelta(days=50)))
        ledger.call_finished(record(started_at=now - timedelta(days=91)))
    assert len(await fetch(database_url, "SELECT 1 FROM requests")) == 1
    made = (now + timedelta(days=7)).strftime("requests_%Y%m%d")
    assert made in await partitions(database_url)
    indexes = "SELECT string_agg(indexdef, ' ') AS defs FROM pg_indexes WHERE tablename = $1"
    [found] = await fetch(database_url, indexes, made)
    assert all(f"{column} IS NOT NULL" in found["defs"] for column in ("session_id", "run_id", "tags"))
    pool = await asyncpg.create_pool(database_url, min_size=0)
    await LedgerStore(pool, DEFAULT_DAYS | {"requests": 30}).maintain_partitions()
    await pool.close()
    assert (now - timedelta(days=50)).strftime("requests_%Y%m%d") not in await partitions(database_url)
    assert len(await fetch(database_url, "SELECT 1 FROM requests")) == 0
    assert (await fetch(database_url, "SELECT sum(requests) AS n FROM usage_daily"))[0]["n"] == 1


async def test_rejected_requests_are_stored_in_a_bounded_sample(database_url: str, tmp_path: Path) -> None:
    """A flood leaves a few rows a second, and its number in the metrics."""
    async with run_ledger(database_url, tmp_path) as ledger:
        for _ in range(1000):
            ledger.request_rejected(CallContext(uuid7()), RateLimited("Too many."))
    rows = await fetch(database_url, "SELECT code, status, refused_by FROM refusals")
    assert 10 <= len(rows) <= 20
    assert tuple(rows[0]) == ("rate_limit_exceeded", 429, "limit")


async def test_payloads_are_redacted_and_erased_by_user(database_url: str, tmp_path: Path) -> None:
    """A key in a prompt is not stored."""
    one = record(user="u1")
    said = Payload(
        one.request_id,
        one.started_at,
        None,
        None,
        "u1",
        b'{"content": "my key is sk-abcdefghijklmnop"}',
        b"{}",
    )
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.keep_payload(said)
    rows = await fetch(database_url, "SELECT prompt, answer FROM payloads")
    assert tuple(rows[0]) == ('{"content": "my key is sk-[redacted]"}', "{}")
    async with open_usage(database_url) as usage:
        kept = await usage.get_payload(one.request_id)
        assert kept == {"prompt": rows[0]["prompt"], "answer": "{}"}
        assert await usage.erase_payloads("acme", "u1", Actor("admin:write")) == 0
        assert await usage.get_payload(one.request_id) == kept
        assert await usage.erase_payloads(None, "u1", Actor("admin:write", "192.0.2.7")) == 1
        assert await usage.get_payload(one.request_id) is None
    assert await fetch(database_url, "SELECT 1 FROM payloads") == []
    [_, mutation] = await fetch(
        database_url, "SELECT actor, action, target, client_ip, detail FROM audit_entries ORDER BY seq"
    )
    [person] = await fetch(database_url, "SELECT pseudonym, name FROM audit_people WHERE tenant = ''")
    detail = '{"tenant": null, "calls": 1}'
    assert tuple(mutation) == ("admin:write", "payloads.erase", person["pseudonym"], "192.0.2.7", detail)
    assert person["name"] == "u1"


async def test_dropped_payloads_are_counted(database_url: str, tmp_path: Path) -> None:
    """No room, or no Postgres: no wait, no spool."""
    one = record()
    said = Payload(one.request_id, one.started_at, None, None, "a\0\udc80", b"x" * 2**20, b"")
    flooded, alone = Metrics(), Metrics()
    async with run_ledger(database_url, tmp_path / "a", metrics=flooded) as ledger:
        for _ in range(33):
            ledger.keep_payload(said)
    async with run_ledger(None, tmp_path / "b", metrics=alone) as ledger:
        ledger.keep_payload(said)
    assert [row["user_id"] for row in await fetch(database_url, "SELECT user_id FROM payloads")] == ["a?"]
    assert value(flooded.render(), "llm_proxy_payloads_dropped_total", cause="queue_full") == 1
    assert value(alone.render(), "llm_proxy_payloads_dropped_total", cause="postgres_away") == 1


@pytest.mark.usefixtures("restored_sidecar_role")
async def test_migrating_again_changes_nothing_and_a_changed_file_is_named(empty_database_url: str) -> None:
    """Files apply once; a file that was changed later stops the migration."""
    first = await schema.migrate(empty_database_url, sidecar_password="it's only for tests")
    assert first[0] == "001_requests.sql"
    assert await schema.migrate(empty_database_url) == []
    await fetch(empty_database_url, "UPDATE schema_steps SET digest = 'x' WHERE number = 1")
    with pytest.raises(schema.SchemaChanged, match=r"001_requests\.sql"):
        await schema.migrate(empty_database_url)


COLUMNS_ADDED_LATER = (9,)


async def test_a_roll_up_added_later_contains_older_rows(empty_database_url: str, tmp_path: Path) -> None:
    """An older database, migrated: users' days from the first row on."""
    connection = await asyncpg.connect(empty_database_url)
    for step in schema.all_migrations()[:6]:
        await connection.execute(step.sql)
    for step in schema.all_migrations():
        if step.number in COLUMNS_ADDED_LATER:  # the rows are written as this version writes them
            await connection.execute(step.sql)
    await connection.execute(
        "CREATE TABLE schema_steps (number integer PRIMARY KEY, name text NOT NULL, digest text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.executemany(
        "INSERT INTO schema_steps (number, name, digest) VALUES ($1, $2, $3)",
        [(step.number, step.name, step.digest) for step in schema.all_migrations()[:6]],
    )
    older = [record(user="u1") for _ in range(2)]
    await connection.execute("SELECT requests_partition($1)", older[0].started_at.date())
    await connection.executemany(
        "INSERT INTO requests (request_id, started_at, user_id, cost_usd, key_id, key_prefix, door, dialect,"
        " model, model_group, streamed, status, outcome, usage_source, cache, latency_ms, tenant, agent)"
        " VALUES ($1, $2, $3, $4, 'key-1', 'sk', 'd', 'd', 'm', 'm', false, 200, 'ok', 'provider', 'miss', 1,"
        " $5, $6)",
        [
            (one.request_id, one.started_at, one.user, Decimal("0.000056789"), one.tenant, one.agent)
            for one in older
        ],
    )
    assert (await schema.apply(connection))[0] == "007_user_days.sql"
    async with run_ledger(empty_database_url, tmp_path) as ledger:
        ledger.call_finished(record(user="u1", group="another"))
    days = await connection.fetch("SELECT user_id, requests, cost_usd FROM usage_user_days")
    assert [tuple(day) for day in days] == [("u1", 3, Decimal("0.000170367"))]
    await connection.close()


@pytest.mark.usefixtures("restored_sidecar_role")
async def test_the_sidecar_s_role_may_only_write_its_log(database_url: str) -> None:
    """A stolen sidecar password reads no key and no other table."""
    await schema.migrate(database_url, sidecar_password="only-for-tests")
    address = database_url.rpartition("@")[2]
    connection = await asyncpg.connect(f"postgresql://llm_proxy_sidecar:only-for-tests@{address}")
    insert = """
        INSERT INTO llm_calls (call_id, started_at, status) VALUES ($1, now(), 'failure')
        ON CONFLICT (call_id, attempt) DO UPDATE SET status = EXCLUDED.status
        WHERE llm_calls.status <> 'success'"""
    try:
        call_id = uuid7()
        await connection.execute(insert, call_id)
        await connection.execute(insert, call_id)
        for forbidden in (
            "SELECT * FROM requests",
            "SELECT cost_usd FROM llm_calls",
            "DELETE FROM llm_calls",
            "SELECT enrich_requests(now(), now())",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()


def sum_usd(records: list[UsageRecord]) -> Decimal:
    """What these cost together, where known."""
    return Decimal(sum(one.cost_nano_usd or 0 for one in records)).scaleb(-9)


async def partitions(dsn: str) -> set[str]:
    """The names of the partitions there are."""
    rows = await fetch(
        dsn, "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'requests'::regclass"
    )
    return {row["name"] for row in rows}


async def logged(dsn: str, records: list[UsageRecord], started_at: datetime) -> None:
    """The sidecar's log of these: a failed attempt, then an answer of 11 and 22 tokens."""
    sql = """
        INSERT INTO llm_calls
            (call_id, attempt, started_at, status, prompt_tokens, completion_tokens, cost_usd)
        VALUES ($1, '1', $2, 'failure', NULL, NULL, NULL), ($1, '2', $2, 'success', 11, 22, 0.000000033)"""
    for one in records:
        await fetch(dsn, sql, one.request_id, started_at)


async def test_old_stored_responses_are_deleted(database_url: str, tmp_path: Path) -> None:
    """Those older than their days, by upkeep."""
    async with run_ledger(database_url, tmp_path):
        pass
    pool = await asyncpg.create_pool(database_url, min_size=0)
    insert = "INSERT INTO stored_responses (digest, created_at, sealed) VALUES ($1, now() - $2::interval, '')"
    for days in (3, 5):
        await pool.execute(insert, b"%d" % days, timedelta(days=days))
    store = LedgerStore(pool, DEFAULT_DAYS | {"stored_responses": 4})
    assert await store.delete_expired() == 1
    await pool.close()
    left = await fetch(database_url, "SELECT digest FROM stored_responses")
    assert [row["digest"] for row in left] == [b"3"]
