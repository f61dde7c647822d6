"""A provider's connection that breaks HTTP's rules: its reader fails, and no other call gets what it sent."""

import json
import subprocess

import pytest
from warm_sidecars import passed_on

from llm_proxy.stack.process_specs import sidecar_python

PROGRAM = r"""
import asyncio, json, sys, aiohttp, uvloop
from llm_proxy.sidecar.body_tap import take_each
from llm_proxy.sidecar.patches import provider_connections

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UNASKED = b"HTTP/1.1 %b\r\ncontent-length: 7\r\n\r\nanother"
AFTERWARDS = {
    "/rubbish": b"zz\r\n",
    "/too-long": b"1\r\nabc\r\n",
    "/bare-line-feed": b"1\na\n",
    "/an-answer": b"0\r\n\r\n" + UNASKED % b"200 OK",
    "/late-answer": UNASKED % b"200 OK",
    "/late-timeout": UNASKED % b"408 Request Timeout",
    "/late-rubbish": b"rubbish",
}
ENDS = {"/unread-cut": b"", "/unread-rubbish": b"1\r\n!\r\nzz\r\n", "/unread-silence": b""}
connections = []


async def serve(reader, writer):
    connections.append(writer)
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split()[1].decode()
            end = b"0\r\n\r\n" if path.startswith(("/late", "/next")) else b""
            writer.write(HEAD + b"2\r\nok\r\n" + end)
            if path == "/unread-cut":
                break
            await asyncio.sleep(0.02)
            writer.write((AFTERWARDS | ENDS).get(path, b""))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def outcome(session, url):
    try:
        async with session.get(url) as response, asyncio.timeout(1):
            return [response.status, (await response.read()).decode()]
    except Exception as error:
        return type(error).__name__


async def read_chunks(response, read):
    async for chunk in response.content.iter_chunked(16384):
        read.append(chunk)


async def read_any(response, read):
    while chunk := await response.content.readany():
        read.append(chunk)


async def take(response, read):
    await take_each(response, lambda chunk: read.append(chunk) or True)
    await read_any(response, read)


async def broken_body(session, url, how, wait_s):
    read, timeout = [], aiohttp.ClientTimeout(sock_read=0.05)
    async with session.get(url, timeout=timeout) as response, asyncio.timeout(1):
        await asyncio.sleep(wait_s)
        try:
            await how(response, read)
        except Exception as error:
            return [b"".join(read).decode(), type(error).__name__]


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    found = {}
    for path in AFTERWARDS:
        connections.clear()
        async with aiohttp.ClientSession() as session:
            first = await outcome(session, base + path)
            await asyncio.sleep(0.05)
            found[path] = [first, await outcome(session, f"{base}/next"), len(connections)]
    for path in ENDS:
        async with aiohttp.ClientSession() as session:
            ways = [(how, wait_s) for how in (read_chunks, read_any, take) for wait_s in (0, 0.15)]
            found[path] = [await broken_body(session, base + path, *way) for way in ways]
    server.close()
    print(json.dumps(found))


provider_connections.install()
uvloop.run(main())
"""
BROKEN = ("/rubbish", "/too-long", "/bare-line-feed")
UNREAD = {
    "/unread-cut": ["ok", "ClientPayloadError"],
    "/unread-rubbish": ["ok!", "ClientPayloadError"],
    "/unread-silence": ["ok", "SocketTimeoutError"],
}
UNASKED = ("/an-answer", "/late-answer", "/late-timeout", "/late-rubbish")


@pytest.fixture(scope="module")
def found() -> dict[str, list[object]]:
    """What is sent -> what its request and the next one got, and how many connections there were."""
    command = [str(sidecar_python()), "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=passed_on(), timeout=60)
    assert done.returncode == 0, done.stderr
    seen: dict[str, list[object]] = json.loads(done.stdout)
    return seen


def test_a_body_that_cannot_be_parsed_fails(found: dict[str, list[object]]) -> None:
    """At once; aiohttp's reader waits for ever, without its timeout."""
    for path in BROKEN:
        assert found[path] == ["ClientPayloadError", [200, "ok"], 2], path


def test_what_came_before_a_failure_is_read(found: dict[str, list[object]]) -> None:
    """At once or after the failure, in each way a body is read; aiohttp raises the failure in its place."""
    for path, outcome in UNREAD.items():
        assert found[path] == [outcome] * 6, path


def test_no_call_gets_the_answer_to_another(found: dict[str, list[object]]) -> None:
    """What comes unasked, with an answer or later, ends the connection; for aiohttp it is the next answer."""
    for path in UNASKED:
        assert found[path] == [[200, "ok"], [200, "ok"], 2], path
