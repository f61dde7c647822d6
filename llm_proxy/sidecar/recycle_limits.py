"""When a sidecar's process is replaced, and when it is killed. Memory is resident memory in MiB."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llm_proxy.hung_workers import HUNG_AFTER_S

SOFT_MIB_VARIABLE, HARD_MIB_VARIABLE, MAX_CALLS_VARIABLE, HUNG_AFTER_VARIABLE = (
    "LLM_PROXY_SIDECAR_MAX_MIB",
    "LLM_PROXY_SIDECAR_HARD_MIB",
    "LLM_PROXY_SIDECAR_MAX_CALLS",
    "LLM_PROXY_SIDECAR_HUNG_AFTER_S",
)
REGROWTH_FACTOR = 1.25
UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True)
class RecycleLimits:
    """When a process is replaced (`soft_mib`, `max_calls`) or killed (`hard_mib`, `hung_after_s`).

    Infinity: never.
    """

    soft_mib: float = UNLIMITED
    hard_mib: float = UNLIMITED
    max_calls: float = UNLIMITED
    hung_after_s: float = HUNG_AFTER_S

    def recycle_reason(self, mib: float, initial_mib: float, completed_calls: int) -> str | None:
        """Why the process is to be replaced; None while it is not.

        Args:
            mib: Its memory now.
            initial_mib: Its memory when it began to serve: one that is large from its start is replaced only
                after it grew by `REGROWTH_FACTOR`.
            completed_calls: Calls it has completed.
        """
        if mib > max(self.soft_mib, initial_mib * REGROWTH_FACTOR):
            return f"holds {mib:.0f} MiB"
        return f"has answered {completed_calls} calls" if completed_calls >= self.max_calls else None

    def lowered(self, share: float) -> "RecycleLimits":
        """Returns these limits, with those of replacement lowered by a share of them."""
        return replace(self, soft_mib=self.soft_mib * (1 - share), max_calls=self.max_calls * (1 - share))


def read_recycle_limits(variables: Mapping[str, str]) -> RecycleLimits:
    """The limits the operator set; 0 is no limit. Raises `ValueError` naming a wrong variable."""
    return RecycleLimits(
        _read_limit(variables, SOFT_MIB_VARIABLE),
        _read_limit(variables, HARD_MIB_VARIABLE),
        _read_limit(variables, MAX_CALLS_VARIABLE),
        _read_limit(variables, HUNG_AFTER_VARIABLE, HUNG_AFTER_S),
    )


def resident_mib(pid: int) -> float:
    """Resident memory of a process (proc(5), statm); 0 where it is unknown."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _read_limit(variables: Mapping[str, str], name: str, default: float = UNLIMITED) -> float:
    text = variables.get(name)
    if not text:
        return default
    try:
        return float(text) or UNLIMITED
    except ValueError:
        raise ValueError(f"{name} is not a number: {text}") from None
