"""The whole stack on one machine: Postgres, two Valkeys, a small language model, the sidecar and the gateway.

Everything comes from wheels; nothing is installed outside the project's folder. Invariants: every part is
a child of the launcher and dies with it; a part the operator has already is used instead of ours.
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
    "ProcessSpec",
    "ManagedProcess",
    "start",
    "stop",
    "wait_until_ready",
    "ProcessFailed",
    "NotInstalled",
]
