"""One pipelined connection to a Redis node, shared by every request of the process.

Invariants: commands and replies keep one order; a command waits at most its timeout, and not at all while
the node is unreachable or stalled; a late reply goes to `orphan`, which undoes it. No library does that:
redis-py drops the connection on a timeout, and with it what a script took. Raises LimiterUnavailable.
Source: https://valkey.io/topics/protocol/ (RESP2).
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.background import BackgroundLoop
from llm_proxy.schema.database import classify_error

log = logging.getLogger(__name__)

Argument = str | int | bytes
CONNECT_TIMEOUT_S = 1.0
STALL_LIMIT_S = 5.0
"""After so long without an answer the connection is given up and made anew."""
_SECOND_LOOK_S = 0.002
_REFUSALS = {
    "WRONGPASS": "it refuses this user or password",
    "NOAUTH": "it asks for a password",
    "NOPERM": "its user lacks a permission",
    "LOADING": "it is still loading its data",
}
_RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0)


class PendingCommand:
    """A command on its way: when it was sent, who waits, and what to do when nobody does."""

    __slots__ = ("future", "on_late_reply", "sent")

    def __init__(
        self, sent: float, future: asyncio.Future[Any], orphan: Callable[[Any], None] | None
    ) -> None:
        self.sent = sent
        self.future = future
        self.on_late_reply = orphan


class RedisConnection(asyncio.Protocol):
    """A connection that mends itself."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        greeting: Callable[[], list[tuple[Argument, ...]]],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        self._timeout_s = timeout_s
        self._greeting = greeting
        self._waiting: deque[PendingCommand] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._ready = False
        self._stalled = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._keeper = BackgroundLoop("limits-connection", self._keep)
        self._tries = 0
        self._lost = asyncio.Event()

    @property
    def is_available(self) -> bool:
        """Whether the store can be asked now."""
        return self._ready and not self._stalled

    async def start(self) -> None:
        """Connect, or keep trying in the background when that fails."""
        try:
            await self._connect()
        except (OSError, LimiterUnavailable, TimeoutError) as error:
            log.warning("limits store away at start", extra={"why": _why(error)})
        self._keeper.start()

    async def stop(self) -> None:
        """Close the connection."""
        await self._keeper.stop()
        if self._transport is not None:
            self._transport.close()
        self._fail_all()

    def execute(
        self, *words: Argument, on_late_reply: Callable[[Any], None] | None = None
    ) -> "asyncio.Future[Any]":
        """The reply to one command, to be awaited; raises `LimiterUnavailable`, now or then."""
        if not self._ready or self._stalled:
            raise LimiterUnavailable
        return self._send(words, on_late_reply)

    def _send(self, words: tuple[Argument, ...], orphan: Callable[[Any], None] | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(PendingCommand(loop.time(), future, orphan))
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub means tuples of one
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._timeout_s, self._watch)
        return future

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin afresh."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._reader = hiredis.Reader()
        self._stalled = False

    def data_received(self, data: bytes) -> None:
        """Hand each reply to whoever waits for it."""
        self._reader.feed(data)
        self._stalled = False
        while (reply := self._reader.gets()) is not False:
            waiting = self._waiting.popleft()
            if waiting.future.done():
                if waiting.on_late_reply is not None and not isinstance(reply, hiredis.ReplyError):
                    waiting.on_late_reply(reply)
            elif isinstance(reply, hiredis.ReplyError):
                waiting.future.set_exception(LimiterUnavailable(str(reply)))
                if str(reply).startswith("READONLY") and self._transport is not None:
                    self._transport.abort()  # it is the primary no more: the address may lead elsewhere now
            else:
                waiting.future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Refuse whoever waits, and wake the keeper."""
        self._ready = False
        self._transport = None
        self._fail_all()
        self._lost.set()

    # Deadlines: replies come in order, so only the oldest command needs watching

    def _watch(self, *, second_look: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._watchdog = None
        if not self._waiting:
            return
        late_s = loop.time() - self._waiting[0].sent
        if late_s < self._timeout_s:
            self._watchdog = loop.call_later(self._timeout_s - late_s, self._watch)
        elif not second_look:
            # The clock also ran while this process was busy: look at the socket once more.
            self._watchdog = loop.call_later(_SECOND_LOOK_S, lambda: self._watch(second_look=True))
        else:
            self._stall(late_s)

    def _stall(self, late_s: float) -> None:
        if not self._stalled:
            log.warning("limits store does not answer")
        self._stalled = True
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(LimiterUnavailable("no answer in time"))
        if late_s > STALL_LIMIT_S and self._transport is not None:
            self._transport.abort()
        else:
            loop = asyncio.get_running_loop()
            self._watchdog = loop.call_later(self._timeout_s, lambda: self._watch(second_look=True))

    def _fail_all(self) -> None:
        self._out.clear()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                waiting.future.set_exception(LimiterUnavailable("connection lost"))

    # Connecting

    async def _keep(self) -> None:
        if self._ready:
            self._tries = 0
            self._lost.clear()
            await self._lost.wait()
            log.warning("limits store lost")
        try:
            await self._connect()
            log.warning("limits store back")
        except (OSError, LimiterUnavailable, TimeoutError):
            await asyncio.sleep(_RETRY_S[min(self._tries, len(_RETRY_S) - 1)])
            self._tries += 1

    async def _connect(self) -> None:
        where: dict[str, Any] = dict(parse_url(self._url))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(max(CONNECT_TIMEOUT_S, 2 * self._timeout_s)):
            if path := where.get("path"):
                await loop.create_unix_connection(lambda: self, path)
            else:
                secure = None
                if where.get("connection_class") is SSLConnection:
                    secure = self._tls or ssl.create_default_context()
                host, port = where.get("host", "127.0.0.1"), int(where.get("port", 6379))
                await loop.create_connection(lambda: self, host, port, ssl=secure)
            try:
                for words in (*_opening(where), *self._greeting()):
                    await self._send(words, None)
            except (LimiterUnavailable, asyncio.CancelledError):
                if self._transport is not None:
                    self._transport.abort()
                raise
        self._ready = True


def _why(error: Exception) -> str:
    """The reason in words that hold no address and no password: of a reply only its code."""
    if isinstance(error, LimiterUnavailable):
        code = str(error).partition(" ")[0]
        return _REFUSALS.get(code, f"it answers {code}" if code.isupper() else str(error) or "no answer")
    reason: str = classify_error(error).reason
    return reason


def _opening(where: dict[str, Any]) -> list[tuple[Argument, ...]]:
    """Who we are and which database we want."""
    words: list[tuple[Argument, ...]] = []
    if where.get("password"):
        name = (where["username"],) if where.get("username") else ()
        words.append(("AUTH", *name, where["password"]))
    if where.get("db"):
        words.append(("SELECT", int(where["db"])))
    return words
