"""The memory that a process has after its start, in huge pages where the kernel makes them (Linux from 6.1).

A call after a pause finds little of its memory in the processor's caches: with huge pages the processor also
looks up a few addresses instead of hundreds. Changes no content, and adds no memory but what was shared with
a parent process, or reserved and not used. Source: madvise(2), `MADV_COLLAPSE`.
"""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

HUGE_PAGE_BYTES = 2**21
_MADV_COLLAPSE = 25
_MAPS = Path("/proc/self/maps")
_ARENA_BYTES, _BLOCK_BYTES = 2**20, 2**9
"""What CPython takes from the kernel at once for small objects; the largest of these (Objects/obmalloc.c)."""
_held: list[bytes | None] = []


def place_objects_together(size_bytes: int) -> None:
    """Lets the next small objects of this process, of `size_bytes` in all, lie side by side in memory.

    CPython would take their memory piece by piece, and what libraries are loaded meanwhile would lie between:
    of such pieces only the middles are whole huge pages. A block of each piece is held, which keeps it.
    """
    if sys.platform != "linux":
        return
    blocks: list[bytes | None] = [None] * (size_bytes // _BLOCK_BYTES)  # a list that grows moves in between
    for at in range(len(blocks)):
        blocks[at] = bytes(_BLOCK_BYTES - sys.getsizeof(b""))
    _held.extend(blocks[:: _ARENA_BYTES // _BLOCK_BYTES // 2])


def use_huge_pages() -> int:
    """Moves this process's own memory into huge pages; returns the bytes for which the kernel did it."""
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return sum(size for start, size in _own_memory() if madvise(start, size, _MADV_COLLAPSE) == 0)


def _own_memory() -> Iterator[tuple[int, int]]:
    """Yields start and size of the whole huge pages within memory that belongs to no file."""
    for line in _MAPS.read_text().splitlines():
        addresses, rights, *_, name = [*line.split(maxsplit=5), ""][:6]
        start, end = (int(one, 16) for one in addresses.split("-"))
        start, end = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if rights == "rw-p" and name.strip() in {"", "[heap]"} and start < end:
            yield start, end - start
