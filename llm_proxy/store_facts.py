"""What a Postgres, a Redis or a Valkey reports of itself: version, room, connections, copies, rights, clock.

Invariants: one round of short reads on a given connection within a deadline; nothing is written. A fact that
the server denies this role (managed ones deny much) is None, never 0. No address, no value of a row
and no name of a person's role is in a fact.
Sources: https://www.postgresql.org/docs/18/monitoring-stats.html, https://valkey.io/commands/info/.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llm_proxy.postgres_urls import SIDECAR_ROLE
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline
from llm_proxy.schema.steps import PgConnection

FACTS_TIMEOUT_S = 5.0
_CLOCK_READS = 3


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table with its partitions, indexes and long values: its name and bytes."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RoleRights:
    """What a role may do in the gateway's schema.

    Attributes:
        powers: Rights in the whole server: `superuser`, `createrole`, roles it is a member of, ...
        missing: Rights that it needs and lacks, such as `INSERT on llm_calls`.
        excess: Rights that it has and does not need; None of a role for which every right is one.
    """

    powers: tuple[str, ...]
    missing: tuple[str, ...]
    excess: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What a Postgres reports; None: it denies this role the fact, or has no such thing.

    Attributes:
        version: Such as `18.1`.
        round_trip_ms: Of the fastest of three reads.
        clock_offset_s: How far its clock is ahead of this machine's, to half a round trip.
        is_standby: Whether it replays another server.
        is_read_only: Whether it takes no writes.
        is_durable: Whether `fsync` and `full_page_writes` are on.
        max_connections: Those that roles without special rights may have.
        used_connections: To all databases of the server, of all roles.
        role_connection_limit: The lower one of this role's and this database's limit; None: no limit.
        database_bytes: The size of the database.
        largest_tables: The five largest, the largest first.
        partition_days_ahead: Days after today (UTC) for which `requests` and `llm_calls` have partitions, the
            lower number; -1: not even today's. None where the schema is not there.
        oldest_transaction_s: Age of the oldest open or prepared transaction in this database.
        sees_all_sessions: Whether transactions of other roles are among them.
        replication_lag_s: How far the slowest standby is behind; of a standby: itself.
        replication_lag_bytes: The same in bytes of its log.
        retained_wal_bytes: What replication slots keep on the disk until it is fetched; 0 without slots.
        transaction_ids_used: Of about two thousand million, until old rows have to be frozen.
        data_directory: Its folder, on its own machine.
        gateway_role: Of the connection's role.
        sidecar_role: Of `llm_proxy_sidecar`; None also where there is no such role.
    """

    version: str
    round_trip_ms: float
    clock_offset_s: float
    is_standby: bool | None = None
    is_read_only: bool | None = None
    is_durable: bool | None = None
    max_connections: int | None = None
    used_connections: int | None = None
    role_connection_limit: int | None = None
    database_bytes: int | None = None
    largest_tables: tuple[TableSize, ...] | None = None
    partition_days_ahead: int | None = None
    oldest_transaction_s: float | None = None
    sees_all_sessions: bool | None = None
    replication_lag_s: float | None = None
    replication_lag_bytes: int | None = None
    retained_wal_bytes: int | None = None
    transaction_ids_used: int | None = None
    data_directory: str | None = None
    gateway_role: RoleRights | None = None
    sidecar_role: RoleRights | None = None


_SERVER = """
SELECT pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only')::bool AS is_read_only,
       current_setting('fsync')::bool AND current_setting('full_page_writes')::bool AS is_durable
"""
_CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int AS max_connections,
       (SELECT sum(numbackends)::int FROM pg_stat_database) AS used_connections
