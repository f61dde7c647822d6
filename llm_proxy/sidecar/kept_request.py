"""KeptRequest: a POST request whose head is kept, written to a pooled connection of aiohttp's.

Invariants: aiohttp's connector opens, limits and keeps the connections; its protocol parses the answer and
watches the read timeout; answers and exceptions are those of its client.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from llm_proxy.sidecar.litellm_internals import Untyped

MAX_BODY_BYTES = 64 * 1024
"""Of a longer body aiohttp's client waits until the provider took some."""
LENGTH_HEADER = "\r\nContent-Length: "
OTHER_HEADERS = frozenset({"expect", "transfer-encoding", "content-encoding"})
"""With one of them aiohttp's client sends more than a head and a body."""
WRITTEN = SimpleNamespace(output_size=0)
"""For aiohttp's object of an answer: the request is written."""


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """A request without its body.

    Attributes:
        before: Its head up to the length of the body.
        after: The rest of its head.
        request: aiohttp's object of it, by which the connector chooses a connection.
        session: Whose connections are used.
        make_response: Makes aiohttp's object of an answer that has not arrived.
        timeout: Of the connection and of reads.
    """

    before: bytes
    after: bytes
    request: Untyped
    session: Untyped
    make_response: Callable[[], Untyped]
    timeout: Untyped

    async def post(self, body: bytes) -> Untyped:
        """Send a body of at most `MAX_BODY_BYTES`; return aiohttp's object of the answer, its body as sent.

        Raises what aiohttp's client raises.
        """
        try:
            connection = await self.session.connector.connect(self.request, [], self.timeout)
        except TimeoutError as error:
            text = f"Connection timeout to host {self.request.url}"
            raise import_module("aiohttp").ConnectionTimeoutError(text) from error
        protocol, response = connection.protocol, self.make_response()
        protocol.set_response_params(
            read_until_eof=True, auto_decompress=False, read_timeout=self.timeout.sock_read
        )
        try:
            self._write(protocol, body)
            return await response.start(connection)
        except BaseException:
            response.close()
            connection.close()
            raise

    def _write(self, protocol: Untyped, body: bytes) -> None:
        transport = protocol.transport
        if transport is None or transport.is_closing():
            text = f"Can not write request body for {self.request.url}"
            raise import_module("aiohttp").ClientOSError(None, text)
        transport.write(b"%b%d%b%b" % (self.before, len(body), self.after, body))
        protocol.start_timeout()


def keep_request(url: Untyped, options: Mapping[str, Any], session: Untyped) -> KeptRequest | None:
    """Return the request that aiohttp's client would send; None if it is not simple.

    Args:
        url: Its URL.
        options: For `ClientSession.request`.
        session: The session of the running loop.
    """
    headers = options["headers"]
    if "content-type" not in headers or OTHER_HEADERS & headers.keys():
        return None
    if options.get("proxy") or url.raw_user or url.raw_password or not _is_plain(session):
        return None
    aiohttp, loop = import_module("aiohttp"), asyncio.get_running_loop()
    given = {name: options[name] for name in ("headers", "ssl") if name in options}
    request = aiohttp.ClientRequest("POST", url, data=b"-", loop=loop, **given)
    fields = [f"{name}: {value}" for name, value in request.headers.items()]
    lines = [f"POST {request.url.raw_path_qs} HTTP/1.1", *fields]
    before, found, after = "\r\n".join([*lines, "", ""]).partition(f"{LENGTH_HEADER}1\r")
    if not found or any(sign in line for line in lines for sign in "\r\n\0"):
        return None
    known = {"request_info": request.request_info, "loop": loop, "session": session, "traces": ()}
    written = {"writer": None, "continue100": None, "timer": None, "stream_writer": WRITTEN}
    make_response = partial(aiohttp.ClientResponse, "POST", request.url, **known, **written)
    head = (before + LENGTH_HEADER).encode(), f"\r{after}".encode()
    return KeptRequest(*head, request, session, make_response, options["timeout"])


def _is_plain(session: Untyped) -> bool:
    """Whether aiohttp's client adds nothing to a session's requests, and no one watches them."""
    adds = session.headers or session.skip_auto_headers or session.trace_configs or session.auth
    keeps_cookies = type(session.cookie_jar).__name__ != "DummyCookieJar"
    return not (adds or session.trust_env or keeps_cookies or session.connector.force_close)
