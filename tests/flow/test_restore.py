"""A restored backup (docs/restore.md): nothing is admitted until acknowledged, nothing revoked is valid."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import commands
import httpx
import pytest
from running_stack import ADMIN_KEY, KEY, Json
from stack_processes import gateway_spec
from stages.admission.limiter_outages import OwnValkey
from two_sidecars import provider_as_sidecar

from llm_proxy.stack import probe, process

ADA = "ada@example.org"


@dataclass(slots=True)
class Installation:
    """Gateways on one database and one limits store."""

    folder: Path
    valkey: OwnValkey
    sidecar: str
    database_url: str
    clients: list[httpx.AsyncClient] = field(default_factory=list[httpx.AsyncClient])
    running: list[process.ManagedProcess] = field(default_factory=list[process.ManagedProcess])

    async def start(self, spool: str = "spool", count: int = 2) -> None:
        """Start gateways; they live, whether they admit calls or not."""
        settings = {
            "DATABASE_URL": self.database_url,
            "LIMITS_REDIS_URL": self.valkey.url,
            "LLM_PROXY__DEFAULT_MODELS": "*",
            "LLM_PROXY__STORE_TIMEOUT_MS": "5000",
            "LLM_PROXY__SPOOL_DIR": str(self.folder / spool),
        }
        ports = [probe.free_port() for _ in range(count)]
        self.running = [
            process.start(gateway_spec(port, self.folder, [self.sidecar], settings), self.folder / "logs")
            for port in ports
        ]
        self.clients = [httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) for port in ports]
        async with asyncio.timeout(60):
            for client in self.clients:
                while not await _lives(client):  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Stop them."""
        for client in self.clients:
            await client.aclose()
        await asyncio.to_thread(process.stop, self.running)
        self.clients, self.running = [], []

    async def admin(self, method: str, path: str, body: Json | None = None, at: int = 0) -> httpx.Response:
        """An operator's deed."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return await self.clients[at].request(method, path, json=body, headers=headers)

    async def make(self, name: str, **spec: object) -> str:
        """A new key of the tenant acme."""
        made = await self.admin("POST", "/admin/keys", {"name": name, "tenant": "acme", **spec})
        assert made.status_code == 201, made.text
        key: str = made.json()["key"]
        return key

    async def ask(
        self, key: str, at: int = 0, path: str = "chat/completions", **more: object
    ) -> httpx.Response:
        """One chat."""
        body = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, **more}
        headers = {"Authorization": f"Bearer {key}", "x-tenant-id": "acme"}
        if key != KEY:
            del headers["x-tenant-id"]
        return await self.clients[at].post(f"/v1/{path}", json=body, headers=headers)

    async def run(self, *words: str, code: int = 0, spool: str = "spool") -> str:
        """A command beside the gateways."""
        given: dict[str, Any] = {
            "LIMITS_REDIS_URL": self.valkey.url,
            "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
            "LLM_PROXY__SPOOL_DIR": str(self.folder / spool),
        }
        return await commands.run(self.database_url, *words, code=code, **given)

    async def count(self, statement: str, *values: Any) -> int:
        """The number that a statement returns."""
        connection = await asyncpg.connect(self.database_url)
        try:
            found: int = await connection.fetchval(statement, *values)
        finally:
            await connection.close()
        return found

    async def until(self, wanted: int, statement: str, *values: Any) -> None:
        """Wait until a statement returns this number."""
        async with asyncio.timeout(30):
            while await self.count(statement, *values) != wanted:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)

    async def is_ready(self, at: int) -> bool:
        """Whether a gateway is ready."""
        return (await self.clients[at].get("/health/ready")).status_code == 200

    async def until_ready(self) -> None:
        """Wait until all are."""
        async with asyncio.timeout(30):
            for at in range(len(self.clients)):
                while not await self.is_ready(at):  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.1)


async def _lives(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/live")).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def sidecar(service_folder: Path) -> Iterator[str]:
    """A scripted provider in a sidecar's place: these tests are of the gateways' stores."""
    port = probe.free_port()
    made = process.start(provider_as_sidecar(port), service_folder / "logs")
    try:
        process.wait_until_ready([made])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop([made])


@pytest.fixture
async def installation(tmp_path: Path, database_url: str, sidecar: str) -> AsyncIterator[Installation]:
    """Two gateways on stores of their own."""
    with ExitStack() as ended:
        valkey = OwnValkey(tmp_path)
        ended.callback(valkey.end)
        made = Installation(tmp_path, valkey, sidecar, database_url)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(made.stop)
            await made.start()
            await made.until_ready()
            yield made


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of before the backup."""

    doomed: str
    rotated: str
    narrowed: str
    budgeted: str
    stopped: str


