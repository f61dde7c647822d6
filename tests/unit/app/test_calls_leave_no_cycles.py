"""What a call leaves behind: nothing that only the garbage collector could free."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway_lifespan import lifespan

from llm_proxy.app import Gateway
from llm_proxy.edge.request import Message
from llm_proxy.running_calls import TICK_S
from llm_proxy.settings import Settings

KEY = "an-internal-key-of-this-test"
OF_A_CALL = {"CallContext", "CallGuard", "Responder", "frame", "traceback"}
RPM = 6


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A running gateway with canned answers; the agent `busy` has used up its limit."""
    values = {"llm_mode": "mock", "internal_api_key": KEY, "agent_rpm": RPM, "spool_dir": tmp_path}
    made = Gateway(Settings.model_validate(values))
    async with lifespan(made):
        for _ in range(RPM):
            await call(made, "busy")
        yield made


async def call(gateway: Gateway, agent: str, key: str = KEY, *, streams_s: float = 0) -> int:
    """One call as the server makes it; returns its status. The client reads for so long and stays."""
    body = json.dumps(
        {"model": "mock", "messages": [{"role": "user", "content": "Hello"}], "stream": streams_s > 0}
    )
    coming: list[Message] = [{"type": "http.request", "body": body.encode(), "more_body": False}]
    seen: list[Message] = []
    stays = asyncio.Event()

    async def receive() -> Message:
        if not coming:
            await stays.wait()
        return coming.pop()

    async def send(message: Message) -> None:
        if not seen:
            await asyncio.sleep(streams_s)
        seen.append(message)

    path = "/v1/chat/completions"
    named = {
        "host": "gateway",
        "authorization": f"Bearer {key}",
        "x-agent-id": agent,
        "content-type": "application/json",
    }
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "http_version": "1.1", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    await gateway.asgi(scope, receive, send)
    return int(seen[0]["status"])


async def test_a_call_is_freed_at_its_end(gateway: Gateway) -> None:
    """A collection stops every call of the process for ten milliseconds and more."""
    left: dict[str, set[str]] = {}
    for kind, agent, key, streams_s, status in (
        ("whole", "scout", KEY, 0, 200),
        ("stream", "scout", KEY, TICK_S * 2, 200),
        ("unknown key", "scout", "sk-somebody-elses-0123456789", 0, 401),
        ("limit", "busy", KEY, 0, 429),
    ):
        assert await call(gateway, agent, key, streams_s=streams_s) == status
        with uncollected() as garbage:
            assert await call(gateway, agent, key, streams_s=streams_s) == status
            await asyncio.sleep(TICK_S)
            gc.collect()
            left[kind] = {type(one).__name__ for one in garbage} & OF_A_CALL
            del garbage[:]
    assert not any(left.values()), left


@contextmanager
def uncollected() -> Generator[list[object]]:
    """No circular reference is freed meanwhile; yields what a collection finds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.unfreeze()
