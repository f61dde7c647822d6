"""Replays attacks on a gateway before a real sidecar: what did each reach, and what did it cost?

    make attack         writes docs/attack.md and docs/attack.json; exits with 1 when one is not refused

A relay between gateway and sidecar keeps every byte that passes.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from attack_requests import CANARY, Attack, attacks
from raw_http import RecordingRelay, send_raw
from raw_requests import request
from running_stack import MASTER_KEY
from stack_processes import run_stack

from bench import ROOT, report
from bench.report import Json
from bench.traffic import CONFIG

TIMES = 3
CONNECTIONS = 200
CROWD, MAX_CONNECTIONS = 800, 600
UNREAD_BYTES = 6_000_000
SLOW = "Slow and many"
POLLS = (b"GET /health/liveliness ", b"GET /llmp/catalog ")
SETTINGS = {
    "LLM_PROXY__AGENT_RPM": "0",
    "LLM_PROXY__BODY_TIMEOUT_S": "5",
    "LLM_PROXY__UNREAD_TIMEOUT_S": "5",
    "LLM_PROXY__MAX_CONNECTIONS": str(MAX_CONNECTIONS),
}


@dataclass(slots=True)
class Target:
    """The gateway under attack, and the relay behind it."""

    port: int
    pid: int
    relay: RecordingRelay

    def cpu_ms(self) -> float:
        """The gateway's CPU time so far, all threads. Source: proc(5), schedstat."""
        files = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e6

    def passed(self) -> list[bytes]:
        """The heads of the requests that reached the sidecar, the gateway's own checks left out."""
        return [head for head in self.relay.heads() if not head.startswith(POLLS)]

    def good_call_ms(self) -> float:
        """How long a good call takes now; raises `RuntimeError` when it is not answered."""
        began = time.monotonic()
        answer = send_raw(self.port, chat_request(f"{began}"), wait_s=20)
        if answer.statuses != [200]:
            raise RuntimeError(f"a good call was answered {answer.statuses}")
        return (time.monotonic() - began) * 1000


def chat_request(content: str) -> bytes:
    """A good request."""
    body = {"model": "p/any", "messages": [{"role": "user", "content": content}]}
    return request(body=json.dumps(body).encode())


def replay(target: Target, attack: Attack) -> Json:
    """Sends one attack a few times."""
    statuses = set[int]()
    before, cpu = len(target.passed()), target.cpu_ms()
    for _ in range(TIMES):
        statuses |= set(send_raw(target.port, attack.raw, wait_s=5).statuses) or {0}
    passed = target.passed()[before:]
    own = all(MASTER_KEY.encode() in head and b"host: 127.0.0.1" in head.lower() for head in passed)
    return {
        "family": attack.family,
        "attack": attack.name,
        "statuses": sorted(statuses),
        "passed": len(passed),
        "cpu_ms": round((target.cpu_ms() - cpu) / TIMES, 2),
        "refused": statuses <= attack.expected and (attack.passes or not passed) and own,
    }


async def slow_attacks(target: Target) -> list[Json]:
    """Many connections, each of which sends or reads as little as it can; half a minute each at most."""
    head = request(body=b"").partition(b"Content-Length")[0]
    sized, chunked = head + b"Content-Length: 100000\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\n"
    return [
        await dripping(target, "slow heads, a byte a second", head[:20], b"a", within_s=14),
        await dripping(target, "slow bodies, a byte a second", sized, b" ", within_s=9),
        await dripping(target, "slow chunks, one a second", chunked, b"1\r\n \r\n", within_s=9),
        await crowd(target),
        await unread(target),
    ]


@dataclass(slots=True)
class Measured:
    """CPU, time and passed requests of one slow attack since it began."""

    target: Target
    cpu: float
    passed: int
    began: float

    @staticmethod
    def start(target: Target) -> "Measured":
        """From now on."""
        return Measured(target, target.cpu_ms(), len(target.passed()), time.monotonic())

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def row(self, name: str, many: int, statuses: set[int], good_ms: float, *, refused: bool) -> Json:
        """The attack's row; the good call meanwhile is not counted as passed."""
        return {
            "family": SLOW,
            "attack": name,
            "statuses": sorted(statuses),
            "passed": len(self.target.passed()) - self.passed - 1,
            "cpu_ms": round((self.target.cpu_ms() - self.cpu) / many, 2),
            "seconds": round(self.seconds, 1),
            "good_call_ms": round(good_ms, 1),
            "refused": refused,
        }


