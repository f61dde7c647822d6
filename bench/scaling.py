"""Measures what one call costs each part of an installation, and derives from it what many calls need.

    python -m bench.scaling [--calls 6000]
    python -m bench.scaling --memory          the sidecars' memory alone; the other figures stay

A gateway with everything on stands before a static upstream, then before our sidecar; the CPU of every part
is divided by the calls. Sizes for 10 to 10,000 calls a second follow by arithmetic, three events by
`bench.scaling_events`. Writes docs/scaling.json and the tables of docs/scaling.md.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import httpx
from running_stack import MASTER_KEY
from sidecars import forked_sidecars_spec
from stack_processes import StackProcesses

from bench import ROOT, process_stats, report
from bench.scaling_events import StartCosts, failover, flood, start_storm
from bench.testbed import (
    BOTH,
    GATEWAY,
    PATH,
    SIDECAR,
    Subject,
    Testbed,
    body,
    litellm_config,
    measure,
    run_testbed,
    virtual_key,
)
from llm_proxy.stack.probe import free_port, is_up

RATES = (10, 100, 1_000, 10_000)
FRAMES_PER_S, STREAM_S = 50, 10
"""A stream as the tables count it: so many frames a second, so long."""
HEADROOM = 0.6
"""The share of a core that is planned for; the rest is for bursts and for a part that fails."""
POOL, DEFAULT_MAX_CONNECTIONS = 10, 100
KEYS, CONNECTIONS = 300, 100
FORKED, CALLS_EACH = 8, 200
LONGEST_S, READINGS = 60.0, 50


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs: CPU in microseconds, sizes in bytes.

    Attributes:
        gateway_us: Of a whole call in the gateway; `valkey_us` and `postgres_us` its limits and its record.
        sidecar_us: Of a whole call in LiteLLM behind it.
        frame_gateway_us: Of a frame of a stream; `frame_sidecar_us` in the sidecar.
        rejection_us: Of a 429 in the gateway.
        row_bytes: Of a record with its indexes.
        connection_us: Of a new connection, in Postgres.
        key_us: Of a key's first call, in Postgres, beyond what any call costs there.
        catalog_us: Of a worker's reading of the models, in a sidecar.
        gateway_mb: A worker's memory.
        sidecar_mb: Of each of `FORKED` sidecars after `CALLS_EACH` calls; `parent_mb` of their parent.
        connections: Connections to Postgres that one busy worker holds.
    """

    gateway_us: float
    valkey_us: float
    postgres_us: float
    sidecar_us: float
    frame_gateway_us: float
    frame_sidecar_us: float
    rejection_us: float
    row_bytes: float
    connection_us: float
    key_us: float
    catalog_us: float
    gateway_mb: float
    sidecar_mb: float
    parent_mb: float
    connections: int


