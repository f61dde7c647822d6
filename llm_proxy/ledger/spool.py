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
from llm_proxy.ledger.worker_slot import WorkerSlot, abandoned_slots, map_file

log = logging.getLogger(__name__)

JOURNAL_FILE = "journal"
NO_SLOT = -1

_SLOTS = 8192
_SLOT_BYTES = 2048
STARTED_BYTES = 768
_LENGTHS = struct.Struct("<II")  # bytes of the admitted call and of the record; 0 for none
_STARTED_OFFSET = _LENGTHS.size
_RECORD_OFFSET = _STARTED_OFFSET + STARTED_BYTES
RECORD_BYTES = _SLOT_BYTES - _RECORD_OFFSET
_WORDS = _SLOT_BYTES // 4
_EMPTY_SLOT = bytes(_SLOT_BYTES)
"""Overwrites a released slot: no record stays on the disk once it is stored elsewhere."""


class Journal:
    """One worker's journal; not thread-safe.

    A call that finds no free slot, or a line too long for its slot, is not written; the returned value
    says so. `record.shorten` makes lines fit.
    """

    def __init__(self, path: Path | None = None, slots: int = _SLOTS) -> None:
        """Creates an empty journal at `path`, or in memory without a path; recover the old content before.

        Raises OSError when the disk has no room for it.
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
        """The number of slots in use."""
        return self._count - len(self._free)

    def begin(self, request_id: UUID, line: bytes) -> bool:
        """Writes an admitted call; returns False if no slot is free or the line is too long."""
        if not self._free or len(line) > STARTED_BYTES:
            return False
        slot = self._free.pop()
        start = slot * _SLOT_BYTES + _STARTED_OFFSET
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS] = len(line)
        self._slots[request_id.int] = slot
        return True

    def complete(self, request_id: UUID, line: bytes) -> int:
        """Writes a record into its call's slot; returns the slot, to be released once it is stored elsewhere.

        Returns `NO_SLOT` if no slot is free or the line is too long.
        """
        slot = self._slots.pop(request_id.int, NO_SLOT)
        if len(line) > RECORD_BYTES:
            self.release(slot)
            return NO_SLOT
        if slot == NO_SLOT:
            if not self._free:
                return NO_SLOT
            slot = self._free.pop()
        start = slot * _SLOT_BYTES + _RECORD_OFFSET
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS + 1] = len(line)
        return slot

    def abandon(self, request_id: UUID) -> None:
        """Frees the slot of a call that gets no record."""
        self.release(self._slots.pop(request_id.int, NO_SLOT))

    def release(self, slot: int) -> None:
        """Frees a slot whose record is stored elsewhere."""
        if slot != NO_SLOT:
            self._map[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = _EMPTY_SLOT
            self._free.append(slot)


def read_journal(path: Path) -> Iterator[tuple[bool, bytes]]:
    """Yields the slots of a dead worker's journal: whether the call had ended, and its line."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    for start in range(0, len(content) - _SLOT_BYTES + 1, _SLOT_BYTES):
        started, record = _LENGTHS.unpack_from(content, start)
        if 0 < record <= RECORD_BYTES:
            yield True, content[start + _RECORD_OFFSET : start + _RECORD_OFFSET + record]
        elif 0 < started <= STARTED_BYTES:
            yield False, content[start + _STARTED_OFFSET : start + _STARTED_OFFSET + started]


_SEGMENT_BYTES = 4 * 2**20
_MAX_REJECTED_BYTES = 16 * 2**20
REJECTED_FILE = "rejected.jsonl"
_SEGMENT_SUFFIX = ".records"
_SEGMENT_PATTERN = f"{'[0-9]' * 12}{_SEGMENT_SUFFIX}"


