"""A process's memory lies in huge pages where the kernel makes them, and holds what it held."""

import subprocess
import sys

HOLDS_MUCH = """
import re
from pathlib import Path
from llm_proxy.huge_pages import HUGE_PAGE_BYTES, use_huge_pages

texts = [str(number) for number in range(400_000)]
moved = use_huge_pages()
assert texts == [str(number) for number in range(400_000)]
found = re.search(r"AnonHugePages: *([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())
print(moved, int(found[1]) * 1024 // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
"""


def test_memory_is_moved_and_unchanged() -> None:
    moved, huge = map(int, subprocess.check_output([sys.executable, "-c", HOLDS_MUCH], text=True).split())
    assert moved <= huge
    assert (moved > 2**23) == (huge > 2**23)
