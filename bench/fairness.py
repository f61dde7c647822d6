"""Whether a flood slows others: p95 of light tenants and of interactive calls, alone and beside it.

    python -m bench.fairness [--seconds 20] [--model bench-varied]

A gateway with `SLOTS` slots stands before an upstream that needs about 250 ms for a call. Nine tenants with
two callers each run alone, then beside one tenant with 200 callers; eight interactive callers run alone, then
beside 200 batch callers: all in one run. A caller sends one call after another; one that is rejected waits as
`Retry-After` says. Exits 1 when a target is missed; writes docs/fairness.md when both models were run.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from running_stack import KEY
from stack_processes import StackProcesses, gateway_spec

from bench import ROOT
from bench.testbed import upstream_spec
from llm_proxy.stack.probe import free_port

SLOTS, LIGHT, EACH, FLOOD, PEOPLE = 20, 9, 2, 200, 8
WARM_UP_S = 2.0
MODELS = ("bench-varied", "bench-250ms")
MOST_LIGHT, MOST_INTERACTIVE = 1.3, 1.05
SETTINGS = {
    "LLM_PROXY__MAX_IN_FLIGHT": str(SLOTS),
    "LLM_PROXY__MAX_WAITING": "100",
    "LLM_PROXY__QUEUE_TIMEOUT_MS": "5000",
    "LLM_PROXY__LOG_LEVEL": "ERROR",
}


@dataclass(slots=True)
class Group:
    """Callers with the same headers, as `tenants` tenants; what they saw after the warm-up."""

    name: str
    tenants: int
    callers: int
    headers: str = ""
    times_s: list[float] = field(default_factory=list[float])
    rejected: int = 0
    served: int = 0

    @property
    def p95_ms(self) -> float:
        """The 95th percentile of its good answers."""
        return statistics.quantiles(self.times_s, n=20)[18] * 1000

    @property
    def p50_ms(self) -> float:
        """Their median."""
        return statistics.median(self.times_s) * 1000


def request(port: int, model: str, tenant: str, headers: str) -> bytes:
    """One chat call."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"X-Tenant-Id: {tenant}\r\n{headers}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def call_on(port: int, sent: bytes, group: Group, since: float) -> None:
    """Sends one call after another until cancelled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            began = time.perf_counter()
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = head.split(b" ", 2)[1]
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            await reader.readexactly(int(fields[b"content-length"]))
            if status == b"200":
                group.served += time.perf_counter() >= since
                if began >= since:
                    group.times_s.append(time.perf_counter() - began)
            else:
                group.rejected += began >= since
                await asyncio.sleep(float(fields.get(b"retry-after", b"1")))
    finally:
        writer.close()


async def run(port: int, model: str, seconds: float, *groups: Group) -> None:
    """Runs all callers of the groups at once."""
    since = time.perf_counter() + WARM_UP_S
    tasks = [
        asyncio.create_task(
            call_on(port, request(port, model, f"{one.name}-{tenant}", one.headers), one, since)
        )
        for one in groups
        for tenant in range(one.tenants)
        for _ in range(one.callers)
    ]
    await asyncio.sleep(WARM_UP_S + seconds)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(1.0)


Row = tuple[str, str, float, float, float, float]


async def measure(port: int, model: str, seconds: float) -> list[Row]:
    """The two comparisons of a model: what, then p95 alone and beside the flood, their ratio, its bound."""
    rows: list[Row] = []
    batch = "X-Priority: batch\r\n"
    for what, light, flood, most in (
        ("nine tenants", (LIGHT, EACH, ""), "", MOST_LIGHT),
        ("interactive calls", (1, PEOPLE, ""), batch, MOST_INTERACTIVE),
    ):
        alone, beside, heavy = Group("light", *light), Group("light", *light), Group("flood", 1, FLOOD, flood)
        await run(port, model, seconds, alone)
        await run(port, model, seconds, beside, heavy)
        ratio = beside.p95_ms / alone.p95_ms
        rows.append((model, what, alone.p95_ms, beside.p95_ms, ratio, most))
        served = heavy.served / seconds
        print(
            f"{model}: {what}: p50 {alone.p50_ms:.0f} -> {beside.p50_ms:.0f} ms,"
            f" p95 {alone.p95_ms:.0f} -> {beside.p95_ms:.0f} ms, {ratio:.3f} x (at most {most});"
            f" rejected {beside.rejected} of theirs; the flood: {served:.1f}/s served,"
            f" {heavy.rejected / seconds:.1f}/s rejected"
        )
    return rows


def write_page(rows: list[Row], seconds: float, out: Path) -> None:
    """Writes docs/fairness.md."""
    lines = [
        "# Fair when full, measured",
        "",
        f"A gateway with {SLOTS} slots and one worker before an upstream that answers after 250 ms",
        "(`bench-250ms`), or after 125 to 375 ms (`bench-varied`). Nine tenants with two callers each, alone",
        f"and beside one tenant with {FLOOD} callers; {PEOPLE} interactive callers, alone and beside {FLOOD}",
        f"callers of batch calls; {seconds:.0f} s each, in one run. Made by",
        "`.venv/bin/python -m bench.fairness`.",
        "",
        "| upstream | whose p95 | alone, ms | beside the flood, ms | ratio | at most |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(f"| `{m}` | {w} | {a:.0f} | {b:.0f} | {r:.2f} | {most} |" for m, w, a, b, r, most in rows),
        "",
    ]
    (out / "fairness.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Measures, prints, and says by its exit whether every target was met."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--seconds", type=float, default=20)
    flags.add_argument("--model", choices=MODELS)
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="llm-proxy-fairness-") as folder:
        stack, port, upstream = StackProcesses(Path(folder)), free_port(), free_port()
        try:
            stack.add("upstream", upstream_spec(upstream), upstream)
            stack.start("upstream")
            stack.add("gateway", gateway_spec(port, stack.folder, [stack.url("upstream")], SETTINGS), port)
            stack.start("gateway")
            for model in (given.model,) if given.model else MODELS:
                rows += uvloop.run(measure(port, model, given.seconds))
        finally:
            stack.stop()
    if given.model is None:
        write_page(rows, given.seconds, given.out)
    sys.exit(any(ratio > most for *_, ratio, most in rows))


if __name__ == "__main__":
    main()
