"""The gateway beside bare relays, ferrogw and LiteLLM, before one static upstream.

    make bench-quick        the targets, in about three minutes; ARGS="--json FILE" for machines
    make bench              everything, in about fifteen; writes docs/benchmarks.md, .svg and .json

CPU is user and system time of the process tree divided by what it served. Every subject is measured in turn
in each round, so that a busy moment hits all alike. Figures are medians of the rounds; ratios are medians of
the rounds' own ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench import ROOT, process_stats, report
from bench.report import Json
from bench.testbed import (
    BOTH,
    DIRECT,
    FERROGW,
    GATEWAY,
    LITELLM,
    RELAY,
    SCRIPTED,
    SIDECAR,
    Run,
    Subject,
    Testbed,
    body,
    measure,
    other_body,
    run_testbed,
)
from bench.upstream import NATIVE, OTHER_APIS

CALL, STREAM = body(), body(stream=True)
SLOW_CALL, SLOW_STREAM = body("bench-50ms"), body("bench-50ms", stream=True)
WITH_LITELLM = {LITELLM, SIDECAR, BOTH}
STREAMS, FEW_STREAMS, THOUSAND = 50, 8, 1000
CHAT = "chat"
LIBRARIES = ("uvicorn", "uvloop", "httptools", "hiredis", "asyncpg", "orjson", "aiohttp", "redis")
FIGURES = [one.name for one in fields(Run)]
Runs = dict[str, list[Run]]
Row = tuple[str, str, str, str]


def in_turn(of: Sequence[Subject], rounds: int, run: Callable[[Subject], Run]) -> Runs:
    """Each subject in turn; the first round only warms up."""
    found: Runs = {one.name: [] for one in of}
    for _ in range(rounds + 1):
        for one in of:
            found[one.name].append(run(one))
    return {name: runs[1:] for name, runs in found.items()}


def median(runs: Sequence[Run], figure: str) -> float:
    """The median of the rounds."""
    values: list[float] = [getattr(run, figure) for run in runs]
    return round(statistics.median(values), 3)


def medians(found: Runs) -> Json:
    """Subject -> figure -> median."""
    return {name: {one: median(runs, one) for one in FIGURES} for name, runs in found.items()}


def ratio(found: Runs, upper: str, lower: str, figure: str) -> float:
    """The median of the rounds' ratios."""
    runs = zip(found[upper], found[lower], strict=True)
    ratios: list[float] = [getattr(a, figure) / getattr(b, figure) for a, b in runs]
    return round(statistics.median(ratios), 3)


def calls(of: Sequence[Subject], rounds: int, connections: int = 16) -> Runs:
    """JSON calls on so many connections."""
    return in_turn(of, rounds, partial(measure, sent=CALL, connections=connections, seconds=1.0))


def streams(of: Sequence[Subject], rounds: int) -> Runs:
    """Streams of 102 frames, one every 5 ms; LiteLLM gets fewer at once, or it would measure a queue."""

    def run(one: Subject) -> Run:
        at_once = FEW_STREAMS if one.name in WITH_LITELLM else STREAMS
        return measure(one, STREAM, connections=at_once, seconds=1.5)

    return in_turn(of, rounds, run)


def slow_upstream(of: Sequence[Subject], rounds: int, callers: int) -> Json:
    """Against an upstream that takes 50 ms; each caller waits up to 20 ms between two calls.

    Without the wait their calls leave together, are answered together, and what is measured is how long the
    last of them stands in line.
    """
    slow = partial(measure, connections=callers, pause_ms=20)
    return {
        "json": medians(in_turn(of, rounds, partial(slow, sent=SLOW_CALL))),
        "stream": medians(in_turn(of, rounds, partial(slow, sent=SLOW_STREAM, seconds=3.0))),
    }


def other_apis(subject: Subject, rounds: int) -> Json:
    """Responses and Messages beside chats of the same model: `ratios` of their CPU a call and a frame."""
    asked = {
        f"{path.rpartition('/')[2].capitalize()}, {how}": (path, model)
        for path in OTHER_APIS
        for how, model in (("native", NATIVE), ("translated", "bench"))
    }
    of = [replace(subject, name=CHAT)]
    of += [replace(subject, name=name, path=path) for name, (path, _) in asked.items()]

    def run(one: Subject, *, stream: bool) -> Run:
        other = asked.get(one.name)
        sent = other_body(*other, stream=stream) if other else body(NATIVE, stream=stream)
        return measure(one, sent, connections=FEW_STREAMS, seconds=1.0)

    whole, streamed = (in_turn(of, rounds, partial(run, stream=stream)) for stream in (False, True))
    return {
        name: {
            "call": ratio(whole, name, CHAT, "cpu_us"),
            "frame": ratio(streamed, name, CHAT, "cpu_us_frame"),
        }
        for name in asked
    }


