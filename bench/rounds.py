"""Rounds of measurements: every subject in turn in each of them, and the medians.

Invariants: the first round only warms up; a ratio is the median of the rounds' own ratios, because both sides
of a round meet the same moment of the machine.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields

from bench.report import Json
from bench.testbed import Run, Subject

FIGURES = [one.name for one in fields(Run)]
Runs = dict[str, list[Run]]


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
    return round(statistics.median(ratios), 4)
