"""A long steady load on one gateway and one sidecar: does memory grow, do answers slow, is a record lost?

    make soak MINUTES=60

Writes `docs/soak.json`, `docs/soak.svg` and `docs/soak.md` (or below `--out`), the first every five minutes.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.account import Account, compare, records, seen
from bench.curves import Panel, draw
from bench.rig import KEY, Rig, rig, write_json
from bench.traffic import Made, Traffic
from bench.words import soak_page

Json = dict[str, Any]
WATCHED = ("gateway-1", "sidecar-1", "limits", "cache")
SAMPLE_S = 10.0
WARM_MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through a curve after the warm-up, by least squares.

    Attributes:
        per_hour: Its rise an hour.
        spread: Standard deviation of the residuals, in the curve's unit.
    """

    per_hour: float
    spread: float
    first: float
    last: float
    samples: int


def slope(points: list[tuple[float, float]], after_minutes: float) -> Slope:
    """The line through what was sampled after the warm-up; all of it when the run was too short for that."""
    late = [point for point in points if point[0] >= after_minutes]
    used = late if len(late) >= 3 else points
    xs, ys = [x for x, _ in used], [y for _, y in used]
    if len(used) < 3:
        return Slope(0.0, 0.0, ys[0] if ys else 0.0, ys[-1] if ys else 0.0, len(used))
    line = statistics.linear_regression(xs, ys)
    off = [y - (line.slope * x + line.intercept) for x, y in used]
    return Slope(round(line.slope * 60, 3), round(statistics.pstdev(off), 3), ys[0], ys[-1], len(used))


