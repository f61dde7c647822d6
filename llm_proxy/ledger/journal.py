"""What a worker has in hand, in a memory-mapped file: calls admitted, and records not yet written elsewhere.

Invariants: a slot holds an admitted call until it ends, then its record until Postgres or the spool has it;
the kernel keeps the file when the process is killed, so neither is lost; nothing here waits or raises. A
power cut may lose it: nothing is flushed. When every slot is taken the call goes without, and the caller is
told; so it is with a line longer than its place, which `row.shortened` makes none.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from llm_proxy.telemetry.mapped import mapped

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
        self._map = mapped(path, slots * _SLOT_BYTES)
        self._words = memoryview(self._map).cast("I")
        self._free = list(range(slots - 1, -1, -1))
        self._slots: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._count - len(self._free)

    def opened(self, request_id: UUID, line: bytes) -> bool:
        """Write an admitted call down; False when there is no room for it."""
        if not self._free or len(line) > OPENED_BYTES:
            return False
        slot = self._free.pop()
        start = slot * _SLOT_BYTES + _OPENED_AT
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS] = len(line)
        self._slots[request_id.int] = slot
        return True

    def finished(self, request_id: UUID, line: bytes) -> int:
        """Write a record down in its call's place; returns the slot to free once it is kept elsewhere."""
        slot = self._slots.pop(request_id.int, NO_SLOT)
        if len(line) > RECORD_BYTES:
            self.free(slot)
            return NO_SLOT
        if slot == NO_SLOT:
            if not self._free:
                return NO_SLOT
            slot = self._free.pop()
        start = slot * _SLOT_BYTES + _RECORD_AT
        self._map[start : start + len(line)] = line
        self._words[slot * _WORDS + 1] = len(line)
        return slot

    def free(self, slot: int) -> None:
        """The slot's record is kept elsewhere."""
        if slot != NO_SLOT:
            self._map[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES] = _EMPTY
            self._free.append(slot)


def left_in(path: Path) -> Iterator[tuple[bool, bytes]]:
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
