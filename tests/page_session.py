"""Runs the snippets of a page one after the other, as a reader would type them into one shell.

Invariants: variables are kept from snippet to snippet of a page, not from page to page; the ports of the
documents stand for those of the running stack, both ways.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from doc_pages import Fence

TIMEOUT_S = 60
SHELL = ("sh", "bash")
_STATE = ".shell-state"
_KEPT = f"set -a -e -o pipefail; [ ! -e {_STATE} ] || . ./{_STATE}; trap 'export -p > {_STATE}' EXIT\n"


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a reader works: the folder of a running `llm-proxy up`."""

    path: Path
    ports: Mapping[int, int]
    """The running stack's ports, by the documents'."""


@dataclass(slots=True)
class PageSession:
    """One reader of one page."""

    folder: Folder
    printed: str = ""
    """What the last snippet printed, with the documents' ports."""
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        (self.folder.path / _STATE).unlink(missing_ok=True)
        tools = self.folder.path / ".venv" / "bin"
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(self.folder.path),
            "COLUMNS": "120",
            "NO_PROXY": "127.0.0.1",
        }

    def fault(self, fence: Fence) -> str:
        """Does what the fence's mark says; returns what was wrong, or an empty text."""
        match fence.kind:
            case "file":
                path = self.folder.path / fence.value
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._here(fence.text), encoding="utf-8")
                return ""
            case "run":
                wanted = int(fence.value.removeprefix("exit ")) if fence.value else 0
                code = self._run(fence)
                return "" if code == wanted else f"{fence}: exit code {code}\n{fence.text}\n{self.printed}"
            case "output":
                same = _pattern(fence.text).fullmatch(_lines(self.printed))
                return "" if same else f"{fence}: printed\n{self.printed}\ninstead of\n{fence.text}"
            case _:
                return ""

    def _run(self, fence: Fence) -> int:
        """Runs a snippet; returns its exit code."""
        text = self._here(fence.text)
        if fence.language in SHELL:
            argv = ["bash", "-c", _KEPT + text]
        else:
            program = {"python": "python -", "javascript": "node --input-type=module -"}[fence.language]
            argv = ["bash", "-c", f"{_KEPT}exec {program} <<'END-OF-SNIPPET'\n{text}END-OF-SNIPPET\n"]
        done = subprocess.run(
            argv,
            cwd=self.folder.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.printed = done.stdout
        for documented, real in self.folder.ports.items():
            self.printed = self.printed.replace(f":{real}", f":{documented}")
        return done.returncode

    def _here(self, text: str) -> str:
        """Returns a snippet with the running stack's ports."""
        for documented, real in self.folder.ports.items():
            text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{real}")
        return text


def _lines(text: str) -> str:
    """Returns a text without blanks at the ends of lines and empty lines around it."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _pattern(text: str) -> "re.Pattern[str]":
    """Returns what matches an output; `…` stands for anything, `...` is itself."""
    return re.compile(".*".join(re.escape(part) for part in _lines(text).split("…")), re.DOTALL)
