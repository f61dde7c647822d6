"""`llm-proxy doctor` on a whole stack: nothing is found where all is in order, what is broken is named."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from anyio import run_process
from pydantic import SecretStr
from running_stack import ADMIN_KEY, KEY, MASTER_KEY
from stack_processes import PASSWORD, StackProcesses, run_stack

from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.cli.doctor.examine import CHECKS, examine
from llm_proxy.cli.doctor.kinds import KINDS
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.settings import load
from llm_proxy.stack.operator_env import OperatorEnv
from llm_proxy.stack.probe import free_port
from llm_proxy.stack.stores import valkey_url

Json = dict[str, Any]
CONFIG: Json = {
    "model_list": [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": "PROVIDER/v1",
                "api_key": "sk-provider-0123456789",
            },
        }
        for name in ("plain", "status-401")
    ]
}


@pytest.fixture(scope="module")
def stack() -> Iterator[StackProcesses]:
    """Stores, a sidecar and a gateway, in order."""
    with run_stack(CONFIG, settings={"CACHE_REDIS_URL": "redis://127.0.0.1:1"}) as made:
        yield made


@pytest.fixture
def subject(stack: StackProcesses) -> Subject:
    """The stack as an operator's settings name it, in production."""
    return subject_of(stack)


def variables_of(stack: StackProcesses) -> dict[str, str]:
    """The environment of a command beside the stack."""
    return {
        "DATABASE_URL": stack.database_url,
        "LIMITS_REDIS_URL": valkey_url(stack.ports["limits"], PASSWORD),
        "CACHE_REDIS_URL": valkey_url(stack.ports["cache"], PASSWORD),
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
        "LLM_PROXY__ADMIN_KEY": ADMIN_KEY,
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LLM_PROXY__LITELLM_PROXY_URL": stack.url("sidecar-1"),
        "LLM_PROXY__SPOOL_DIR": str(stack.folder / f"spool-{stack.ports['gateway-1']}"),
        "LLM_PROXY__STORE_TIMEOUT_MS": "2000",
        "LLM_PROXY__PORT": str(stack.ports["gateway-1"]),
    }


def subject_of(stack: StackProcesses, **settings: object) -> Subject:
    """The stack, with other settings."""
    given = variables_of(stack)
    read = load(
        database_url=given["DATABASE_URL"],
        limits_redis_url=given["LIMITS_REDIS_URL"],
        cache_redis_url=given["CACHE_REDIS_URL"],
        internal_api_key=KEY,
        admin_key=ADMIN_KEY,
        litellm_master_key=MASTER_KEY,
        litellm_proxy_url=given["LLM_PROXY__LITELLM_PROXY_URL"],
        spool_dir=given["LLM_PROXY__SPOOL_DIR"],
        store_timeout_ms=2000,
        max_connections=1000,
    )
    read = read.model_copy(update={name: as_setting(name, value) for name, value in settings.items()})
    return Subject(
        settings=read,
        env=OperatorEnv({}),
        config=stack.folder / "litellm.yaml",
        gateway_url=stack.url("gateway-1"),
        folder=stack.folder,
    )


def as_setting(name: str, value: object) -> object:
    """Texts of keys and stores' addresses are secrets."""
    return SecretStr(value) if isinstance(value, str) and name.endswith(("_key", "_url")) else value


async def codes(subject: Subject) -> set[str]:
    """The codes of what is found."""
    return {found.code for one in await examine(subject) for found in one.findings}


