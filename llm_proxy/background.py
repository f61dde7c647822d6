"""Background loops and tasks of a process; every loop and task of the gateway is made here.

Invariants: a loop ends when it is stopped or its step returns `LOOP_DONE`, never by an exception. A failure
is counted, logged with its traceback once per kind, and followed by a pause of at most `MAX_PAUSE_S`.
`stop` cancels and waits. `failing_loops` and `failure_counts` cover the whole process. Loops with an interval
of whole beats wake together: each wake-up of an idle process costs more than most steps.
"""

import asyncio
import logging
import os
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary, WeakSet

log = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 5.0
MAX_LOGGED_KINDS = 500
BEAT_S = 0.5
LOOP_DONE: Final = object()
"""A step returns it to end its loop."""

Step = Callable[[], Awaitable[object]]
Result = TypeVar("Result")


class FailureGuard:
    """Runs the steps of one loop; a failure is reported, never raised.

    Attributes:
        failing: Whether the last step failed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = False
        _guards.add(self)

    async def run(self, step: Step) -> object:
        """Returns the step's result; None when it failed."""
        task = asyncio.current_task()
        try:
            result = await step()
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            self._failed(error)  # something the step awaited was cancelled, not the step
        except Exception as error:  # noqa: BLE001 -- the loop outlives any exception of a step
            self._failed(error)
        else:
            if self.failing:
                self.failing = False
                log.warning("background work succeeds again", extra={"loop": self.name})
            return result
        return None

    def _failed(self, error: BaseException) -> None:
        self.failing = True
        report_failure(self.name, error)


class BackgroundLoop:
    """Runs a step repeatedly, a `pause` of `every_s` after the end of the last, until `stop`."""

    def __init__(self, name: str, step: Step, *, every_s: float = 0.0, at_once: bool = False) -> None:
        """With `at_once`, the first step does not wait for `every_s`."""
        self._guard = FailureGuard(name)
        self._step = step
        self._every_s = every_s
        self._first_s = 0.0 if at_once else every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts on the running event loop."""
        self._task = asyncio.create_task(self._run(), name=self._guard.name)

    async def run_once(self, step: Step) -> None:
        """Runs a step before the loop starts; a failure is reported and not raised."""
        await self._guard.run(step)

    async def wait_until_done(self, within_s: float) -> None:
        """Waits at most `within_s` seconds until the step returns `LOOP_DONE`."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within_s)

    async def stop(self) -> None:
        """Cancels the loop and waits for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Cancels the loop without waiting."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        await pause(self._first_s)
        while True:
            if await self._guard.run(self._step) is LOOP_DONE:
                return
            if self._guard.failing:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S
            await pause(self._every_s)


async def pause(seconds: float) -> None:
    """Sleeps; whole beats end with the process's last beat within them, as the pauses of others do."""
    if seconds < BEAT_S or seconds % BEAT_S:
        await asyncio.sleep(seconds)
        return
    loop = asyncio.get_running_loop()
    beats = _beats.setdefault(loop, {})
    now = loop.time() - _PHASE_S * (os.getpid() % 64)
    number = int((now + seconds) / BEAT_S)
    if number * BEAT_S - now < _PHASE_S:
        number += 1  # a timer that ended a moment early
    beat = beats.get(number)
    if beat is None:
        beat = beats[number] = asyncio.Event()
        loop.call_later(number * BEAT_S - now, lambda: beats.pop(number).set())
    await beat.wait()


class Started(Generator[Any, None, Result]):
    """A coroutine that has run up to its first wait; it goes on when it is awaited, once, in the same task.

    What the task does in between is done during that wait. Raises at once what ends the coroutine before it.
    """

    __slots__ = ("_first_wait", "_is_awaited", "_result", "_work")

    def __init__(self, work: Coroutine[Any, Any, Result]) -> None:
        self._work, self._is_awaited = work, False
        self._first_wait: Any = None
        self._result: tuple[Result] | None = None  # not its exception: that would hold this object in a cycle
        try:
            self._first_wait = work.send(None)
        except StopIteration as ended:
            self._result = (ended.value,)

    def __await__(self) -> Generator[Any, None, Result]:
        return self

    def send(self, value: None) -> Any:  # noqa: ANN401 -- what an event loop waits for
        """Goes on up to the next wait; the first time that is where the coroutine waits already."""
        if self._result is not None:
            raise StopIteration(*self._result)
        if not self._is_awaited:
            self._is_awaited = True
            return self._first_wait
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 -- the same; in three parts or one
        """Raises an error where the coroutine waits: the task was cancelled."""
        return self._work.throw(*error)


def spawn(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Starts a task that runs once, to its end; an exception of it is reported under this name."""

    def ended(task: asyncio.Task[None]) -> None:
        _spawned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report_failure(name, error)

    task = asyncio.create_task(work, name=name)
    _spawned.add(task)
    task.add_done_callback(ended)
    return task


def attempt(name: str, step: Callable[..., object], *given: object) -> None:
    """Runs a step whose failure must not keep the next one from running; its exception is reported."""
    try:
        step(*given)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the next step runs
        report_failure(name, error)


def report_failure(name: str, error: BaseException) -> bool:
    """Counts a failure; logs the first of its kind with its traceback. Returns whether it was logged."""
    _failures[name] += 1
    frames = traceback.extract_tb(error.__traceback__)
    kind = (name, type(error), frames[-1].filename if frames else "", frames[-1].lineno if frames else 0)
    if kind in _kinds or len(_kinds) >= MAX_LOGGED_KINDS:
        return False
    _kinds.add(kind)
    log.error("background work failed and goes on", exc_info=error, extra={"loop": name})
    return True


def failing_loops() -> list[str]:
    """Returns the names of the loops whose last step failed."""
    return sorted({guard.name for guard in _guards if guard.failing})


def failure_counts() -> Mapping[str, int]:
    """Returns the number of failures by name."""
    return _failures


_beats: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, asyncio.Event]] = WeakKeyDictionary()
"""Those that something waits for, by number."""
_PHASE_S = BEAT_S / 64
"""Processes of one machine have beats of their own: they do not query a store at the same moment."""
_guards: WeakSet[FailureGuard] = WeakSet()
_failures: Counter[str] = Counter()
_spawned: set[asyncio.Task[None]] = set()
"""The event loop itself keeps no task alive."""
_kinds: set[tuple[str, type[BaseException], str, int | None]] = set()
