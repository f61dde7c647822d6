"""The whole stack on one machine: the operator's settings in, supervised processes out.

Every program comes from a wheel; nothing is installed outside the project's folder. Invariants: every process
is a child of the launcher and dies with it; a store the operator names replaces the embedded one.
"""

from llm_proxy.stack.process import (
    ManagedProcess,
    NotInstalled,
    ProcessFailed,
    ProcessSpec,
    start,
    stop,
    wait_until_ready,
)

__all__ = [
    "ManagedProcess",
    "NotInstalled",
    "ProcessFailed",
    "ProcessSpec",
    "start",
    "stop",
    "wait_until_ready",
]
