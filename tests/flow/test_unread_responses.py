"""A response that waits because the client has not read the one before it."""

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx
import pytest
from running_stack import ADMIN_KEY, KEY
from stack_processes import GatewayProcess, serve_gateway

LARGE = {"model": "mock-embedding", "input": [f"text {number}" for number in range(800)], "dimensions": 1000}
"""Its response, 17 MB, fills every buffer between a gateway and a client that does not read."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
WAIT_S = 20.0


@pytest.fixture
def mock_gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway in mock mode."""
    with serve_gateway(tmp_path, [], {"LLM_PROXY__LLM_MODE": "mock"}) as gateway:
        yield gateway


def _request(path: str, body: object, head: str = "") -> bytes:
    raw = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{head}"
        f"Content-Length: {len(raw)}\r\n\r\n"
    ).encode() + raw


def _send_behind_a_large_one(gateway: GatewayProcess, body: object, head: str = "") -> socket.socket:
    """Sends a request right behind one whose response is not read."""
    connection = socket.socket()
    connection.settimeout(WAIT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", gateway.port))
    connection.sendall(_request("/v1/embeddings", LARGE) + _request("/v1/chat/completions", body, head))
    return connection


def _read_response(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Returns head and body of the next response; its length alone says where it ends."""
    head = b"".join(iter(stream.readline, b"\r\n"))
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return head, stream.read(int(length[1]))


def _ended(gateway: GatewayProcess, series: str) -> float:
    """How many calls have ended, or requests were rejected, by a counter's name and some of its labels."""
    page = httpx.get(f"{gateway.url}/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"}).text
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if re.match(series, line))


def _wait_until_ended(gateway: GatewayProcess, series: str) -> None:
    end = time.monotonic() + WAIT_S
    while not _ended(gateway, series):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_whose_time_is_up_before_its_head_left_is_answered_and_recorded_as_504(
    mock_gateway: GatewayProcess,
    streamed: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Also a stream: nothing of it has left, so it is no truncated one."""
    body = {"model": "mock", "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
    with _send_behind_a_large_one(mock_gateway, body, "X-Request-Timeout: 1\r\n") as connection:
        _wait_until_ended(mock_gateway, r'llm_proxy_requests_total\{door="chat')
        with connection.makefile("rb") as stream:
            _read_response(stream)
            head, error = _read_response(stream)
    assert head.startswith(b"HTTP/1.1 504 ")
    assert b"x-request-id: " in head
    assert json.loads(error)["error"]["code"] == "upstream_timeout"
    assert _ended(mock_gateway, r'llm_proxy_requests_total\{door="chat.*outcome="error".*status="504"') == 1


def test_a_client_that_leaves_while_its_error_waits_is_no_fault_of_the_gateway(
    mock_gateway: GatewayProcess, tmp_path: Path
) -> None:
    """Nothing is logged as a failed application."""
    body = {"model": "mock-429", "messages": [{"role": "user", "content": "hello"}]}
    with _send_behind_a_large_one(mock_gateway, body) as connection:
        _wait_until_ended(mock_gateway, r'llm_proxy_requests_total\{door="chat')
        time.sleep(0.3)  # the gateway waits for the disconnect of calls that are older than a tick
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    time.sleep(0.5)
    logs = "".join(log.read_text(encoding="utf-8") for log in (tmp_path / "logs").iterdir())
    assert "Exception in ASGI application" not in logs
