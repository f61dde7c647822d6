"""The sidecar's own log: single lines on standard error, beside LiteLLM's."""

import sys
from contextlib import suppress
from pathlib import Path

_NAME = ["sidecar"]


def name_process(port: int) -> None:
    """Name this worker by its port, in its log and in `top` (proc(5), comm)."""
    _NAME[:] = [f"sidecar {port}"]
    with suppress(OSError):
        Path("/proc/self/comm").write_text(_NAME[0], encoding="ascii")


def log_line(message: str) -> None:
    """Write one line."""
    print(f"{_NAME[0]}: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this process
