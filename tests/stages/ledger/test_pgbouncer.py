"""Postgres behind a real PgBouncer: everything that is read and written, in transaction and session mode."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from commands import run
from pgbouncer import PoolMode, run_pgbouncer
from usage_records import record, run_ledger, until_written

from llm_proxy.identity.audit_log import verify_audit_log
from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.schema.connections import Connector, Pooler, gateway_pools, open_command_pool
from llm_proxy.sidecar.call_log import COLUMNS, CallLog
from llm_proxy.stack import probe

if TYPE_CHECKING:
    from llm_proxy.schema.connections import Pool

SIDECAR = {"llm_proxy_sidecar": "only-for-the-call-log"}
ADMIN = {"Authorization": "Bearer pgbouncer-admin-0123456789"}


@pytest.fixture(scope="module")
def poolers(postgres_url: str, service_folder: Path) -> Iterator[dict[PoolMode, str]]:
    """One PgBouncer in each mode, with two sessions of the server for everybody."""
    folders = [service_folder / f"pgbouncer-{mode}" for mode in ("transaction", "session")]
    for folder in folders:
        folder.mkdir(mode=0o755)
    first, second = folders
    with (
        run_pgbouncer(first, postgres_url, "transaction", SIDECAR) as shared,
        run_pgbouncer(second, postgres_url, "session", size=20) as kept,
    ):
        yield {"transaction": shared, "session": kept}


@pytest.fixture
def shared_url(poolers: dict[PoolMode, str], database_url: str) -> str:
    """This test's database, through the pooler in transaction mode."""
    return _through(poolers["transaction"], database_url)


def _through(pooler: str, database_url: str) -> str:
    return f"{pooler.rpartition('/')[0]}/{database_url.rpartition('/')[2]}"


@pytest.mark.parametrize(
    ("by", "pooler", "cached"),
    [
        pytest.param("transaction", "auto", "", id="found"),
        pytest.param("session", "auto", "", id="session-mode-found"),
        pytest.param("session", "session", "cached", id="session-mode-set"),
        pytest.param("none", "auto", "cached", id="no-pooler"),
        pytest.param("none", "transaction", "", id="set"),
    ],
)
async def test_a_pooler_is_found_or_set(
    poolers: dict[PoolMode, str], database_url: str, by: str, pooler: Pooler, cached: str
) -> None:
    """Named statements are used only where the session is the client's own."""
    url = (
        database_url
        if by == "none"
        else _through(poolers["transaction" if by == "transaction" else "session"], database_url)
    )
    connection = await Connector(url, None, pooler)()
    try:
        assert connection.owns_session is bool(cached)
        assert await connection.fetchval("SELECT $1::int + 1", 1) == 2
        named = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")
        assert (named > 0) is bool(cached)
        assert not connection.get_reset_query()
        await connection.set_in_session("SET lock_timeout = 7")
        assert bool(connection.get_reset_query()) is bool(cached)
        assert (await connection.fetchval("SHOW lock_timeout") == "7ms") is bool(cached)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "parameter", ["pgbouncer=true", "statement_cache_size=0", "prepared_statement_cache_size=0"]
)
async def test_the_address_says_that_there_is_a_pooler(database_url: str, parameter: str) -> None:
    """In Prisma's words, asyncpg's and SQLAlchemy's."""
    connection = await Connector(parse_postgres_url(f"{database_url}?{parameter}"), None, "auto")()
    try:
        assert not connection.owns_session
    finally:
        await connection.close()


async def test_migrations_records_and_usage(
    poolers: dict[PoolMode, str], empty_database_url: str, tmp_path: Path
) -> None:
    """Two migrations at once, a ledger beside them, and the commands that read."""
    shared_url = _through(poolers["transaction"], empty_database_url)
    first, second = await asyncio.gather(*(run(shared_url, "migrate") for _ in range(2)))
    assert "applied 001" in first + second
    assert "nothing to do" in await run(shared_url, "migrate")
    async with run_ledger(shared_url, tmp_path) as ledger:
        for number in range(50):
            ledger.call_finished(record(user=f"u-{number}"))
        await until_written(ledger)
    found = json.loads(await run(shared_url, "usage", "--json"))
    assert sum(int(row["requests"]) for row in found) == 50
    assert "sk-llmp-" in await run(shared_url, "keys", "create", "--name", "n", "--tenant", "t")
    assert "n" in await run(shared_url, "keys", "list")
    assert json.loads(await run(shared_url, "audit", "verify", "--json"))["faults"] == []


async def test_nobody_reads_another_client_s_statement(shared_url: str) -> None:
    """Two sessions of the server answer the different questions of forty connections in five pools."""
    pools = [gateway_pools(shared_url, None, "auto")[0] for _ in range(5)]
    await asyncio.gather(*pools)

    async def ask(pool: "Pool", number: int) -> None:
        if number % 3:
            text = f"SELECT $1::int * 1000 + {number % 7}"  # each is used again, at whichever session
            assert await pool.fetchval(text, number) == number * 1000 + number % 7
            return
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", number)
            assert await connection.fetchval("SELECT $1::text", f"t-{number}") == f"t-{number}"

    await asyncio.gather(*(ask(pool, number) for number in range(100) for pool in pools))
    direct = await Connector(shared_url, None, "transaction")()
    left = await direct.fetchval("SELECT count(*) FROM pg_prepared_statements")
    held = await direct.fetchval(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database"
        " WHERE locktype = 'advisory' AND datname = current_database()"
    )
    await direct.close()
    await asyncio.gather(*(pool.close() for pool in pools))
    assert (left, held) == (0, 0)


