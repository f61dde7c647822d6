"""A sidecar without a route out: each connection and name lookup is written down, none leaves this machine.

`python tests/offline_sidecar.py FILE ...` runs `llm_proxy.sidecar` with the rest of its words and appends one
JSON line to FILE for each attempt. Python's own sockets are seen by an audit hook, libuv's by its loop.
"""

import ipaddress
import json
import runpy
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

PROJECT = "llm_proxy.sidecar"


def local(host: object) -> bool:
    """Whether an address is this machine's, or no address at all (a socket file)."""
    if not isinstance(host, str) or host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Watch:
    """Writes attempts down and refuses those that would leave the machine."""

    def __init__(self, file: str) -> None:
        self._file = Path(file).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 -- open as long as the process

    def looked_up(self, host: object) -> None:
        """A name is about to be looked up; raises `gaierror` for another machine's."""
        name = host.decode() if isinstance(host, bytes) else host
        if not local(name):
            self._note("lookup", str(name), None)
            raise socket.gaierror(socket.EAI_AGAIN, "no route out")

    def connects(self, host: object, port: object) -> None:
        """A connection is about to be made; raises `OSError` for another machine."""
        self._note("connect", str(host), port)
        if not local(host):
            raise OSError(101, "Network is unreachable")

    def audit(self, event: str, words: tuple[Any, ...]) -> None:
        """Python's audit hook (PEP 578)."""
        if event in {"socket.getaddrinfo", "socket.gethostbyname"}:
            self.looked_up(words[0])
        elif event == "socket.connect" and not isinstance(words[1], str | bytes):
            host, port, *_ = words[1]
            self.connects(host, port)

    def _note(self, kind: str, host: str, port: object) -> None:
        self._file.write(json.dumps({"kind": kind, "host": host, "port": port}) + "\n")


def main() -> None:
    """Run the sidecar under watch."""
    watch = Watch(sys.argv.pop(1))
    sys.addaudithook(watch.audit)

    class Loop(uvloop.Loop):
        async def getaddrinfo(self, host: Any, *words: Any, **options: Any) -> Any:
            watch.looked_up(host)
            return await super().getaddrinfo(host, *words, **options)

        async def create_connection(
            self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
        ) -> Any:
            if host is not None:
                watch.looked_up(host)
                watch.connects(host, port)
            return await super().create_connection(protocol_factory, host, port, **options)

    uvloop.__dict__["Loop"] = Loop  # what `uvloop.run` makes
    sys.argv[0] = PROJECT
    runpy.run_module(PROJECT, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
