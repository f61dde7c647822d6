"""Keeps the parts of a running stack alive until somebody asks it to stop.

Invariants: a part that ends is named, with its log, and started again after a growing pause; one that does
not come up any more ends the whole stack. Pure decisions take the time as an argument.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_proxy.background import report
from llm_proxy.stack.part import Part, PartDied, Running

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
STEADY_AFTER_S = 60.0
"""A part that ran so long starts again with the first pause."""

MOST_FAILURES = 6
LOOK_EVERY_S = 0.1

Say = Callable[[str], None]
Start = Callable[[Part], Running]


@dataclass(slots=True)
class Watched:
    """A running part and how often it has failed of late.

    Attributes:
        failures: How often in a row it ended before it had run steadily.
        stillborn: How often in a row it ended before it was ready.
        again_at_s: When it is started again; None while it runs.
        announced: Whether it was ready since it was started, and that was told.
    """

    running: Running
    failures: int = 0
    stillborn: int = 0
    again_at_s: float | None = None
    announced: bool = True


def pause_s(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** max(0, failures - 1), LONGEST_PAUSE_S)


def supervise(parts: Mapping[str, Watched], start: Start, say: Say, also: Callable[[float], None]) -> None:
    """Watches the parts for ever, starting again what ends; raises `PartDied` when one cannot be kept up.

    Args:
        parts: Who is watched; may change between two looks.
        start: Starts a part again.
        say: Told what ended and came back.
        also: Called after every look, with the time.
    """
    while True:
        time.sleep(LOOK_EVERY_S)
        now_s = time.monotonic()
        for part in parts.values():
            look_after(part, start, say, now_s)
        attempt(also, now_s, say)


def attempt(also: Callable[[float], None], now_s: float, say: Say) -> None:
    """What is done after a look; unless a part cannot be kept up, its failure ends nothing that runs."""
    try:
        also(now_s)
    except PartDied:
        raise
    except Exception as fault:  # noqa: BLE001 -- the parts must outlive whatever an exchange meets
        if report("succession", fault):
            say(f"exchanging sidecars failed, what runs goes on: {type(fault).__name__}: {fault}")


def look_after(part: Watched, start: Start, say: Say, now_s: float) -> None:
    """One look at one part; raises `PartDied` when it has failed too often in a row."""
    if part.again_at_s is not None:
        if now_s >= part.again_at_s:
            part.running = start(part.running.part)
            part.again_at_s, part.announced = None, False
        return
    if part.running.alive():
        if not part.announced and part.running.ready():
            part.announced = True
            say(f"{part.running.part.name} is back")
        return
    _plan_restart(part, say, now_s)


def _plan_restart(part: Watched, say: Say, now_s: float) -> None:
    running = part.running
    steady = now_s - running.started_s > STEADY_AFTER_S
    part.failures = 1 if steady else part.failures + 1
    part.stillborn = 0 if part.announced else part.stillborn + 1
    ended = f"{running.part.name} ended with code {running.process.returncode}"
    if part.stillborn > MOST_FAILURES:
        raise PartDied(f"{ended}, for the {part.stillborn}th time; {running.last_words()}")
    wait_s = pause_s(part.failures)
    part.again_at_s = now_s + wait_s
    where = f" (log: {running.log})" if running.log else ""
    say(f"{ended}; starting it again in {wait_s:g} s{where}")
