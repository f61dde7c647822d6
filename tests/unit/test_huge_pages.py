"""A process's memory lies in huge pages where the kernel makes them, and holds what it held."""

import subprocess
import sys

import pytest

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
LOADS_LIBRARIES_MEANWHILE = """
import mmap
from llm_proxy import huge_pages

{first}
objects, libraries = [None] * 60_000, []
for at in range(len(objects)):
    objects[at] = bytes(300)
    if at % 3_000 == 0:
        libraries.append(mmap.mmap(-1, 2**17, prot=mmap.PROT_READ))
whole = list(huge_pages._own_memory())
print(sum(any(start <= id(one) < start + size for start, size in whole) / len(objects) for one in objects))
"""
LOADS_THE_GATEWAY = """
from llm_proxy import huge_pages
from llm_proxy.cli.commands import GATEWAY_OBJECTS_BYTES, commands

for command in ("status", "serve"):
    commands.get_command(None, command)
    print(len(huge_pages._held) * huge_pages._ARENA_BYTES // 2 // GATEWAY_OBJECTS_BYTES)
"""


def printed(code: str) -> list[str]:
    """What a process that runs this code prints."""
    return subprocess.check_output([sys.executable, "-c", code], text=True).split()


def test_memory_is_moved_and_unchanged() -> None:
    moved, huge = map(int, printed(HOLDS_MUCH))
    assert moved <= huge
    assert (moved > 2**23) == (huge > 2**23)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_objects_lie_together_whatever_is_loaded_while_they_are_made() -> None:
    """Nearly all in whole huge pages; without it hardly any."""
    first = "huge_pages.place_objects_together(24 * 2**20)"
    [together] = printed(LOADS_LIBRARIES_MEANWHILE.format(first=first))
    [scattered] = printed(LOADS_LIBRARIES_MEANWHILE.format(first=""))
    assert float(together) > 0.8
    assert float(scattered) < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is moved")
def test_the_gateway_places_its_objects_before_its_modules_are_loaded() -> None:
    """No other command does."""
    assert printed(LOADS_THE_GATEWAY) == ["0", "1"]
