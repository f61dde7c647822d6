"""A primary and a replica, real Valkeys, watched by three real Sentinels with a password of their own."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.stack import probe, process
from llm_proxy.stack.process import ProcessSpec
from llm_proxy.stack.stores import valkey_spec, valkey_url

PASSWORD, SENTINEL_PASSWORD = "only-for-this-test", "only-for-the-sentinels"
SERVICE = "main"


class Sentinels:
    """Two servers, of which a test may kill one, and three that watch them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [probe.free_port() for _ in range(2)]
        self.sentinel_ports = [probe.free_port() for _ in range(3)]
        first, second = self.ports
        self._specs = {first: self._server(first), second: self._server(second, primary=first)}
        self._specs |= {port: self._sentinel(port) for port in self.sentinel_ports}
        self._running = {port: process.start(spec, folder / "logs") for port, spec in self._specs.items()}
        process.wait_until_ready(list(self._running.values()))

    def url(self, *, sentinel_password: str = SENTINEL_PASSWORD, service: str = SERVICE) -> str:
        """The address of the service."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{service}?db=0&sentinel_password={sentinel_password}"

    def _server(self, port: int, primary: int | None = None) -> ProcessSpec:
        plain = valkey_spec("limits", self._folder / str(port), port, PASSWORD)
        more = f"masterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n"
        more += f"replicaof 127.0.0.1 {primary}\n" if primary else ""
        return replace(plain, name=f"valkey-{port}", stdin=plain.stdin + more.encode())

    def _sentinel(self, port: int) -> ProcessSpec:
        plain = valkey_spec("limits", self._folder / str(port), port, SENTINEL_PASSWORD)
        file = self._folder / f"sentinel-{port}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder / str(port)}\n"
            f"requirepass {SENTINEL_PASSWORD}\nsentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 3000\n"
        )
        argv = (plain.argv[0], str(file), "--sentinel")
        return replace(plain, name=f"sentinel-{port}", argv=argv, stdin=b"")

    async def ask(self, port: int, *words: Any) -> Any:
        """The reply of one of them to one command."""
        password = PASSWORD if port in self.ports else SENTINEL_PASSWORD
        wire = RedisConnection(valkey_url(port, password).removesuffix("/0"), timeout_s=5, load_commands=list)
        await wire.start()
        try:
            return await wire.execute(*words)
        finally:
            await wire.stop()

    async def primary(self) -> int:
        """The port of the primary that the Sentinels name."""
        found = await self.ask(self.sentinel_ports[1], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1])

    async def settle(self) -> None:
        """Waits until the replica follows and all Sentinels know of it and of each other."""
        end = time.monotonic() + 60
        while not await self._agree():
            assert time.monotonic() < end
            await asyncio.sleep(0.1)

    async def _agree(self) -> bool:
        primary = await self.primary()
        try:
            role = await self.ask(primary, "ROLE")
            [replica] = [port for port in self.ports if port != primary]
            follower = await self.ask(replica, "ROLE")
            if role[0] != b"master" or len(role[2]) != 1 or follower[3] != b"connected":
                return False
            for port in self.sentinel_ports:
                told = await self.ask(port, "SENTINEL", "MASTER", SERVICE)
                known = dict(zip(told[::2], told[1::2], strict=True))
                counted = known[b"port"], known[b"num-slaves"], known[b"num-other-sentinels"], known[b"flags"]
                if counted != (str(primary).encode(), b"1", b"2", b"master"):
                    return False
        except (LimiterUnavailable, IndexError):
            return False
        return True

    def kill(self, port: int) -> None:
        """Kills one, as when a machine dies."""
        self._running[port].popen.kill()
        self._running[port].popen.wait()

    def revive(self, port: int, primary: int | None = None) -> None:
        """Starts it again, a server as a replica of this primary."""
        spec = self._server(port, primary) if primary else self._specs[port]
        self._running[port] = process.start(spec, self._folder / "logs")
        process.wait_until_ready([self._running[port]])

    def end(self) -> None:
        """Ends all of them."""
        for port in self._running:
            self.kill(port)
