"""The sidecar's HTTP over raw sockets: requests in pieces, answers in one write, which key is read."""

import json
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from raw_http import send_raw
from sidecars import KEY, Sidecar

AUTHORIZED = f"authorization: Bearer {KEY}"
PATH = "/v1/chat/completions"


def port_of(sidecar: Sidecar) -> int:
    """The sidecar's port."""
    return urlsplit(sidecar.url).port or 0


def request(prompt: str, *headers: str, method: str = "POST", path: str = PATH) -> tuple[bytes, bytes]:
    """A call's head and body; authorized unless headers are given."""
    body = json.dumps({"model": "openai", "messages": [{"role": "user", "content": prompt}]}).encode()
    lines = (f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode(), body


@pytest.fixture
async def known(sidecar: Sidecar) -> str:
    """A prompt whose answer is in the cache."""
    prompt = str(uuid4())
    assert (await sidecar.chat("openai", prompt)).status == 200
    return prompt


async def test_a_request_may_come_in_pieces(sidecar: Sidecar, known: str) -> None:
    """Head, body and the next request cut anywhere: each answer is the stored one."""
    head, body = request(known, AUTHORIZED)
    whole = send_raw(port_of(sidecar), head + body)
    assert (whole.statuses, b"x-litellm-cache-key: " in whole.raw) == ([200], True)
    both = (head + body) * 2
    for size in (7, len(head) - 1, len(head), len(head) + 5, len(head + body), len(both) - 1):
        pieces = [both[at : at + size] for at in range(0, len(both), size)]
        answer = send_raw(port_of(sidecar), *pieces, answers=2)
        assert (answer.statuses, answer.raw.count(whole.body), answer.closed) == ([200, 200], 2, False)
    assert len(await sidecar.provider.calls(known)) == 1


async def test_a_caller_may_wait_before_it_sends_the_body(sidecar: Sidecar, known: str) -> None:
    """The sidecar sends 100, whether the caller waits for it or not (RFC 9110, 10.1.1)."""
    head, body = request(known, AUTHORIZED, "expect: 100-continue")
    waited = send_raw(port_of(sidecar), head, wait_s=1)
    assert waited.raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert send_raw(port_of(sidecar), head, body).raw.startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 "
    )


async def test_the_connection_ends_where_the_caller_says(sidecar: Sidecar, known: str) -> None:
    """With its answer, complete: that of a kept connection, and the word that it ends."""
    answer = send_raw(port_of(sidecar), b"".join(request(known, AUTHORIZED, "connection: close")))
    assert (answer.statuses, answer.closed) == ([200], True)
    assert json.loads(answer.body)["choices"]
    kept = send_raw(port_of(sidecar), b"".join(request(known, AUTHORIZED)))
    assert (kept.statuses, kept.closed, kept.body) == ([200], False, answer.body)
    lines = [one.raw.partition(b"\r\n\r\n")[0].split(b"\r\n") for one in (kept, answer)]
    assert {*lines[1]} - {*lines[0]} == {b"connection: close"}
    assert {*lines[0]} <= {*lines[1]}


@pytest.mark.parametrize("path", ["/elsewhere", "/v1/responses/resp_1"])
def test_an_answer_to_head_has_no_body(sidecar: Sidecar, path: str) -> None:
    """And the next request is answered on the same connection."""
    place = ("x-llmp-group: gone", "x-llmp-deployment: gone")
    head, body = request("", AUTHORIZED, *place, method="HEAD", path=path)
    answer = send_raw(port_of(sidecar), (head + body) * 2, wait_s=1, answers=2)
    assert answer.statuses == [404, 404]
    assert answer.raw.endswith(b"\r\n\r\n")
    assert b'"error"' not in answer.raw


@pytest.mark.parametrize("second", [KEY, "sk-other"])
async def test_a_request_with_two_keys_is_rejected(sidecar: Sidecar, known: str, second: str) -> None:
    """Whichever comes first, one of them the right one or both; another header may come twice."""
    other = f"Authorization: Bearer {second}"
    for headers in ((AUTHORIZED, other), (other, AUTHORIZED)):
        answer = send_raw(port_of(sidecar), b"".join(request(known, *headers)))
        assert (answer.statuses, answer.code) == ([401], "invalid_api_key")
    twice = request(known, "x-other: 1", AUTHORIZED, "x-other: 2")
    assert send_raw(port_of(sidecar), b"".join(twice)).statuses == [200]
