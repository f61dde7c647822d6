"""Where the sidecars are: addresses as they were given, and files that list them.

A file (`@PATH`) holds one address a line and may change while we run: that is how sidecars are exchanged.
Invariant: a file that cannot be read, or names nobody, says nothing; who reads it keeps the list it has.
"""

from collections.abc import Iterable
from pathlib import Path

from llm_proxy.upstream.pool import expand


def addresses(given: Iterable[str]) -> tuple[str, ...]:
    """Every sidecar's base URL as of now, port ranges written out and files read."""
    found: list[str] = []
    for one in given:
        found.extend(_listed(Path(one[1:])) if one.startswith("@") else [one])
    return expand(found)


def _listed(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if line.startswith("http")]
