"""A body is taken whole and in order, and its connection is aiohttp's afterwards."""

import json
import subprocess
from typing import Any

import pytest
from sidecars import passed_on

from llm_proxy.stack.process_specs import sidecar_python

PROGRAM = '''
import asyncio, json, aiohttp, uvloop
from llm_proxy.sidecar.body_tap import take_each

PARTS, GAP_S = [b"part%d," % at for at in range(50)], 0.002
HEAD = b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"


def chunk(data):
    return b"%x\\r\\n%b\\r\\n" % (len(data), data)


async def serve(reader, writer):
    """Answer requests with the parts; the path says how the answer ends."""
    while (head := await reader.readuntil(b"\\r\\n\\r\\n")):
        writer.write(HEAD)
        for part in PARTS:
            writer.write(chunk(part))
            await asyncio.sleep(GAP_S)
        if b"/silence" in head:
            await asyncio.sleep(60)
        if b"/cut" in head:
            break
        writer.write(chunk(b"") if b"/whole" in head else b"rubbish\\r\\n")
    writer.close()


def protocol_of(response):
    """The name of the class that serves an answer's connection, if that is open."""
    transport = response.connection and response.connection.transport
    return type(transport.get_protocol()).__name__ if transport else ""


async def taken(session, path, *, until=10**6, raises=False):
    """What a tap took of an answer, what was read after it, and what broke off."""
    response, found, rest, broken = await session.get(path), [], b"", ""

    def take(data):
        if raises and len(found) > 5:
            raise KeyError("no")
        found.append(data)
        return len(found) < until

    try:
        await take_each(response, take)
        rest = await response.content.read()
    except Exception as error:
        broken = type(error).__name__
    protocol = protocol_of(response)
    response.close() if broken else response.release()
    return {"taken": b"".join(found).decode(), "times": len(found), "rest": rest.decode(), "broken": broken,
            "protocol": protocol}


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    made = []

    async def note(session, context, params):
        made.append(params)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(note)
    timeout = aiohttp.ClientTimeout(sock_read=0.5)
    async with aiohttp.ClientSession(url, timeout=timeout, trace_configs=[trace]) as session:
        result = {
            "whole": await taken(session, "/whole"),
            "again": await taken(session, "/whole"),
            "a part": await taken(session, "/whole", until=10),
            "after a part": await taken(session, "/whole"),
            "connections": len(made),
            "cut": await taken(session, "/cut"),
            "rubbish": await taken(session, "/rubbish"),
            "silence": await taken(session, "/silence"),
            "raises": await taken(session, "/whole", raises=True),
        }
        response = await session.get("/silence")
        task = asyncio.create_task(take_each(response, bool))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        result["cancelled"] = [task.cancelled(), protocol_of(response)]
        response.close()
    print(json.dumps(result))


uvloop.run(main())
'''
SAID = "".join(f"part{at}," for at in range(50))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What the program saw, with the sidecar's packages."""
    command = [str(sidecar_python()), "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=passed_on())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_body_is_taken_as_it_comes(results: dict[str, Any]) -> None:
    """Part by part, to its end; the connection then serves other requests."""
    for name in ("whole", "again", "after a part"):
        assert results[name]["taken"] == SAID
        assert results[name]["times"] > 25
        assert not results[name]["rest"] + results[name]["broken"]
    assert results["connections"] == 1


def test_the_rest_can_be_read(results: dict[str, Any]) -> None:
    """Once no more is taken."""
    found = results["a part"]
    assert found["times"] == 10
    assert found["taken"] + found["rest"] == SAID
    assert not found["broken"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cut", "ClientPayloadError"),
        ("rubbish", "RuntimeError"),
        ("silence", "SocketTimeoutError"),
    ],
)
def test_what_breaks_off_is_raised_by_the_next_read(results: dict[str, Any], name: str, error: str) -> None:
    """After all that came before it."""
    assert (results[name]["taken"], results[name]["broken"]) == (SAID, error)


def test_an_exception_of_the_function_is_raised(results: dict[str, Any]) -> None:
    """The connection is aiohttp's again, as after a cancellation."""
    assert (results["raises"]["times"], results["raises"]["broken"]) == (6, "KeyError")
    assert results["raises"]["protocol"] == "ResponseHandler"
    assert results["cancelled"] == [True, "ResponseHandler"]
