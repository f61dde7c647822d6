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
IS_SAFE = sys.version_info >= (3, 12)
"""Whether CPython's own collections are."""


def collect_garbage(every_s: float = CHECK_S) -> None:
    """Collects what is due by `gc.get_threshold`, and goes on with it in the running loop."""
    if IS_SAFE:
        gc.enable()
        return
    gc.disable()
    due = [count > limit for count, limit in zip(gc.get_count(), gc.get_threshold(), strict=True)]
    if due[0] and gc.get_threshold()[0]:
        gc.collect(next((older for older in (2, 1) if all(due[1 : older + 1])), 0))
    asyncio.get_running_loop().call_later(every_s, collect_garbage, every_s)
