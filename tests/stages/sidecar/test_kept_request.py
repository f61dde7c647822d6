"""A request with a kept head is, with its answer and its failures, that of aiohttp's client."""

import json
import subprocess
from typing import Any

import pytest
from warm_sidecars import passed_on

from llm_proxy.stack.process_specs import sidecar_python

PROGRAM = r'''
import asyncio, gzip, json, sys, aiohttp, uvloop, yarl
from llm_proxy.sidecar.kept_request import keep_request

HEADERS = {"authorization": "Bearer k\u00e4y", "content-type": "application/json", "connection": "keep-alive"}
ZIPPED = gzip.compress(b"zipped")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PLAYS = {
    "/plain": b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-A: 2\r\ncontent-length: 2\r\n\r\nok",
    "/early": b"HTTP/1.1 103 Early\r\n\r\n" + OK,
    "/moved": b"HTTP/1.1 307 Moved\r\nlocation: /plain\r\ncontent-length: 0\r\n\r\n",
    "/cookie": b"HTTP/1.1 500 No\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\nno",
    "/zipped": (
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED
    ),
    "/chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/last": OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
    "/until-end": b"HTTP/1.0 200 OK\r\n\r\nok",
    "/cut": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
    "/rubbish": b"rubbish\r\n\r\n",
    "/long-head": b"HTTP/1.1 200 OK\r\nx: %b\r\ncontent-length: 2\r\n\r\nok" % (b"x" * 9000),
    "/gone": b"",
    "/idle": OK,  # and the connection ends
    "/race": OK,  # and the next request on it is not answered
    "/silent": b"",
    "/half": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
}
ENDED, SILENT = {"/until-end", "/cut", "/gone", "/idle"}, {"/silent", "/half"}
heads, connections = [], []


async def serve(reader, writer):
    connections.append(writer)
    path = ""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append((head + await reader.readexactly(7)).decode())
            if path == "/race":
                break
            path = head.split()[1].decode().partition("?")[0]
            writer.write(PLAYS[path])
            if path in ENDED:
                break
            if path in SILENT:
                await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def outcome(sending):
    """What a caller of a client sees."""
    try:
        response = await sending
        try:
            body = await response.read()
        finally:
            response.release()
    except (asyncio.CancelledError, Exception) as error:
        return [type(error).__name__, str(error).split("object at")[0]]
    headers = [f"{name}: {value}" for name, value in response.headers.items()]
    return [response.status, headers, body.hex(), str(response.url)]


def options(read_s=9, connect_s=9, **more):
    timeout = aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=read_s, connect=connect_s)
    asis = {"allow_redirects": False, "auto_decompress": False}
    return {"headers": HEADERS, "timeout": timeout, "proxy": None, **asis, **more}


def plain_session(**more):
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), **more)


class ClosingConnector(aiohttp.TCPConnector):
    """Its connections end in the moment in which they are handed on."""

    async def connect(self, *args, **options):
        connection = await super().connect(*args, **options)
        connection.protocol.transport.close()
        return connection


async def compare(url, *, limit=9, holds=False, cancels=False, connector=aiohttp.TCPConnector, **more):
    """What both clients saw, what was sent, how many connections were made and how many are free."""
    found, url, more = [], yarl.URL(url), options(**more)
    for keeps in (False, True):
        heads.clear(), connections.clear()
        async with plain_session(connector=connector(limit=limit)) as session:
            if holds:
                await session.request("POST", url.with_path("/half"), data=b"1234567", **options())
            times = []
            for body in (b'{"n":1}', b'{"n":2}'):
                kept = keep_request(url, more, session)
                sending = asyncio.ensure_future(outcome(
                    kept.post(body) if keeps
                    else session.request("POST", url, data=body, **more)
                ))
                if cancels:
                    await asyncio.sleep(0.05)
                    sending.cancel()
                times.append(await sending)
                await asyncio.sleep(0.02)  # the end of a connection arrives
            free = sum(map(len, session.connector._conns.values()))
            found.append([times, list(heads), len(connections), free, len(session.connector._acquired)])
    return found


async def kept_of_others(url):
    """What is not simple: proxies, credentials, headers with a meaning, sessions that add something."""
    async with plain_session() as session:
        found = [
            keep_request(url, options(proxy="http://127.0.0.1:2"), session),
            keep_request(url.with_user("a"), options(), session),
            *(keep_request(url, options(headers=HEADERS | more), session) for more in (
                {"expect": "100-continue"}, {"x": "a\r\nb: c"}, {"content-length": "1"})),
            keep_request(url, options(headers={}), session),
        ]
    closing = aiohttp.TCPConnector(force_close=True)
    for more in ({"trust_env": True}, {"headers": {"a": "b"}}, {"connector": closing}):
        async with plain_session(**more) as session:
            found.append(keep_request(url, options(), session))
    async with aiohttp.ClientSession() as session:
        found.append(keep_request(url, options(), session))
    return [one is not None for one in found]


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    short = {"/silent": {"read_s": 0.2}, "/half": {"read_s": 0.2}}
    result = {path: await compare(f"{base}{path}?a=%2F", **short.get(path, {})) for path in PLAYS}
    result["refused"] = await compare("http://127.0.0.1:1/plain")
    result["no TLS"] = await compare(base.replace("http:", "https:") + "/plain", ssl=False, connect_s=0.2)
    result["no connection"] = await compare(f"{base}/plain", limit=1, holds=True, connect_s=0.2)
    result["closing"] = await compare(f"{base}/plain", connector=ClosingConnector)
    result["cancelled"] = await compare(f"{base}/silent", cancels=True)
    others = await kept_of_others(yarl.URL(f"{base}/plain"))
    server.close()
    await server.wait_closed()
    at_once = sys.version_info >= (3, 12)
    print(json.dumps({"compared": result, "others": others, "client writes at once": at_once}))


uvloop.run(main())
'''


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What the program saw, with the sidecar's packages."""
    command = [str(sidecar_python()), "-W", "error::ResourceWarning", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=passed_on(), timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_requests_and_answers_are_those_of_aiohttp_s_client(results: dict[str, Any]) -> None:
    """Bytes sent; status, headers, body or exception of what comes; connections made, kept and given back."""
    for name, (client, kept) in results["compared"].items():
        later = name == "closing" and not results["client writes at once"]  # the end comes before it writes
        assert kept == client or later, name
    seen = {name: [one[0] for one in kept[0]] for name, (_, kept) in results["compared"].items()}
    times, heads, *connections = results["compared"]["/plain"][1]
    assert heads[1].startswith("POST /plain?a=/ HTTP/1.1\r\n")
    assert (len(times), heads[1][-7:], connections) == (2, '{"n":2}', [1, 1, 0])
    assert seen["/plain"] == seen["/idle"] == [200, 200]
    assert seen["/race"] == [200, "ServerDisconnectedError"]
    assert seen["/silent"] == 2 * ["SocketTimeoutError"]
    assert seen["no connection"] == 2 * ["ConnectionTimeoutError"]
    assert seen["closing"] == 2 * ["ClientOSError"]
    assert seen["cancelled"] == 2 * ["CancelledError"]


def test_what_is_not_simple_is_aiohttp_s_client_s(results: dict[str, Any]) -> None:
    """None of them is kept."""
    assert results["others"] == [False] * 10
