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
    """Each subject in turn, every other round from the last to the first; the first round only warms up."""
    found: Runs = {one.name: [] for one in of}
    for number in range(rounds + 1):
        for one in of if number % 2 else reversed(of):
            found[one.name].append(run(one))
    return {name: runs[1:] for name, runs in found.items()}


def median(runs: Sequence[Run], figure: str) -> float:
    """The median of the rounds."""
    values: list[float] = [getattr(run, figure) for run in runs]
    return round(statistics.median(values), 3)


def medians(found: Runs) -> Json:
    """Subject -> figure -> median."""
    return {name: {one: median(runs, one) for one in FIGURES} for name, runs in found.items()}


def ratio(found: Runs, upper: str, lower: str, figure: str, beyond: str = "") -> float:
    """The median of the rounds' ratios; of what both have beyond a third subject, where one is named."""
    runs = zip(*(found[one] for one in (upper, lower, beyond) if one), strict=True)
    ratios = list[float]()
    for values in runs:
        above, below, *less = (float(getattr(one, figure)) for one in values)
        ratios.append((above - sum(less)) / (below - sum(less)))
    return round(statistics.median(ratios), 4)
