"""The workers of one gateway tell each other how the models fare: a file in each one's seat, read when asked.

Invariants: written whole, once a second at most, only when something changed; a file that cannot be read
says nothing; what a dead worker saw still counts until it is too old. Units: seconds since 1970.
"""

import contextlib
import os
from pathlib import Path

import orjson

from llm_proxy.ledger.vitals import Vitals
from llm_proxy.ledger.worker_slot import slot_folders

FILE = "vitals.json"


class SharedVitals:
    """This worker's own, and those of all."""

    def __init__(self, own: Vitals, seat: Path | None) -> None:
        self._own = own
        self._seat = seat
        self._told = 0
        if seat is not None:
            _take(own, seat / FILE)

    def tell(self) -> None:
        """Let the others know what is new; where that cannot be written, they do without."""
        if self._seat is None or self._told == self._own.seen:
            return
        self._told = self._own.seen
        half_written = self._seat / f"{FILE}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):
            half_written.write_bytes(orjson.dumps(self._own.state()))
            half_written.replace(self._seat / FILE)

    def together(self) -> Vitals:
        """What all workers have seen; of the others up to a second ago."""
        if self._seat is None:
            return self._own
        found = Vitals(self._own.now_s)
        found.add(self._own.state())
        for seat in slot_folders(self._seat.parent):
            if seat != self._seat:
                _take(found, seat / FILE)
        return found


def _take(vitals: Vitals, file: Path) -> None:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        vitals.add(orjson.loads(file.read_bytes()))
