"""How much a sidecar may hold and answer: past its share it is exchanged, past the hard limit killed.

Invariants: an exchange loses no call, a kill those that run; one that is large from its birth is exchanged
only when it has grown by a quarter. Units: MiB of resident memory. Pure but for `resident_mib`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOFT, HARD, CALLS = "LLM_PROXY_SIDECAR_MAX_MIB", "LLM_PROXY_SIDECAR_HARD_MIB", "LLM_PROXY_SIDECAR_MAX_CALLS"
SOFT_MIB, HARD_MIB = 1024.0, 2048.0
GROWN = 1.25
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Share:
    """What one sidecar may have; infinity where there is no limit."""

    soft_mib: float = SOFT_MIB
    hard_mib: float = HARD_MIB
    calls: float = NEVER

    def why_enough(self, mib: float, born_mib: float, answered: int) -> str | None:
        """Why a fresh one should take its place, in words; None while it need not.

        Args:
            mib: What it holds now.
            born_mib: What it held when it began to serve.
            answered: Calls it has answered.
        """
        if mib > max(self.soft_mib, born_mib * GROWN):
            return f"holds {mib:.0f} MiB"
        return f"has answered {answered} calls" if answered >= self.calls else None


def share(names: Mapping[str, str]) -> Share:
    """What the operator has set; 0 means no limit. Raises `ValueError` naming what is no number."""
    return Share(_number(names, SOFT, SOFT_MIB), _number(names, HARD, HARD_MIB), _number(names, CALLS, NEVER))


def resident_mib(pid: int) -> float:
    """Memory of a process that is in use (proc(5), statm); 0 where nothing tells."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _number(names: Mapping[str, str], name: str, default: float) -> float:
    text = names.get(name)
    if text is None:
        return default
    try:
        return float(text) or NEVER
    except ValueError:
        raise ValueError(f"{name} is not a number: {text}") from None
