"""docs/benchmarks.md and its plot, from the facts of one run."""

from collections.abc import Iterable, Sequence
from math import log10
from pathlib import Path
from typing import Any

from bench.floors import beyond, floors
from bench.house import (
    DIRECT,
    FERRO,
    FLOOR,
    GATEWAY,
    LEAST,
    NGINX,
    PLAIN,
    PORTKEY,
    RELAY,
    SIDECAR,
    STOCK,
    WHOLE,
)

Facts = Any
DOES = {
    DIRECT: "the static upstream itself",
    RELAY: "plain ASGI and aiohttp: no key, no limits, no record",
    FLOOR: "the same, and one sliding window counted in Valkey a call",
    LEAST: "callbacks on bytes: no ASGI, no tasks, no client library, no error handling; the same window",
    GATEWAY: "virtual key, shared limits in Valkey, record in Postgres, log, metrics",
    PLAIN: "internal key, limits in the process, record on disk, log, metrics",
    FERRO: "Go; routing and metrics; no key asked, no shared limits, no stored record",
    NGINX: "C; a reverse proxy that only relays",
    PORTKEY: "Node; routing; no key asked, no limits, no record",
    SIDECAR: "LiteLLM with our launch and patches",
    WHOLE: "our gateway with everything on, before our sidecar",
    STOCK: "LiteLLM as its own command starts it, one worker, bytecode written",
}
WHY = {
    PORTKEY: """.
  Streams: this release appends to the headers of an answer that Node's `fetch` has made immutable
  (`TypeError: immutable` in its log); whole answers it serves."""
}
INTRO = """# Benchmarks

`make bench` measured all of this in one run on one machine ({rounds} rounds, medians); `make bench-quick`
repeats the ratios in a minute. CPU is user and system time of the subject's whole process tree, divided by
what it served: it moves less than wall time does, and both sides of a ratio move together. Read ratios, not
absolute figures; the two to the relays among the targets are medians of nine rounds' own ratios.

Other work may have run on the machine ({machine}): load average {load} at the end, the bench's included.
Waits for a processor are in every latency and in the start below; what a bare relay adds says how long they
are. While one subject is measured the others stand still (SIGSTOP), so that nobody's timers are in another's
figures; upstream and stores run on.

Every subject stands before the same static upstream, with one worker; load and upstream run on the same
machine. What each one does for its CPU differs:

"""

ADDED = """Milliseconds beyond asking the upstream itself. Each caller waits up to 20 ms between two calls:
without it their calls would leave in step, be answered in step, and what is measured is how long the last
of them stands in line.
"""


def write(facts: Facts, folder: Path) -> None:
    """The page and its plot."""
    calls, streams = facts["calls"], facts["streams"]
    said = facts["conditions"]
    parts = [
        INTRO.format(rounds=said["rounds"], load=said["load average at the end"], machine=said["machine"]),
        _rows(("subject", "what it does"), ((name, DOES[name]) for name in DOES if name in calls["16"])),
        "\n## The targets\n\n",
        _rows(("what", "measured", "target", ""), _targets(facts)),
        floors(facts),
        "\n## JSON calls\n\n![CPU a JSON call](benchmarks.svg)\n\n",
        *_calls(calls),
        *_streams(streams),
        "\n## What is added to an upstream that takes 50 ms\n\n",
        ADDED,
        *_added_tables(facts["added"]),
        _losses(facts),
        "\n## Conditions\n\n",
        "".join(f"* {name}: {_plain(value)}\n" for name, value in said.items()),
    ]
    (folder / "benchmarks.md").write_text("".join(parts), encoding="utf-8")
    (folder / "benchmarks.svg").write_text(
        plot({name: one["cpu_us"] for name, one in calls["16"].items()}), encoding="utf-8"
    )


def _calls(calls: Facts) -> Iterable[str]:
    return (
        _rows(
            ("16 connections", "CPU us a call", "calls/s", "p50 ms", "p99 ms", "RSS MB"),
            (
                (name, *_cells(one, "cpu_us", "per_second", "p50_ms", "p99_ms", "rss_mb"))
                for name, one in calls["16"].items()
            ),
        ),
        "\n",
        _rows(
            (
                "subject",
                "1: CPU us",
                "1: p50 ms",
                "1: p99 ms",
                "128: CPU us",
                "128: calls/s",
                "128: p50 ms",
                "128: p99 ms",
            ),
            (
                (
                    name,
                    *_cells(calls["1"].get(name), "cpu_us", "p50_ms", "p99_ms"),
                    *_cells(calls["128"].get(name), "cpu_us", "per_second", "p50_ms", "p99_ms"),
                )
                for name in calls["16"]
            ),
        ),
    )


def _streams(streams: Facts) -> Iterable[str]:
    return (
        "\n## Streams: 102 frames, one every 5 ms, 50 at once (8 where LiteLLM stands)\n\n",
        _rows(
            ("subject", "CPU us a frame", "CPU ms a stream", "first frame p50 ms", "p99 ms"),
            (
                (
                    name,
                    *_cells(one, "cpu_us_frame"),
                    f"{one['cpu_us'] / 1000:.2f}",
                    *_cells(one, "first_p50_ms", "first_p99_ms"),
                )
                for name, one in streams.items()
            ),
        ),
    )