async def dripping(target: Target, name: str, first: bytes, drip: bytes, *, within_s: float) -> Json:
    """Connections that send a little every second; each must be ended with 408 or closed in time."""
    measured = Measured.start(target)
    tasks = [
        asyncio.create_task(_drip(target.port, first, drip, measured.began + 30)) for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(2)
    good_ms = await asyncio.to_thread(target.good_call_ms)
    statuses = set(await asyncio.gather(*tasks))
    refused = measured.seconds < within_s and statuses <= {0, 408}
    return measured.row(f"{CONNECTIONS} connections: {name}", CONNECTIONS, statuses, good_ms, refused=refused)


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
        raw = await answer if answer.done() else b"HTTP/1.1 -1 "
        return int(raw.split()[1]) if raw else 0
    except OSError:
        return 0
    finally:
        answer.cancel()
        writer.close()


async def crowd(target: Target) -> Json:
    """More silent connections than are allowed: those beyond get 503 at once."""
    measured = Measured.start(target)
    held = [await asyncio.open_connection("127.0.0.1", target.port) for _ in range(CROWD)]
    first = await asyncio.gather(*(_first_bytes(reader) for reader, _ in held))
    turned_away = sum(raw.startswith(b"HTTP/1.1 503") for raw in first)
    for _, writer in held[: CROWD // 2]:
        writer.close()
    await asyncio.sleep(0.5)
    good_ms = await asyncio.to_thread(target.good_call_ms)
    for _, writer in held[CROWD // 2 :]:
        writer.close()
    name = f"{CROWD} silent connections where {MAX_CONNECTIONS} are allowed"
    refused = turned_away >= CROWD - MAX_CONNECTIONS - 10
    return measured.row(name, CROWD, {503}, good_ms, refused=refused)


async def _first_bytes(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(1):
            return await reader.read(64)
    return b""


async def unread(target: Target) -> Json:
    """Large answers nobody reads: each connection is dropped after the time a caller may take nothing."""
    measured, held = Measured.start(target), list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
    script = json.dumps({"do": "ok", "text": "x" * UNREAD_BYTES})
    for _ in range(5):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", target.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
        writer.write(chat_request(f"{measured.began} {script}"))
        held.append((reader, writer))
    await asyncio.sleep(4)
    good_ms = await asyncio.to_thread(target.good_call_ms)
    await asyncio.sleep(14)
    dropped = 0
    for reader, writer in held:
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # the same
        try:
            async with asyncio.timeout(5):
                dropped += len(await reader.read(-1)) < UNREAD_BYTES
        except (OSError, TimeoutError) as fault:
            dropped += not isinstance(fault, TimeoutError)
        writer.close()
    row = measured.row("5 answers of 6 MB nobody reads", 5, {200}, good_ms, refused=dropped == 5)
    return row | {"passed": row["passed"] - 5}


def attack_all(target: Target) -> Json:
    """Every attack, with good calls before and after."""
    before_ms = min(target.good_call_ms() for _ in range(5))
    rows = [replay(target, attack) for attack in attacks()] + asyncio.run(slow_attacks(target))
    return {
        "good_call_ms": [round(before_ms, 1), round(min(target.good_call_ms() for _ in range(5)), 1)],
        "canary_passed": CANARY.encode() in target.relay.sent,
        "rows": rows,
        "not_refused": [row for row in rows if not row["refused"]],
    }


def parts(facts: Json) -> dict[str, str]:
    """The measured parts of the page."""
    rows: list[Json] = facts["rows"]
    families = {name: list(many) for name, many in groupby(rows, lambda row: row["family"])}
    head = ("family", "attacks", "answered", "the sidecar saw", "most CPU ms one cost", "as it should be")
    table = [
        (
            name,
            len(many),
            _statuses({status for row in many for status in row["statuses"]}),
            "requests of our own" if any(row["passed"] > 0 for row in many) else "nothing",
            max(row["cpu_ms"] for row in many),
            f"{sum(row['refused'] for row in many)} of {len(many)}",
        )
        for name, many in families.items()
    ]
    costly = sorted(rows, key=lambda row: -row["cpu_ms"])[:10]
    slow = [(row["attack"], row["seconds"], row["cpu_ms"], row["good_call_ms"]) for row in families[SLOW]]
    before, after = facts["good_call_ms"]
    canary = "reached the sidecar" if facts["canary_passed"] else "never reached the sidecar"
    return {
        "families": report.table(head, table),
        "canary": f"The canary {canary}. A good call took {before} ms before and {after} ms after all of it.",
        "costly": report.table(
            ("attack", "CPU ms", "answered"),
            ((row["attack"], row["cpu_ms"], _statuses(set(row["statuses"]))) for row in costly),
        ),
        "slow": report.table(("attack", "seconds", "CPU ms each", "a good call meanwhile, ms"), slow),
    }


def _statuses(statuses: set[int]) -> str:
    return ", ".join(str(status) if status else "closed" for status in sorted(statuses))


def main() -> int:
    """Runs the attacks and writes the report."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    with run_stack(CONFIG, gateways=0) as stack:
        relay = RecordingRelay(stack.ports["sidecar-1"])
        try:
            name = stack.add_gateway(SETTINGS, [f"http://127.0.0.1:{relay.port}"])
            stack.start(name)
            facts = attack_all(Target(stack.ports[name], stack.pid(name), relay))
        finally:
            relay.close()
    texts = parts(facts)
    outcomes = {name: f"{len(list(many))} attacks" for name, many in groupby(facts["rows"], _family)}
    small = {key: facts[key] for key in ("good_call_ms", "canary_passed", "not_refused")}
    report.write("attack", small | {"families": outcomes}, texts, given.out)
    print("\n".join(texts.values()))
    for row in facts["not_refused"]:
        print(f"not as it should be: {row}")
    return 1 if facts["not_refused"] or facts["canary_passed"] else 0


def _family(row: Json) -> str:
    return str(row["family"])


if __name__ == "__main__":
    sys.exit(main())
