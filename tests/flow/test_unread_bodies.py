"""Bodies that are never read, or read before authentication, are bounded in bytes and time."""

import asyncio

import pytest
from raw_http import send_raw
from raw_requests import request
from running_stack import RunningStack

MEBIBYTE = 2**20
ENDLESS = b"Content-Length: 100000000000\r\n"
PIECES = [b"a" * MEBIBYTE] * 64
TYPE = b"Content-Type: application/json\r\n"


def head(line: bytes, more: bytes) -> bytes:
    """Returns a head without a credential that announces a body."""
    return line + b" HTTP/1.1\r\nHost: x\r\n" + TYPE + more + b"\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(head(b"POST /v1/chat/completions", ENDLESS), 401, id="no key"),
        pytest.param(request(more=ENDLESS, length=False, body=b""), 413, id="too large, as it says"),
        pytest.param(head(b"POST /nowhere", ENDLESS), 404, id="no such path"),
        pytest.param(head(b"PUT /v1/chat/completions", ENDLESS), 405, id="another method"),
        pytest.param(head(b"GET /health", ENDLESS), 200, id="an unexpected body"),
        pytest.param(head(b"POST /admin/keys", ENDLESS), 413, id="an admin route"),
    ],
)
async def test_a_body_sent_after_the_response_is_drained_up_to_a_bound(
    stack: RunningStack, raw: bytes, status: int
) -> None:
    """The response comes at once; a client that keeps sending is disconnected."""
    said = await asyncio.to_thread(send_raw, stack.port, raw, *PIECES, answers=2, wait_s=10)
    assert said.statuses == [status]
    assert said.closed


async def test_a_client_that_reads_last_gets_the_error_and_keeps_its_connection(
    stack: RunningStack,
) -> None:
    """25 MiB where 20 are allowed, then a valid request on the same connection."""
    large = request(more=b"Content-Length: %d\r\n" % (25 * MEBIBYTE), length=False, body=b"")
    good = request(b"/health", method=b"GET", length=False, body=b"")
    said = await asyncio.to_thread(send_raw, stack.port, large, *PIECES[:25], good, answers=2, wait_s=10)
    assert said.statuses == [413, 200]
    assert not said.closed


@pytest.mark.parametrize("line", [b"POST /admin/keys", b"PATCH /admin/keys/x", b"PUT /admin/limits"])
@pytest.mark.parametrize("known", [False, True], ids=["nobody", "an admin"])
async def test_a_management_body_is_bounded_before_authentication(
    stack: RunningStack,
    line: bytes,
    known: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """FastAPI reads it before authentication; one mebibyte is enough for any of them."""
    auth = f"Authorization: Bearer {stack.admin_key}\r\n".encode() if known else b""
    raw = head(line, b"Transfer-Encoding: chunked\r\n" + auth)
    chunk = b"%x\r\n%b\r\n" % (MEBIBYTE // 2, b" " * (MEBIBYTE // 2))
    said = await asyncio.to_thread(send_raw, stack.port, raw, *[chunk] * 3, wait_s=10)
    assert said.statuses == [413]
    assert said.code == "request_too_large"


async def test_a_management_body_that_does_not_come_is_408(stack: RunningStack) -> None:
    """As for inference routes."""
    said = await asyncio.to_thread(
        send_raw, stack.port, head(b"POST /admin/keys", b"Content-Length: 9\r\n"), b"{", wait_s=10
    )
    assert said.statuses == [408]
    assert said.code == "request_timeout"
    assert said.closed
