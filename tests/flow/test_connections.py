"""Connections: their cap, and clients that do not read."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from running_stack import KEY
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway


def connect(made: GatewayOverSidecars, buffer_bytes: int | None = None) -> socket.socket:
    """Connects to the gateway, with a receive buffer of that size."""
    at = urlsplit(made.url)
    one = socket.socket()
    one.settimeout(5)
    if buffer_bytes:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    one.connect((at.hostname, at.port))
    return one


def chat_request(made: GatewayOverSidecars, body: object) -> bytes:
    """Returns a chat request as bytes."""
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {urlsplit(made.url).netloc}\r\n"
    return f"{head}Authorization: Bearer {KEY}\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


async def test_a_connection_above_the_cap_is_503_and_closed(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """The other connections are served; when they close there is room again."""
    with run_gateway(tmp_path, two_sidecars, {"LLM_PROXY__MAX_CONNECTIONS": "6"}, sidecars=1) as made:
        with contextlib.ExitStack() as held:
            first = held.enter_context(connect(made))
            for _ in range(5):
                held.enter_context(connect(made))
            await asyncio.sleep(0.2)
            with connect(made) as beyond:
                said = beyond.recv(4096)
                assert said.startswith(b"HTTP/1.1 503")
                assert b'"code":"overloaded"' in said
                assert beyond.recv(1) == b""
            first.sendall(chat_request(made, made.body()))
            assert first.recv(4096).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
        async with httpx.AsyncClient() as client:
            assert (await made.chat(client)).status_code == 200


async def test_a_client_that_reads_nothing_is_disconnected(tmp_path: Path, two_sidecars: TwoSidecars) -> None:
    """The gateway closes its connection, and the provider's with it."""
    with run_gateway(tmp_path, two_sidecars, {"LLM_PROXY__UNREAD_TIMEOUT_S": "2"}, sidecars=1) as made:
        body = made.body(stream=True, do="slow", gap_ms=1, frames=60_000)
        with connect(made, 4096) as silent:
            silent.sendall(chat_request(made, body))
            await asyncio.sleep(0.5)
            assert await made.metric("llm_proxy_in_flight") == 1
            async with asyncio.timeout(15):
                while await made.metric("llm_proxy_in_flight"):  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.25)
        ended = await made.metric("llm_proxy_requests_total", 'outcome="client_gone"')
        assert ended == 1
