"""Named numbers in a memory-mapped file: written by one worker, read by any that is asked for metrics.

Invariants: one writer (the seat's owner); a cell is written in about 80 ns; a `kill -9` loses nothing, the
seat's next owner counts on; reading needs no lock (the length in use grows after its entry is complete).
Layout: magic, bytes in use, heartbeat, 32 doubles nobody reads; then entries: key length, width, key
padded to 8, doubles.
"""

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

from llm_proxy.telemetry.mapped import mapped

log = logging.getLogger(__name__)

NOT_SET = float("nan")
"""What a gauge holds that nobody has set since its worker began: it is not shown."""
_MAGIC = b"llmpcel1"
_ENTRY = struct.Struct("<II")
_NOWHERE = 3
_HEADER_BYTES = (_NOWHERE + 32) * 8
_SIZE_BYTES = 2**20


class Cells:
    """The numbers of this process.

    Attributes:
        values: The doubles; index them with what `place` gave.
        in_memory: No other worker can read them.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the file at `path`, counting on from what it holds; without one, or room for it, memory."""
        try:
            self._map = mapped(path, _SIZE_BYTES)
        except OSError as fault:
            log.warning("metrics are counted in memory alone", extra={"why": str(fault)})
            path, self._map = None, mapped(None, _SIZE_BYTES)
        self.in_memory = path is None
        self._bytes = memoryview(self._map)
        self.values = self._bytes.cast("d")
        self._words = self._bytes.cast("Q")
        self._places: dict[bytes, int] = {}
        if bytes(self._bytes[:8]) != _MAGIC:
            self._bytes[:24] = _MAGIC + struct.pack("<Qd", _HEADER_BYTES, 0.0)
        for key, place, _ in _entries(self._bytes):
            self._places[key] = place

    def place(self, key: bytes, width: int = 1) -> int:
        """Index of the first of the `width` doubles of `key`; one nobody reads when the file is full."""
        known = self._places.get(key)
        if known is not None:
            return known
        start = self._words[1]
        first = start + _ENTRY.size + -(-len(key) // 8) * 8
        if first + width * 8 > len(self._bytes):
            return _NOWHERE
        _ENTRY.pack_into(self._map, start, len(key), width)
        self._bytes[start + _ENTRY.size : start + _ENTRY.size + len(key)] = key
        self._words[1] = first + width * 8
        self._places[key] = first // 8
        return first // 8

    def beat(self, now_s: float) -> None:
        """Say that the worker lives; gauges of a silent one are not counted."""
        self.values[2] = now_s

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Every key with its place and width."""
        yield from _entries(self._bytes)


def read(path: Path) -> tuple[float, list[tuple[bytes, list[float]]]]:
    """Heartbeat and entries of another worker's file; empty when it is not one of ours."""
    with path.open("rb") as file:
        raw = file.read(_HEADER_BYTES)
        if len(raw) < _HEADER_BYTES or raw[:8] != _MAGIC:
            return 0.0, []
        raw += file.read(int.from_bytes(raw[8:16], "little") - _HEADER_BYTES)
    view = memoryview(raw)
    doubles = view.cast("d")
    return doubles[2], [(key, list(doubles[at : at + width])) for key, at, width in _entries(view)]


def _entries(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    used = view[8:16].cast("Q")[0]
    start = _HEADER_BYTES
    while start < used:
        length, width = _ENTRY.unpack_from(view, start)
        first = start + _ENTRY.size + -(-length // 8) * 8
        yield bytes(view[start + _ENTRY.size : start + _ENTRY.size + length]), first // 8, width
        start = first + width * 8