def rejections(bed: Testbed, rounds: int) -> Json:
    """CPU of a rejection; `uvicorn` is what the web server takes to answer everybody alike."""
    asked = {"uvicorn": (bed.constant, 401)} | {str(code): (one, code) for code, one in bed.rejected.items()}
    return {
        name: median([measure(one, CALL, seconds=0.7, status=code) for _ in range(rounds + 1)][1:], "cpu_us")
        for name, (one, code) in asked.items()
    }


def thousand(bed: Testbed) -> Json:
    """A thousand streams at once through one worker, a frame a second each."""
    sent, subject = body("bench-1hz", stream=True), bed.subjects[GATEWAY]
    run = measure(subject, sent, connections=THOUSAND, requests=THOUSAND, seconds=20)
    peak_mb = process_stats.peak_rss_bytes(subject.pids[0]) / 2**20
    return {"served": run.served - run.spoilt, "peak_rss_mb": round(peak_mb, 1)}


def quick(bed: Testbed) -> Json:
    """What the targets need."""
    of = [one for name, one in bed.subjects.items() if name in (RELAY, SCRIPTED, GATEWAY, FERROGW)]
    behind = [one for name, one in bed.subjects.items() if name in (LITELLM, BOTH)]
    light, light_streams = calls(of, 3), streams(of, 2)
    beside = [bed.subjects[name] for name in (DIRECT, SCRIPTED, GATEWAY)]
    return {
        "calls": {"16": medians(light | calls(behind, 1))},
        "streams": medians(light_streams | streams(behind, 1)),
        "ratios": {
            "json": ratio(light, GATEWAY, SCRIPTED, "cpu_us"),
            "frame": ratio(light_streams, GATEWAY, RELAY, "cpu_us_frame"),
        },
        "added": {"4": slow_upstream(beside, 1, 4)},
        "other_apis": {one.name: other_apis(one, 2) for one in behind if one.name == BOTH},
        "rejections": rejections(bed, 2),
        "starts": bed.starts,
    }


def everything(bed: Testbed, rounds: int) -> Json:
    """All of the page."""
    of = [*bed.subjects.values()]
    light = [one for one in of if one.name not in WITH_LITELLM]
    relays = [bed.subjects[name] for name in (RELAY, SCRIPTED, GATEWAY)]
    nine_calls, nine_streams = calls(relays, 9), streams(relays, 9)
    facts: Json = {
        "calls": {
            "1": medians(calls(of, 1, 1)),
            "16": medians(calls(of, max(rounds, 5))),
            "128": medians(calls(of, 1, 128)),
        },
        "streams": medians(streams(of, rounds)),
        "ratios": {
            "json": ratio(nine_calls, GATEWAY, SCRIPTED, "cpu_us"),
            "frame": ratio(nine_streams, GATEWAY, RELAY, "cpu_us_frame"),
        },
        "added": {"4": slow_upstream(of, rounds, 4), "16": slow_upstream(light, rounds, 16)},
        "other_apis": {name: other_apis(bed.subjects[name], rounds) for name in (BOTH, GATEWAY)},
        "rejections": rejections(bed, rounds),
        "starts": bed.starts,
        "thousand": thousand(bed),
    }
    return facts | {"conditions": conditions(rounds)}  # while the machine is as it was


def conditions(rounds: int) -> Json:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((one.partition(":")[2].strip() for one in lines if one.startswith("model name")), "?")
    python = ROOT / ".venv-sidecar" / "bin" / "python"
    script = "from importlib.metadata import version; print(version('litellm'))"
    litellm = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    return {
        "machine": f"{os.cpu_count()} cores, {model}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average at the end": round(os.getloadavg()[0], 1),
        "rounds": rounds,
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "LiteLLM": litellm.stdout.strip(),
    }


def beyond(of: Json, name: str, figure: str) -> float:
    """How much more than the upstream itself a subject took."""
    return float(of[name][figure] - of[DIRECT][figure])