"""
_OWN_LIMIT = """
SELECT least(nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1)) AS role_connection_limit
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
_SIZE = "SELECT pg_database_size(current_database()) AS database_bytes"
_TABLES = """
SELECT array_agg(name) AS names, array_agg(size) AS sizes FROM (
    SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text AS name,
           sum(pg_total_relation_size(c.oid))::bigint AS size
    FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
    GROUP BY 1 ORDER BY 2 DESC LIMIT 5) AS largest
"""
_PARTITIONS = """
SELECT min(ahead)::int AS partition_days_ahead FROM (
    SELECT coalesce(max(to_date(right(c.relname, 8), 'YYYYMMDD')) - (now() AT TIME ZONE 'UTC')::date, -1)
             AS ahead
    FROM unnest(ARRAY[to_regclass('requests'), to_regclass('llm_calls')]) AS parent
    LEFT JOIN pg_inherits i ON i.inhparent = parent
    LEFT JOIN pg_class c ON c.oid = i.inhrelid AND c.relname ~ '_\\d{8}$'
    WHERE parent IS NOT NULL GROUP BY parent) AS tables
"""
_TRANSACTIONS = """
SELECT greatest(0, extract(epoch FROM clock_timestamp() - least(
         (SELECT min(xact_start) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'),
         (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database()), clock_timestamp()
       )))::float8 AS oldest_transaction_s,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all_sessions
"""
_STANDBYS = """
SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint AS replication_lag_bytes,
       CASE WHEN bool_and(replay_lsn IS NOT NULL) THEN
           max(CASE WHEN replay_lsn = pg_current_wal_lsn() THEN 0
               ELSE extract(epoch FROM greatest(replay_lag, clock_timestamp() - reply_time)) END)::float8
       END AS replication_lag_s
FROM pg_stat_replication
WHERE NOT pg_is_in_recovery()
"""
_STANDBY = """
SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8
         AS replication_lag_s,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint AS replication_lag_bytes
WHERE pg_is_in_recovery()
"""
_SLOTS = """
SELECT coalesce(max(pg_wal_lsn_diff(
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
         restart_lsn)), 0
       )::bigint AS retained_wal_bytes
FROM pg_replication_slots
"""
_AGE = """
SELECT age(datfrozenxid)::bigint AS transaction_ids_used
FROM pg_database WHERE datname = current_database()
"""
_FOLDER = "SELECT current_setting('data_directory') AS data_directory"
_POWERS = """
SELECT array_remove(ARRAY[CASE WHEN rolsuper THEN 'superuser' END,
           CASE WHEN rolcreaterole THEN 'createrole' END,
           CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolreplication THEN 'replication' END,
           CASE WHEN rolbypassrls THEN 'bypassrls' END], NULL)
       || ARRAY(SELECT 'member of ' || b.rolname FROM pg_auth_members m JOIN pg_roles b ON b.oid = m.roleid
                WHERE m.member = r.oid ORDER BY 1) AS powers
FROM pg_roles r WHERE rolname = $1
"""
_OURS = """
WITH owner AS (SELECT relowner AS id FROM pg_class WHERE oid = to_regclass('schema_steps')),
ours AS (
    SELECT c.oid, c.relname, c.relispartition FROM pg_class c, owner
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relowner = owner.id
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')),
functions AS (
    SELECT p.oid, p.proname, p.prosecdef AS as_owner
    FROM pg_proc p, owner
    WHERE p.pronamespace = current_schema()::regnamespace AND p.proowner = owner.id
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e'))
"""
_GATEWAY_RIGHTS = f"""{_OURS}
SELECT ARRAY(
    SELECT needed || ' on ' || relname
    FROM ours, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
    WHERE NOT relispartition AND NOT has_table_privilege(oid, needed)
    UNION ALL SELECT 'EXECUTE on ' || proname FROM functions WHERE NOT has_function_privilege(oid, 'EXECUTE')
    UNION ALL SELECT needed || ' on the schema' FROM unnest(ARRAY['USAGE', 'CREATE']) AS needed
    WHERE NOT has_schema_privilege(current_schema(), needed)
    UNION ALL SELECT 'ownership of the tables' FROM owner
    WHERE NOT pg_has_role(current_user, owner.id, 'USAGE')
    ORDER BY 1) AS missing
"""  # noqa: S608 -- our own text
_SIDECAR_RIGHTS = f"""{_OURS}, log AS (SELECT oid FROM ours WHERE relname = 'llm_calls'),
columns AS (SELECT a.attname::text AS name, has_column_privilege($1, log.oid, a.attnum, 'SELECT') AS held,
                   a.attname IN ('call_id', 'attempt', 'status') AS needed
            FROM log JOIN pg_attribute a ON a.attrelid = log.oid AND a.attnum > 0 AND NOT a.attisdropped)
SELECT ARRAY(
    SELECT needed || ' on llm_calls' FROM log, unnest(ARRAY['INSERT', 'UPDATE']) AS needed
    WHERE NOT has_table_privilege($1, log.oid, needed)
    UNION ALL SELECT 'SELECT (' || name || ') on llm_calls' FROM columns WHERE needed AND NOT held
    UNION ALL SELECT 'USAGE on the schema' FROM log
    WHERE NOT has_schema_privilege($1, current_schema(), 'USAGE')
    ORDER BY 1) AS missing, ARRAY(
    SELECT held || ' on ' || relname FROM ours, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS held
    WHERE relname <> 'llm_calls' AND has_any_column_privilege($1, oid, held)
    UNION ALL SELECT held || ' on ' || relname FROM ours, unnest(ARRAY['DELETE', 'TRUNCATE']) AS held
    WHERE has_table_privilege($1, oid, held)
    UNION ALL SELECT 'SELECT (' || name || ') on llm_calls' FROM columns WHERE held AND NOT needed
    UNION ALL SELECT 'EXECUTE on ' || proname FROM functions
    WHERE as_owner AND has_function_privilege($1, oid, 'EXECUTE')
    ORDER BY 1) AS excess
"""  # noqa: S608 -- our own text
_FACTS = (
    *(_SERVER, _CONNECTIONS, _OWN_LIMIT, _SIZE, _PARTITIONS, _TRANSACTIONS),
    *(_STANDBYS, _STANDBY, _SLOTS, _AGE, _FOLDER),
)
"""Statements whose columns are names of facts; one without a row adds none."""


