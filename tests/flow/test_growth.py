"""A sidecar whose memory grows, and the launcher that replaces or kills it."""

import asyncio
import sys
from collections.abc import Iterator

import httpx
import pytest
import yaml
from running_stack import say
from sidecars import Json, Provider, deployment, provider_spec
from up_command import UpCommand, run_up

from llm_proxy.stack import probe, process

HOARD = """
from litellm.integrations.custom_logger import CustomLogger

class Hoard(CustomLogger):
    kept = []

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.kept.append(b"x" * (int(kwargs["model"].rpartition("-")[2]) * 2**20))

instance = Hoard()
"""
MAX_MIB, HARD_MIB = 700, 1100
WORDS = ("--no-local-model", "--no-stores", "--config", "litellm.yaml")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpCommand]:
    """A stack whose only sidecar keeps as many MiB of each call as its model's name says."""
    folder = tmp_path_factory.mktemp("growth")
    port = probe.free_port()
    provider = process.start(provider_spec(port), folder / "logs")
    try:
        process.wait_until_ready([provider])
        played = Provider(f"http://127.0.0.1:{port}")
        models = [deployment(f"keeps-{mib}", f"openai/keeps-{mib}", played) for mib in (0, 50, HARD_MIB)]
        config: Json = {"model_list": models, "litellm_settings": {"callbacks": ["hoard.instance"]}}
        (folder / "litellm.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (folder / "hoard.py").write_text(HOARD, encoding="utf-8")
        limits = f"LLM_PROXY_SIDECAR_MAX_MIB={MAX_MIB}\nLLM_PROXY_SIDECAR_HARD_MIB={HARD_MIB}\n"
        (folder / ".env").write_text(limits, encoding="utf-8")
        with run_up(folder, *WORDS) as up:
            up.wait_for("Ctrl-C stops everything")
            yield up
    finally:
        process.stop([provider])


async def keep(client: httpx.AsyncClient, stack: UpCommand, mib: int) -> int:
    """The status of one call of which the sidecar keeps `mib`."""
    body = {"model": f"keeps-{mib}", "messages": say("hello")}
    url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
    return (await client.post(url, json=body)).status_code


def client_of(stack: UpCommand) -> httpx.AsyncClient:
    """A client with the stack's key."""
    return httpx.AsyncClient(headers={"x-api-key": stack.client().api_key}, timeout=30)


def log_of(stack: UpCommand) -> str:
    """What the sidecars have logged."""
    return (stack.folder / ".local" / "logs" / "sidecars-1.log").read_text(encoding="utf-8")


async def until_logged(stack: UpCommand, text: str, client: httpx.AsyncClient) -> list[int]:
    """Calls until the sidecars have logged a text; returns the calls' statuses."""
    statuses: list[int] = []
    async with asyncio.timeout(60):
        while text not in log_of(stack):
            statuses.append(await keep(client, stack, 0))
            await asyncio.sleep(0.05)
    return statuses


async def test_a_sidecar_over_the_soft_limit_is_replaced_and_no_call_is_lost(stack: UpCommand) -> None:
    """Even the only one: the new process serves the port before the old one stops."""
    async with client_of(stack) as client:
        statuses = [await keep(client, stack, 50) for _ in range(8)]
        statuses += await until_logged(stack, "MiB: another process starts to replace this one", client)
        statuses += await until_logged(stack, "the replacement serves: finishing the running calls", client)
        statuses += await until_logged(stack, "a replaced worker has ended", client)
    assert set(statuses) == {200}
    assert len(statuses) > 20


async def test_a_sidecar_over_the_hard_limit_is_killed_and_restarted(stack: UpCommand) -> None:
    """The line gives the reason."""
    async with client_of(stack) as client:
        await keep(client, stack, HARD_MIB)
        await until_logged(stack, "more than LLM_PROXY_SIDECAR_HARD_MIB allows: killed", client)
        await until_logged(stack, "ended with code -9; another one starts", client)
        async with asyncio.timeout(60):
            while await keep(client, stack, 0) != 200:  # noqa: ASYNC110 -- there is no event to wait for
                await asyncio.sleep(0.2)
        assert await keep(client, stack, 0) == 200
