"""A body is taken whole and in order, and its connection is aiohttp's afterwards."""

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from httptools import HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st
from warm_sidecars import passed_on

from llm_proxy.sidecar.body_tap import whole_chunks
from llm_proxy.stack.process_specs import sidecar_python

PROGRAM = '''
import asyncio, json, aiohttp, uvloop
from aiohttp.client_proto import ResponseHandler
from llm_proxy.sidecar.body_tap import take_each

PARTS, GAP_S = [b"data: part%d\\n\\n" % at for at in range(50)], 0.002
HEAD = b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"


def chunk(data, begin=b"%x"):
    return begin % len(data) + b"\\r\\n%b\\r\\n" % data


FRAMINGS = {
    "upper": lambda at, part: [chunk(part, b"%X")],
    "padded": lambda at, part: [chunk(part, b"00%x")],
    "extended": lambda at, part: [chunk(part, b"%x;name=value")],
    "halves": lambda at, part: [chunk(part)[:at], chunk(part)[at:]],
    "letters": lambda at, part: [chunk(part[:at]), chunk(part[at:])] if 0 < at < len(part) else [chunk(part)],
    "mixed": lambda at, part: [chunk(part), chunk(part)[:2], (3 * chunk(part))[2:-1], b"\\n"],
}
"""Name -> what is written at once of a part, and after it."""


async def serve(reader, writer):
    """Answer requests with the parts; the path says how they are framed, and how the answer ends."""
    while (head := await reader.readuntil(b"\\r\\n\\r\\n")):
        writer.write(HEAD)
        framing = FRAMINGS.get(head.split()[1].decode().strip("/"))
        for at, part in enumerate(PARTS):
            for piece in framing(at, part) if framing else [chunk(part)]:
                writer.write(piece)
                await asyncio.sleep(10 * GAP_S if b"/slow" in head else GAP_S)
        if b"/silence" in head:
            await asyncio.sleep(60)
        if b"/cut" in head:
            break
        writer.write(b"rubbish\\r\\n" if b"/rubbish" in head else chunk(b""))
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

    parsed, parse = [], ResponseHandler.data_received

    def note_and_parse(self, data):
        parsed.append(data)
        parse(self, data)

    ResponseHandler.data_received = note_and_parse
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(note)
    timeout = aiohttp.ClientTimeout(sock_read=0.5)
    async with aiohttp.ClientSession(url, timeout=timeout, trace_configs=[trace]) as session:
        result = {
            "whole": await taken(session, "/whole"),
            "parsed": len(parsed),
            "again": await taken(session, "/whole"),
            "a part": await taken(session, "/whole", until=10),
            "after a part": await taken(session, "/whole"),
            "framings": {name: await taken(session, f"/{name}") for name in FRAMINGS},
            "connections": len(made),
            "cut": await taken(session, "/cut"),
            "rubbish": await taken(session, "/rubbish"),
            "silence": await taken(session, "/silence"),
            "slow": await taken(session, "/slow"),
            "silence after a part": await taken(session, "/silence", until=10),
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
SAID = "".join(f"data: part{at}\n\n" for at in range(50))


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


def test_a_chunk_that_is_read_alone_is_not_parsed_by_aiohttp(results: dict[str, Any]) -> None:
    """Once aiohttp has parsed one."""
    assert results["parsed"] < 10


def test_chunks_are_taken_however_they_come(results: dict[str, Any]) -> None:
    """With sizes in other letters, in pieces, several at once."""
    for name, found in results["framings"].items():
        said = "".join(f"data: part{at}\n\n" * (4 if name == "mixed" else 1) for at in range(50))
        assert (found["taken"], found["rest"], found["broken"]) == (said, "", ""), name


SIZES = (b"%x", b"%X", b"0%x", b"%x;a=b", b" %x", b"+%x", b"0x%x", b"%x_0", b"f%x")
chunked = st.lists(st.tuples(st.sampled_from(SIZES), st.binary(min_size=1, max_size=40)), max_size=4)


@given(chunked, st.binary(max_size=3) | st.just(b"0\r\n\r\n"), st.integers(0, 3))
def test_whole_chunks_are_what_a_parser_makes_of_them(
    forms: list[tuple[bytes, bytes]], rest: bytes, cut: int
) -> None:
    """Data of which a parser would make something else, or not know where the chunk ends, is left to it."""
    chunks = [(form % len(body), body) for form, body in forms]
    data = b"".join(size + b"\r\n" + body + b"\r\n" for size, body in chunks) + rest
    data = data[: len(data) - cut]
    found = whole_chunks(data)
    seen: list[bytes] = []
    ends: list[bool] = []
    listener = SimpleNamespace(on_body=seen.append, on_message_complete=lambda: ends.append(True))
    parser = HttpResponseParser(listener)
    parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    if found is not None:
        parser.feed_data(data)
        parser.feed_data(b"2\r\nok\r\n0\r\n\r\n")
        assert (b"".join(seen), ends) == (found + b"ok", [True])
    plain = all(size in (b"%x" % len(body), b"%X" % len(body)) for size, body in chunks)
    if plain and data and not rest + b"x" * cut:
        assert found == b"".join(body for _, body in chunks)


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


def test_a_read_s_time_is_that_since_the_last_bytes(results: dict[str, Any]) -> None:
    """A body may come for longer, and what reads the rest waits no longer."""
    assert (results["slow"]["taken"], results["slow"]["broken"]) == (SAID, "")
    found = results["silence after a part"]
    assert (found["times"], found["broken"]) == (10, "SocketTimeoutError")


def test_an_exception_of_the_function_is_raised(results: dict[str, Any]) -> None:
    """The connection is aiohttp's again, as after a cancellation."""
    assert (results["raises"]["times"], results["raises"]["broken"]) == (6, "KeyError")
    assert results["raises"]["protocol"] == "ResponseHandler"
    assert results["cancelled"] == [True, "ResponseHandler"]