async def read_postgres_facts(
    connection: PgConnection, *, timeout_s: float = FACTS_TIMEOUT_S
) -> PostgresFacts:
    """Returns what a Postgres reports; raises `DatabaseUnavailable` if it does not answer in time."""
    async with db_deadline(timeout_s):
        facts = await _read_clock(connection)
        for sql in _FACTS:
            facts |= await _row(connection, sql, timeout_s / 2)
        sizes = await _row(connection, _TABLES, timeout_s / 2)
        named = zip(sizes.get("names") or (), sizes.get("sizes") or (), strict=True)
        facts["largest_tables"] = tuple(TableSize(*one) for one in named) or None
        facts["gateway_role"] = await _role(connection, _GATEWAY_RIGHTS, None, timeout_s / 2)
        facts["sidecar_role"] = await _role(connection, _SIDECAR_RIGHTS, SIDECAR_ROLE, timeout_s / 2)
    return PostgresFacts(**facts)


async def _read_clock(connection: PgConnection) -> dict[str, Any]:
    """Returns version and clock, by the fastest of a few reads."""
    facts, best_s = dict[str, Any](), float("inf")
    for _ in range(_CLOCK_READS):
        sent, began = datetime.now(UTC), time.perf_counter()
        row = await connection.fetchrow(
            "SELECT clock_timestamp() AS now, current_setting('server_version_num')::int AS number"
        )
        took_s = time.perf_counter() - began
        if row is not None and took_s < best_s:
            best_s, number = took_s, row["number"]
            facts = {
                "version": f"{number // 10_000}.{number % 10_000}",
                "round_trip_ms": took_s * 1000,
                "clock_offset_s": (row["now"] - sent).total_seconds() - took_s / 2,
            }
    return facts


async def _row(connection: PgConnection, sql: str, timeout_s: float, *arguments: str) -> dict[str, Any]:
    """Returns the columns of a statement's row; none where the server denies it, or has no such thing."""
    try:
        async with db_deadline(timeout_s):
            row = await connection.fetchrow(sql, *arguments)
    except RowsRejected:
        return {}
    except DatabaseUnavailable as error:
        if error.kind == "away" and connection.is_closed():
            raise
        return {}
    return {} if row is None else dict(row)


