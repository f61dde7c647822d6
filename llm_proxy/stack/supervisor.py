"""Starts the stack's processes, restarts those that end, stops all of them in order.

Invariants: the orphan reaper knows a process from its start. A process that ends is named with its log
file and restarted after a growing pause; one that does not become ready `MAX_FAILURES` times in a row
ends the stack. The gateway stops first and the stores last, because every process writes to the stores
until it ends.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.background import report
from llm_proxy.stack.process import Part, PartDied, Running, Watchdog, start, stop, wait_until_ready

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


FIRST_TO_STOP, LAST_TO_STOP = ("gateway",), ("postgres", "valkey-")


class Household:
    """Everything this launcher has started."""

    def __init__(self, logs: Path | None, say: Say) -> None:
        self.logs = logs
        self._say = say
        self._watchdog = Watchdog()
        self._parts: dict[str, Running] = {}
        self._watched: dict[str, Watched] = {}
        self._began_s = time.monotonic()

    def start(self, part: Part) -> Running:
        """Starts a part, for the first time or again."""
        before = self._parts.get(part.name)
        running = self._parts[part.name] = start(part, self.logs)
        self._watchdog.guard(running.process.pid)
        if before:
            self._watchdog.forget(before.process.pid)
        return running

    def start_all(self, parts: Iterable[Part]) -> list[Running]:
        """Starts several, one after the other, without waiting for any."""
        return [self.start(part) for part in parts]

    def wait(self, parts: Iterable[Running]) -> None:
        """Waits until these are ready and says so of each; raises `PartDied`."""
        wait_until_ready(parts, lambda running: self._say(f"  {running.part.name:<14} {self.age_s():5.1f} s"))

    def watch(self, also: Callable[[float], None]) -> None:
        """Keeps everything up for ever, and calls `also` at every look; raises `PartDied`."""
        self._watched = {name: Watched(running) for name, running in self._parts.items()}
        supervise(self._watched, self.start, self._say, also)

    def running(self, name: str) -> Running:
        """A part as it runs now, perhaps not for the first time."""
        return self._parts[name]

    def exchange(self, old: Iterable[Running], new: Iterable[Running]) -> None:
        """From now on keeps the new ones up, and the old ones no longer."""
        for running in old:
            del self._watched[running.part.name]
        self._watched |= {running.part.name: Watched(running) for running in new}

    def end(self, parts: Iterable[Running]) -> None:
        """Stops parts that are not kept up."""
        ending = list(parts)
        stop(ending)
        for running in ending:
            self._watchdog.forget(running.process.pid)
            del self._parts[running.part.name]

    def age_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def stop(self) -> None:
        """Stops everything, and says which part had to be killed."""
        for at in range(3):
            for name in stop(running for running in self._parts.values() if _turn(running) == at):
                self._say(f"  {name} did not end by itself and was killed")
        for running in self._parts.values():
            self._watchdog.forget(running.process.pid)
        self._watchdog.close()


def _turn(running: Running) -> int:
    """When it is asked to stop: first, second or last."""
    if running.part.name.startswith(FIRST_TO_STOP):
        return 0
    return 2 if running.part.name.startswith(LAST_TO_STOP) else 1
