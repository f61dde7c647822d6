"""What stores say of themselves: a real Postgres and real Valkeys, in order, denied and misconfigured."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from processes import descendants, signal_all

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.admission.redis.redis_facts import open_redis, read_redis_facts
from llm_proxy.schema import PgConnection
from llm_proxy.schema.connections import connect
from llm_proxy.schema.database import DatabaseUnavailable
from llm_proxy.stack import probe, process
from llm_proxy.stack.stores import POSTGRES_MAJOR, postgres_spec, valkey_spec, valkey_url
from llm_proxy.stack.stores import postgres_url as address_of_postgres
from llm_proxy.store_facts import PostgresFacts, RedisFacts, parse_redis_info, read_postgres_facts

PASSWORD = "only-for-the-facts"


async def facts_of(url: str) -> PostgresFacts:
    """What a Postgres says to the role of this address."""
    connection = await connect(url, None)
    try:
        return await read_postgres_facts(connection)
    finally:
        await connection.close()


@pytest.fixture
async def migrated(database_url: str) -> AsyncIterator[PgConnection]:
    """A connection to a database with the schema."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_a_postgres_in_order(migrated: PgConnection, database_url: str) -> None:
    """Every fact but those of copies is there, and plausible."""
    ahead = "SELECT {0}_partition(current_date + n) FROM generate_series(0, 3) AS n"
    await migrated.execute(ahead.format("requests"))
    await migrated.execute(ahead.format("llm_calls"))
    found = await facts_of(database_url)
    number = int(await migrated.fetchval("SHOW server_version_num"))
    assert found.version == f"{number // 10_000}.{number % 10_000}"
    assert 0 < found.round_trip_ms < 5000
    assert abs(found.clock_offset_s) < 1
    assert (found.is_standby, found.is_read_only, found.is_durable) == (
        False,
        False,
        False,
    )  # fsync is off here
    assert found.max_connections == 97
    assert 2 <= (found.used_connections or 0) < 97
    assert found.role_connection_limit is None
    assert (found.database_bytes or 0) > 1_000_000
    names = [one.name for one in found.largest_tables or ()]
    assert len(names) == 5
    assert not any("_20" in name for name in names)  # partitions count for their table
    assert found.partition_days_ahead in {2, 3}  # midnight may pass
    assert 0 <= (found.oldest_transaction_s or 0) < 60
    assert found.sees_all_sessions is True
    assert (found.replication_lag_s, found.replication_lag_bytes, found.retained_wal_bytes) == (None, None, 0)
    assert (found.transaction_ids_used or 0) > 0
    assert found.data_directory
    assert found.gateway_role is not None
    assert found.gateway_role.missing == ()
    assert found.sidecar_role is not None
    assert found.sidecar_role.powers == found.sidecar_role.missing == found.sidecar_role.excess == ()


async def test_what_is_open_missing_and_too_much_in_a_postgres(
    migrated: PgConnection, database_url: str
) -> None:
    """An old transaction, no partitions, and a sidecar's role with other rights than it needs."""
    await migrated.execute(
        "GRANT SELECT ON api_keys TO llm_proxy_sidecar;"
        "GRANT SELECT (model), DELETE ON llm_calls TO llm_proxy_sidecar;"
        "REVOKE UPDATE ON llm_calls FROM llm_proxy_sidecar; DROP TABLE llm_calls_other"
    )
    for row in await migrated.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"):
        if row[0].startswith(("llm_calls_2", "requests_2")):
            await migrated.execute(f"DROP TABLE {row[0]}")
    async with held_transaction(database_url):
        await asyncio.sleep(0.2)
        found = await facts_of(database_url)
    assert (found.oldest_transaction_s or 0) >= 0.2
    assert found.partition_days_ahead == -1
    assert found.sidecar_role is not None
    assert found.sidecar_role.missing == ("UPDATE on llm_calls",)
    assert found.sidecar_role.excess == (
        "DELETE on llm_calls",
        "SELECT (model) on llm_calls",
        "SELECT on api_keys",
    )


