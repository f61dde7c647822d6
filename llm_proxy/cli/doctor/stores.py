"""Queries the stores and the gateway's admin API: Postgres, both Redis stores, backups, models.

Invariants: nothing is written; each store is read on a connection of its own; a model is called only with
`--check-providers`, by the gateway's own capped test.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.backend import REPLICAS_KEY
from llm_proxy.admission.redis.redis_facts import open_redis, read_redis_facts
from llm_proxy.cli.context import admin_key_of
from llm_proxy.cli.doctor.findings import NotChecked, Outcome, finding
from llm_proxy.cli.doctor.store_rules import (
    ConnectionNeed,
    is_public_host,
    is_this_machine,
    judge_cache_store,
    judge_clock,
    judge_limits_store,
    judge_postgres,
)
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.json_access import Json
from llm_proxy.path_names import api_segment
from llm_proxy.postgres_urls import client_parameters
from llm_proxy.redis_urls import redis_address
from llm_proxy.schema import PgConnection, SchemaChanged, pending_migrations
from llm_proxy.schema.backups import Backups
from llm_proxy.schema.connections import (
    POOL_SIZE,
    REPORTS_POOL_SIZE,
    PooledConnection,
    connect,
    is_behind_pooler,
    open_command_pool,
)
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline
from llm_proxy.store_facts import RedisFacts, read_postgres_facts

STORE_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S, POSTGRES_TIMEOUT_S = 4.0, 5.0
MIN_DISK_BYTES, MIN_DISK_SHARE = 2**30, 0.05
BACKUP_MAX_AGE = timedelta(hours=26)
PROVIDER_TIMEOUT_S = 75
_AT_ONCE = 4
_CONSOLE_AND_COMMANDS = 1
_TLS_MODES = ("sslmode=verify", "sslmode=require")


@contextlib.asynccontextmanager
async def _connected(url: str, subject: Subject) -> AsyncGenerator[PooledConnection]:
    async with db_deadline(CONNECT_TIMEOUT_S):
        connection = await connect(url, subject.settings.tls_for(url))
    try:
        yield connection
    finally:
        connection.terminate()


async def check_postgres(subject: Subject) -> Outcome:
    """Version, state, roles, room, copies and clock."""
    url = subject.database_url
    if url is None:
        return [NotChecked("postgres", "DATABASE_URL is not set")]
    processes = await _gateways(subject)
    try:
        async with _connected(url, subject) as connection:
            facts = await read_postgres_facts(connection, timeout_s=POSTGRES_TIMEOUT_S)
            pending = await _pending(connection)
            is_pooled = await is_behind_pooler(connection)
    except (DatabaseUnavailable, RowsRejected) as away:
        return [finding("postgres-away", f"DATABASE_URL: {away.reason}")]
    limit = client_parameters(url).get("connection_limit", "")
    each = int(limit) if limit.isdecimal() and int(limit) > 1 else POOL_SIZE + REPORTS_POOL_SIZE
    need = None if is_pooled else ConnectionNeed(processes + _CONSOLE_AND_COMMANDS, each)
    found = [
        *judge_postgres(facts, need, subject.today, pending),
        *judge_clock(facts.clock_offset_s, "Postgres"),
    ]
    if is_public_host(urlsplit(url).hostname or "") and not any(mode in url for mode in _TLS_MODES):
        found.append(finding("postgres-not-tls", "DATABASE_URL names a public host and demands no TLS"))
    return [*found, *_disk(url, facts.data_directory)]


def _disk(url: str, folder: str | None) -> Outcome:
    if folder is None or not is_this_machine(url) or not Path(folder).is_dir():
        return [NotChecked("the disk of Postgres", "a server does not report it; watch it where it runs")]
    usage = shutil.disk_usage(folder)
    return judge_disk(usage.free, usage.total)


def judge_disk(free_bytes: int, total_bytes: int) -> Outcome:
    """Returns a finding for a disk of Postgres that is nearly full."""
    if free_bytes >= max(MIN_DISK_BYTES, total_bytes * MIN_DISK_SHARE):
        return []
    free, total = (number / 2**30 for number in (free_bytes, total_bytes))
    return [finding("disk-full", f"{free:.1f} of {total:.1f} GiB are free")]


async def _pending(connection: PgConnection) -> int | None:
    try:
        async with db_deadline(STORE_TIMEOUT_S):
            return len(await pending_migrations(connection))
    except (DatabaseUnavailable, RowsRejected, SchemaChanged):
        return None


async def _gateways(subject: Subject) -> int:
    """Returns how many gateways' processes the limits store knows, at least those of this one."""
    url = subject.limits_url
    if url is not None:
        with contextlib.suppress(LimiterUnavailable):
            async with open_redis(
                url, timeout_s=STORE_TIMEOUT_S, tls=subject.settings.tls_for(url)
            ) as client:
                count = await client.execute(REPLICAS_KEY, "ZCARD", REPLICAS_KEY)
                return max(int(count), subject.settings.workers)
    return subject.settings.workers


