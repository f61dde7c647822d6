"""`llm-proxy reload` replaces the gateway, too, when its settings changed, and loses no call."""

import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from dotenv import dotenv_values
from processes import children, descendants
from reloaded_stack import reload, steady_load, write
from sidecars import Provider, run_provider
from up_command import UpCommand, run_up
from usage_records import rows_of_calls

INTERNAL, ADMIN = "LLM_PROXY__INTERNAL_API_KEY", "LLM_PROXY__ADMIN_KEY"
SIDECAR = "LLM_PROXY__LITELLM_API_KEY"
WORDS = ("--no-local-model", "--config", "litellm.yaml")
pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(scope="module")
def provider(service_folder: Path) -> Iterator[Provider]:
    """The scripted provider."""
    with run_provider(service_folder) as made:
        yield made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[UpCommand]:
    """A stack with stores of its own; its files are not watched."""
    folder = tmp_path_factory.mktemp("reload-gateway")
    folder.chmod(0o711)
    write(folder, provider, "steady")
    (folder / ".env").write_text("LLM_PROXY__ENVIRONMENT=production\n", encoding="utf-8")
    with run_up(folder, *WORDS) as up:
        up.wait_for("Ctrl-C stops everything")
        yield up


def given(stack: UpCommand, name: str) -> str:
    """A setting of the stack's `.env`."""
    return dotenv_values(stack.folder / ".env")[name] or ""


def change(stack: UpCommand, **settings: str) -> None:
    """Replaces lines of the stack's `.env`."""
    file = stack.folder / ".env"
    text = file.read_text(encoding="utf-8")
    for name, value in settings.items():
        text = re.sub(rf"(?m)^{name}=.*\n", "", text) + f"{name}={value}\n"
    file.write_text(text, encoding="utf-8")


def gateways(stack: UpCommand) -> list[int]:
    """The process ids of the gateways' parents."""
    pid = stack.process.pid
    running = descendants(pid)
    return [one for one in children(pid) if " serve " in running.get(one, "")]


def status(stack: UpCommand, path: str, key: str) -> int:
    """What a GET gets, on a connection of its own."""
    url = f"http://127.0.0.1:{stack.port}{path}"
    return httpx.get(url, headers={"authorization": f"Bearer {key}"}).status_code


async def reloaded(stack: UpCommand, **settings: str) -> list[str]:
    """Changes settings and reloads; returns the lines it printed."""
    change(stack, **settings)
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_secrets_are_exchanged_by_two_reloads_under_load(stack: UpCommand) -> None:
    """Streams at the old gateway end there; every call has one record; the old secrets are refused."""
    old = {name: given(stack, name) for name in (INTERNAL, ADMIN, SIDECAR)}
    new = {name: f"sk-{uuid4().hex}" for name in old}
    async with steady_load(stack) as load:
        await asyncio.sleep(1)
        both = {name: f"{new[name]},{old[name]}" for name in old}
        lines = await reloaded(
            stack, DATABASE_URL="postgresql://u:p@h/d", LLM_PROXY__DEFAULT_MODEL="plain", **both
        )
        assert lines[0] == "changed, but read at the start only: DATABASE_URL"
        assert lines[-2].startswith("calls that name no model go to plain now, before to ")
        assert lines[-1] == "the new gateway took over"
        load.keys = [new[INTERNAL], old[INTERNAL]]
        assert status(stack, "/admin/keys", old[ADMIN]) == status(stack, "/admin/keys", new[ADMIN]) == 200
        await asyncio.sleep(1)
        load.keys = [new[INTERNAL]]
        await reloaded(stack, **new)
        await asyncio.sleep(1)
    assert load.failed == []
    assert load.answered > 50
    assert load.streamed > 20
    assert await rows_of_calls(given_address(stack), load.ids) == dict.fromkeys(load.ids, 1)
    assert status(stack, "/v1/models", old[INTERNAL]) == 401
    assert status(stack, "/v1/models", new[INTERNAL]) == 200
    assert status(stack, "/admin/keys", old[ADMIN]) == 401
    assert not any(secret in stack.output for secret in (*old.values(), *new.values()))
    await until_alone(stack)


async def until_alone(stack: UpCommand) -> None:
    """Waits until one gateway is left."""
    end = time.monotonic() + 30
    while len(gateways(stack)) > 1:
        assert time.monotonic() < end
        await asyncio.sleep(0.2)


def given_address(stack: UpCommand) -> str:
    """The address of the stack's database."""
    found = dotenv_values(stack.folder / ".local" / "running.env")["LLM_PROXY__DATABASE_URL"]
    assert found is not None
    return found


async def test_settings_with_which_no_gateway_starts_change_nothing(stack: UpCommand) -> None:
    """The reason is printed; calls go on."""
    before, key = gateways(stack), given(stack, INTERNAL)
    change(stack, LLM_PROXY__ADMIN_READ_KEY="short")
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 1
    assert "LLM_PROXY__ADMIN_READ_KEY is shorter than" in done.stderr + done.stdout
    assert gateways(stack) == before
    assert status(stack, "/v1/models", key) == 200
    change(stack, LLM_PROXY__ADMIN_READ_KEY="")


async def test_a_sidecar_s_key_cannot_be_exchanged_in_one_step(stack: UpCommand) -> None:
    """The gateway would send one that no sidecar takes."""
    old = given(stack, SIDECAR)
    change(stack, **{SIDECAR: f"sk-{uuid4().hex}"})
    done = await asyncio.to_thread(reload, stack)
    assert done.returncode == 1
    assert "write new,old and reload, then new and reload" in done.stderr + done.stdout
    change(stack, **{SIDECAR: old})