async def before_the_backup(installation: Installation) -> Keys:
    """Keys, a person's call, and a call of the key with a budget of four."""
    keys = Keys(
        await installation.make("doomed"),
        await installation.make("rotated"),
        await installation.make("narrowed"),
        await installation.make("budgeted", budgets=[{"limit_requests": 4, "period": "month"}]),
        await installation.make("stopped"),
    )
    for key in (keys.doomed, keys.rotated, keys.narrowed, keys.budgeted, keys.stopped):
        assert (await installation.ask(key)).status_code == 200
    assert (await installation.ask(KEY, user=ADA)).status_code == 200
    await installation.until(6, "SELECT count(*) FROM requests")
    return keys


async def after_the_backup(installation: Installation, keys: Keys) -> str:
    """What the backup does not know; returns the rotated key's new secret."""
    assert (await installation.admin("DELETE", "/admin/keys/doomed")).status_code == 200
    rotated = await installation.admin("POST", "/admin/keys/rotated/rotate", {"overlap_s": 0})
    assert rotated.status_code == 200, rotated.text
    changed = await installation.admin("PATCH", "/admin/keys/narrowed", {"models": ["other"]})
    assert changed.status_code == 200, changed.text
    thrown = await installation.admin("PUT", "/admin/kill-switches", {"kind": "key", "subject": "stopped"})
    assert thrown.status_code == 200, thrown.text
    for _ in range(2):
        assert (await installation.ask(keys.budgeted)).status_code == 200
    await installation.until(8, "SELECT count(*) FROM requests")
    erased = await installation.admin("POST", "/admin/erasures", {"tenant": "acme", "user": ADA})
    assert erased.status_code == 200, erased.text
    new: str = rotated.json()["key"]
    return new


async def nothing_is_admitted(installation: Installation, keys: Keys) -> None:
    """Every gateway says so, to callers in their own words and to operators."""
    for at in range(len(installation.clients)):
        async with asyncio.timeout(30):
            while await installation.is_ready(at):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        for key in (keys.doomed, keys.budgeted, KEY):
            told = await installation.ask(key, at)
            assert told.status_code == 503, told.text
            assert told.json()["error"]["code"] == "store_unavailable"
            assert "restored" in told.json()["error"]["message"]
        told = await installation.ask(keys.doomed, at, "messages")
        assert (told.status_code, told.json()["type"]) == (529, "error")  # as Anthropic has a 503
        ready = (await installation.clients[at].get("/health/ready")).json()
        part = next(one for one in ready["parts"] if one["part"] == "restored")
        assert "llm-proxy restore-check" in part["detail"]
        assert (await installation.admin("GET", "/admin/keys", at=at)).status_code == 200


async def all_is_as_it_was(installation: Installation, keys: Keys, renewed: str) -> None:
    """After the acknowledgement: the dead stay dead, and new calls work."""
    for at in range(len(installation.clients)):
        assert (await installation.ask(keys.doomed, at)).status_code == 401
        assert (await installation.ask(keys.rotated, at)).status_code == 401
        assert (await installation.ask(renewed, at)).status_code == 200
        assert (await installation.ask(keys.narrowed, at)).status_code == 404
        assert (await installation.ask(keys.stopped, at)).status_code == 403
    assert [(await installation.ask(keys.budgeted, at % 2)).status_code for at in range(3)] == [200, 429, 429]
    await installation.until(0, "SELECT count(*) FROM requests WHERE user_id = $1", ADA)
    fresh = await installation.make(uuid4().hex)
    assert (await installation.ask(fresh, 1)).status_code == 200
    shown = (await installation.admin("GET", "/admin/audit")).json()["data"]
    assert "restore.acknowledge" in {one["action"] for one in shown}