def main() -> None:
    """Measures, derives, writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=6000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    costs = _with_new_memory(options.out) if options.memory else measure_costs(options.calls)
    parts = {"costs": cost_table(costs), "sizes": size_table(costs), "events": event_tables(costs)}
    report.write("scaling", asdict(costs), parts, options.out)
    print(parts["costs"], parts["sizes"], parts["events"], sep="\n")


def measure_costs(calls: int) -> Costs:
    """Measures a gateway before a static upstream, and the same gateway before our sidecar."""
    with run_testbed((GATEWAY,)) as bed:
        subject, stack = bed.subjects[GATEWAY], bed.stack
        measure(subject, body(), seconds=LONGEST_S, requests=500)
        _await_records(stack, 500)
        before = _part_cpu(stack)
        whole = measure(subject, body(), seconds=LONGEST_S, requests=calls)
        _await_records(stack, 500 + calls)
        after = _part_cpu(stack)
        stream = measure(subject, body(stream=True), seconds=LONGEST_S, requests=max(50, calls // 40))
        rejected = measure(bed.rejected[429], body(), seconds=LONGEST_S, requests=calls, status=429)
        count, connection_us, row_bytes = asyncio.run(_database_figures(stack))
        key_us = _key_us(bed, postgres_us=(after["postgres"] - before["postgres"]) / calls)
    sidecar_us, frame_sidecar_us, catalog_us = _sidecar(calls)
    parent_mb, sidecar_mb = _sidecar_memory()
    return Costs(
        gateway_us=whole.cpu_us,
        valkey_us=(after["limits"] - before["limits"]) / calls,
        postgres_us=(after["postgres"] - before["postgres"]) / calls,
        sidecar_us=sidecar_us,
        frame_gateway_us=stream.cpu_us_frame,
        frame_sidecar_us=frame_sidecar_us,
        rejection_us=rejected.cpu_us,
        row_bytes=row_bytes,
        connection_us=connection_us,
        key_us=key_us,
        catalog_us=catalog_us,
        gateway_mb=whole.rss_mb,
        sidecar_mb=sidecar_mb,
        parent_mb=parent_mb,
        connections=count,
    )


def _part_cpu(stack: StackProcesses) -> dict[str, float]:
    """CPU of the stores so far, in microseconds."""
    return {name: process_stats.cpu_s(stack.pid(name)) * 1e6 for name in ("limits", "postgres")}


def _await_records(stack: StackProcesses, calls: int) -> None:
    """Waits until so many records are written; raises `TimeoutError`."""
    deadline_s = time.monotonic() + LONGEST_S
    while asyncio.run(_count(stack)) < calls:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"fewer than {calls} records")
        time.sleep(0.5)


async def _count(stack: StackProcesses) -> int:
    connection = await asyncpg.connect(stack.database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM requests"))
    finally:
        await connection.close()


async def _database_figures(stack: StackProcesses) -> tuple[int, float, float]:
    """Connections of the gateway; CPU of a new connection; bytes of a record with its indexes."""
    connection = await asyncpg.connect(stack.database_url)
    held = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    )
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'requests'::regclass"
    )
    rows = await connection.fetchval("SELECT count(*) FROM requests")
    before = _part_cpu(stack)["postgres"]
    for _ in range(CONNECTIONS):
        await (await asyncpg.connect(stack.database_url)).close()
    connection_us = (_part_cpu(stack)["postgres"] - before) / CONNECTIONS
    await connection.close()
    return int(held) - 1, connection_us, float(size) / rows


def _key_us(bed: Testbed, postgres_us: float) -> float:
    """CPU in Postgres of a key's first call, beyond any call's own."""
    port = bed.subjects[GATEWAY].port
    keys = [virtual_key(port, name=f"once-{number}") for number in range(KEYS)]
    time.sleep(2)  # earlier records are written
    before, before_rows = _part_cpu(bed.stack)["postgres"], asyncio.run(_count(bed.stack))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for key in keys:
            sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            client.post(PATH, content=body(), headers=sent).raise_for_status()
    _await_records(bed.stack, before_rows + KEYS)
    return max(0.0, (_part_cpu(bed.stack)["postgres"] - before) / KEYS - postgres_us)


def _sidecar(calls: int) -> tuple[float, float, float]:
    """CPU of a call, of a frame and of a reading of the models in our sidecar."""
    with run_testbed((BOTH,)) as bed:
        both = bed.subjects[BOTH]
        alone = Subject(SIDECAR, both.port, (bed.stack.pid(SIDECAR),), both.key)
        few = max(100, calls // 10)
        measure(alone, body(), seconds=LONGEST_S, requests=200)
        whole = measure(alone, body(), seconds=LONGEST_S, requests=few)
        stream = measure(alone, body(stream=True), seconds=LONGEST_S, requests=max(20, few // 20))
        before = alone.cpu_s()
        with httpx.Client(base_url=bed.stack.url(SIDECAR)) as client:
            for _ in range(READINGS):
                sent = {"authorization": f"Bearer {MASTER_KEY}"}
                client.get("/llmp/catalog", headers=sent).raise_for_status()
        catalog_us = (alone.cpu_s() - before) / READINGS * 1e6
        return whole.cpu_us, stream.cpu_us_frame, catalog_us


def _sidecar_memory() -> tuple[float, float]:
    """Memory of a parent and of a sidecar that it forked, in MB; shared pages are divided among all."""
    with run_testbed((GATEWAY,)) as bed:
        file = litellm_config(bed.stack.folder, bed.stack.url("upstream"))
        ports = [free_port() for _ in range(FORKED)]
        bed.stack.add(
            "forked", forked_sidecars_spec(file, ports, {"LITELLM_MASTER_KEY": MASTER_KEY}), ports[0]
        )
        bed.stack.start("forked")
        parent = bed.stack.pid("forked")
        for port in ports:
            while not is_up(port, "/health/readiness"):
                time.sleep(0.1)
            forked = Subject(SIDECAR, port, (parent,), MASTER_KEY)
            measure(forked, body(), seconds=LONGEST_S, requests=CALLS_EACH)
        mb = {pid: process_stats.own_pss_bytes(pid) / 2**20 for pid in process_stats.tree(parent)}
        bed.stack.stop("forked")
    return mb.pop(parent), sum(mb.values()) / FORKED


def _with_new_memory(folder: Path) -> Costs:
    before = json.loads((folder / "scaling.json").read_text(encoding="utf-8"))
    parent_mb, sidecar_mb = _sidecar_memory()
    return Costs(**before | {"parent_mb": parent_mb, "sidecar_mb": sidecar_mb})


def cost_table(costs: Costs) -> str:
    """What one call costs each part, and what one core of it carries."""

    def row(what: str, us: float, unit: str) -> tuple[str, str, str]:
        return what, f"{us:,.0f} us", f"{1e6 / us:,.0f} {unit}/s"

    rows = [
        row("gateway: a whole call", costs.gateway_us, "calls"),
        row("gateway: a frame of a stream", costs.frame_gateway_us, "frames"),
        row("gateway: a 429", costs.rejection_us, "rejections"),
        row("sidecar: a whole call", costs.sidecar_us, "calls"),
        row("sidecar: a frame of a stream", costs.frame_sidecar_us, "frames"),
        row("limits store: the script and the settlement of a call", costs.valkey_us, "calls"),
        row("Postgres: a call's record, with its sums", costs.postgres_us, "rows"),
        row("Postgres: a new connection", costs.connection_us, "connections"),
        row("sidecar: a worker's reading of the models", costs.catalog_us, "readings"),
        row("Postgres: a key's first call at a worker", costs.key_us or 1.0, "keys"),
    ]
    memory = (
        f"Memory: a gateway's worker {costs.gateway_mb:.0f} MB; of {FORKED} sidecars of one parent each "
        f"{costs.sidecar_mb:.0f} MB after {CALLS_EACH} calls, their parent {costs.parent_mb:.0f} MB."
    )
    disk = f"A record takes {costs.row_bytes:,.0f} bytes with its indexes."
    return report.table(("", "CPU", "one core carries"), rows) + f"\n{memory} {disk}\n"


@dataclass(frozen=True, slots=True)
class Size:
    """What a rate of calls needs, half of them streams of `STREAM_S` seconds."""

    calls_per_s: int
    streams: float
    gateways: int
    sidecars: int
    valkey_cores: float
    postgres_cores: float
    connections: int
    disk_gb_day: float


def size_for(calls_per_s: int, costs: Costs) -> Size:
    """Returns what a rate of calls needs, by the measured costs and `HEADROOM`."""
    frames = calls_per_s / 2 * FRAMES_PER_S * STREAM_S
    gateway = (calls_per_s * costs.gateway_us + frames * costs.frame_gateway_us) / 1e6
    sidecar = (calls_per_s * costs.sidecar_us + frames * costs.frame_sidecar_us) / 1e6
    gateways = max(2, math.ceil(gateway / HEADROOM))
    return Size(
        calls_per_s=calls_per_s,
        streams=calls_per_s / 2 * STREAM_S,
        gateways=gateways,
        sidecars=max(2, math.ceil(sidecar / HEADROOM)),
        valkey_cores=calls_per_s * costs.valkey_us / 1e6,
        postgres_cores=calls_per_s * costs.postgres_us / 1e6,
        connections=gateways * POOL,
        disk_gb_day=calls_per_s * 86_400 * costs.row_bytes / 1e9,
    )


def size_table(costs: Costs) -> str:
    """What 10 to 10,000 calls a second need."""
    sizes = [size_for(rate, costs) for rate in RATES]

    def line(what: str, values: Iterator[str]) -> tuple[str, ...]:
        return (what, *values)

    rows = [
        line("streams at once", (f"{one.streams:,.0f}" for one in sizes)),
        line("gateways of one core", (f"{one.gateways:,}" for one in sizes)),
        line("sidecars of one core", (f"{one.sidecars:,}" for one in sizes)),
        line("limits store, cores (it has one)", (f"{one.valkey_cores:.2f}" for one in sizes)),
        line("Postgres, cores for records", (f"{one.postgres_cores:.2f}" for one in sizes)),
        line("connections to Postgres, at most", (f"{one.connections:,}" for one in sizes)),
        line("records on disk, GB a day", (f"{one.disk_gb_day:,.1f}" for one in sizes)),
        line("breaks first", (breaks_first(one) for one in sizes)),
    ]
    return report.table(("calls a second", *(f"{rate:,}" for rate in RATES)), rows)


def breaks_first(size: Size) -> str:
    """Returns the part that is nearest to its end, without replicas of its own."""
    used = {
        "sidecars (add more)": HEADROOM,
        "limits store": size.valkey_cores,
        "connections to Postgres": size.connections / DEFAULT_MAX_CONNECTIONS,
        "Postgres": size.postgres_cores / 4,
    }
    return max(used, key=lambda name: used[name])


_STORM = """All replicas start within a second, at 10,000 calls a second with 5,000 keys; how long look-ups in
Postgres wait:

