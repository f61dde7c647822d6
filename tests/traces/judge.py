"""What the loop guard finds in labelled runs: recall by kind, precision by signal, false stops."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import NamedTuple

from traces.loops import EVASIONS, LOOPS, LoopKind
from traces.runs import Heard, healthy_run, looping_run

KINDS: tuple[LoopKind, ...] = (*LOOPS, *EVASIONS)
HELD_OUT_SEED = 1_000_000
"""Seeds from here on were not run while thresholds were chosen, and their agents have other tools."""


class Judged(NamedTuple):
    """What became of one run: the kind in truth (None: healthy), and the first finding, if any.

    Attributes:
        after: Looping turns until then; below 0 while the run was still healthy.
    """

    kind: LoopKind | None
    signal: str | None
    after: int = 0
    turns: int = 0
    seed: int = 0


def judge(seed: int, kind: LoopKind | None, heard: list[Heard]) -> Judged:
    """Judges a run by its first finding, as `stop` would act on it."""
    started = next((one.turn for one in heard if one.looping), len(heard))
    first = next((one for one in heard if one.finding is not None), None)
    if first is None or first.finding is None:
        return Judged(kind, None, turns=len(heard), seed=seed)
    after = first.turn - started if first.looping else -1
    return Judged(kind, first.finding.signal, after, len(heard), seed)


@dataclass(slots=True)
class Figures:
    """The figures of a set of runs."""

    runs: Counter[str] = field(default_factory=Counter[str])
    found: Counter[str] = field(default_factory=Counter[str])
    signals: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])
    by_kind: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    after: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    false_seeds: list[int] = field(default_factory=list[int])
    healthy: int = 0
    healthy_turns: int = 0
    false_stops: int = 0

    def add(self, one: Judged) -> None:
        """Adds a run."""
        if one.kind is None:
            self.healthy += 1
            self.healthy_turns += one.turns
        else:
            self.runs[one.kind] += 1
        if one.signal is None:
            return
        self.signals[one.signal] += 1
        if one.kind is None or one.after < 0:
            self.wrong[one.signal] += 1
            self.false_stops += one.kind is None
            self.false_seeds.append(one.seed)
            return
        self.found[one.kind] += 1
        self.by_kind.setdefault(one.kind, Counter())[one.signal] += 1
        self.after.setdefault(one.kind, []).append(one.after)

    def kinds_table(self) -> list[str]:
        """Recall by kind of loop, as lines of a table."""
        lines = [
            "| kind of loop | runs | found | recall | by | median of turns until then |",
            "|---|--:|--:|--:|---|--:|",
        ]
        for kind in (one for one in KINDS if self.runs[one]):
            by = ", ".join(
                f"{name} {count}" for name, count in self.by_kind.get(kind, Counter()).most_common()
            )
            share = self.found[kind] / self.runs[kind]
            turns = f"{median(self.after[kind]):.0f}" if self.after.get(kind) else "-"
            lines.append(
                f"| {kind} | {self.runs[kind]} | {self.found[kind]} | {share:.1%} | {by or '-'} | {turns} |"
            )
        return lines

    def signals_table(self) -> list[str]:
        """Precision by signal, as lines of a table."""
        lines = ["| signal | findings | right | precision |", "|---|--:|--:|--:|"]
        for name in ("repeat", "cycle", "stall", "burst", "spend"):
            count, right = self.signals[name], self.signals[name] - self.wrong[name]
            lines.append(f"| {name} | {count} | {right} | {f'{right / count:.1%}' if count else '-'} |")
        return lines


def play(seed: int, kind: LoopKind | None, *, held_out: bool, parsed: bool) -> Judged:
    """Plays and judges one run."""
    if kind is None:
        return judge(seed, None, asyncio.run(healthy_run(seed, held_out=held_out, parsed=parsed)))
    return judge(seed, kind, asyncio.run(looping_run(seed, kind, held_out=held_out)))


def _play_one(job: tuple[int, LoopKind | None], *, held_out: bool, parsed: bool) -> Judged:
    return play(*job, held_out=held_out, parsed=parsed)


def figures(
    jobs: Iterable[tuple[int, LoopKind | None]], *, held_out: bool, parsed: bool = True, workers: int = 1
) -> Figures:
    """Returns the figures of these runs: a seed and a kind each, None for a healthy one."""
    found = Figures()
    one = partial(_play_one, held_out=held_out, parsed=parsed)
    if workers == 1:
        for judged in map(one, jobs):
            found.add(judged)
        return found
    with ProcessPoolExecutor(workers) as pool:
        for judged in pool.map(one, jobs, chunksize=20):
            found.add(judged)
    return found


def labelled(per_kind: int, healthy: int, first_seed: int) -> list[tuple[int, LoopKind | None]]:
    """Returns a labelled set: so many runs of each kind, and so many healthy ones."""
    jobs: list[tuple[int, LoopKind | None]] = [
        (first_seed + at * 100 + number, kind) for at, kind in enumerate(KINDS) for number in range(per_kind)
    ]
    return jobs + [(first_seed + 10_000 + number, None) for number in range(healthy)]
