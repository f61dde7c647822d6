"""Which process of a run gets a test: files that share a costly fixture go to one, which starts it once.

A file is a unit of work, as with `--dist=loadfile`; such files are one unit together, which takes less time
than the processes' share of a run.
"""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling  # pyright: ignore[reportMissingTypeStubs] -- it is typed

ROOT = Path(__file__).parents[1]
SHARED = (
    ("tests/flow/browser/", ""),
    ("tests/flow/", "two_sidecars: TwoSidecars"),
    ("tests/stages/dialects/", "all_providers: AllProviders"),
)
"""Where files lie, and what stands in those that share a fixture."""


@cache
def unit_of(file: str) -> str:
    """Return the unit that a test file belongs to."""
    for folder, fixture in SHARED:
        if file.startswith(folder) and fixture in (ROOT / file).read_text(encoding="utf-8"):
            return folder + fixture
    return file


class SharedFixtureScheduling(LoadFileScheduling):
    """Hands out files, and files that share a fixture together."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid.partition("::")[0])
