"""Attacks that take their time: many connections, each sending or reading as little as it can."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from running_stack import KEY

Json = dict[str, Any]
CONNECTIONS = 200
UNREAD_BYTES = 6_000_000


class Attacked(Protocol):
    """The gateway under attack."""

    port: int

    def cpu_ms(self) -> float:
        """Processor time of the gateway so far."""
        ...

    def sent(self) -> list[bytes]:
        """Heads of the requests that went to the sidecar."""
        ...


Good = Callable[[Any], float]


async def slow_attacks(front: Attacked, good: Good) -> list[Json]:
    """All of them, one after the other, each bounded to half a minute."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode()
    body = head + b"\r\nContent-Length: 100000\r\n\r\n{"
    trickling = body.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked")[:-1]
    found = [
        await _held(front, good, "slow heads, a byte a second", head[:20], b"a", ends_s=14),
        await _held(front, good, "slow bodies, a byte a second", body, b" ", ends_s=9),
        await _held(front, good, "slow chunks, one a second", trickling, b"1\r\n \r\n", ends_s=9),
        await _crowd(front, good),
        await _unread(front, good),
    ]
    await asyncio.sleep(1)
    return found


async def _held(front: Attacked, good: Good, name: str, first: bytes, drip: bytes, *, ends_s: float) -> Json:
    cpu, before, began = front.cpu_ms(), len(front.sent()), time.monotonic()
    dripping = [asyncio.create_task(_drip(front.port, first, drip, began + 30)) for _ in range(CONNECTIONS)]
    await asyncio.sleep(2)
    meanwhile = await asyncio.to_thread(good, front)
    statuses = await asyncio.gather(*dripping)
    took = time.monotonic() - began
    return _row(
        f"{CONNECTIONS} connections: {name}",
        sorted(set(statuses)),
        cpu_ms=(front.cpu_ms() - cpu) / CONNECTIONS,
        seconds=took,
        passed=len(front.sent()) - before - 1,
        well=took < ends_s and set(statuses) <= {0, 408},
        meanwhile_ms=meanwhile,
    )


async def _drip(port: int, first: bytes, drip: bytes, until: float) -> int:
    """The status with which the connection was ended; 0 for none, -1 when it was not ended in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    answer = asyncio.create_task(reader.read(4096))
    try:
        while time.monotonic() < until and not answer.done():
            await asyncio.wait([answer], timeout=1)
            if not answer.done():
                writer.write(drip)
        said = await answer if answer.done() else b"HTTP/1.1 -1 "
        return int(said.split()[1]) if said else 0
    except OSError:
        return 0
    finally:
        answer.cancel()
        writer.close()


async def _crowd(front: Attacked, good: Good) -> Json:
    """More connections than the gateway allows (600 here), doing nothing at all."""
    cpu, before, began = front.cpu_ms(), len(front.sent()), time.monotonic()
    crowd = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(800)]
    beyond = await asyncio.gather(*(_first_bytes(reader) for reader, _ in crowd))
    refused = sum(said.startswith(b"HTTP/1.1 503") for said in beyond)
    for _, writer in crowd[:400]:
        writer.close()
    await asyncio.sleep(0.5)
    meanwhile = await asyncio.to_thread(good, front)
    for _, writer in crowd[400:]:
        writer.close()
    return _row(
        "800 silent connections where 600 are allowed",
        [503],
        cpu_ms=(front.cpu_ms() - cpu) / 800,
        seconds=time.monotonic() - began,
        passed=len(front.sent()) - before - 1,
        well=refused >= 190,
        meanwhile_ms=meanwhile,
    )


async def _first_bytes(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(1):
            return await reader.read(64)
    except (TimeoutError, OSError):
        return b""


async def _unread(front: Attacked, good: Good) -> Json:
    """Large answers nobody reads: after the time a caller may take nothing (5 s here), each is let go."""
    cpu, before, began = front.cpu_ms(), len(front.sent()), time.monotonic()
    play = json.dumps({"do": "ok", "text": "x" * UNREAD_BYTES})
    said = [{"role": "user", "content": f"{began} {play}"}]
    raw = json.dumps({"model": "p/any", "messages": said}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for _ in range(5):
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect(("127.0.0.1", front.port))
        reader, writer = await asyncio.open_connection(sock=small, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
        writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        held.append((reader, writer))
    await asyncio.sleep(4)
    meanwhile = await asyncio.to_thread(good, front)
    await asyncio.sleep(14)
    ended = 0
    for reader, writer in held:
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # the same
        try:
            async with asyncio.timeout(5):
                ended += len(await reader.read(-1)) < UNREAD_BYTES
        except (OSError, TimeoutError) as fault:
            ended += not isinstance(fault, TimeoutError)
        writer.close()
    return _row(
        "5 answers of 6 MB nobody reads",
        [200],
        cpu_ms=(front.cpu_ms() - cpu) / 5,
        seconds=time.monotonic() - began,
        passed=len(front.sent()) - before - 6,
        well=ended == 5,
        meanwhile_ms=meanwhile,
    )


def _row(
    name: str,
    statuses: list[int],
    *,
    cpu_ms: float,
    seconds: float,
    passed: int,
    well: bool,
    meanwhile_ms: float,
) -> Json:
    return {
        "family": "Slow and many",
        "attack": name,
        "statuses": statuses,
        "sidecar": f"{passed} requests" if passed > 0 else "nothing",
        "cpu_ms": round(cpu_ms, 2),
        "seconds": round(seconds, 1),
        "meanwhile_ms": round(meanwhile_ms, 1),
        "as_it_should": well,
    }
