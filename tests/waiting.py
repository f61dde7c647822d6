"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], patience_s: float = 30) -> None:
    """Waits until a condition holds; fails after `patience_s`."""
    end_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.02)