async def doctor(stack: StackProcesses, *words: str, folder: Path, **more: str) -> tuple[int, str, str]:
    """Runs the command; returns its exit code, and what it printed to both streams."""
    env = {"PATH": os.environ["PATH"], **variables_of(stack), "LLM_PROXY__MAX_CONNECTIONS": "1000", **more}
    command = [sys.executable, "-P", "-m", "llm_proxy", "doctor", *words]
    done = await run_process(command, env=env, cwd=folder, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_a_stack_in_order_has_no_finding(stack: StackProcesses, tmp_path: Path) -> None:
    """And what was not looked at is listed."""
    code, printed, _ = await doctor(
        stack, "--json", "--config", str(stack.folder / "litellm.yaml"), folder=tmp_path
    )
    report = json.loads(printed)
    assert report["findings"] == []
    assert code == 0
    states = {one["check"]: one["state"] for one in report["checks"]}
    skipped = {name for name, state in states.items() if state == "skipped"}
    assert skipped == {"providers", "certificates"}
    assert set(states.values()) == {"ok", "partly", "skipped"}
    reasons = {one["what"]: one["reason"] for one in report["not_checked"]}
    assert "the public address" in reasons


async def test_the_table_says_what_why_and_how(stack: StackProcesses, tmp_path: Path) -> None:
    """A finding ends the command with 1; no secret is printed."""
    weak = "short-secret-7"
    code, printed, _ = await doctor(stack, folder=tmp_path, LLM_PROXY__ADMIN_READ_KEY=weak)
    assert code == 1
    assert "critical  secret-weak: LLM_PROXY__ADMIN_READ_KEY is shorter than 16 characters" in printed
    assert "openssl rand -hex 24" in printed
    assert not [one for one in (weak, KEY, ADMIN_KEY, MASTER_KEY, PASSWORD) if one in printed]


async def test_a_wrong_setting_is_a_finding_and_the_rest_is_unknown(
    stack: StackProcesses, tmp_path: Path
) -> None:
    """Nothing else is claimed."""
    code, printed, _ = await doctor(stack, "--json", folder=tmp_path, LLM_PROXY__WORKERS="many")
    report = json.loads(printed)
    assert code == 1
    assert [one["code"] for one in report["findings"]] == ["setting-wrong"]
    assert {one["state"] for one in report["checks"]} == {"findings", "unknown"}


async def test_what_it_cannot_see_is_exit_code_3(stack: StackProcesses, tmp_path: Path) -> None:
    """A Valkey whose user may not read `INFO` is neither in order nor wrong."""
    async with command_at(stack, "limits") as ask:
        await ask("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "~*", "+@all", "-info")
        url = valkey_url(stack.ports["limits"], PASSWORD).replace("//:", "//weak:")
        config = str(stack.folder / "litellm.yaml")
        code, printed, _ = await doctor(
            stack, "--json", "--config", config, folder=tmp_path, LIMITS_REDIS_URL=url
        )
        await ask("ACL", "DELUSER", "weak")
    report = json.loads(printed)
    assert (code, report["findings"]) == (3, [])
    assert [one["check"] for one in report["checks"] if one["state"] == "unknown"] == ["limits-store"]


@contextlib.asynccontextmanager
async def command_at(stack: StackProcesses, name: str) -> AsyncGenerator[Callable[..., Any]]:
    """A function that sends a command to a Valkey of the stack."""
    wire = RedisConnection(valkey_url(stack.ports[name], PASSWORD), timeout_s=5, load_commands=list)
    await wire.start()
    try:
        yield wire.execute
    finally:
        await wire.stop()


@contextlib.asynccontextmanager
async def valkey_with(stack: StackProcesses, name: str, setting: str, value: str) -> AsyncGenerator[None]:
    """A setting of a Valkey has another value."""
    async with command_at(stack, name) as ask:
        before = (await ask("CONFIG", "GET", setting))[1]
        await ask("CONFIG", "SET", setting, value)
        try:
            yield
        finally:
            await ask("CONFIG", "SET", setting, before)


@contextlib.asynccontextmanager
async def sql(stack: StackProcesses, broken: str, mended: str) -> AsyncGenerator[None]:
    """Statements have run at the database; others mend it."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        for one in broken.split(";"):
            await connection.execute(one)
        yield
    finally:
        for one in mended.split(";"):
            await connection.execute(one)
        await connection.close()


@contextlib.asynccontextmanager
async def replica(stack: StackProcesses) -> AsyncGenerator[None]:
    """The limits store copies the cache's."""
    async with command_at(stack, "limits") as ask:
        await ask("CONFIG", "SET", "masterauth", PASSWORD)
        await ask("REPLICAOF", "127.0.0.1", stack.ports["cache"])
        try:
            yield
        finally:
            await ask("REPLICAOF", "NO", "ONE")


@contextlib.asynccontextmanager
async def evicted(stack: StackProcesses) -> AsyncGenerator[None]:
    """The limits store has evicted a key, and no longer may."""
    async with command_at(stack, "limits") as ask:
        await ask("SET", "victim", "x" * 100_000)
        for value in ("allkeys-lru", "noeviction"):
            await ask("CONFIG", "SET", "maxmemory-policy", value)
            await ask("CONFIG", "SET", "maxmemory", "1" if value == "allkeys-lru" else "268435456")
            await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await ask("CONFIG", "RESETSTAT")


@contextlib.asynccontextmanager
async def nearly_full(stack: StackProcesses) -> AsyncGenerator[None]:
    """The limits store uses most of its memory."""
    async with command_at(stack, "limits") as ask:
        info: bytes = await ask("INFO", "memory")
    used = int(info.partition(b"used_memory:")[2].split()[0])
    async with valkey_with(stack, "limits", "maxmemory", str(used + used // 8)):
        yield


@contextlib.asynccontextmanager
async def changed_config(stack: StackProcesses) -> AsyncGenerator[None]:
    """The sidecar's file has changed since it was loaded."""
    file = stack.folder / "litellm.yaml"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "router_settings": {"num_retries": 1}}))
    try:
        yield
    finally:
        file.write_text(before)


Break = Callable[[StackProcesses], AbstractAsyncContextManager[None]]
BROKEN: dict[str, Break] = {
    "redis-evicts": lambda stack: valkey_with(stack, "limits", "maxmemory-policy", "allkeys-lru"),
    "redis-memory": nearly_full,
    "redis-no-limit": lambda stack: valkey_with(stack, "limits", "maxmemory", "0"),
    "redis-forgets": lambda stack: valkey_with(stack, "limits", "appendonly", "no"),
    "redis-evicted": evicted,
    "redis-replica": replica,
    "config-not-loaded": changed_config,
    "postgres-not-durable": lambda stack: sql(
        stack,
        "ALTER SYSTEM SET full_page_writes = off;SELECT pg_reload_conf();SELECT pg_sleep(0.2)",
        "ALTER SYSTEM RESET full_page_writes;SELECT pg_reload_conf()",
    ),
    "schema-behind": lambda stack: sql(
        stack,
        "CREATE TABLE kept AS TABLE schema_steps;DELETE FROM schema_steps WHERE number = 2",
        "INSERT INTO schema_steps SELECT * FROM kept WHERE number = 2;DROP TABLE kept",
    ),
    "sidecar-role-exceeds": lambda stack: sql(
        stack,
        "GRANT SELECT ON api_keys TO llm_proxy_sidecar",
        "REVOKE SELECT ON api_keys FROM llm_proxy_sidecar",
    ),
    "sidecar-role-missing": lambda stack: sql(
        stack,
        "REVOKE INSERT ON llm_calls FROM llm_proxy_sidecar",
        "GRANT INSERT ON llm_calls TO llm_proxy_sidecar",
    ),
}


@pytest.mark.parametrize("code", BROKEN)
async def test_what_is_broken_in_the_running_stack_is_named_alone(
    code: str, stack: StackProcesses, subject: Subject
) -> None:
    """Its code, and no other one but what the gateway itself says of it."""
    async with BROKEN[code](stack):
        found = await codes(subject)
    assert code in found
    assert found - {code} <= {"gateway-degraded", "redis-link-down"}


async def test_the_remedy_for_a_role_that_may_too_much_works_as_it_stands(
    stack: StackProcesses, subject: Subject
) -> None:
    """Whatever right it was given, and by whichever role."""
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute(
        "GRANT SELECT ON requests, llm_calls TO llm_proxy_sidecar; GRANT SELECT (name) ON api_keys TO PUBLIC;"
        "GRANT DELETE ON llm_calls TO llm_proxy_sidecar; GRANT pg_read_all_data TO llm_proxy_sidecar;"
        "GRANT EXECUTE ON FUNCTION requests_partition(date) TO PUBLIC; ALTER ROLE llm_proxy_sidecar CREATEDB"
    )
    (result,) = await examine(subject, ["postgres"])
    (found,) = result.findings
    assert found.code == "sidecar-role-exceeds"
    await connection.execute(found.mend.partition(": ")[2])
    await connection.close()
    (result,) = await examine(subject, ["postgres"])
    assert result.findings == ()


async def test_settings_that_name_something_else(stack: StackProcesses) -> None:
    """Each is found on a stack that runs in order; nothing else is."""
    limits, elsewhere = valkey_url(stack.ports["limits"], PASSWORD), f"redis://127.0.0.1:{free_port()}"
    wrong = stack.database_url.replace(PASSWORD, "another-password")
    read_only = f"{stack.database_url}?options=-c%20default_transaction_read_only%3Don"
    examined: list[tuple[dict[str, object], set[str]]] = [
        ({"admin_key": "change-me-internal-key"}, {"secret-weak"}),
        ({"admin_read_key": "abababababababababab"}, {"secret-weak"}),
        ({"admin_read_key": ADMIN_KEY}, {"secret-shared"}),
        ({"internal_api_key": ",".join(f"{KEY}-{n}" for n in range(3))}, {"secret-list-long"}),
        ({"litellm_api_key": "sk-another-key-0123456789"}, {"sidecar-key-rejected"}),
        (
            {"litellm_proxy_url": (stack.url("sidecar-1"), f"http://127.0.0.1:{free_port()}")},
            {"sidecar-away"},
        ),
        ({"database_url": wrong}, {"postgres-away"}),
        ({"database_url": read_only}, {"postgres-read-only"}),
        ({"workers": 20}, {"connections-short"}),
        ({"limits_redis_url": elsewhere}, {"redis-away"}),
        ({"limits_redis_url": limits.replace(PASSWORD, "wrong")}, {"redis-away"}),
        ({"cache_redis_url": elsewhere}, {"cache-away"}),
        ({"max_connections": 1_000_000}, {"files-limit-low"}),
        ({"public_bind_ok": False, "host": "0.0.0.0"}, {"start-refused"}),  # noqa: S104 -- a setting
    ]
    made = [(given, subject_of(stack, **given), expected) for given, expected in examined]
    for given, subject, expected in made:
        assert await codes(subject) == expected, given


async def test_files_that_others_can_read(subject: Subject, roomy_path: Path) -> None:
    """`.env` and a provider's key, in a folder that others may enter."""
    (roomy_path / ".keys").mkdir(mode=0o755)
    for name in (".env", ".keys/OPENAI_API_KEY"):
        (roomy_path / name).write_text("x")
        (roomy_path / name).chmod(0o644)
    assert await codes(replace(subject, folder=roomy_path)) == {"secret-file-readable"}
    for name in (".env", ".keys/OPENAI_API_KEY"):
        (roomy_path / name).chmod(0o600)
    assert await codes(replace(subject, folder=roomy_path)) == set()


async def test_only_some_checks(stack: StackProcesses, tmp_path: Path) -> None:
    """As on a host that reaches no store."""
    code, printed, _ = await doctor(stack, "--json", "--only", "secrets", "--only", "spool", folder=tmp_path)
    assert [one["check"] for one in json.loads(printed)["checks"]] == ["secrets", "spool"]
    assert code == 0


async def test_a_configuration_with_faults(subject: Subject, tmp_path: Path) -> None:
    """A fault, and one that prevents the start."""
    file = tmp_path / "litellm.yaml"
    file.write_text("model_list: []\nrouter_setings: {}\n")
    assert await codes(replace(subject, config=file)) == {"config-fault"}
    file.write_text("model_list: [\n")
    assert await codes(replace(subject, config=file)) == {"config-prevents-start"}


async def test_gateways_that_are_away_and_open(subject: Subject, stack: StackProcesses) -> None:
    """Nothing listens; the public address passes admin routes on."""
    assert await codes(replace(subject, gateway_url=f"http://127.0.0.1:{free_port()}")) == {"gateway-away"}
    assert await codes(replace(subject, public_url=stack.url("gateway-1"))) == {"admin-public"}


async def test_providers_are_called_only_if_asked(subject: Subject) -> None:
    """One small call of each group; the one that fails is named."""
    results = await examine(replace(subject, checks_providers=True))
    found = [found for one in results for found in one.findings]
    assert [one.code for one in found] == ["provider-fails"]
    assert found[0].what.startswith("status-401: ")
    assert "sk-provider" not in found[0].what


async def test_spools(subject: Subject, roomy_path: Path) -> None:
    """Old records, rejected ones, and a folder that cannot be written."""
    worker = roomy_path / "spool" / "worker-0"
    worker.mkdir(parents=True)
    old = worker / "000000000001.records"
    old.write_text("{}\n")
    os.utime(old, (0, 0))
    (worker / "rejected.jsonl").write_text("{}\n")
    settings = subject.settings.model_copy(update={"spool_dir": roomy_path / "spool"})
    assert await codes(replace(subject, settings=settings)) == {"spool-old", "spool-rejected"}
    nowhere = subject.settings.model_copy(update={"spool_dir": old / "spool"})
    assert await codes(replace(subject, settings=nowhere)) == {"spool-not-writable"}


async def test_with_the_whole_stack_away_it_still_says_what_it_can(tmp_path: Path) -> None:
    """Every store, sidecar and gateway is named, in time."""
    at = [free_port() for _ in range(5)]
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"postgresql://llm_proxy:S3cretPart@127.0.0.1:{at[0]}/llm_proxy",
        "LIMITS_REDIS_URL": f"redis://:S3cretPart@127.0.0.1:{at[1]}",
        "CACHE_REDIS_URL": f"redis://:S3cretPart@127.0.0.1:{at[2]}",
        "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{at[3]}",
        "LLM_PROXY__STORE_TIMEOUT_MS": "2000",
        "LLM_PROXY__PORT": str(at[4]),
        "LLM_PROXY__INTERNAL_API_KEY": KEY,
    }
    command = [sys.executable, "-P", "-m", "llm_proxy", "doctor", "--json"]
    done = await run_process(command, env=env, cwd=tmp_path, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    away = {"gateway-away", "sidecar-away", "postgres-away", "redis-away", "cache-away"}
    assert away <= {one["code"] for one in report["findings"]}
    assert b"S3cretPart" not in done.stdout + done.stderr


async def test_a_frozen_stack_holds_no_check_up(stack: StackProcesses, subject: Subject) -> None:
    """Servers that accept connections and never answer."""
    frozen = ("sidecar-1", "limits", "cache", "gateway-1")
    for name in frozen:
        stack.signal(name, signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = await codes(subject)
        took_s = time.monotonic() - began
    finally:
        for name in frozen:
            stack.signal(name, signal.SIGCONT)
    assert {"sidecar-away", "redis-away", "cache-away", "gateway-away"} <= found
    assert took_s < 30  # under load; alone it is 4


def test_every_kind_belongs_to_a_check() -> None:
    """So that the page's tables agree."""
    named = {name for kind in KINDS.values() for name in kind.check.split(", ")}
    assert named == {check.name for check in CHECKS}
