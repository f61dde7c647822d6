"""Alerts on stores, backups, certificates and spend, each fired on purpose at a real stack: `make alarms`.

A test makes the faults for real, runs the commands of the alerts' pages, mends the faults as the pages say,
and has Prometheus's engine say that the alerts fired meanwhile and are over.
"""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from alarm_trial import RUNBOOKS, AlarmTrial, require_promtool, trial_of
from prometheus_page import series
from redis.asyncio import Redis
from running_stack import KEY
from self_signed import self_signed
from stack_processes import PASSWORD, StackProcesses, run_stack

from llm_proxy.stack.probe import free_port
from llm_proxy.stack.stores import valkey_url

pytestmark = pytest.mark.timeout(400)
RELAY = Path(__file__).parents[1] / "tls_relay.py"
DEAR = {"input_cost_per_token": 1, "output_cost_per_token": 1}
CONFIG = {
    "model_list": [
        {
            "model_name": "dear",
            "litellm_params": {"model": "openai/dear", "api_base": "PROVIDER/v1", "api_key": "none", **DEAR},
            "model_info": {"id": "dear"},
        }
    ]
}
READ_EVERY_S = 60
"""The longest that a reading takes to be on the page, on a busy machine."""


class ConsoleFront:
    """Ends TLS for the console's address, with a certificate that ends in some days."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._relay: subprocess.Popen[bytes] | None = None

    def show(self, days: int) -> None:
        """Serves with a new certificate."""
        self.end()
        made, key = self_signed(self._folder, days=days)
        argv = [sys.executable, str(RELAY), str(self.port), str(free_port()), str(made), str(key)]
        self._relay = subprocess.Popen(argv)

    def end(self) -> None:
        """Stops serving."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()


@contextmanager
def console_front(folder: Path) -> Generator[ConsoleFront]:
    """Yields the front, which shows a certificate of three months."""
    front = ConsoleFront(folder)
    front.show(90)
    try:
        yield front
    finally:
        front.end()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleFront]:
    """What stands before the console."""
    with console_front(tmp_path_factory.mktemp("front")) as made:
        yield made


@pytest.fixture(scope="module")
def stack(front: ConsoleFront) -> Iterator[StackProcesses]:
    """A sidecar and a gateway, which reads both Valkeys."""
    require_promtool()
    settings = {
        "LLM_PROXY__CONSOLE_URL": f"https://localhost:{front.port}",
        "LLM_PROXY__CACHE_MODE": "off",
        "CACHE_REDIS_URL": "to be added",
    }
    with run_stack(CONFIG, gateways=0) as made:
        settings["CACHE_REDIS_URL"] = valkey_url(made.ports["cache"], PASSWORD)
        made.start(made.add_gateway(settings))
        yield made


