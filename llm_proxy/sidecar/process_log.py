"""The sidecar's own log: single lines on standard error, beside LiteLLM's."""

import sys


def log_line(message: str) -> None:
    """Write one line."""
    print(f"sidecar: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the log of this process