async def check_limits_store(subject: Subject) -> Outcome:
    """Policy, memory, persistence, latency, copies and clock."""
    url = subject.limits_url
    if url is None:
        return [NotChecked("limits-store", "LIMITS_REDIS_URL is not set")]
    nodes = await _redis(url, subject)
    if isinstance(nodes, str):
        return [finding("redis-away", f"LIMITS_REDIS_URL: {nodes}")]
    found: Outcome = [*judge_limits_store(nodes, subject.settings.store_timeout_ms, subject.today)]
    for facts in nodes:
        found += judge_clock(facts.clock_offset_s, "the limits store")
    return [*found, *_redis_tls("LIMITS_REDIS_URL", url)]


async def check_cache_store(subject: Subject) -> Outcome:
    """Whether it answers, its version, and whether it can take new answers."""
    url = subject.cache_url
    if url is None:
        return [NotChecked("cache-store", "CACHE_REDIS_URL is not set")]
    nodes = await _redis(url, subject)
    if isinstance(nodes, str):
        return [finding("cache-away", f"CACHE_REDIS_URL: {nodes}")]
    return [*judge_cache_store(nodes, subject.today), *_redis_tls("CACHE_REDIS_URL", url)]


async def _redis(url: str, subject: Subject) -> tuple[RedisFacts, ...] | str:
    """Returns the facts of each server; why there are none."""
    async with open_redis(url, timeout_s=STORE_TIMEOUT_S, tls=subject.settings.tls_for(url)) as client:
        try:
            return await read_redis_facts(client.connections)
        except LimiterUnavailable as unavailable:
            return client.fault or str(unavailable) or "it does not answer"


def _redis_tls(name: str, url: str) -> Outcome:
    address = redis_address(url)
    if address.is_tls or not any(is_public_host(host) for host, _ in address.hosts):
        return []
    return [finding("redis-not-tls", f"{name} names a public host and no TLS")]


async def check_backups(subject: Subject) -> Outcome:
    """When the last backup ended."""
    url = subject.database_url
    if url is None:
        return [NotChecked("backups", "DATABASE_URL is not set")]
    if subject.settings.environment != "production":
        return [NotChecked("backups", "this is a development stack")]
    try:
        async with (
            asyncio.timeout(POSTGRES_TIMEOUT_S),
            open_command_pool(url, subject.settings.tls_for(url)) as pool,
        ):
            last = await Backups(pool).last_backup_at()
            since: datetime | None = await pool.fetchval("SELECT min(applied_at) FROM schema_steps")
    except (DatabaseUnavailable, RowsRejected, TimeoutError, OSError) as away:
        return [
            NotChecked("backups", getattr(away, "reason", "the database does not answer"), is_unknown=True)
        ]
    return judge_backups(last, since, datetime.now(UTC))


def judge_backups(last: datetime | None, database_since: datetime | None, now: datetime) -> Outcome:
    """Returns whether the last backup is too old; a database that is not yet a day old needs none."""
    if last is not None:
        age = now - last
        hours = age.total_seconds() / 3600
        return (
            [finding("backup-old", f"the last backup ended {hours:.0f} hours ago")]
            if age > BACKUP_MAX_AGE
            else []
        )
    if database_since is None or now - database_since <= BACKUP_MAX_AGE:
        return []
    return [finding("backup-missing", "no successful backup is recorded")]


async def check_providers(subject: Subject) -> Outcome:
    """Calls each model group once, with a few tokens, with `--check-providers`."""
    if not subject.checks_providers:
        return [NotChecked("providers", "it calls each model group and may cost money: --check-providers")]
    key = admin_key_of(subject.settings, read_only=False)
    if key is None:
        return [NotChecked("providers", "LLM_PROXY__ADMIN_KEY is not set", is_unknown=True)]
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=subject.gateway_url,
        headers=headers,
        timeout=PROVIDER_TIMEOUT_S,
        trust_env=False,
        verify=subject.settings.tls,
    ) as client:
        try:
            listed = await client.get("/admin/models")
            listed.raise_for_status()
        except httpx.HTTPError:
            return [NotChecked("providers", "the gateway does not list its models", is_unknown=True)]
        slots = asyncio.Semaphore(_AT_ONCE)
        groups = [str(one["id"]) for one in listed.json()["data"] if not one["wildcard"]]
        results = await asyncio.gather(*(_probe(client, one, slots) for one in groups))
    return [one for result in results for one in result]


async def _probe(client: httpx.AsyncClient, name: str, slots: asyncio.Semaphore) -> Outcome:
    async with slots:
        try:
            response = await client.post(f"/admin/models/{api_segment(name)}/test")
            result: Json = response.json()
        except (httpx.HTTPError, ValueError):
            return [NotChecked(f"model {name}", "the gateway did not answer", is_unknown=True)]
    if result.get("ok") is None:
        return [NotChecked(f"model {name}", "not tested: its mode is not, or the call may cost too much")]
    if result["ok"]:
        return []
    error: Json = result.get("error") or {}
    reason = " ".join(str(error[part]) for part in ("status", "code", "message") if error.get(part))
    return [finding("provider-fails", f"{name}: {reason}", name=name)]