class Spool:
    """One worker's records on disk until Postgres takes them.

    Attributes:
        dropped: Records dropped since the start to stay below `max_bytes`.
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
        """The bytes in all segments."""
        return sum(size for size, _ in self._counts.values())

    @property
    def records(self) -> int:
        """The records in all segments."""
        return sum(count for _, count in self._counts.values())

    def append(self, lines: list[bytes]) -> None:
        """Appends lines; raises OSError, and keeps no torn line, when the disk does not take them."""
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
        """Returns the oldest segment, closed for appending; None for an empty spool."""
        oldest = min(self._counts, default=None)
        if oldest is not None and self._file >= 0 and oldest == self._current:
            self.close()
        return oldest

    def discard(self, segment: Path) -> None:
        """Deletes a segment whose records are all stored elsewhere."""
        segment.unlink(missing_ok=True)
        self._counts.pop(segment, None)

    def adopt(self, segment: Path) -> None:
        """Moves a dead worker's segment, on the same file system, into this spool."""
        path = self._next_path()
        segment.rename(path)
        self._count_segment(path)
        self._stay_under_bound()

    def reject(self, line: bytes) -> None:
        """Appends a record that no database accepts to `REJECTED_FILE`, up to 16 MiB."""
        path = self._folder / REJECTED_FILE
        if not path.exists() or path.stat().st_size < _MAX_REJECTED_BYTES:
            with path.open("ab") as file:
                file.write(line + b"\n")

    def close(self) -> None:
        """Closes the segment being written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_segment(self) -> None:
        self._current = self._next_path()
        self._file = os.open(self._current, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._counts[self._current] = (0, 0)

    def _next_path(self) -> Path:
        self._next += 1
        return self._folder / f"{self._next:012}{_SEGMENT_SUFFIX}"

    def _count_segment(self, path: Path) -> None:
        content = path.read_bytes()
        self._counts[path] = (len(content), content.count(b"\n"))
        self._next = max(self._next, int(path.name.removesuffix(_SEGMENT_SUFFIX)))

    def _stay_under_bound(self) -> None:
        while self.size_bytes > self._max_bytes and len(self._counts) > 1:
            oldest = min(self._counts)
            self.dropped += self._counts[oldest][1]
            self.discard(oldest)


def list_segments(folder: Path) -> list[Path]:
    """Returns a worker's segments, the oldest first."""
    return sorted(folder.glob(_SEGMENT_PATTERN))


def read_lines(segment: Path) -> Iterator[bytes]:
    """Yields the complete lines of a segment; skips one torn by a power cut."""
    with segment.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _write(descriptor: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@dataclass(slots=True)
class Recovered:
    """The numbers of recovered records, of finished calls and of lost ones."""

    finished: int = 0
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.finished or self.lost)


def recover_worker(folder: Path, spool: Spool) -> Recovered:
    """Moves the records of a dead worker's journal to `spool`; raises OSError if it cannot be written.

    An admitted call without a record becomes one with `outcome='lost'`.
    """
    recovered = Recovered()
    lines: list[bytes] = []
    for ended, line in read_journal(folder / JOURNAL_FILE):
        try:
            lines.append(line if ended else encode(lost_row(line)))
        except ValueError:
            log.warning("a journal entry cannot be read", extra={"seat": folder.name})
            continue
        recovered.finished += ended
        recovered.lost += not ended
    if lines:
        spool.append(lines)
        log.info(
            "the records of a worker that ended are recovered",
            extra={"seat": folder.name, "finished": recovered.finished, "lost": recovered.lost},
        )
    (folder / JOURNAL_FILE).unlink(missing_ok=True)
    return recovered


def recover_all(directory: Path, spool: Spool) -> Recovered:
    """Recovers every worker slot under `directory` whose worker is dead; each is locked meanwhile."""
    total = Recovered()
    for slot in abandoned_slots(directory):
        try:
            recovered = recover_worker(slot.path, spool)
            total.finished += recovered.finished
            total.lost += recovered.lost
            for segment in list_segments(slot.path):
                spool.adopt(segment)
        finally:
            slot.release()
    return total


def open_worker_files(
    slot: WorkerSlot | None, spool_max_bytes: int
) -> tuple[Spool | None, Journal, Recovered]:
    """Opens a worker slot's spool and journal and recovers what its last owner left.

    Without a slot, or if the disk has no room, there is no spool and the journal is in memory.
    """
    recovered = Recovered()
    if slot is None:
        return None, Journal(), recovered
    try:
        spool = Spool(slot.path, spool_max_bytes)
        recovered = recover_worker(slot.path, spool)
        return spool, Journal(slot.path / JOURNAL_FILE), recovered
    except OSError as error:
        log.error("records cannot be kept on disk, a crash would lose them", extra={"why": str(error)})  # noqa: TRY400 -- no traceback wanted
        return None, Journal(), recovered
