"""Too much, too slow, too long: deadlines, a full house, and callers who do not read."""

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from running_stack import KEY
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway

DEADLINES = {
    "LLM_PROXY__FIRST_BYTE_TIMEOUT_S": "1",
    "LLM_PROXY__IDLE_TIMEOUT_S": "1",
    "LLM_PROXY__TOTAL_TIMEOUT_S": "4",
    "LLM_PROXY__DEADLINES": json.dumps({"patient": {"first_byte_s": 3}}),
}


async def test_each_deadline_ends_a_call_with_its_own_answer(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """The first byte, the next frame, the whole; a group's own; less when the caller asks for less."""
    with run_gateway(tmp_path, two_sidecars, DEADLINES, sidecars=1) as made:
        async with httpx.AsyncClient(timeout=20) as client:

            async def timed(body: object, **headers: str) -> tuple[int, str, float]:
                began = time.monotonic()
                answer = await made.chat(client, body, **headers)  # type: ignore[arg-type]  # any body
                return answer.status_code, answer.text, time.monotonic() - began

            hang, patient = made.body(do="hang"), made.body(model="patient", do="hang")
            silence = made.body(stream=True, do="silence")
            endless = made.body(stream=True, do="slow", gap_ms=300, frames=100)
            (first, short, idle, total, group, asked) = await asyncio.gather(
                timed(hang),
                timed(made.body(do="slow-first", first_ms=800)),
                timed(silence),
                timed(endless),
                timed(patient),
                timed(made.body(model="patient", do="hang"), **{"X-Request-Timeout": "0.5"}),
            )
    assert (first[0], json.loads(first[1])["error"]["code"]) == (504, "upstream_timeout")
    assert 0.9 < first[2] < 2.5
    assert short[0] == 200
    for found, least, most in ((idle, 0.9, 3.0), (total, 3.9, 6.0)):
        assert found[0] == 200
        assert json.loads(found[1].strip().rpartition("data: ")[2])["error"]["code"] == "upstream_timeout"
        assert "[DONE]" not in found[1]
        assert least < found[2] < most
    assert (group[0], group[2] > 2.9) == (504, True)
    assert (asked[0], asked[2] < 1.5) == (504, True)


async def test_beyond_its_places_the_gateway_refuses_at_once_and_says_when_to_come_again(
    tmp_path: Path,
    two_sidecars: TwoSidecars,
) -> None:
    """Two run, two wait and give up in time, the others are refused unseen and leave no record."""
    names = {
        "LLM_PROXY__MAX_IN_FLIGHT": "2",
        "LLM_PROXY__MAX_WAITING": "2",
        "LLM_PROXY__QUEUE_TIMEOUT_MS": "500",
    }
    with run_gateway(tmp_path, two_sidecars, names, sidecars=1) as made:
        async with httpx.AsyncClient(timeout=20) as client:
            bodies = [made.body(do="slow-first", first_ms=2000) for _ in range(10)]
            began = time.monotonic()
            took: list[float] = []

            async def one(body: dict[str, object]) -> httpx.Response:
                answer = await made.chat(client, body)
                took.append(time.monotonic() - began)
                return answer

            answers = await asyncio.gather(*(one(body) for body in bodies))
            refused = [answer for answer in answers if answer.status_code == 503]
            assert Counter(answer.status_code for answer in answers) == {200: 2, 503: 8}
            assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
            assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
            assert {answer.headers["x-llm-proxy-refused-by"] for answer in refused} == {"gateway"}
            assert sorted(took)[5] < 0.45
            assert 0.45 < sorted(took)[6] < 1.5
            assert len(await made.seen()) == 2
            recorded = await made.metric("llm_proxy_requests_total")
            assert recorded == 4
            assert await made.metric("llm_proxy_refusals_total", "overloaded") == 8
            assert await made.metric("llm_proxy_queue_seconds_count") == 2
            assert 0.9 <= await made.metric("llm_proxy_queue_seconds_sum") < 3.0


async def test_who_waits_in_time_gets_the_place_that_comes_free(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """A short peak is slower, and nobody is refused."""
    with run_gateway(tmp_path, two_sidecars, {"LLM_PROXY__MAX_IN_FLIGHT": "2"}, sidecars=1) as made:
        async with httpx.AsyncClient(timeout=20) as client:
            bodies = [made.body(do="slow-first", first_ms=200) for _ in range(8)]
            answers = await asyncio.gather(*(made.chat(client, body) for body in bodies))
        assert {answer.status_code for answer in answers} == {200}


def resident_mib(made: GatewayOverSidecars) -> float:
    """Memory of the gateway."""
    status = Path(f"/proc/{made.gateway.popen.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


READERS = 4
GLIBC_GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Freed buffers leave the process at once; else its heap has room of up to a mebibyte for the next ones."""


async def test_slow_readers_slow_the_upstream_and_cost_a_bounded_amount_of_memory(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """Streams of 20 MB read at 20 kB a second: some hundred kilobytes each, then no more as time goes."""
    gateway = run_gateway(tmp_path, two_sidecars, GLIBC_GIVES_BACK, sidecars=1)
    with gateway as made, contextlib.ExitStack() as held:
        async with httpx.AsyncClient(timeout=20) as client:
            await made.chat(client)
        before = resident_mib(made)
        readers = [held.enter_context(reader_of(made)) for _ in range(READERS)]
        grown: list[float] = []
        # Buffers fill within six seconds, here and there in steps; what has none goes on for a minute.
        async with asyncio.timeout(60):
            while len(grown) < 24 or grown[-1] - grown[-9] > 0.1:
                await asyncio.sleep(0.25)
                for reader in readers:
                    assert await asyncio.to_thread(reader.recv, 5_000)
                grown.append(resident_mib(made) - before)
        assert max(grown) < READERS * 1.25
        async with httpx.AsyncClient(timeout=5) as client:
            assert (await client.get(f"{made.url}/health/live")).status_code == 200


def reader_of(made: GatewayOverSidecars) -> socket.socket:
    """A connection on which a stream of 20 MB was asked for, with a small buffer of its own."""
    at = urlsplit(made.url)
    body = json.dumps(made.body(stream=True, do="ok", frames=80_000)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    reader = socket.socket()
    reader.settimeout(20)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    reader.connect((at.hostname, at.port))
    reader.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return reader
