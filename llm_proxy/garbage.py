"""When a process that serves calls collects garbage.

Invariants: before Python 3.12 it collects between two callbacks of its event loop alone. CPython's own
collections come while objects are allocated: one in the middle of a change of a context variable, whose
garbage changes another variable, crashes the process. Later versions collect between two instructions.
Source: https://github.com/python/cpython/issues/148891.
"""

import asyncio
import gc
import sys

CHECK_S = 0.1
MAX_CHECK_S = 1.0
"""Between two checks while little is allocated."""
IS_SAFE = sys.version_info >= (3, 12)
"""Whether CPython's own collections are."""


def collect_garbage(every_s: float = CHECK_S) -> None:
    """Collects what is due by `gc.get_threshold`, and goes on with it in the running loop."""
    if IS_SAFE:
        gc.enable()
        return
    gc.disable()
    _collect_due(every_s, every_s, 0)


def _collect_due(every_s: float, pause_s: float, before: int) -> None:
    """Collects what is due, and schedules the next check: later, if little was allocated since `before`."""
    counts, limits = gc.get_count(), gc.get_threshold()
    is_quiet = (counts[0] - before) * MAX_CHECK_S < limits[0] * every_s
    due = [count > limit for count, limit in zip(counts, limits, strict=True)]
    if due[0] and limits[0]:
        gc.collect(next((older for older in (2, 1) if all(due[1 : older + 1])), 0))
    pause_s = min(2 * pause_s, MAX_CHECK_S) if is_quiet else every_s
    asyncio.get_running_loop().call_later(pause_s, _collect_due, every_s, pause_s, gc.get_count()[0])
