"""A wire between a client and its server that a test can hold still or cut."""

import asyncio
import contextlib
from urllib.parse import urlsplit, urlunsplit


class InterruptibleProxy:
    """Passes bytes on until it is told otherwise."""

    def __init__(self, url: str) -> None:
        self._behind = urlsplit(url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def start(self) -> None:
        """Listen; `url` is the address to use."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port())
        port = self._server.sockets[0].getsockname()[1]
        user, _, _ = self._behind.netloc.rpartition("@")
        self.url = urlunsplit(self._behind._replace(netloc=f"{user}@127.0.0.1:{port}"))

    async def cut(self) -> None:
        """Nobody listens any more, and every connection is gone."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        closing = [writer.wait_closed() for writer in self._writers]
        await asyncio.gather(*closing, return_exceptions=True)
        self._writers.clear()
        self._tasks.clear()

    def hold(self) -> None:
        """Connections stay, nothing passes."""
        self._flowing.clear()

    def flow(self) -> None:
        """On again."""
        self._flowing.set()

    def _port(self) -> int:
        return urlsplit(self.url).port or 0 if self.url else 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._behind.hostname, self._behind.port
        behind_reader, behind_writer = await asyncio.open_connection(host, port)
        for from_, to in ((reader, behind_writer), (behind_reader, writer)):
            self._writers.add(to)
            self._tasks.add(asyncio.create_task(self._pass(from_, to)))

    async def _pass(self, from_: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await from_.read(65_536):
                await self._flowing.wait()
                to.write(data)
                await to.drain()
        to.close()
