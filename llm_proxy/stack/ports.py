"""Free TCP ports on the loopback interface.

Invariant: ports are drawn below the range the system hands to outgoing connections, so that none takes
the port between our look and the part's own bind; 4000, LiteLLM's default, is never drawn.
"""

import random
import socket

LOWEST, HIGHEST = 20_000, 32_000
"""Below Linux's `ip_local_port_range`, which starts at 32768."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def reached_at(host: str) -> str:
    """Where a client on this machine reaches a server that listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- translated, not bound


def free_port() -> int:
    """A port nobody listens on; raises `OSError` when a hundred draws find none."""
    for _ in range(100):
        port = random.randint(LOWEST, HIGHEST)  # noqa: S311 -- a place to listen, not a secret
        if is_free(port):
            return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST}")
