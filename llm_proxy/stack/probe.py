"""HTTP probes and free TCP ports of this machine: for start-up and for health checks of containers.

`python -m llm_proxy.stack.probe PORT[-LAST] PATH` exits 0 when `GET PATH` answers 200 at each port, else 1.
Standard library only: it also runs in LiteLLM's environment. Invariant: free ports are drawn below Linux's
range for outgoing connections and kept from other draws for a while: neither takes one before it is bound.
"""

import http.client
import os
import random
import socket
import sys
from collections import deque

MIN_PORT, MAX_PORT = 20_000, 32_000
"""Below Linux's `ip_local_port_range`, which starts at 32768; 4000, LiteLLM's default, is outside."""
MAX_RESERVED = 64
_reserved: deque[int] = deque()
"""Open UDP sockets on the ports that were drawn last: a service may take seconds until it listens."""


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
    """Returns a free port of the loopback interface; raises `OSError` after a hundred draws.

    No process gets it by this function again until this one has drawn `MAX_RESERVED` others, or has ended.
    """
    for _ in range(100):
        port = random.randint(MIN_PORT, MAX_PORT)  # noqa: S311 -- a port, not a secret
        if is_port_free(port) and _reserve(port):
            return port
    raise OSError(f"no free port between {MIN_PORT} and {MAX_PORT}")


def _reserve(port: int) -> bool:
    """Takes a TCP port's namesake of UDP, which nothing here listens on; False if another process has it."""
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        return False
    _reserved.append(held.detach())
    if len(_reserved) > MAX_RESERVED:
        os.close(_reserved.popleft())
    return True


def is_up(port: int, path: str, host: str = "127.0.0.1", timeout_s: float = 1.0) -> bool:
    """Whether `GET path` answers 200 within `timeout_s`."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200


if __name__ == "__main__":
    first, _, last = sys.argv[1].partition("-")
    ports = range(int(first), int(last or first) + 1)
    sys.exit(not all(is_up(port, sys.argv[2], timeout_s=2.5) for port in ports))
