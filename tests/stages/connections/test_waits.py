"""How long a connection may wait, and for what."""

import pytest
from http_server import HEAD_S, IDLE_S, Wired, answers, get, post

EARLY = post("/early", length=5)


@pytest.mark.parametrize("more", [pytest.param(b"", id="nothing"), pytest.param(b"\r\n", id="an empty line")])
async def test_who_says_nothing_after_an_answer_is_let_go(at: Wired, more: bytes) -> None:
    """Also when bytes came that begin no request; not before its time."""
    client = await at.client()
    await client.says(get("/b"))
    await client.hears(b"/b")
    await client.says(more)
    at.looks(later_s=IDLE_S / 2)
    assert await client.is_quiet()
    at.looks(later_s=IDLE_S * 2)
    assert await client.rest() == b""


async def test_who_ends_its_body_after_the_answer_is_let_go_too(at: Wired) -> None:
    """And may ask again before that."""
    client = await at.client()
    for _ in range(2):
        await client.says(EARLY)
        await client.hears(b"soon")
        await client.says(b"12345", get("/b"))
        await client.hears(b"/b")
    await client.says(EARLY)
    await client.hears(b"soon")
    await client.says(b"12345")
    assert await client.is_quiet()
    at.looks(later_s=IDLE_S * 2)
    assert await client.rest() == b""


async def test_who_drips_its_body_after_the_answer_is_let_go(at: Wired) -> None:
    """No byte puts off the limit: it is counted from the answer."""
    client = await at.client()
    await client.says(EARLY)
    await client.hears(b"soon")
    await client.says(b"1", b"2", b"3", gap_s=HEAD_S / 2)
    at.looks()
    assert await client.rest() == b""


async def test_who_never_ends_a_head_is_let_go(at: Wired) -> None:
    """Whether nothing of it was sent, or half."""
    for raw in (b"", b"GET /b HTTP/1.1\r\nHost:"):
        client = await at.client()
        await client.says(raw)
        await at.until(lambda: at.state.connections)
        at.looks(later_s=HEAD_S / 2)
        assert await client.is_quiet()
        at.looks(later_s=HEAD_S * 2)
        assert await client.rest() == b""


async def test_http_1_0_gets_no_chunks(at: Wired) -> None:
    """The end of the connection is the end of the answer, RFC 9112, 6.3."""
    at.app.go.set()
    (answer,) = answers(await at.says(get("/streams", version=b"1.0")))
    assert b"\r\ntransfer-encoding" not in answer.head
    assert b"\r\nconnection: close\r\n" in answer.head
    assert answer.body == b"one,two"
