"""The gateway beside bare relays, ferrogw and LiteLLM, before one static upstream.

    make bench-quick        every target, in four minutes; ARGS="--only chain" measures a part
    make bench              the same with more rounds; writes docs/benchmarks.md, .svg and .json

CPU is user and system time of the process tree divided by what it served. Every subject is measured in turn
in each round, so that a busy moment hits all alike. Figures are medians of the rounds; ratios are medians of
the rounds' own ratios.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench import ROOT, process_stats, report
from bench.chain import chain, eight_sidecars
from bench.report import Json
from bench.rounds import Runs, in_turn, median, medians, ratio
from bench.targets import targets
from bench.testbed import (
    BOTH,
    CACHED_BOTH,
    CACHED_LITELLM,
    CACHED_SIDECAR,
    CONSTANT,
    DIRECT,
    FERROGW,
    GATEWAY,
    LITELLM,
    RELAY,
    SCRIPTED,
    SIDECAR,
    WITHOUT_STORES,
    Run,
    Subject,
    Testbed,
    body,
    measure,
    other_body,
    put_burst,
    run_testbed,
)
from bench.upstream import BUSY, BUSY_S, NATIVE, OTHER_APIS

CALL, STREAM = body(), body(stream=True)
SLOW_CALL, SLOW_STREAM = body("bench-50ms"), body("bench-50ms", stream=True)
STREAMS, FEW_STREAMS, THOUSAND = 50, 8, 1000
RATE, CHAIN_RATE = 200, 20
CHAT = "chat"
LIBRARIES = ("uvicorn", "uvloop", "httptools", "hiredis", "asyncpg", "orjson", "aiohttp", "redis")
CACHED = (CACHED_LITELLM, CACHED_SIDECAR, CACHED_BOTH)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds of the gateway beside the relays, and rounds of everything else."""

    relays: int
    rounds: int
    whole: bool


QUICK = Effort(relays=3, rounds=1, whole=False)


def calls(of: Sequence[Subject], rounds: int) -> Runs:
    """JSON calls on 16 connections."""
    return in_turn(of, rounds, partial(measure, sent=CALL, seconds=1.0))


def slow_upstream(of: Sequence[Subject], rounds: int, callers: int) -> Json:
    """Against an upstream that takes 50 ms; each caller waits up to 20 ms between two calls.

    Without the wait their calls leave together, are answered together, and what is measured is how long the
    last of them stands in line.
    """
    slow = partial(measure, connections=callers, pause_ms=20, seconds=1.2)
    kinds = ("json", SLOW_CALL, "p50_ms"), ("stream", SLOW_STREAM, "first_p50_ms")
    runs = {kind: in_turn(of, rounds, partial(slow, sent=sent)) for kind, sent, _ in kinds}
    ratios = {kind: ratio(runs[kind], GATEWAY, SCRIPTED, figure, beyond=DIRECT) for kind, _, figure in kinds}
    return {kind: medians(found) for kind, found in runs.items()} | {"ratios": ratios}


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
        return measure(one, sent, connections=FEW_STREAMS, seconds=0.8)

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


def thousand(subject: Subject) -> Json:
    """A thousand streams at once through one worker, twenty frames a second each."""
    sent = body(BUSY, stream=True)
    run = measure(subject, sent, connections=THOUSAND, requests=THOUSAND, seconds=20)
    peak_mb = process_stats.peak_rss_bytes(subject.pids[0]) / 2**20
    return {
        "not_served": THOUSAND - run.served + run.spoilt,
        "peak_rss_mb": round(peak_mb, 1),
        "cpu_us_frame": run.cpu_us_frame,
        "late_p99_ms": round(run.p99_ms - BUSY_S * 1000, 1),
    }


def of_gateway(bed: Testbed, effort: Effort) -> Json:
    """The gateway beside the relays and ferrogw."""
    of = [bed.subjects[name] for name in (RELAY, SCRIPTED, GATEWAY)]
    light = calls([*of, *(one for name, one in bed.subjects.items() if name == FERROGW)], effort.relays)
    streams = in_turn(of, effort.relays, partial(measure, sent=STREAM, connections=STREAMS, seconds=1.5))
    found: Json = {
        "calls": medians(light),
        "ratios": {
            "json": ratio(light, GATEWAY, SCRIPTED, "cpu_us"),
            "frame": ratio(streams, GATEWAY, RELAY, "cpu_us_frame"),
        },
        "rejections": rejections(bed, max(effort.rounds, 2)),
        "starts": bed.starts,
        "thousand": thousand(bed.subjects[GATEWAY]),
    }
    if FERROGW in light:
        found["ratios"]["ferrogw"] = ratio(light, GATEWAY, FERROGW, "cpu_us")
    return found


