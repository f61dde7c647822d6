"""HTTP probes and free TCP ports of this machine: for start-up and for health checks of containers.

`python -m llm_proxy.stack.probe PORT PATH` exits 0 when `GET PATH` answers 200, else 1. Standard library
only: it also runs in LiteLLM's environment. Invariant: free ports are drawn below Linux's range for
outgoing connections, so no connection takes one before its process binds it.
"""

import http.client
import random
import re
import socket
import sys

MIN_PORT, MAX_PORT = 20_000, 32_000
"""Below Linux's `ip_local_port_range`, which starts at 32768; 4000, LiteLLM's default, is outside."""


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    try:
        bind(host, port).close()
    except OSError:
        return False
    return True


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket for a server that shall listen there; raises `OSError`."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def client_host(host: str) -> str:
    """Returns the host at which a client on this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- translated, not bound


def free_port() -> int:
    """Returns a port of the loopback interface that is free now; raises `OSError` after a hundred draws."""
    for _ in range(100):
        port = random.randint(MIN_PORT, MAX_PORT)  # noqa: S311 -- a port, not a secret
        if is_port_free(port):
            return port
    raise OSError(f"no free port between {MIN_PORT} and {MAX_PORT}")


def is_up(port: int, path: str, host: str = "127.0.0.1", timeout_s: float = 1.0) -> bool:
    """Whether `GET path` answers 200 within `timeout_s`."""
    return _get(host, port, path, timeout_s) is not None


def in_flight(port: int) -> int | None:
    """Returns the number of calls running at a sidecar of this machine; None without an answer within 1 s."""
    return _health_number(port, b"in_flight", 1.0)


def completed_calls(port: int) -> int:
    """The number of calls a sidecar of this machine has completed; 0 without an answer within 0.2 s."""
    return _health_number(port, b"answered", 0.2) or 0


def _health_number(port: int, name: bytes, timeout_s: float) -> int | None:
    body = _get("127.0.0.1", port, "/health/liveliness", timeout_s)
    found = re.search(rb'"' + name + rb'": ?(\d+)', body or b"")
    return int(found[1]) if found else None


def _get(host: str, port: int, path: str, timeout_s: float) -> bytes | None:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_up(int(sys.argv[1]), sys.argv[2], timeout_s=2.5))
