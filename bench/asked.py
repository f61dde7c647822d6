"""A connection on which requests come in, parsed no further than this: the method, the path, the body."""

import asyncio
from typing import cast

import httptools


class Asked(asyncio.Protocol):
    """One connection; a whole request is `asked`."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = self.body = b""

    def asked(self) -> None:
        """A request is whole: answer it."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """The parser's word: the path."""
        self.url, self.body = url, b""

    def on_body(self, part: bytes) -> None:
        """The parser's word: some of the body."""
        self.body += part

    def on_message_complete(self) -> None:
        """The parser's word: the request is whole."""
        self.asked()