def _targets(facts: Facts) -> Iterable[Sequence[str]]:
    calls, streams, added, thousand = (
        facts["calls"]["16"],
        facts["streams"],
        facts["added"],
        facts["thousand"],
    )
    yield _target("CPU a JSON call / bare relay + one Redis script", facts["ratios"]["json"], 1.3, "x")
    yield _target("CPU a stream frame / bare relay", facts["ratios"]["frame"], 1.15, "x")
    for callers, by in added.items():
        for kind, field, most, what in (
            ("json", "p50_ms", 0.5, "added latency p50"),
            ("stream", "first_p50_ms", 1.0, "added time to first frame p50"),
        ):
            ms = beyond(by[kind], GATEWAY, field)
            yield _target(f"{what}, 50 ms upstream, {callers} callers", ms, most, "ms")
    yield from _whole(calls, streams)
    yield "a constant refusal of uvicorn", f"{facts['refusals']['uvicorn']:.2f} us", "", ""
    yield "a constant refusal on our connection", f"{facts['refusals']['connection']:.2f} us", "", ""
    yield _target("a refusal 401", facts["refusals"]["401"], 60, "us")
    yield _target("a refusal 429", facts["refusals"]["429"], 120, "us")
    yield _target("memory at rest", facts["life"]["rss_mb"], 80, "MB")
    yield _target("start to live, wall", facts["life"]["start_s"], 1.0, "s")
    yield "start to live, CPU", f"{facts['life']['cpu_s']:.2f} s", "", ""
    yield _target("1,000 streams at 1 frame/s: memory at most", thousand["peak_rss_mb"], 250, "MB")
    yield (
        "1,000 streams at 1 frame/s: served",
        str(thousand["served"]),
        "1000",
        "ok" if thousand["served"] == 1000 else "missed",
    )
    if FERRO in calls:
        yield (
            "CPU a JSON call / ferrogw",
            f"{calls[GATEWAY]['cpu_us'] / calls[FERRO]['cpu_us']:.2f} x",
            "as near as it goes",
            "",
        )


def _whole(calls: Facts, streams: Facts) -> Iterable[Sequence[str]]:
    """Gateway and sidecar together, beside LiteLLM as it comes."""
    for what, seen in (("JSON call", calls), ("stream", streams)):
        if STOCK in seen and WHOLE in seen:
            ratio = seen[WHOLE]["cpu_us"] / seen[STOCK]["cpu_us"]
            yield _target(f"gateway + our sidecar / LiteLLM: CPU a {what}", ratio, 1.0, "x")


def _target(what: str, value: float, most: float, unit: str) -> Sequence[str]:
    return what, f"{value:.2f} {unit}", f"<= {most:g} {unit}", "ok" if value <= most else "missed"


def _added_tables(added: Facts) -> Iterable[str]:
    heads = ("subject", "p50", "p99", "first frame p50", "first frame p99")
    for callers, by in added.items():
        yield f"\n{callers} callers:\n\n"
        yield _rows(heads, _added(by["json"], by["stream"]))


def _added(whole: Facts, stream: Facts) -> Iterable[Sequence[str]]:
    for name in whole:
        if name == DIRECT:
            continue
        cells = [f"{beyond(whole, name, one):.2f}" for one in ("p50_ms", "p99_ms")]
        first = ["", ""]
        if name in stream:
            first = [f"{beyond(stream, name, one):.2f}" for one in ("first_p50_ms", "first_p99_ms")]
        yield name, *cells, *first


def _losses(facts: Facts) -> str:
    lines = [
        f"* {name} could not do all of it: `{why}`{WHY.get(name, '')}\n"
        for name, why in facts["failed"].items()
    ]
    lines += [f"* {name} was not installed.\n" for name in facts["missing"]]
    lines += [
        f"* {name}, {field.replace('_', ' ')}: a target missed on this machine in this run.\n"
        for name, field, _, verdict in _targets(facts)
        if verdict == "missed"
    ]
    return "\n## Losses\n\n" + ("".join(lines) or "None in this run.\n")


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:" if len(heads) > 2 else "---"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(one: Facts, *fields: str) -> list[str]:
    return [f"{one[field]:,.1f}" if one else "-" for field in fields]


def _plain(value: object) -> str:
    return (
        ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)
    )


def plot(cpu_us: dict[str, float]) -> str:
    """Horizontal bars on a logarithmic scale, as SVG."""
    bars = sorted(cpu_us.items(), key=lambda pair: pair[1])
    longest = log10(bars[-1][1])
    height = 30 * len(bars) + 40
    style = 'font-family="sans-serif" font-size="13"'
    title = "CPU a JSON call, microseconds, 16 connections (logarithmic)"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" {style}>']
    lines.append(f'<text x="8" y="20" font-weight="bold">{title}</text>')
    for at, (name, value) in enumerate(bars):
        top, width = 36 + 30 * at, 380 * log10(value) / longest
        colour = "#2b6cb0" if name.startswith("llm-proxy") else "#a0aec0"
        lines.append(f'<text x="232" y="{top + 15}" text-anchor="end">{name}</text>')
        lines.append(f'<rect x="240" y="{top}" width="{width:.0f}" height="20" fill="{colour}"/>')
        lines.append(f'<text x="{248 + width:.0f}" y="{top + 15}">{value:,.0f}</text>')
    return "\n".join([*lines, "</svg>", ""])