async def chat(client: httpx.AsyncClient, trial: AlarmTrial) -> int:
    """Makes a call of forty dollars; returns its status."""
    body = {"model": "dear", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {KEY}", "X-Tenant-Id": "acme"}
    answer = await client.post(f"{trial.url}/v1/chat/completions", json=body, headers=headers)
    return answer.status_code


def reading(page: str, name: str, **labels: str) -> float | None:
    """Returns a reading with at least these labels; None while it is absent."""
    found = series(page, f"llm_proxy_{name}")
    return next((value for key, value in found.items() if labels.items() <= set(key)), None)


def above(name: str, least: float, **labels: str) -> Callable[[str], bool]:
    """Returns whether a page shows a reading of at least so much."""
    return lambda page: (reading(page, name, **labels) or float("-inf")) >= least


def below(name: str, most: float, **labels: str) -> Callable[[str], bool]:
    """Returns whether a page shows a reading of at most so much."""

    def is_below(page: str) -> bool:
        found = reading(page, name, **labels)
        return found is not None and found <= most

    return is_below


def absent(name: str, **labels: str) -> Callable[[str], bool]:
    """Returns whether a page does not show a reading."""
    return lambda page: reading(page, name, **labels) is None


def all_up(page: str) -> bool:
    """Returns whether a page shows both stores, and each is up."""
    return set(series(page, "llm_proxy_store_up").values()) == {1.0} and 'store="limits"' in page


@asynccontextmanager
async def valkey(stack: StackProcesses, name: str) -> AsyncGenerator[Any]:
    """Yields a client of one of the stack's Valkeys."""
    client: Any = Redis(port=stack.ports[name], password=PASSWORD)
    try:
        yield client
    finally:
        await client.aclose()


async def test_readings(
    stack: StackProcesses, front: ConsoleFront, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Nine faults at once, each mended as its page says."""
    trial = trial_of(stack, tmp_path)
    await _run(trial, "llm-proxy backup record")
    await _until(trial, _calm())
    size = reading(await trial.page() or "", "postgres_database_bytes") or 0
    capacity = f"vector({(size + 8e6) / 0.85:.0f})"
    await trial.scrape(25)
    calm = trial.minute - 1
    async with AsyncExitStack() as held:
        database = await asyncpg.connect(stack.database_url)
        held.push_async_callback(database.close)
        limits = await held.enter_async_context(valkey(stack, "limits"))
        cache = await held.enter_async_context(valkey(stack, "cache"))
        idle = await _break_everything(stack, front, trial, client, (database, limits, cache))
        await _until(trial, _broken(size))
        await trial.scrape(3)
        evicting = trial.minute - 1  # for a quarter of an hour
        await trial.scrape(17)
        fault = trial.minute - 1
        for alert in READINGS:
            await trial.follow_page(alert)
        await _mend_everything(front, trial, (database, limits, cache))
        for one in idle:
            await one.close()
        await _until(trial, _mended(size))
        await trial.scrape(40)
    for alert in READINGS:
        seen = evicting if alert == "LlmProxyLimitsEvicting" else fault
        trial.assert_fired(alert, calm=calm, fault=seen, mended=trial.minute - 1, capacity=capacity)


def _calm() -> tuple[Callable[[str], bool], ...]:
    """What the page shows before the faults."""
    return (
        above("last_backup_timestamp_seconds", 1),
        above("postgres_database_bytes", 1),
        above("redis_max_bytes", 1, store="limits"),
        above("store_facts_up", 1, store="cache"),
        above("certificate_not_after_timestamp_seconds", 1, peer="console"),
    )


def _broken(size: float) -> tuple[Callable[[str], bool], ...]:
    """What it shows when the faults were read; `size` is that of the database before."""
    return (
        above("redis_evicted_keys", 1, store="limits"),
        below("store_facts_up", 0, store="cache"),
        above("postgres_connections", 86),
        above("postgres_database_bytes", size + 8e6),
        below("postgres_partition_days_ahead", 0),
        above("tenant_spend_usd", 40, tenant="acme"),
        below("certificate_not_after_timestamp_seconds", _in_days(3), peer="console"),
        below("last_backup_timestamp_seconds", _in_days(-2)),
    )


def _mended(size: float) -> tuple[Callable[[str], bool], ...]:
    """What it shows when they are mended."""
    return (
        above("redis_max_bytes", 2**29, store="limits"),
        above("store_facts_up", 1, store="cache"),
        below("postgres_connections", 60),
        below("postgres_database_bytes", size + 4e6),
        above("postgres_partition_days_ahead", 7),
        absent("tenant_spend_usd", tenant="acme"),
        above("certificate_not_after_timestamp_seconds", _in_days(80), peer="console"),
        above("last_backup_timestamp_seconds", _in_days(-0.1)),
    )


async def _until(trial: AlarmTrial, conditions: tuple[Callable[[str], bool], ...]) -> None:
    for one in conditions:
        await trial.scrape_until(one, READ_EVERY_S)


READINGS = (
    "LlmProxyLimitsMemory", "LlmProxyLimitsEvicting", "LlmProxyStoreFactsMissing",
    "LlmProxyPostgresConnections", "LlmProxyDatabaseSize", "LlmProxyPartitionsMissing", "LlmProxySpendSlope",
    "LlmProxyCertificateEnds", "LlmProxyBackupOld",
)  # fmt: skip


def _in_days(days: float) -> float:
    return (datetime.now(UTC) + timedelta(days=days)).timestamp()


async def _break_everything(
    stack: StackProcesses,
    front: ConsoleFront,
    trial: AlarmTrial,
    client: httpx.AsyncClient,
    stores: tuple[Any, Any, Any],
) -> list[Any]:
    """Makes the faults; returns the connections that are held."""
    database, limits, cache = stores
    assert {await chat(client, trial) for _ in range(2)} == {200}
    await limits.config_set("maxmemory", "8mb")
    await limits.config_set("maxmemory-policy", "allkeys-lru")
    for number in range(400):
        await limits.set(f"foreign-{number}", b"x" * 40_000)
    await cache.execute_command("ACL", "SETUSER", "default", "-info")
    await database.execute(
        "CREATE TABLE junk AS SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 60000) n"
    )
    for name in await database.fetch(
        r"SELECT relname FROM pg_class WHERE relname ~ '^(requests|llm_calls)_\d{8}$' "
        "AND to_date(right(relname, 8), 'YYYYMMDD') > current_date"
    ):
        await database.execute(f"DROP TABLE {name['relname']}")
    front.show(1)
    await database.execute("DELETE FROM backups")
    await _run(trial, f"llm-proxy backup record --at {datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT%H:%M}")
    return [await asyncpg.connect(stack.database_url) for _ in range(80)]


async def _mend_everything(front: ConsoleFront, trial: AlarmTrial, stores: tuple[Any, Any, Any]) -> None:
    """Does what the pages say; the hours of the spend are moved instead of waited for."""
    database, limits, cache = stores
    await limits.config_set("maxmemory-policy", "noeviction")
    await limits.config_set("maxmemory", "512mb")
    await cache.execute_command("ACL", "SETUSER", "default", "+info")
    await database.execute("DROP TABLE junk")
    page = (RUNBOOKS / "LlmProxyPartitionsMissing.md").read_text(encoding="utf-8")
    made = re.search(r"`(psql [^`]*)`", page)
    assert made is not None
    await _run(trial, made[1])
    await database.execute("UPDATE usage_hourly SET hour = hour - interval '3 hours'")
    front.show(90)
    await _run(trial, "llm-proxy backup record")


async def _run(trial: AlarmTrial, command: str) -> None:
    """Runs a command as the pages' are run; it succeeds."""
    code, output = await trial.run(command)
    assert code == 0, output


async def test_the_limits_store_is_away(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Killed, and started again."""
    trial = trial_of(stack, tmp_path)
    assert await chat(client, trial) == 200
    await trial.scrape(5)
    calm = trial.minute - 1
    await stack.kill("limits")
    await trial.scrape_until(lambda page: 'llm_proxy_store_up{store="limits"} 0.0' in page)
    await trial.scrape(4)
    fault = trial.minute - 1
    await trial.follow_page("LlmProxyStoreDown")
    await stack.restart("limits")
    await trial.scrape_until(lambda page: 'llm_proxy_store_up{store="limits"} 1.0' in page)
    await trial.scrape(3)
    trial.assert_fired("LlmProxyStoreDown", calm=calm, fault=fault, mended=trial.minute - 1)


async def test_postgres_is_away_and_records_wait(
    stack: StackProcesses, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """The spool grows with every call, and empties when Postgres is back."""
    trial = trial_of(stack, tmp_path)
    assert await chat(client, trial) == 200
    await trial.scrape(12)
    calm = trial.minute - 1
    await stack.kill("postgres")

    async def work() -> None:
        assert {await chat(client, trial) for _ in range(3)} == {200}
        await asyncio.sleep(1.1)  # the gauge is set once a second

    fault = await trial.scrape_while(work, 16)
    await trial.follow_page("LlmProxySpoolGrowing")
    await stack.restart("postgres")
    await trial.scrape_until(lambda page: "llm_proxy_spool_records 0.0" in page, READ_EVERY_S)
    await trial.scrape(12)
    trial.assert_fired("LlmProxySpoolGrowing", calm=calm, fault=fault, mended=trial.minute - 1)
    trial.assert_fired("LlmProxyStoreDown", calm=calm, fault=fault, mended=trial.minute - 1)


async def test_a_wrong_database_password(stack: StackProcesses, tmp_path: Path) -> None:
    """The page's first command says so; a gateway with the right one is well."""
    wrong = stack.database_url.replace(PASSWORD, "another")
    right = stack.add_gateway({})
    name = stack.add_gateway({"DATABASE_URL": wrong})
    stack.start(right)
    trial = trial_of(stack, tmp_path, right)
    await trial.scrape_until(all_up)
    await trial.scrape(5)
    calm = trial.minute - 1
    stack.stop(right)
    stack.start(name)
    trial.url = stack.url(name)
    await trial.scrape_until(lambda page: 'llm_proxy_store_up{store="postgres"} 0.0' in page)
    await trial.scrape(4)
    fault = trial.minute - 1
    code, shown = await trial.run("llm-proxy status")
    assert code == 0, shown
    assert "refuses this user or password" in shown
    stack.stop(name)
    await stack.restart(right)
    trial.url = stack.url(right)
    await trial.scrape_until(all_up)
    await trial.scrape(3)
    stack.stop(right)
    trial.assert_fired("LlmProxyStoreDown", calm=calm, fault=fault, mended=trial.minute - 1)