def targets(facts: Json) -> Iterator[Row]:
    """What was measured, what it should be, and whether it is."""

    def row(what: str, value: float, unit: str, most: float | None = None) -> Row:
        verdict = "" if most is None else "ok" if value <= most else "missed"
        return what, f"{value:.2f} {unit}", "" if most is None else f"<= {most:g} {unit}", verdict

    calls, streams = facts["calls"]["16"], facts["streams"]
    yield row(f"CPU a JSON call / {SCRIPTED}", facts["ratios"]["json"], "x", 1.3)
    yield row(f"CPU a stream frame / {RELAY}", facts["ratios"]["frame"], "x", 1.15)
    for callers, by in facts["added"].items():
        behind = f"50 ms upstream, {callers} callers"
        yield row(f"added latency p50, {behind}", beyond(by["json"], GATEWAY, "p50_ms"), "ms", 0.5)
        first_ms = beyond(by["stream"], GATEWAY, "first_p50_ms")
        yield row(f"added time to first frame p50, {behind}", first_ms, "ms", 1.0)
    for what, of in (("JSON call", calls), ("stream", streams)):
        if LITELLM in of:
            value = of[BOTH]["cpu_us"] / of[LITELLM]["cpu_us"]
            yield row(f"gateway + our sidecar / LiteLLM: CPU a {what}", value, "x", 1.0)
    for name, by in facts["other_apis"].get(BOTH, {}).items():
        for what, value in by.items():
            yield row(f"{name} / chat: CPU a {what}", value, "x", 1.5)
    for name, most_us in (("uvicorn", None), ("401", 60), ("429", 120)):
        yield row(f"a rejection, {name}", facts["rejections"][name], "us", most_us)
    start_s, cpu_s, rss_mb = facts["starts"]
    yield row("start to live, wall", start_s, "s", 1.0)
    yield row("start to live, CPU", cpu_s, "s")
    yield row("memory at rest", rss_mb, "MB", 80)
    if "thousand" in facts:
        many = facts["thousand"]
        yield row("1,000 streams at 1 frame/s: memory at most", many["peak_rss_mb"], "MB", 250)
        yield row("1,000 streams at 1 frame/s: not served", THOUSAND - many["served"], "", 0)
    if FERROGW in calls:
        yield row("CPU a JSON call / ferrogw", calls[GATEWAY]["cpu_us"] / calls[FERROGW]["cpu_us"], "x")


def parts(facts: Json) -> dict[str, str]:
    """The measured parts of the page."""
    calls, rows = facts["calls"], [*targets(facts)]
    others = [("1", one) for one in ("cpu_us", "p50_ms", "p99_ms")]
    others += [("128", one) for one in ("cpu_us", "per_second", "p50_ms", "p99_ms")]
    missed = (f"{what}: {value}" for what, value, _, verdict in rows if verdict == "missed")
    return {
        "targets": report.table(("what", "measured", "target", ""), rows),
        "missed": report.bullets(missed),
        "calls": _figures(calls["16"], "cpu_us", "per_second", "p50_ms", "p99_ms", "rss_mb"),
        "connections": report.table(
            ("subject", *(f"{many}: {figure}" for many, figure in others)),
            ((name, *(f"{calls[many][name][one]:,.1f}" for many, one in others)) for name in calls["16"]),
        ),
        "streams": _figures(facts["streams"], "cpu_us_frame", "cpu_us", "first_p50_ms", "first_p99_ms"),
        "other apis": report.table(
            ("API", *(f"{one}: {what}" for one in facts["other_apis"] for what in ("call", "frame"))),
            (
                (name, *(f"{by[name][what]:.2f}" for by in facts["other_apis"].values() for what in by[name]))
                for name in facts["other_apis"][BOTH]
            ),
        ),
        **{f"added {callers}": _added(by["json"], by["stream"]) for callers, by in facts["added"].items()},
        "conditions": report.bullets(f"{name}: {value}" for name, value in facts["conditions"].items()),
    }


def _figures(of: Json, *figures: str) -> str:
    rows = ((name, *(f"{one[figure]:,.1f}" for figure in figures)) for name, one in of.items())
    return report.table(("subject", *figures), rows)


def _added(whole: Json, stream: Json) -> str:
    columns = [(whole, "p50_ms"), (whole, "p99_ms"), (stream, "first_p50_ms"), (stream, "first_p99_ms")]
    rows = (
        (name, *(f"{beyond(of, name, figure):.2f}" for of, figure in columns))
        for name in whole
        if name != DIRECT
    )
    return report.table(("subject", *(figure for _, figure in columns)), rows)


def main() -> int:
    """Measures and writes."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="only the targets")
    flags.add_argument("--no-litellm", action="store_true", help="quick: only the gateway")
    flags.add_argument("--json", type=Path, help="quick: a file for the targets")
    flags.add_argument("--rounds", type=int, default=3, choices=range(1, 10))
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    with run_testbed(litellm=not (given.quick and given.no_litellm)) as bed:
        facts = quick(bed) if given.quick else everything(bed, given.rounds)
    for row in targets(facts):
        print("{:<60} {:>10}  {:<10} {}".format(*row))
    print(f"load average {os.getloadavg()[0]:.1f}")
    if FERROGW not in facts["calls"]["16"]:
        print("ferrogw is not installed: sh scripts/bench_environment.sh")
    if given.json:
        given.json.write_text(json.dumps([*targets(facts)], indent=1) + "\n", encoding="utf-8")
    if not given.quick:
        cpu = {name: one["cpu_us"] for name, one in facts["calls"]["16"].items()}
        plot = report.bars("CPU a JSON call, microseconds, 16 connections (logarithmic)", cpu)
        kept = ("ratios", "other_apis", "rejections", "starts", "thousand", "conditions")
        small = {key: facts[key] for key in kept}
        report.write("benchmarks", small | {"cpu_us_a_call": cpu}, parts(facts), given.out, plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
