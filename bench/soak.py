"""A long steady load on one gateway and one sidecar: does memory grow, do answers slow, is a record missing?

make soak MINUTES=60        writes docs/soak.md, .svg and .json; exits with 1 when a record is missing
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from running_stack import KEY
from stack_processes import StackProcesses, run_stack

from bench import ROOT, process_stats, report
from bench.report import Json, Points
from bench.traffic import CONFIG, Call, Traffic, account

WATCHED = ("gateway-1", "sidecar-1", "limits", "cache")
SAMPLE_S = 10.0
WARM_MINUTES = 10.0
SETTINGS = {"LLM_PROXY__AGENT_RPM": "60"}
LOADS = (("below 5", 0.0, 5.0), ("5 to 9", 5.0, 9.0), ("above 9", 9.0, 1e9))


def sample(stack: StackProcesses, minute: float) -> Json:
    """Memory (MiB), open descriptors and CPU seconds of each process; the machine's load."""
    found: Json = {"minute": round(minute, 2), "load": os.getloadavg()[0]}
    for name in WATCHED:
        pid = stack.pid(name)
        memory, cpu = process_stats.rss_bytes(pid), process_stats.cpu_s(pid)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        found[name] = {"rss_mib": round(memory / 2**20, 2), "descriptors": files, "cpu_s": cpu}
    return found


def slope(points: Points, after_minute: float) -> Json:
    """A straight line by least squares through the points after a minute; its rise is one an hour."""
    late = [point for point in points if point[0] >= after_minute]
    used = late if len(late) > 2 else points
    if len(used) < 3:
        return {"first": 0.0, "last": 0.0, "per_hour": 0.0, "deviation": 0.0}
    rise, start = statistics.linear_regression(*zip(*used, strict=True))
    left = statistics.pstdev(y - rise * x - start for x, y in used)
    return {
        "first": used[0][1],
        "last": used[-1][1],
        "per_hour": round(rise * 60, 3),
        "deviation": round(left, 3),
    }


def latencies(calls: list[Call]) -> dict[int, Json]:
    """By minute: p50 and p99 of whole chat answers, p50 of first frames, in ms; unexpected outcomes."""
    minutes = defaultdict[int, list[Call]](list)
    for call in calls:
        minutes[int(call.began_s // 60)].append(call)
    found: dict[int, Json] = {}
    for minute, made in sorted(minutes.items()):
        chat = [one.seconds * 1000 for one in made if one.kind == "chat" and one.outcome == "ok"]
        first = [one.first_s * 1000 for one in made if one.kind == "stream" and one.first_s is not None]
        if len(chat) > 1 and len(first) > 1:
            cuts = statistics.quantiles(chat, n=100, method="inclusive")
            found[minute] = {
                "chat p50": round(cuts[49], 1),
                "chat p99": round(cuts[98], 1),
                "first frame p50": round(statistics.median(first), 1),
                "errors": sum(not one.expected for one in made),
            }
    return found


async def soak(stack: StackProcesses, minutes: float, rate: float) -> tuple[Json, str]:
    """Loads the stack for so many minutes; returns facts and plot."""
    traffic, stop = Traffic(stack.urls("gateway"), KEY, rate=rate), asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))
    samples, began = [sample(stack, 0)], time.monotonic()
    while (now := time.monotonic() - began) < minutes * 60:
        await asyncio.sleep(min(SAMPLE_S, minutes * 60 - now))
        samples.append(sample(stack, (time.monotonic() - began) / 60))
    stop.set()
    await running
    found = await account(traffic.calls, stack.provider_record, stack.database_url)
    by_minute = latencies(traffic.calls)
    facts = measured(samples, traffic.calls, by_minute, minutes) | {"rate_per_s": rate}
    facts |= {"account": found.as_json(), "holds": found.holds}
    return facts, plot(samples, by_minute, f"{minutes:g} minutes at {rate:g} calls a second")