@contextlib.asynccontextmanager
async def held_transaction(url: str) -> AsyncGenerator[None]:
    """A transaction that stays open."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            yield
    finally:
        await connection.close()


async def test_a_role_without_rights_is_told_little_and_nothing_wrong(
    migrated: PgConnection, database_url: str
) -> None:
    """What is denied is None; what the role itself lacks is named."""
    role = f"weak_{uuid4().hex[:8]}"
    await migrated.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 5")
    await migrated.execute(f"GRANT SELECT ON schema_steps, requests TO {role}")
    try:
        at = database_url.rpartition("@")[2]
        found = await facts_of(f"postgresql://{role}:{PASSWORD}@{at}")
    finally:
        await migrated.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert found.data_directory is None
    assert found.sees_all_sessions is False
    assert found.role_connection_limit == 5
    assert found.gateway_role is not None
    assert {
        "ownership of the tables",
        "CREATE on the schema",
        "INSERT on requests",
        "SELECT on api_keys",
    } <= set(found.gateway_role.missing)
    assert "SELECT on requests" not in found.gateway_role.missing


async def test_an_empty_database_has_no_facts_of_the_schema(empty_database_url: str) -> None:
    """Nothing of it is taken for zero."""
    found = await facts_of(empty_database_url)
    assert (found.partition_days_ahead, found.largest_tables) == (None, None)
    assert int(found.version.partition(".")[0]) > 0


async def test_a_locked_table_does_not_hold_up_the_facts(migrated: PgConnection, database_url: str) -> None:
    """The sizes of its tables are not known for now; the rest is."""
    reader = await connect(database_url, None)
    try:
        async with migrated.transaction():
            await migrated.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
            found = await read_postgres_facts(reader, timeout_s=2)
    finally:
        await reader.close()
    assert found.largest_tables is None
    assert found.gateway_role is not None


async def test_a_closed_connection_is_a_database_that_is_away(database_url: str) -> None:
    """Not facts of which all are None."""
    connection = await connect(database_url, None)
    await connection.close()
    with pytest.raises(DatabaseUnavailable):
        await read_postgres_facts(connection)


@pytest.fixture(scope="module")
def standby(service_folder: Path, postgres_url: str) -> Iterator[tuple[str, int]]:
    """A standby of the run's Postgres, with a replication slot: its address and process id."""
    port, password = probe.free_port(), postgres_url.partition("://llm_proxy:")[2].partition("@")[0]
    made = copy_of_postgres(service_folder, postgres_url, port, password)
    running = process.start(made, service_folder / "logs")
    try:
        process.wait_until_ready([running])
        yield address_of_postgres(port, password), running.popen.pid
    finally:
        process.stop([running])


def copy_of_postgres(folder: Path, url: str, port: int, password: str) -> process.ProcessSpec:
    """Copies the data of a Postgres and returns the standby to start."""
    own = folder / "standby"
    own.mkdir(mode=0o711)
    plain = postgres_spec(own, port, password, durable=False)
    data = own / f"postgres-{POSTGRES_MAJOR}"
    kept = data.stat()
    shutil.rmtree(data)
    data.mkdir(mode=0o700)
    os.chown(data, kept.st_uid, kept.st_gid)
    at = plain.argv.index(next(word for word in plain.argv if word.endswith("/postgres")))
    program = plain.argv[at].removesuffix("postgres") + "pg_basebackup"
    words = ["-d", url, "-D", str(data), "-R", "-C", "-S", "standby", "-c", "fast"]
    user, group = plain.user or (None, None)
    subprocess.run(
        [*plain.argv[:at], program, *words], env=plain.env, cwd="/", user=user, group=group, check=True
    )
    return replace(plain, name="standby")


async def until(url: str, holds: Callable[[PostgresFacts], bool]) -> PostgresFacts:
    """The facts of a Postgres once this holds of them; fails after 20 s."""
    async with asyncio.timeout(20):
        while not holds(found := await facts_of(url)):  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.1)
    return found


async def test_a_primary_its_standby_and_a_standby_that_is_frozen(
    postgres_url: str, standby: tuple[str, int]
) -> None:
    """How far it is behind grows; what the slot keeps for it, too."""
    url, server = standby
    primary = await until(postgres_url, lambda found: found.replication_lag_s == 0)
    copy = await until(url, lambda found: found.replication_lag_s == 0)
    assert primary.is_standby is False
    assert (copy.is_standby, copy.is_read_only) == (True, True)
    processes = [server, *descendants(server)]
    signal_all(processes, signal.SIGSTOP)
    try:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(
            "CREATE TABLE written AS SELECT repeat('x', 900) FROM generate_series(1, 9000)"
        )
        await connection.execute("DROP TABLE written")
        await connection.close()
        behind = await until(postgres_url, lambda found: (found.replication_lag_s or 0) > 0.5)
    finally:
        signal_all(processes, signal.SIGCONT)
    assert (behind.replication_lag_bytes or 0) > 5_000_000
    assert (behind.retained_wal_bytes or 0) > 5_000_000