async def test_the_drill_with_our_own_commands_under_running_gateways(installation: Installation) -> None:
    keys = await before_the_backup(installation)
    dump, exported = str(installation.folder / "llm-proxy.dump"), str(installation.folder / "revocations")
    await installation.run("backup", "--to", dump)
    renewed = await after_the_backup(installation, keys)
    await installation.run("backup", "revocations", "--to", exported)

    refused = await installation.run("restore", "--from", dump, "--yes", code=2)
    assert "--replace" in refused
    await installation.run("restore", "--from", dump, "--replace", "--yes")
    await nothing_is_admitted(installation, keys)

    shown = json.loads(await installation.run("restore-check", "--revocations", exported, "--json", code=1))
    found = {one["what"].partition(";")[0]: one for one in shown["findings"]}
    assert found["revoked since the backup"]["names"] == ["doomed"]
    assert found["changed since"]["names"] == ["narrowed"]
    assert found["secrets that ended since"]["names"] == ["rotated"]
    assert found["secrets made since"]["names"] == ["rotated"]
    assert found["thrown since"]["count"] == 1
    # The gateways know the person from the list on their disk.
    await installation.until(0, "SELECT count(*) FROM requests WHERE user_id = $1", ADA)
    assert "acme" in shown["tenants with changes after the backup"]
    await nothing_is_admitted(installation, keys)
    refused = await installation.run("restore-check", "--acknowledge", "--yes", code=2)
    assert "--revocations" in refused

    await installation.run("restore-check", "--revocations", exported, "--acknowledge", "--yes")
    await installation.until_ready()
    await all_is_as_it_was(installation, keys, renewed)


async def test_the_drill_with_postgres_own_tools_and_the_limits_store_lost(
    installation: Installation, postgres_url: str
) -> None:
    keys = await before_the_backup(installation)
    dump, exported = str(installation.folder / "llm-proxy.dump"), str(installation.folder / "revocations")
    await installation.run("backup", "--to", dump)
    renewed = await after_the_backup(installation, keys)
    await installation.run("backup", "revocations", "--to", exported)
    await installation.stop()
    await installation.valkey.ask("FLUSHALL")
    name = f"restored_{uuid4().hex}"
    server = await asyncpg.connect(postgres_url)
    await server.execute(f"CREATE DATABASE {name}")
    try:
        installation.database_url = f"{postgres_url.rpartition('/')[0]}/{name}"
        await installation.run("restore", "--from", dump, "--yes", spool="elsewhere")
        await server.execute("SELECT 1")
        unlocked = await asyncpg.connect(installation.database_url)
        await unlocked.execute("UPDATE database_marker SET locked_at = NULL")  # as pg_restore leaves it
        await unlocked.close()

        await installation.start("elsewhere")
        await nothing_is_admitted(installation, keys)
        await installation.run(
            "restore-check", "--revocations", exported, "--acknowledge", "--yes", spool="elsewhere"
        )
        await installation.until_ready()
        await all_is_as_it_was(installation, keys, renewed)
    finally:
        await installation.stop()
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


async def test_a_restore_that_fails_leaves_the_database_as_it_was(installation: Installation) -> None:
    """The end of the dump is missing."""
    key = await installation.make("kept")
    whole = installation.folder / "whole.dump"
    await installation.run("backup", "--to", str(whole))
    broken = installation.folder / "broken.dump"
    broken.write_bytes(whole.read_bytes()[:-20])
    said = await installation.run("restore", "--from", str(broken), "--replace", "--yes", code=1)
    assert "what was in the database is there again" in said
    await installation.until_ready()
    assert (await installation.ask(key)).status_code == 200
    assert (
        await installation.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'before_restore%'")
        == 0
    )
    text = installation.folder / "text"
    text.write_text("no archive")
    assert "no archive" in await installation.run("restore", "--from", str(text), "--yes", code=2)
