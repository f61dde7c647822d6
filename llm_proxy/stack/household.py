"""The parts that run: started, waited for, started again, stopped in order.

Invariants: a part is guarded by the watchdog from its first moment; the gateway ends first and the stores
last, for everybody writes to them until the end.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from llm_proxy.stack.part import Part, Running, start, stop, wait_until_ready
from llm_proxy.stack.supervise import Watched, supervise
from llm_proxy.stack.watchdog import Watchdog

Say = Callable[[str], None]
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