async def redis_facts_of(url: str) -> tuple[RedisFacts, ...]:
    """What the servers behind an address say."""
    async with open_redis(url, timeout_s=2) as client:
        return await read_redis_facts(client.connections)


async def test_both_valkeys_in_order(limits_redis_url: str, cache_redis_url: str) -> None:
    """The limits' neither evicts nor forgets; the cache's does both."""
    (limits,), (cache,) = await redis_facts_of(limits_redis_url), await redis_facts_of(cache_redis_url)
    assert limits.product == "valkey"
    assert limits.version.count(".") == 2
    assert 0 < limits.round_trip_ms < 2000
    assert abs(limits.clock_offset_s or 0) < 1
    assert (limits.is_cluster, limits.is_primary, limits.replicas) == (False, True, 0)
    assert limits.maxmemory_bytes == 256 * 2**20
    assert 0 < (limits.used_memory_bytes or 0) < 256 * 2**20
    assert (limits.eviction_policy, cache.eviction_policy) == ("noeviction", "allkeys-lru")
    assert (limits.has_append_only_file, cache.has_append_only_file) == (True, False)
    assert (limits.has_snapshots, limits.is_persistence_ok) == (False, True)
    assert (limits.clients or 0) >= 1
    assert (limits.max_clients or 0) > 100


async def test_a_user_who_may_do_little_is_told_little(limits_redis_url: str) -> None:
    """As at managed servers: no `CONFIG`, no `INFO`."""
    name = f"weak{uuid4().hex[:8]}"
    owner = RedisConnection(limits_redis_url, timeout_s=2, load_commands=list)
    await owner.start()
    try:
        await owner.execute("ACL", "SETUSER", name, "on", f">{PASSWORD}", "~*", "+time", "+cluster")
        port = limits_redis_url.rpartition(":")[2].partition("/")[0]
        (found,) = await redis_facts_of(f"redis://{name}:{PASSWORD}@127.0.0.1:{port}/0")
    finally:
        await owner.execute("ACL", "DELUSER", name)
        await owner.stop()
    assert found.version == "unknown"
    assert found.clock_offset_s is not None
    nothing = RedisFacts("redis", "unknown", found.round_trip_ms, found.clock_offset_s)
    assert found == nothing


async def test_a_primary_and_its_replica(tmp_path: Path, limits_redis_url: str) -> None:
    """Each says which it is, and how far the copy is behind."""
    port = probe.free_port()
    primary = int(limits_redis_url.rpartition(":")[2].partition("/")[0])
    password = limits_redis_url.partition("://:")[2].partition("@")[0]
    plain = valkey_spec("limits", tmp_path, port, password)
    more = f"replicaof 127.0.0.1 {primary}\nmasterauth {password}\n".encode()
    copy = process.start(replace(plain, stdin=(plain.stdin or b"") + more), tmp_path / "logs")
    try:
        process.wait_until_ready([copy])
        async with asyncio.timeout(20):
            while True:
                (found,), (copied,) = (
                    await redis_facts_of(valkey_url(port, password)),
                    await redis_facts_of(limits_redis_url),
                )
                if found.is_link_up and copied.replicas == 1 and copied.replication_lag_s is not None:
                    break
                await asyncio.sleep(0.1)
    finally:
        process.stop([copy])
    assert (found.is_primary, copied.is_primary) == (False, True)
    assert found.replication_lag_s is not None


async def test_a_server_that_is_away_raises(free_port: int) -> None:
    """The connection says why."""
    async with open_redis(f"redis://127.0.0.1:{free_port}", timeout_s=0.5) as client:
        assert client.fault == "nothing listens at its address"
        with pytest.raises(LimiterUnavailable):
            await read_redis_facts(client.connections)


def test_an_info_of_an_older_redis() -> None:
    """Its version is under its own name; a failed write of its file is seen."""
    text = "redis_version:6.2.14\r\nrole:master\r\nrdb_last_bgsave_status:err\r\nslave0:ip=h,lag=7\r\n"
    found = parse_redis_info(text, round_trip_ms=1, clock_offset_s=None, save="3600 1")
    assert (found.product, found.version, found.has_snapshots) == ("redis", "6.2.14", True)
    assert (found.is_persistence_ok, found.replication_lag_s, found.maxmemory_bytes) == (False, 7, None)
