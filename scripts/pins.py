"""Writes the versions of `locks/dev.txt` into `pyproject.toml`, for `uv run`: `python scripts/pins.py`.

uv's own lock file names the index it was made from and is not kept; with these it comes out the same.
`--check` only compares, exit 1 when they differ.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT, LOCK = ROOT / "pyproject.toml", ROOT / "locks" / "dev.txt"
BLOCK = re.compile(r"(?ms)^\[dependency-groups\]\n.*?^\]\n")
PIN = re.compile(r"^([a-z0-9].*?)(?: \\)?$", re.MULTILINE)


def written(project: str, lock: str) -> str:
    """The project file with the lock's versions in it."""
    pins = (pin.replace('"', "'") for pin in PIN.findall(lock))
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    return BLOCK.sub(lambda _: f"[dependency-groups]\ndev = [\n{lines}]\n", project)


def main() -> int:
    """Write, or compare."""
    stands = PROJECT.read_text(encoding="utf-8")
    wanted = written(stands, LOCK.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        return int(stands != wanted)
    PROJECT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
