"""Keeps what a page read for a few seconds, so that a page that many reload is read once.

Invariants: an entry ends with its time and by nothing else; its key holds the scope of the viewer, so that
no viewer sees another's rows; of several requests for the same at once one reads; a failure is not kept.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")
KEEP_S = 5.0
MAX_ENTRIES = 200


@dataclass(slots=True)
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ends_at: float = float("-inf")
    result: Any = None


class ResultCache:
    """Results by key."""

    def __init__(self, keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, read: Callable[[], Awaitable[Result]]) -> Result:
        """Returns the kept result of a key, or reads it; raises what `read` raises."""
        entry = self._entries.pop(key, None) or _Entry()
        self._entries[key] = entry  # the latest used last
        if len(self._entries) > MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        async with entry.lock:
            if entry.ends_at <= self._clock():
                entry.result = await read()
                entry.ends_at = self._clock() + self._keep_s
            result: Result = entry.result
        return result