def of_latency(bed: Testbed, effort: Effort) -> Json:
    """What is added to an upstream that takes 50 ms, and ten times as many calls for one second."""
    beside = [
        bed.subjects[name] for name in (DIRECT, SCRIPTED, GATEWAY, SIDECAR, BOTH) if name in bed.subjects
    ]
    few = [one for one in beside if one.name not in (SIDECAR, BOTH)]
    rates = {SCRIPTED: RATE, GATEWAY: RATE} | ({BOTH: CHAIN_RATE} if effort.whole else {})
    added = {"4": slow_upstream(beside, effort.relays, 4)}
    if effort.whole:
        added["16"] = slow_upstream(few, effort.relays, 16)
    bursts = {
        name: put_burst(bed.subjects[name], SLOW_CALL, rate) | {"rate": rate} for name, rate in rates.items()
    }
    return {"added": added, "bursts": bursts}


def of_chain(bed: Testbed, effort: Effort) -> Json:
    """The chain beside LiteLLM as it comes."""
    return {"chain": chain(bed, effort.rounds)}


def of_other_apis(bed: Testbed, effort: Effort) -> Json:
    """Responses and Messages beside chats."""
    of = (BOTH, GATEWAY) if effort.whole else (BOTH,)
    return {"other_apis": {name: other_apis(bed.subjects[name], effort.rounds) for name in of}}


def of_eight(bed: Testbed, _: Effort) -> Json:
    """Eight sidecars."""
    return {"eight": eight_sidecars(bed)}


Part = tuple[Callable[[Testbed, Effort], Json], tuple[str, ...]]
PARTS: dict[str, Part] = {
    "chain": (of_chain, (LITELLM, RELAY, SIDECAR, BOTH, *CACHED)),
    "eight": (of_eight, ()),
    "apis": (of_other_apis, (SIDECAR, BOTH)),
    "gateway": (of_gateway, (RELAY, SCRIPTED, CONSTANT, GATEWAY, FERROGW)),
    "latency": (of_latency, (SCRIPTED, GATEWAY, SIDECAR, BOTH)),
}
"""What is measured, and the subjects it needs."""
ON_THE_PLOT = (RELAY, SCRIPTED, GATEWAY, WITHOUT_STORES, FERROGW, LITELLM, SIDECAR, BOTH)


def run(parts: Sequence[str], effort: Effort) -> Json:
    """The facts."""
    facts: Json = {}
    wanted = {name for part in parts for name in PARTS[part][1]} | ({*ON_THE_PLOT} if effort.whole else set())
    with run_testbed(wanted, starts=3 if "gateway" in parts else 0) as bed:
        for part in parts:
            facts |= PARTS[part][0](bed, effort)
        if effort.whole:
            shown = [bed.subjects[name] for name in ON_THE_PLOT if name in bed.subjects]
            facts["shown"] = {
                name: median(runs, "cpu_us") for name, runs in calls(shown, effort.rounds).items()
            }
            facts["conditions"] = conditions(effort)  # while the machine is as it was
    return facts


def conditions(effort: Effort) -> Json:
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
        "rounds": f"{effort.relays} of the gateway beside the relays, {effort.rounds} of everything else",
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "LiteLLM": litellm.stdout.strip(),
        "ferrogw": _ferrogw_version(),
    }


def _ferrogw_version() -> str:
    found = (ROOT / ".bench").glob("venv/lib/*/*/ferrogw-*.dist-info")
    return next((path.name.removesuffix(".dist-info").partition("-")[2] for path in found), "not installed")


def main() -> int:
    """Measures and writes."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="few rounds, no page")
    flags.add_argument("--only", choices=PARTS, action="append", help="quick: a part, or several")
    flags.add_argument("--json", type=Path, help="a file for the targets")
    flags.add_argument("--rounds", type=int, default=3, choices=range(1, 10))
    flags.add_argument("--out", type=Path, default=ROOT / "docs")
    given = flags.parse_args()
    if given.only and not given.quick:
        flags.error("--only is for --quick")
    effort = QUICK if given.quick else Effort(relays=12, rounds=given.rounds, whole=True)
    facts = run(given.only or list(PARTS), effort)
    rows = [*targets(facts)]
    for row in rows:
        print("{:<72} {:>10}  {:<10} {}".format(*row))
    print(f"load average {os.getloadavg()[0]:.1f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if effort.whole:
        plot = report.bars("CPU a JSON call, microseconds, 16 connections (logarithmic)", facts["shown"])
        page = {
            "targets": report.table(("what", "measured", "target", ""), rows),
            "conditions": report.bullets(f"{name}: {value}" for name, value in facts["conditions"].items()),
        }
        report.write("benchmarks", facts, page, given.out, plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
