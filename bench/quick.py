"""The ratios that matter, one a line, in about a minute: `make bench-quick`; `--json FILE` for machines.

CPU is user and system time of the process tree divided by what it served, in one run on one machine; each
ratio is the median of the rounds' ratios. A busy machine moves both sides alike.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import house
from bench.house import FERRO, FLOOR, GATEWAY, RELAY, STOCK, WHOLE, House
from bench.life import Life, lives
from bench.stand import Run, Subject, body, load_average, measure, standing

ROUNDS = 3
SLOW = (body("bench-50ms"), body("bench-50ms", stream=True))
Runs = dict[str, list[Run]]


@dataclass(frozen=True, slots=True)
class Line:
    """One result.

    Attributes:
        most: The target; None where there is none.
    """

    name: str
    value: float
    unit: str
    most: float | None = None

    def __str__(self) -> str:
        """The line as it is printed."""
        target = (
            ""
            if self.most is None
            else f"  target <= {self.most:g}  {'ok' if self.value <= self.most else 'MISSED'}"
        )
        return f"{self.name:<68} {self.value:8.2f} {self.unit:<3}{target}"


def in_turn(rounds: int, of: list[Subject], run: Callable[[Subject], Run], *, warm: bool = False) -> Runs:
    """Each subject in turn, so that a busy moment hits all alike; who is not warm gets a round more."""
    found: Runs = {one.name: [] for one in of}
    for turn in range(1 if warm else 0, rounds + 1):
        for one in of:
            seen = run(one)
            if turn:
                found[one.name].append(seen)
    return found


def ratio(runs: Runs, upper: str, lower: str, what: Callable[[Run], float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(what(a) / what(b) for a, b in zip(runs[upper], runs[lower], strict=True))


def median(runs: list[Run], what: Callable[[Run], float]) -> float:
    """The median of the rounds."""
    return statistics.median(map(what, runs))


def cpu(run: Run) -> float:
    """Microseconds a call."""
    return run.cpu_us


def frame(run: Run) -> float:
    """Microseconds a frame."""
    return run.cpu_us_frame


def gateway_lines(found: House) -> list[Line]:
    """The gateway beside the bare relays and ferrogw."""
    names = [name for name in (RELAY, FLOOR, GATEWAY, FERRO) if name in found.subjects]
    calls = in_turn(
        ROUNDS, [found.subjects[name] for name in names], lambda one: measure(one, body(), seconds=0.8)
    )
    streaming = [found.subjects[name] for name in names if name != FLOOR]
    streams = in_turn(
        ROUNDS - 1, streaming, lambda one: measure(one, body(stream=True), connections=50, seconds=1.0)
    )
    lines = [Line(f"{name}: CPU a JSON call", median(calls[name], cpu), "us") for name in names]
    lines += [Line(f"{one.name}: CPU a frame", median(streams[one.name], frame), "us") for one in streaming]
    lines += [
        Line(
            "llm-proxy / bare relay + one Redis script: CPU a JSON call",
            ratio(calls, GATEWAY, FLOOR, cpu),
            "x",
            1.3,
        ),
        Line("llm-proxy / bare relay: CPU a stream frame", ratio(streams, GATEWAY, RELAY, frame), "x", 1.15),
    ]
    if FERRO in calls:
        lines.append(Line("llm-proxy / ferrogw: CPU a JSON call", ratio(calls, GATEWAY, FERRO, cpu), "x"))
        lines.append(
            Line("llm-proxy / ferrogw: CPU a stream frame", ratio(streams, GATEWAY, FERRO, frame), "x")
        )
    return lines


def refusal_lines(found: House) -> list[Line]:
    """What a refusal costs, and what the web server under it does."""
    lines: list[Line] = []
    for subject, status, what, most_us in (
        (found.constant[0], 401, "uvicorn: CPU a constant refusal", None),
        (found.constant[1], 401, "our connection: CPU a constant refusal", None),
        (found.refused[401], 401, "llm-proxy: CPU a refusal 401", 60),
        (found.refused[429], 429, "llm-proxy: CPU a refusal 429", 120),
    ):
        runs = [measure(subject, body(), seconds=0.5, status=status) for _ in range(ROUNDS + 1)]
        lines.append(Line(what, median(runs[1:], cpu), "us", most_us))
    return lines


def latency_lines(found: House) -> list[Line]:
    """What is added to an upstream that takes 50 ms: by the gateway, and by a relay with a script call."""
    asked = [found.subjects[name] for name in (house.DIRECT, FLOOR, GATEWAY)]
    whole = in_turn(1, asked, lambda one: unhurried(one, SLOW[0]), warm=True)
    streamed = in_turn(1, asked, lambda one: unhurried(one, SLOW[1]), warm=True)

    def added(runs: Runs, name: str, what: Callable[[Run], float]) -> float:
        return median(runs[name], what) - median(runs[house.DIRECT], what)

    lines: list[Line] = []
    for name in (FLOOR, GATEWAY):
        most, most_first = (0.5, 1.0) if name == GATEWAY else (None, None)
        p50, first = added(whole, name, _p50), added(streamed, name, _first)
        lines.append(Line(f"{name}: added latency p50, 50 ms upstream", p50, "ms", most))
        lines.append(Line(f"{name}: added time to first frame p50", first, "ms", most_first))
    lines.append(
        Line(
            "llm-proxy: added latency p99, 50 ms upstream",
            added(whole, GATEWAY, _p99),
            "ms",
        )
    )
    return lines


def unhurried(subject: Subject, sent: str, callers: int = 4, seconds: float = 2.0) -> Run:
    """Callers that wait a little between two calls, each as long as it likes.

    Without the wait their calls leave together, are answered together, and what is measured is how long the
    last of them stands in line.
    """
    return measure(subject, sent, connections=callers, seconds=seconds, pause_ms=20)


def _p50(run: Run) -> float:
    return run.p50_ms


def _p99(run: Run) -> float:
    return run.p99_ms


def _first(run: Run) -> float:
    return run.first_p50_ms


def sidecar_lines(found: House) -> list[Line]:
    """Gateway and sidecar together beside LiteLLM alone."""
    both = [found.subjects[name] for name in (STOCK, WHOLE)]
    calls = in_turn(1, both, lambda one: measure(one, body(), seconds=1.5))
    streams = in_turn(
        1, both, lambda one: measure(one, body(stream=True), connections=8, seconds=2.0), warm=True
    )
    return [
        Line("LiteLLM: CPU a JSON call", median(calls[STOCK], cpu) / 1000, "ms"),
        Line("llm-proxy + our sidecar: CPU a JSON call", median(calls[WHOLE], cpu) / 1000, "ms"),
        Line("llm-proxy + our sidecar / LiteLLM: CPU a JSON call", ratio(calls, WHOLE, STOCK, cpu), "x", 1.0),
        Line("llm-proxy + our sidecar / LiteLLM: CPU a stream", ratio(streams, WHOLE, STOCK, cpu), "x", 1.0),
    ]


def life_lines(life: Life) -> list[Line]:
    """Start and rest."""
    return [
        Line("llm-proxy: memory at rest", life.rss_mb, "MB", 80),
        Line("llm-proxy: start to live", life.start_s, "s", 1.0),
    ]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--no-litellm", action="store_true", help="only the gateway: half the time")
    given = arguments.parse_args()
    with standing() as stand:
        rest = lives(stand)
        found = house.furnish(stand, litellm=not given.no_litellm, others=False)
        lines = [*gateway_lines(found), *refusal_lines(found), *latency_lines(found), *life_lines(rest)]
        if not given.no_litellm:
            lines += sidecar_lines(found)
    for line in lines:
        print(line)
    if found.missing:
        print(f"not installed, so not measured: {', '.join(found.missing)} (sh scripts/bench_environment.sh)")
    print(f"load average {load_average():.1f}")
    if given.json:
        facts = [
            {"name": one.name, "value": one.value, "unit": one.unit, "target": one.most} for one in lines
        ]
        given.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