async def test_verifying_the_audit_log_leaves_no_cursor(shared_url: str) -> None:
    """It reads the entries in batches, of one snapshot."""
    await run(shared_url, "migrate")
    await run(shared_url, "keys", "create", "--name", "n", "--tenant", "t")
    async with open_command_pool(shared_url, None) as pool:
        report = await verify_audit_log(pool)
        left = await pool.fetchval("SELECT count(*) FROM pg_cursors WHERE name <> ''")
        named = await pool.fetchval("SELECT count(*) FROM pg_prepared_statements")
    assert (report.entries, report.faults, left, named) == (1, [], 0, 0)


@pytest.mark.usefixtures("restored_sidecar_role")
async def test_the_sidecar_s_call_log(shared_url: str, database_url: str) -> None:
    """It logs in through the pooler with its own role, which may only insert."""
    [(role, password)] = SIDECAR.items()
    await run(shared_url, "migrate", SIDECAR_DB_PASSWORD=password)
    at = shared_url.rpartition("@")[2]
    log, call_id = CallLog(f"postgresql://{role}:{password}@{at}"), uuid4()
    await log.start()
    log.post(_row(call_id))
    await log.stop()
    connection = await asyncpg.connect(database_url)
    stored = await connection.fetchval("SELECT count(*) FROM llm_calls WHERE call_id = $1", call_id)
    await connection.close()
    assert (stored, log.dropped) == (1, 0)


def _row(call_id: UUID) -> tuple[object, ...]:
    now = datetime.now(UTC)
    known = {
        "call_id": call_id,
        "attempt": "success:d",
        "started_at": now,
        "ended_at": now,
        "status": "success",
    }
    return tuple({**known, "cache_hit": False, "attempts": 1}.get(name) for name in COLUMNS)


def _serve(url: str, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "LLM_PROXY__ENVIRONMENT": "development",
        "LLM_PROXY__ADMIN_KEY": ADMIN["Authorization"].removeprefix("Bearer "),
        "LLM_PROXY__SPOOL_DIR": str(folder / "spool"),
        "LLM_PROXY__LITELLM_PROXY_URL": "http://127.0.0.1:9",
    }
    argv = [sys.executable, "-m", "llm_proxy", "serve", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(argv, env=env, cwd=folder, stdout=log, stderr=log)


async def test_a_gateway_serves_admin_routes(shared_url: str, tmp_path: Path) -> None:
    """From an empty database: its own migration, keys, usage, the audit log; no error is logged."""
    port = probe.free_port()
    served = _serve(f"{shared_url}?pgbouncer=true&connection_limit=1", tmp_path, port)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=ADMIN, timeout=20
        ) as client:
            async with asyncio.timeout(40):
                while not probe.is_up(port, "/health/live") or await _part(client, "database") != "up":  # noqa: ASYNC110 -- no event says so
                    await asyncio.sleep(0.1)
            for number in range(10):
                made = await client.post("/admin/keys", json={"name": f"n-{number}", "tenant": "t"})
                assert made.status_code == 201, made.text
            assert len((await client.get("/admin/keys")).json()["data"]) == 10
            assert (await client.get("/v1/usage")).status_code == 200
            assert (await client.get("/admin/audit")).json()["data"]
    finally:
        served.terminate()
        served.wait(20)
    logged = (tmp_path / "log").read_text()
    assert "prepared statement" not in logged
    assert '"ERROR"' not in logged
    assert "Traceback" not in logged


async def _part(client: httpx.AsyncClient, name: str) -> str:
    parts = (await client.get("/health")).json()["parts"]
    return next(str(part["detail"]) for part in parts if part["part"] == name)


async def test_a_pooler_s_refusal_is_told_in_its_own_words(shared_url: str) -> None:
    """A user it does not know, a wrong password, a parameter it does not pass on."""
    at = shared_url.rpartition("@")[2]
    for url, reason in (
        (f"postgresql://nobody:S3cretPart@{at}", "SASL authentication failed"),
        (f"postgresql://llm_proxy_sidecar:S3cretPart@{at}", "SASL authentication failed"),
        (f"{shared_url}?schema=other", "search_path"),
    ):
        told = await run(url, "usage", code=3)
        assert reason in told, told
        assert "S3cretPart" not in told


async def test_nobody_waits_longer_than_the_pool_timeout(database_url: str) -> None:
    """For a free connection."""
    url = parse_postgres_url(f"{database_url}?connection_limit=2&pool_timeout=0.5")
    pool, _ = gateway_pools(url, None, "session")
    async with pool, pool.acquire(), pool.acquire():
        with pytest.raises(TimeoutError):
            await pool.fetchval("SELECT 1")