"""
_FAILOVER = """
The limits store is away for 10 s and comes back on a standby that lags by 1 s; a key asks for twice its
limit; each replica admits its share:

"""
_FLOOD = """
A tenant floods ten workers that serve 1,000 calls a second, and is rejected; how long others' calls wait for
a worker:

"""


def event_tables(costs: Costs) -> str:
    """The three events as tables."""
    start = StartCosts(costs.connection_us / 1e6, costs.connection_us / 1e6, costs.key_us / 1e6)
    storms = [
        (replicas, cores, start_storm(replicas, 10_000, 5_000, start, database_cores=cores))
        for replicas in (10, 100)
        for cores in (1, 4)
    ]
    tables = [
        _STORM,
        report.table(
            ("replicas", "Postgres cores", "p50", "p99"),
            [(n, cores, f"{one.p50_ms:,.1f} ms", f"{one.p99_ms:,.0f} ms") for n, cores, one in storms],
        ),
        _FAILOVER,
        report.table(
            ("replicas", "limit a minute", "admitted, of what the limit allows", "counted again after it"),
            [
                (n, limit, f"{found.admitted_share:.0%}", f"{found.lost_share:.1%} of a minute's limit")
                for n in (2, 10, 100)
                for limit in (60, 6_000)
                for found in (failover(n, limit, 10.0, 1.0),)
            ],
        ),
        _FLOOD,
        report.table(
            ("rejections a second", "workers are busy", "p50", "p99"),
            [
                (f"{rate:,}", f"{used:.0%}", f"{waits.p50_ms:.2f} ms", f"{waits.p99_ms:,.1f} ms")
                for rate in (0, 10_000, 50_000, 100_000)
                for used, waits in (flood(10, 1_000, rate, costs.gateway_us / 1e6, costs.rejection_us / 1e6),)
            ],
        ),
    ]
    return "".join(tables)


if __name__ == "__main__":
    main()
