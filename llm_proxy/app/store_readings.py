"""Reads beside the calls, for `/metrics`, how stores fare, what tenants spend, and when certificates end.

Invariants: one worker reads for all of its gateway, every `EVERY_S`, never at a scrape; what a store does not
say is absent, never 0, and `llm_proxy_store_facts_up` is 0 of a store that says nothing; no label holds an
address.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial

from pydantic import SecretStr

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.redis_facts import open_redis, read_redis_facts
from llm_proxy.app.stages import Stages
from llm_proxy.background import BackgroundLoop
from llm_proxy.certificates import not_after
from llm_proxy.ledger.spend_slope import dearest_hours
from llm_proxy.schema.backups import Backups
from llm_proxy.schema.connections import Pool
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline
from llm_proxy.settings import Settings
from llm_proxy.store_facts import FACTS_TIMEOUT_S, RedisFacts, read_postgres_facts
from llm_proxy.telemetry.readings import Reading
from llm_proxy.upstream.monitor import read_addresses

EVERY_S = 30.0
REDIS_TIMEOUT_S = 2.0
DEAREST = 40
"""Hours of tenants that are shown: of twenty tenants, this one and the last."""
_SILENT = (DatabaseUnavailable, RowsRejected, LimiterUnavailable, OSError)
_P = "llm_proxy_"


def store_readings_loop(stages: Stages) -> BackgroundLoop | None:
    """Returns the loop that reads; None in a worker that does not read for its gateway, and in mock mode."""
    sources = _sources(stages)
    if not sources or not stages.metrics.reads_for_all:
        return None

    async def step() -> None:
        await asyncio.gather(*(_read(stages, name, source) for name, source in sources.items()))

    return BackgroundLoop("store-readings", step, every_s=EVERY_S, at_once=True)


Source = Callable[[], Awaitable[list[Reading]]]


def _sources(stages: Stages) -> dict[str, Source]:
    settings = stages.settings
    if settings.llm_mode == "mock":
        return {}
    sources: dict[str, Source] = {"certificates": partial(_certificates, settings)}
    if (database := stages.database) is not None:
        sources["postgres"] = partial(_postgres, database.reports)
        sources["backups"] = partial(_backups, database.reports)
        sources["spend"] = partial(_spend, database.reports)
    for store, url in (("limits", settings.limits_redis_url), ("cache", settings.cache_redis_url)):
        if url is not None:
            sources[store] = partial(_redis, store, url, settings)
    return sources


async def _read(stages: Stages, name: str, source: Source) -> None:
    """Replaces a source's readings by new ones, or by the word that there are none."""
    try:
        readings = await source()
    except _SILENT:
        readings = []
    if name in {"postgres", "limits", "cache"}:
        readings.append(Reading(f"{_P}store_facts_up", (name,), float(bool(readings))))
    stages.metrics.set_readings(name, readings)


def _known(values: Iterable[tuple[str, tuple[str, ...], float | None]]) -> list[Reading]:
    return [Reading(f"{_P}{name}", labels, value) for name, labels, value in values if value is not None]


async def _postgres(pool: Pool) -> list[Reading]:
    async with db_deadline(FACTS_TIMEOUT_S), pool.acquire() as connection:
        facts = await read_postgres_facts(connection)
    values: list[tuple[str, tuple[str, ...], float | None]] = [
        ("postgres_connections", (), facts.used_connections),
        ("postgres_connections_max", (), facts.max_connections),
        ("postgres_database_bytes", (), facts.database_bytes),
        ("postgres_partition_days_ahead", (), facts.partition_days_ahead),
        ("postgres_oldest_transaction_seconds", (), facts.oldest_transaction_s),
    ]
    values += [("postgres_table_bytes", (one.name,), one.size_bytes) for one in facts.largest_tables or ()]
    return _known(values)


async def _backups(pool: Pool) -> list[Reading]:
    last = await Backups(pool).last_backup_at()
    return _known([("last_backup_timestamp_seconds", (), None if last is None else last.timestamp())])


async def _spend(pool: Pool) -> list[Reading]:
    return [
        Reading(f"{_P}{name}", (one.tenant, one.hour), usd)
        for one in await dearest_hours(pool, DEAREST)
        for name, usd in (("tenant_spend_usd", one.spend_usd), ("tenant_usual_spend_usd", one.usual_usd))
    ]


async def _redis(store: str, url: SecretStr, settings: Settings) -> list[Reading]:
    async with open_redis(
        url.get_secret_value(), timeout_s=REDIS_TIMEOUT_S, tls=settings.tls_for(url)
    ) as client:
        nodes = await read_redis_facts(client.connections)
    if not nodes:
        return []
    fullest = max(nodes, key=_share_used)
    evicted = [one.evicted_keys for one in nodes if one.evicted_keys is not None]
    return _known(
        [
            ("redis_used_bytes", (store,), fullest.used_memory_bytes),
            ("redis_max_bytes", (store,), fullest.maxmemory_bytes or None),
            ("redis_evicted_keys", (store,), sum(evicted) if evicted else None),
        ]
    )


def _share_used(node: RedisFacts) -> float:
    """Returns how full a node is; of one without a limit, which is never full, less than of any other."""
    used = node.used_memory_bytes or 0
    return used / node.maxmemory_bytes if node.maxmemory_bytes else used / 2**60


async def _certificates(settings: Settings) -> list[Reading]:
    """Returns the first end of each kind of peer; of one that does not answer none."""
    peers: dict[str, Sequence[SecretStr | str | None]] = {
        "postgres": [settings.database_url],
        "limits": [settings.limits_redis_url],
        "cache": [settings.cache_redis_url],
        "sidecar": read_addresses(settings.litellm_proxy_url),
        "console": [settings.console_url],
    }
    readings: list[Reading] = []
    for peer, addresses in peers.items():
        urls = (one.get_secret_value() if isinstance(one, SecretStr) else one for one in addresses)
        found = await asyncio.gather(*(not_after(url) for url in urls if url), return_exceptions=True)
        ends = [one.timestamp() for one in found if isinstance(one, datetime)]
        if ends:
            name = f"{_P}certificate_not_after_timestamp_seconds"
            readings.append(Reading(name, (peer,), min(ends)))
    return readings
