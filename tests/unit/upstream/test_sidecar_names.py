"""Sidecars behind one name, while the name server comes and goes; the name server is the only double."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import Any

from threaded_server import serving

from llm_proxy.call_guard import TimeoutPolicy, Timeouts
from llm_proxy.telemetry import Metrics
from llm_proxy.upstream import CurrentCatalog, SidecarClient
from llm_proxy.upstream.litellm_protocol import LiteLLMControls
from llm_proxy.upstream.monitor import SidecarMonitor
from llm_proxy.upstream.pool import SidecarPool
from llm_proxy.upstream.sidecar_keys import SidecarKeys
from llm_proxy.upstream.slot_queue import QueueTimes, SlotQueue

NAME = "gw-sidecars"
HEALTHY = b'{"status":"healthy"}'


class ScriptedNames(asyncio.SelectorEventLoop):
    """An event loop whose name server knows one name, does not answer, or takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] | None = []
        self.delay_s = 0.0

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Answer for the one name."""
        if host != NAME:
            return await super().getaddrinfo(host, port, **options)
        await asyncio.sleep(self.delay_s)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in self.addresses]


class Health(BaseHTTPRequestHandler):
    """Answers a sidecar's checks."""

    def do_GET(self) -> None:
        """Without a catalog the monitor checks four times a second."""
        self.send_response(200 if "/health/liveliness" in self.path else 404)
        self.send_header("content-length", str(len(HEALTHY)))
        self.end_headers()
        self.wfile.write(HEALTHY)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- the base class names it so
        """Write nothing."""


class Listening(HTTPServer):
    """A sidecar's server: a thread's, for asyncio's loses a connection that it accepts while it is closed."""

    def server_bind(self) -> None:
        """Bind without asking for the host's name."""
        TCPServer.server_bind(self)
        self.server_port = self.server_address[1]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 -- no event announces the states of a pool
            await asyncio.sleep(0.02)


async def _follow(names: ScriptedNames, port: int, end_second: Callable[[], None]) -> None:
    both = {f"http://127.0.0.{end}:{port}" for end in (1, 2)}
    url = f"http://{NAME}:{port}"
    pool = SidecarPool([url], max_in_flight=8)
    queue = SlotQueue(pool, QueueTimes(1, 1), max_waiting=8)
    timeouts = TimeoutPolicy(Timeouts(5, 5, 5))
    client = SidecarClient(queue, SidecarKeys(("key",)), timeouts, LiteLLMControls(), CurrentCatalog())
    monitor = SidecarMonitor(client, (url,), Metrics(), resolve_every_s=0.1)
    names.addresses = ["127.0.0.1", "127.0.0.2"]
    await monitor.start()
    try:
        await _until(lambda: {one.url for one in pool.sidecars if one.successes} == both)
        names.addresses = None
        checked = [one.successes for one in pool.sidecars]
        await _until(
            lambda: all(now.successes > then + 1 for now, then in zip(pool.sidecars, checked, strict=True))
        )
        assert {one.url for one in pool.sidecars} == both
        names.delay_s = 5  # silent, as behind a firewall: checks go on beside the look-up
        checked = [one.successes for one in pool.sidecars]
        await _until(
            lambda: all(now.successes > then + 1 for now, then in zip(pool.sidecars, checked, strict=True))
        )
        end_second()
        await _until(lambda: [one.is_live for one in pool.sidecars] == [True, False])
    finally:
        await monitor.stop()
        client.stop()


def test_a_name_that_does_not_resolve_keeps_its_sidecars() -> None:
    """Calls go on while the name server is away, and each sidecar's own checks say whether it is there."""
    first = Listening(("127.0.0.1", 0), Health)
    second = Listening(("127.0.0.2", first.server_port), Health)
    with serving(first), ExitStack() as held, asyncio.Runner(loop_factory=ScriptedNames) as runner:
        held.enter_context(serving(second))
        loop = runner.get_loop()
        assert isinstance(loop, ScriptedNames)
        runner.run(_follow(loop, first.server_port, held.close))
