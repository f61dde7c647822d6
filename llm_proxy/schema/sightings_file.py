"""Sightings of databases on this host's disk, for a gateway that starts when the limits store is empty, too.

Invariants: written as a whole or not at all; one that cannot be read or written is as if it were not there.
"""

import contextlib
import os
from pathlib import Path

from llm_proxy.schema.database_marker import Sighting, parse_sighting

SIGHTINGS_FILE = "databases-seen"
_MAX_SEEN = 20


def read_sightings(folder: Path) -> dict[str, Sighting]:
    """Returns what was seen of the databases by their names, each as it was seen last."""
    try:
        lines = (folder / SIGHTINGS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.partition("\t") for line in lines]
    found = {name: parse_sighting(text) for name, _, text in pairs}
    return {name: one for name, one in found.items() if one is not None}


def write_sighting(folder: Path, name: str, seen: Sighting) -> None:
    """Notes what was seen of a database; never raises."""
    known = read_sightings(folder)
    known.pop(name, None)
    known[name] = seen  # the last ones are kept
    lines = [f"{one}\t{of.as_text()}\n" for one, of in list(known.items())[-_MAX_SEEN:]]
    path = folder / f"{SIGHTINGS_FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        path.write_text("".join(lines), encoding="utf-8")
        path.replace(folder / SIGHTINGS_FILE)
