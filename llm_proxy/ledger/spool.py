"""What a worker keeps on disk: the journal of its calls, the spool of records, and their recovery.

Journal: a memory-mapped file of slots, each with an admitted call until it ends, then with its record until
Postgres or the spool has it. Spool: append-only segments of JSON lines, read oldest first, bounded by
dropping the oldest. Recovery moves what dead workers left into this worker's spool.
Invariants: a killed process loses nothing, a power cut may (no fsync); recovery done twice counts once.
"""

import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from llm_proxy.ledger.record import encode, lost_row
from llm_proxy.ledger.worker_slot import abandoned_slots, map_file

NO_SLOT = -1

_SLOTS = 8192
_SLOT_BYTES = 2048
OPENED_BYTES = 768
_LENGTHS = struct.Struct("<II")  # of the admitted call, of the record; 0: none
_OPENED_AT = _LENGTHS.size
_RECORD_AT = _OPENED_AT + OPENED_BYTES
RECORD_BYTES = _SLOT_BYTES - _RECORD_AT
_WORDS = _SLOT_BYTES // 4
_EMPTY = bytes(_SLOT_BYTES)
"""Nothing of a record stays on the disk once it is kept elsewhere."""


class Journal:
    """One worker's journal; not safe across threads."""

    def __init__(self, path: Path | None = None, slots: int = _SLOTS) -> None:
        """A fresh journal at `path`, whose former content must have been taken; without one, memory alone.

        Raises `OSError` when the disk has no room for it.
        """
        self._count = slots
        if path is not None:
            path.unlink(missing_ok=True)
        self._map = map_file(path, slots * _SLOT_BYTES)
        self._words = memoryview(self._map).cast("I")
        self._free = list(range(slots - 1, -1, -1))
        self._slots: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._count - len(self._free)

    def begin(self, request_id: UUID, line: bytes) -> bool:
        """Write an admitted call down; False when there is no room for it."""
        if not self._free or len(line) > OPENED_BYTES:
            return False
        slot = self._free.pop()
        start = slot * _SLOT_BYTES + _OPENED_AT
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS] = len(line)
        self._slots[request_id.int] = slot
        return True

    def complete(self, request_id: UUID, line: bytes) -> int:
        """Write a record down in its call's place; returns the slot to free once it is kept elsewhere."""
        slot = self._slots.pop(request_id.int, NO_SLOT)
        if len(line) > RECORD_BYTES:
            self.release(slot)
            return NO_SLOT
        if slot == NO_SLOT:
            if not self._free:
                return NO_SLOT
            slot = self._free.pop()
        start = slot * _SLOT_BYTES + _RECORD_AT
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS + 1] = len(line)
        return slot

    def release(self, slot: int) -> None:
        """The slot's record is kept elsewhere."""
        if slot != NO_SLOT:
            self._map[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = _EMPTY
            self._free.append(slot)


def read_journal(path: Path) -> Iterator[tuple[bool, bytes]]:
    """What a dead worker left: whether the call had ended, and its line."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    for start in range(0, len(content) - _SLOT_BYTES + 1, _SLOT_BYTES):
        opened, record = _LENGTHS.unpack_from(content, start)
        if 0 < record <= RECORD_BYTES:
            yield True, content[start + _RECORD_AT : start + _RECORD_AT + record]
        elif 0 < opened <= OPENED_BYTES:
            yield False, content[start + _OPENED_AT : start + _OPENED_AT + opened]


_SEGMENT_BYTES = 4 * 2**20
_REJECTED_BYTES = 16 * 2**20
REJECTED_FILE = "rejected.jsonl"
_SUFFIX = ".records"
_SEGMENTS = f"{'[0-9]' * 12}{_SUFFIX}"


class Spool:
    """One worker's waiting records.

    Attributes:
        size_bytes: Bytes waiting.
        records: Records waiting.
        dropped: Records dropped since the start to stay under the bound.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max(4096, max_bytes // 4))
        self._file = -1
        self._next = 0
        self._current = folder
        self._counts: dict[Path, tuple[int, int]] = {}
        self.dropped = 0
        for path in list_segments(folder):
            self._count_segment(path)

    @property
    def size_bytes(self) -> int:
        """Bytes waiting."""
        return sum(size for size, _ in self._counts.values())

    @property
    def records(self) -> int:
        """Records waiting."""
        return sum(count for _, count in self._counts.values())

    def append(self, lines: list[bytes]) -> None:
        """Keep these lines; raises `OSError` when the disk takes none of them."""
        if self._file < 0:
            self._open_segment()
        path = self._current
        size, count = self._counts[path]
        text = b"\n".join(lines) + b"\n"
        try:
            _write(self._file, text)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._counts[path] = (size + len(text), count + len(lines))
        if size + len(text) >= self._segment_bytes:
            self.close()
        self._stay_under_bound()

    def oldest(self) -> Path | None:
        """The oldest segment, closed for appending; None when nothing waits."""
        oldest = min(self._counts, default=None)
        if oldest is not None and self._file >= 0 and oldest == self._current:
            self.close()
        return oldest

    def discard(self, segment: Path) -> None:
        """Every record of this segment is kept elsewhere."""
        segment.unlink(missing_ok=True)
        self._counts.pop(segment, None)

    def adopt(self, segment: Path) -> None:
        """Take over a dead worker's segment, on the same file system."""
        mine = self._next_path()
        segment.rename(mine)
        self._count_segment(mine)
        self._stay_under_bound()

    def reject(self, line: bytes) -> None:
        """Put aside, for people, a record no database takes; kept while there is room."""
        aside = self._folder / REJECTED_FILE
        if not aside.exists() or aside.stat().st_size < _REJECTED_BYTES:
            with aside.open("ab") as file:
                file.write(line + b"\n")

    def close(self) -> None:
        """Append no more to the segment being written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_segment(self) -> None:
        self._current = self._next_path()
        self._file = os.open(self._current, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._counts[self._current] = (0, 0)

    def _next_path(self) -> Path:
        self._next += 1
        return self._folder / f"{self._next:012}{_SUFFIX}"

    def _count_segment(self, path: Path) -> None:
        content = path.read_bytes()
        self._counts[path] = (len(content), content.count(b"\n"))
        self._next = max(self._next, int(path.name.removesuffix(_SUFFIX)))

    def _stay_under_bound(self) -> None:
        while self.size_bytes > self._max_bytes and len(self._counts) > 1:
            oldest = min(self._counts)
            self.dropped += self._counts[oldest][1]
            self.discard(oldest)


def list_segments(folder: Path) -> list[Path]:
    """A worker's segments, oldest first."""
    return sorted(folder.glob(_SEGMENTS))


def read_lines(segment: Path) -> Iterator[bytes]:
    """The whole lines of a segment; one torn by a power cut is left out."""
    with segment.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _write(descriptor: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


log = logging.getLogger(__name__)

JOURNAL_FILE = "journal"


@dataclass(slots=True)
class Recovered:
    """Records found: ended calls, and calls that never did."""

    finished: int = 0
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.finished or self.lost)


def recover_worker(folder: Path, spool: Spool) -> Recovered:
    """Empty a dead worker's journal into the spool; raises `OSError` when the spool cannot be written."""
    found = Recovered()
    waiting: list[bytes] = []
    for ended, line in read_journal(folder / JOURNAL_FILE):
        try:
            waiting.append(line if ended else encode(lost_row(line)))
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
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    return found


def recover_all(directory: Path, spool: Spool) -> Recovered:
    """Empty every seat under `directory` whose worker is dead."""
    total = Recovered()
    for seat in abandoned_slots(directory):
        try:
            found = recover_worker(seat.path, spool)
            total.finished += found.finished
            total.lost += found.lost
            for segment in list_segments(seat.path):
                spool.adopt(segment)
        finally:
            seat.release()
    return total
