"""What dead workers left on disk, taken over: their segments, their finished records, their lost calls.

Invariants: a seat is locked while it is emptied; its records are in this worker's spool before they leave
the seat, so dying in the middle takes them over twice and counts them once; a call that was admitted and
has no record becomes one with `outcome='lost'`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from llm_proxy.ledger.journal import left_in
from llm_proxy.ledger.row import encode, lost
from llm_proxy.ledger.spool import Spool, segments
from llm_proxy.telemetry import seat

log = logging.getLogger(__name__)

JOURNAL = "journal"


@dataclass(slots=True)
class Recovered:
    """Records found: ended calls, and calls that never did."""

    finished: int = 0
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.finished or self.lost)


def take_over(folder: Path, spool: Spool) -> Recovered:
    """Empty a dead worker's journal into the spool; raises `OSError` when the spool cannot be written."""
    found = Recovered()
    waiting: list[bytes] = []
    for ended, line in left_in(folder / JOURNAL):
        try:
            waiting.append(line if ended else encode(lost(line)))
        except ValueError:
            log.warning("a journal entry cannot be read", extra={"seat": folder.name})
            continue
        found.finished += ended
        found.lost += not ended
    if waiting:
        spool.append(waiting)
        log.info(
            "took over what a dead worker left",
            extra={"seat": folder.name, "finished": found.finished, "lost": found.lost},
        )
    (folder / JOURNAL).unlink(missing_ok=True)
    return found


def take_over_all(directory: Path, spool: Spool) -> Recovered:
    """Empty every seat under `directory` whose worker is dead."""
    total = Recovered()
    for abandoned in seat.abandoned(directory):
        try:
            found = take_over(abandoned.path, spool)
            total.finished += found.finished
            total.lost += found.lost
            for segment in segments(abandoned.path):
                spool.adopt(segment)
        finally:
            abandoned.release()
    return total
