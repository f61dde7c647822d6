"""Requests in a sliding window: exactly so many in any 60 s, whenever the 60 s begin.

Pure: takes times, gives counts and waits; `admit.lua` does the same inside the store.
Invariant: a request admitted exactly one window ago no longer counts.
Units: integer milliseconds, all of one clock.
"""

from collections import deque

WINDOW_MS = 60_000


def forget(times: deque[int], now_ms: int) -> None:
    """Drop what no longer counts; times are in the order of admission."""
    while times and times[0] <= now_ms - WINDOW_MS:
        times.popleft()


def wait_ms(times: deque[int], now_ms: int, *, limit: int, want: int = 1) -> int:
    """How long until `want` more requests fit, 0 when they fit now; `want` is at most `limit`."""
    over = len(times) + want - limit
    return times[over - 1] + WINDOW_MS - now_ms if over > 0 else 0


def reset_ms(times: deque[int], now_ms: int) -> int:
    """How long until the window is empty again."""
    return times[-1] + WINDOW_MS - now_ms if times else 0
