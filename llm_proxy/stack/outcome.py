"""How an exchange of sidecars goes, and how it ended, for the command that asked for it.

Invariants: written whole or not at all; `began_ns` is the machine's monotonic clock, so that who asked knows
whether an outcome answers its own asking.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "reload.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One exchange.

    Attributes:
        began_ns: When the configuration was read.
        done: Whether the new configuration serves; None while that is not decided.
        said: What to tell a person, line by line, so far.
    """

    began_ns: int
    done: bool | None
    said: tuple[str, ...]

    def write(self, state: Path) -> None:
        """Leave it where the command looks."""
        write_whole(state / FILE, json.dumps(asdict(self)))


def read(state: Path) -> Outcome | None:
    """The last outcome, if there was one."""
    try:
        found = json.loads((state / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Outcome(found["began_ns"], found["done"], tuple(found["said"]))


def write_whole(file: Path, text: str) -> None:
    """Replace a file's text at once."""
    half_written = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    half_written.write_text(text, encoding="utf-8")
    half_written.replace(file)
