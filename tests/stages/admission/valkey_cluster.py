"""A Redis Cluster of three real Valkeys without replicas: a third of the slots each; one can be moved."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.stack import probe, process
from llm_proxy.stack.stores import valkey_spec, valkey_url

PASSWORD = "only-for-this-test"
SLOTS = 16_384
NODES = 3


class Cluster:
    """Three nodes that a test may stop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [probe.free_port() for _ in range(NODES)]
        self._parts = [self._part(port) for port in self.ports]
        self._running = [process.start(one, folder / "logs") for one in self._parts]
        process.wait_until_ready(self._running)

    def _part(self, port: int) -> process.ProcessSpec:
        plain = valkey_spec("limits", self._folder / str(port), port, PASSWORD)
        more = f"cluster-enabled yes\ncluster-port {probe.free_port()}\ncluster-node-timeout 1000\n"
        more += "cluster-require-full-coverage no\n"
        return replace(plain, name=f"valkey-{port}", stdin=(plain.stdin or b"") + more.encode())

    @property
    def url(self) -> str:
        """The address of one node."""
        return valkey_url(self.ports[0], PASSWORD)

    async def form(self) -> None:
        """Connects them, assigns the slots, and waits until all agree."""
        for at, port in enumerate(self.ports):
            low, high = SLOTS * at // NODES, SLOTS * (at + 1) // NODES - 1
            await self.ask(port, "CLUSTER", "ADDSLOTSRANGE", low, high)
            bus = await self._bus(port)
            await self.ask(self.ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
        end = time.monotonic() + 20
        while not all([await self._agrees(port) for port in self.ports]):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)

    async def ask(self, port: int, *words: Any) -> Any:
        """The reply of one node to one command."""
        wire = RedisConnection(valkey_url(port, PASSWORD), timeout_s=5, load_commands=list)
        await wire.start()
        try:
            return await wire.execute(*words)
        finally:
            await wire.stop()

    async def owner(self, key: str) -> int:
        """The port of the node that has a key."""
        rows = await self.ask(self.ports[1], "CLUSTER", "SLOTS")
        slot = key_slot(key.encode())
        return next(int(node[1]) for low, high, node, *_ in rows if low <= slot <= high)

    async def move(self, key: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """Moves the slot of a key to another node with its keys; something happens meanwhile."""
        slot, source = key_slot(key.encode()), await self.owner(key)
        target = self.ports[self.ports.index(source) - 1]
        await self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", await self._id(source))
        await self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", await self._id(target))
        await meanwhile()
        keys = await self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)
        if keys:
            words = ("127.0.0.1", target, "", 0, 5000, "AUTH", PASSWORD, "KEYS", *keys)
            await self.ask(source, "MIGRATE", *words)
        for port in (target, source, *self.ports):
            await self.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", await self._id(target))
        assert await self.owner(key) == target

    def kill(self, port: int) -> None:
        """Kills a node, as when a machine dies."""
        running = self._running[self.ports.index(port)]
        running.popen.kill()
        running.popen.wait()

    def revive(self, port: int) -> None:
        """Starts the same node again, with what it wrote to disk."""
        at = self.ports.index(port)
        self._running[at] = process.start(self._parts[at], self._folder / "logs")
        process.wait_until_ready([self._running[at]])

    def end(self) -> None:
        """Ends all of them."""
        for port in self.ports:
            self.kill(port)

    async def _id(self, port: int) -> str:
        return str((await self.ask(port, "CLUSTER", "MYID")).decode())

    async def _bus(self, port: int) -> int:
        config: list[bytes] = await self.ask(port, "CONFIG", "GET", "cluster-port")
        return int(config[1])

    async def _agrees(self, port: int) -> bool:
        info: bytes = await self.ask(port, "CLUSTER", "INFO")
        said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        return (said["cluster_state"], said["cluster_slots_ok"], said["cluster_size"]) == ("ok", "16384", "3")