async def _role(
    connection: PgConnection, rights: str, name: str | None, timeout_s: float
) -> RoleRights | None:
    """Returns the rights of a role, by default of the connection's; None where they cannot be read."""
    role = name
    if role is None:
        role = str((await _row(connection, "SELECT current_user::text AS name", timeout_s)).get("name", ""))
    powers = await _row(connection, _POWERS, timeout_s, role)
    held = await _row(connection, rights, timeout_s, *((name,) if name is not None else ())) if powers else {}
    if not held:
        return None
    named = {one: tuple(held.get(one) or ()) for one in ("missing", "excess")}
    return RoleRights(tuple(powers["powers"]), named["missing"], named["excess"])


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What one server of a Redis or Valkey reports; None: it denies this user the fact, or has no such thing.

    Attributes:
        product: `valkey`, `redis`, or what the server calls itself.
        version: Its own, such as `9.1.2`.
        is_cluster: Whether it is a node of a cluster.
        is_primary: Whether it takes writes.
        round_trip_ms: Of the fastest of ten commands.
        clock_offset_s: How far its clock is ahead of this machine's, to half a round trip.
        uptime_s: Since its start.
        maxmemory_bytes: 0: no limit.
        used_memory_bytes: What counts against that limit.
        eviction_policy: `maxmemory-policy`.
        evicted_keys: Since its start.
        has_append_only_file: Whether each write goes into a file.
        has_snapshots: Whether it saves itself by the clock (`save`).
        is_persistence_ok: Whether the last write of each kind that is on succeeded.
        clients: Connections now.
        max_clients: Those it accepts.
        replicas: How many copy it now.
        replication_lag_s: Since the slowest replica's last message; of a replica: since its primary's.
        is_link_up: Of a replica, whether it is connected to its primary.
    """

    product: str
    version: str
    round_trip_ms: float
    clock_offset_s: float | None = None
    is_cluster: bool | None = None
    is_primary: bool | None = None
    uptime_s: int | None = None
    maxmemory_bytes: int | None = None
    used_memory_bytes: int | None = None
    eviction_policy: str | None = None
    evicted_keys: int | None = None
    has_append_only_file: bool | None = None
    has_snapshots: bool | None = None
    is_persistence_ok: bool | None = None
    clients: int | None = None
    max_clients: int | None = None
    replicas: int | None = None
    replication_lag_s: int | None = None
    is_link_up: bool | None = None


def parse_redis_info(
    text: str, *, round_trip_ms: float, clock_offset_s: float | None, save: str | None
) -> RedisFacts:
    """Returns the facts in a reply to `INFO`.

    Args:
        text: The reply; sections that a user may not see are missing.
        round_trip_ms: As measured.
        clock_offset_s: As measured; None where `TIME` is denied.
        save: The value of `CONFIG GET save`; None where it is denied.
    """
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    is_primary = None if "role" not in info else info["role"] == "master"
    product = info.get("server_name") or "redis"
    return RedisFacts(
        product=product,
        version=info.get(f"{product}_version") or info.get("redis_version") or "unknown",
        round_trip_ms=round_trip_ms,
        clock_offset_s=clock_offset_s,
        is_cluster=_flag(info, "cluster_enabled"),
        is_primary=is_primary,
        uptime_s=_number(info, "uptime_in_seconds"),
        maxmemory_bytes=_number(info, "maxmemory"),
        used_memory_bytes=_number(info, "used_memory"),
        eviction_policy=info.get("maxmemory_policy"),
        evicted_keys=_number(info, "evicted_keys"),
        has_append_only_file=_flag(info, "aof_enabled"),
        has_snapshots=None if save is None else bool(save),
        is_persistence_ok=_is_persistence_ok(info),
        clients=_number(info, "connected_clients"),
        max_clients=_number(info, "maxclients"),
        replicas=_number(info, "connected_slaves"),
        replication_lag_s=_redis_lag_s(info, is_primary=is_primary),
        is_link_up=info["master_link_status"] == "up" if "master_link_status" in info else None,
    )


def _number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() else None


def _flag(info: Mapping[str, str], name: str) -> bool | None:
    return info[name] == "1" if name in info else None


def _is_persistence_ok(info: Mapping[str, str]) -> bool | None:
    statuses = [info[name] for name in ("rdb_last_bgsave_status", "aof_last_write_status") if name in info]
    return all(one == "ok" for one in statuses) if statuses else None


def _redis_lag_s(info: Mapping[str, str], *, is_primary: bool | None) -> int | None:
    if is_primary is False:
        return _number(info, "master_last_io_seconds_ago")
    replicas = (value.split(",") for name, value in info.items() if name.startswith("slave") and "=" in value)
    fields = (dict(one.split("=", 1) for one in parts if "=" in one) for parts in replicas)
    return max((lag for one in fields if (lag := _number(one, "lag")) is not None), default=None)
