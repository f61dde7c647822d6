"""Everything side by side in one run: `make bench`. Writes docs/benchmarks.md, .json and .svg.

Takes about 17 minutes, longer on a busy machine. Every subject is measured in turn in each round, so
that a busy moment hits all alike; figures are medians of the rounds. Ratios to the relays are medians of nine
rounds' own ratios; other ratios are those of the medians.
"""

import argparse
import json
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from bench import conditions, house, page, process_stats
from bench.house import DIRECT, FLOOR, GATEWAY, PORTKEY, RELAY, SIDECAR, STOCK, WHOLE, House
from bench.life import lives
from bench.quick import SLOW, cpu, frame, in_turn, median, ratio, unhurried
from bench.stand import Run, Stand, Subject, body, measure, standing
from bench.subjects import ROOT

LITELLM = frozenset({STOCK, SIDECAR, WHOLE})
HEAVY = LITELLM | {PORTKEY}
STREAMS_AT_ONCE = 50
FEW_STREAMS = 8
THOUSAND = 1000
RATIO_ROUNDS = 9
Facts = dict[str, object]


def table(
    of: list[Subject], rounds: int, run: Callable[[Subject], Run], failed: dict[str, str]
) -> dict[str, Facts]:
    """Medians of a measurement, by subject; a subject that cannot do it is noted and left out."""
    able: list[Subject] = []
    for one in of:
        try:
            run(one)
            able.append(one)
        except RuntimeError as fault:
            failed[one.name] = str(fault).splitlines()[-1][:200]
    found = in_turn(rounds, able, run, warm=True)
    return {
        name: {field: round(median(runs, attrgetter(field)), 3) for field in Run.__dataclass_fields__}
        for name, runs in found.items()
    }


def calls(found: House, rounds: int, failed: dict[str, str]) -> dict[str, dict[str, Facts]]:
    """JSON calls at 1, 16 and 128 connections, by that number."""
    everybody = [*found.subjects.values()]
    return {
        "1": table(everybody, 1, lambda one: measure(one, body(), connections=1, seconds=1.0), failed),
        "16": table(everybody, max(rounds, 5), lambda one: measure(one, body(), seconds=1.5), failed),
        "128": table(everybody, 1, lambda one: measure(one, body(), connections=128, seconds=1.5), failed),
    }


def streams(found: House, rounds: int, failed: dict[str, str]) -> dict[str, Facts]:
    """Streams of 102 frames, one every 5 ms; LiteLLM gets fewer at once, or it would measure a queue."""

    def run(one: Subject) -> Run:
        at_once = FEW_STREAMS if one.name in LITELLM else STREAMS_AT_ONCE
        return measure(one, body(stream=True), connections=at_once, seconds=1.5)

    return table([*found.subjects.values()], rounds, run, failed)


def added(found: House, rounds: int, failed: dict[str, str]) -> dict[str, dict[str, dict[str, Facts]]]:
    """Against an upstream that takes 50 ms, by callers: whole answers and, for longer, streams."""
    everybody = [*found.subjects.values()]
    light = [one for one in everybody if one.name not in HEAVY]
    whole, stream = SLOW

    def by(callers: int, of: list[Subject]) -> dict[str, dict[str, Facts]]:
        return {
            "json": table(of, rounds, lambda one: unhurried(one, whole, callers), failed),
            "stream": table(of, rounds, lambda one: unhurried(one, stream, callers, 4.0), failed),
        }

    return {"4": by(4, everybody), "16": by(16, light)}


def thousand(stand: Stand, found: House) -> Facts:
    """A thousand streams at once through one worker, a frame a second each."""
    sent = body("bench-1hz", stream=True)
    seen = measure(found.subjects[GATEWAY], sent, connections=THOUSAND, requests=THOUSAND, seconds=20)
    peak_mb = process_stats.peak_rss_bytes(stand.pid(GATEWAY)) / 2**20
    facts = {"served": seen.served - seen.spoilt, "frames": seen.frames, "peak_rss_mb": round(peak_mb, 1)}
    return {**facts, "cpu_us_frame": round(seen.cpu_us_frame, 1), "first_p99_ms": round(seen.first_p99_ms, 1)}


def ratios(found: House) -> Facts:
    """The gateway beside the bare relays, round by round: what a moment does to one it does to the other."""
    relay, floor, gateway = (found.subjects[name] for name in (RELAY, FLOOR, GATEWAY))
    whole = in_turn(RATIO_ROUNDS, [floor, gateway], lambda one: measure(one, body(), seconds=1.5), warm=True)
    sent = body(stream=True)
    streamed = in_turn(
        RATIO_ROUNDS,
        [relay, gateway],
        lambda one: measure(one, sent, connections=STREAMS_AT_ONCE, seconds=1.5),
        warm=True,
    )
    return {
        "json": round(ratio(whole, GATEWAY, FLOOR, cpu), 3),
        "frame": round(ratio(streamed, GATEWAY, RELAY, frame), 3),
    }


def refusals(found: House, rounds: int) -> Facts:
    """CPU of a refusal, in microseconds; a constant one is what uvicorn, or our connection, takes for it."""
    asked = {"uvicorn": (found.constant[0], 401), "connection": (found.constant[1], 401)}
    asked |= {str(status): (subject, status) for status, subject in found.refused.items()}
    return {
        name: round(
            median(
                [measure(subject, body(), seconds=1.0, status=status) for _ in range(rounds + 1)][1:],
                lambda run: run.cpu_us,
            ),
            1,
        )
        for name, (subject, status) in asked.items()
    }


def main() -> int:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--out", type=Path, default=ROOT / "docs")
    given = arguments.parse_args()
    rounds = min(max(given.rounds, 1), 9)
    failed: dict[str, str] = {}
    with standing() as stand:
        life = lives(stand)
        found = house.furnish(stand)
        facts: dict[str, object] = {
            "calls": calls(found, rounds, failed),
            "streams": streams(found, rounds, failed),
            "ratios": ratios(found),
            "added": added(found, rounds, failed),
            "refusals": refusals(found, rounds),
            "life": {"start_s": life.start_s, "cpu_s": life.cpu_s, "rss_mb": life.rss_mb},
            "thousand": thousand(stand, found),
        }
        facts["conditions"] = conditions.now(rounds)  # while the machine is as it was
    facts |= {"failed": failed, "missing": found.missing}
    assert DIRECT in found.subjects  # noqa: S101 -- the page's first line
    given.out.mkdir(exist_ok=True)
    (given.out / "benchmarks.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    page.write(facts, given.out)
    print((given.out / "benchmarks.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