def measured(samples: list[Json], calls: list[Call], by_minute: dict[int, Json], minutes: float) -> Json:
    """The lines through the curves, and what became of the calls."""
    curves: dict[str, Points] = {f"{name} rss_mib": curve(samples, name, "rss_mib") for name in WATCHED}
    curves["gateway-1 descriptors"] = curve(samples, "gateway-1", "descriptors")
    curves["chat p50_ms"] = [(minute, one["chat p50"]) for minute, one in by_minute.items()]
    warm = min(WARM_MINUTES, minutes / 3)
    spent = {name: samples[-1][name]["cpu_s"] - samples[0][name]["cpu_s"] for name in WATCHED[:2]}
    minute_of = {int(one["minute"]): one["load"] for one in samples}
    return {
        "minutes": minutes,
        "warm_minutes": round(warm, 1),
        "calls": dict(Counter(call.kind for call in calls)),
        "errors": dict(Counter(f"{call.kind}: {call.outcome}" for call in calls if not call.expected)),
        "slopes": {name: slope(points, warm) for name, points in curves.items()},
        "second_half": {name: slope(points, minutes / 2) for name, points in curves.items()},
        "cpu_ms_a_call": {name: round(1000 * cpu / max(1, len(calls)), 2) for name, cpu in spent.items()},
        "load": [min(one["load"] for one in samples), max(one["load"] for one in samples)],
        "by_load": [
            (name, [one for minute, one in by_minute.items() if low <= minute_of.get(minute, 0) < high])
            for name, low, high in LOADS
        ],
    }


def curve(samples: list[Json], name: str, what: str) -> Points:
    """One figure of one process by the minute."""
    return [(one["minute"], float(one[name][what])) for one in samples]


def plot(samples: list[Json], by_minute: dict[int, Json], title: str) -> str:
    """The curves."""

    def by_minutes(*names: str) -> dict[str, Points]:
        return {name: [(at + 0.5, one[name]) for at, one in by_minute.items()] for name in names}

    panels: dict[str, dict[str, Points]] = {
        "Resident memory of the gateway, MiB": {"gateway": curve(samples, "gateway-1", "rss_mib")},
        "Resident memory of the sidecar, MiB": {"sidecar": curve(samples, "sidecar-1", "rss_mib")},
        "Latency, ms": by_minutes("chat p50", "chat p99", "first frame p50"),
        "Open descriptors": {"gateway": curve(samples, "gateway-1", "descriptors")},
        "Load of the machine": {"1 minute": [(one["minute"], one["load"]) for one in samples]},
    }
    return report.curves(title, panels)


def parts(facts: Json) -> dict[str, str]:
    """The measured parts of the page."""
    head = ("curve", "first", "last", "rise an hour", "deviation")
    account = "{calls} calls, {at_provider} seen by the provider, {records} records. Lost: {lost}. Doubled: \
{doubled}. Repeated: {repeated}."
    loads = [
        (
            name,
            len(minutes),
            f"{statistics.median(one['chat p50'] for one in minutes):.0f}",
            f"{statistics.median(one['chat p99'] for one in minutes):.0f}",
            sum(one["errors"] for one in minutes),
        )
        for name, minutes in facts["by_load"]
        if minutes
    ]
    low, high = facts["load"]
    cpu = ", ".join(f"{name} {ms} ms" for name, ms in facts["cpu_ms_a_call"].items())
    return {
        "run": f"{facts['minutes']:g} minutes at {facts['rate_per_s']:g} calls a second; "
        f"the lines leave out the first {facts['warm_minutes']} minutes.",
        "slopes": report.table(head, ((name, *line.values()) for name, line in facts["slopes"].items())),
        "second half": report.table(
            head, ((name, *line.values()) for name, line in facts["second_half"].items())
        ),
        "calls": ", ".join(f"{count} {name}" for name, count in sorted(facts["calls"].items())) + ".",
        "errors": report.bullets(f"{count} {error}" for error, count in facts["errors"].items()),
        "account": account.format_map(facts["account"]),
        "conditions": f"CPU a call: {cpu}. Load of the machine: {low:.1f} to {high:.1f}.\n\n"
        + report.table(("load", "minutes", "median of p50, ms", "median of p99, ms", "errors"), loads),
    }


def main() -> int:
    """Runs the soak and writes its report."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--minutes", type=float, default=60)
    flags.add_argument("--rate", type=float, default=15, help="calls a second")
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    with run_stack(CONFIG, settings=SETTINGS, record=True) as stack:
        print(f"running; logs in {stack.folder}/logs", flush=True)
        facts, svg = asyncio.run(soak(stack, given.minutes, given.rate))
    texts = parts(facts)
    facts["by_load"] = [(name, len(minutes)) for name, minutes in facts["by_load"]]
    report.write("soak", facts, texts, given.out, svg)
    print("\n".join(texts.values()))
    return 0 if facts["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