def sample(house: Rig, minute: float) -> Json:
    """Memory, descriptors and processor time of each process, from /proc."""
    found: Json = {"minute": round(minute, 3), "load": os.getloadavg()[0]}
    for name in WATCHED:
        pid = house.pid(name)
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if " kB" in line}
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        found[name] = {
            "rss_mib": round(kib["VmRSS"] / 1024, 2),
            "peak_mib": round(kib["VmHWM"] / 1024, 2),
            "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        }
    return found


def by_minute(made: list[Made]) -> list[Json]:
    """Calls, errors and percentiles of whole answers and first frames, for each minute."""
    found: list[Json] = []
    minutes: dict[int, list[Made]] = {}
    for one in made:
        minutes.setdefault(int(one.began_s // 60), []).append(one)
    for minute, calls in sorted(minutes.items()):
        chat = [one.seconds * 1000 for one in calls if one.kind == "chat" and one.word == "ok"]
        first = [one.first_s * 1000 for one in calls if one.kind == "stream" and one.first_s is not None]
        wrong = Counter(f"{one.kind}: {one.word}" for one in calls if one.word and not one.well)
        found.append(
            {
                "minute": minute,
                "calls": len(calls),
                "errors": dict(wrong),
                "chat_ms": percentiles(chat),
                "first_frame_ms": percentiles(first),
            }
        )
    return found


def percentiles(values: list[float]) -> Json:
    """The middle, the 95th and the 99th, in the values' unit."""
    if len(values) < 2:
        return {"p50": None, "p95": None, "p99": None}
    cut = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cut[49], 1), "p95": round(cut[94], 1), "p99": round(cut[98], 1)}


async def soak(house: Rig, minutes: float, rate: float, out: Path) -> Json:
    """Load the house for so many minutes; the report."""
    traffic, stop = Traffic(house.gateways, KEY, rate=rate), asyncio.Event()
    running = asyncio.create_task(traffic.run(stop))
    await asyncio.sleep(0)
    samples: list[Json] = []
    began = time.monotonic()
    while (gone := time.monotonic() - began) < minutes * 60:
        samples.append(sample(house, gone / 60))
        if len(samples) % 30 == 0:
            write_json(out / "soak.json", report(samples, traffic.made, None, minutes, rate))
        await asyncio.sleep(max(0.0, began + len(samples) * SAMPLE_S - time.monotonic()))
    stop.set()
    await running
    await asyncio.sleep(1)
    samples.append(sample(house, (time.monotonic() - began) / 60))
    kept = await records(house.database_url, 30)
    account = compare(traffic.made, seen(house.seen), kept)
    return report(samples, traffic.made, account, minutes, rate)


def report(
    samples: list[Json], made: list[Made], account: Account | None, minutes: float, rate: float
) -> Json:
    """Everything measured."""
    curves = {name: [(one["minute"], one[name]["rss_mib"]) for one in samples] for name in WATCHED}
    descriptors = [(one["minute"], float(one["gateway-1"]["descriptors"])) for one in samples]
    shapes = by_minute(made)
    middle = [(float(one["minute"]), one["chat_ms"]["p50"]) for one in shapes if one["chat_ms"]["p50"]]
    warm = min(WARM_MINUTES, minutes / 3)
    lines = {f"{name} rss_mib": slope(points, warm) for name, points in curves.items()}
    lines |= {"gateway-1 descriptors": slope(descriptors, warm), "chat p50_ms": slope(middle, warm)}
    late = {f"{name} rss_mib": slope(points, minutes / 2) for name, points in curves.items()}
    ended = [one for one in made if one.word]
    return {
        "minutes": minutes,
        "rate_per_s": rate,
        "warm_minutes": warm,
        "cores": os.cpu_count(),
        "calls": len(ended),
        "kinds": dict(Counter(one.kind for one in ended)),
        "errors": dict(Counter(f"{one.kind}: {one.word}" for one in ended if not one.well)),
        "slopes": {name: asdict(line) for name, line in lines.items()},
        "slopes_of_the_second_half": {name: asdict(line) for name, line in late.items()},
        "account": account.as_json() if account else None,
        "by_minute": shapes,
        "samples": samples,
    }


def plot(found: Json) -> str:
    """The curves of a report."""
    samples, shapes = found["samples"], found["by_minute"]

    def curve(name: str, what: str) -> list[tuple[float, float]]:
        return [(one["minute"], one[name][what]) for one in samples]

    def latency(what: str, part: str) -> list[tuple[float, float]]:
        return [(one["minute"] + 0.5, one[what][part]) for one in shapes if one[what][part] is not None]

    panels = [
        Panel("Resident memory of the gateway, MiB", {"gateway": curve("gateway-1", "rss_mib")}),
        Panel("Resident memory of the sidecar, MiB", {"sidecar": curve("sidecar-1", "rss_mib")}),
        Panel("Whole chat answers, ms", {part: latency("chat_ms", part) for part in ("p50", "p95", "p99")}),
        Panel(
            "First frame of a stream, ms", {part: latency("first_frame_ms", part) for part in ("p50", "p95")}
        ),
        Panel("Open descriptors", {"gateway": curve("gateway-1", "descriptors")}),
        Panel("Load of the whole machine", {"1 min": [(one["minute"], one["load"]) for one in samples]}),
    ]
    return draw(f"{found['minutes']:g} minutes at {found['rate_per_s']:g} calls a second", panels)


def main() -> None:
    """Run the soak and write its report."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--minutes", type=float, default=60)
    flags.add_argument("--rate", type=float, default=15, help="calls a second")
    flags.add_argument("--out", type=Path, default=Path("docs"))
    asked = flags.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with rig(gateways=1, sidecars=1) as house:
        print(f"running; logs in {house.folder}/logs", flush=True)
        found = asyncio.run(soak(house, asked.minutes, asked.rate, asked.out))
    write_json(asked.out / "soak.json", found)
    (asked.out / "soak.svg").write_text(plot(found), encoding="utf-8")
    (asked.out / "soak.md").write_text(soak_page(found), encoding="utf-8")
    print(
        f"{asked.out}/soak.md: {found['calls']} calls, {found['errors'] or 'no errors'}, {found['account']}"
    )


if __name__ == "__main__":
    main()
