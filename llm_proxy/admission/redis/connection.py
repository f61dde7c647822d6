"""One pipelined connection to a Redis server, shared by every request of the process.

Invariants: commands and replies keep one order; a command waits at most its timeout, and not at all while the
server is unreachable or stalled; a late reply goes to `on_late_reply`, which undoes it. Of several hosts the
first primary is used, of Sentinels the one they name. redis-py is not used: it closes a connection on a
timeout, so that what a script has reserved is lost. Raises LimiterUnavailable.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import hiredis

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.background import BackgroundLoop
from llm_proxy.redis_urls import RedisAddress, redis_address
from llm_proxy.schema.database import classify_error

log = logging.getLogger(__name__)

Argument = str | int | bytes
CONNECT_TIMEOUT_S = 1.0
STALL_LIMIT_S = 5.0
"""Time without an answer after which the connection is closed and opened again."""
_SECOND_CHECK_S = 0.002
_ERROR_REASONS = {
    "WRONGPASS": "it refuses this user or password",
    "NOAUTH": "it asks for a password",
    "NOPERM": "its user lacks a permission",
    "LOADING": "it is still loading its data",
}
_LOST_RIGHTS = ("READONLY", "NOAUTH", "WRONGPASS")
"""Errors of a server that is no longer the primary, or no longer knows this user: it is disconnected."""
_CONNECT_ERRORS = (OSError, LimiterUnavailable, TimeoutError)
_NO_REDIS = "what answers there is no Redis"
_FALSE = ("false", "f", "no", "n", "0")
_SENTINEL_TIMEOUT_S = 0.5
_RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0)


class PendingCommand:
    """A command that was sent: when, the future of its reply, and what to do with a late reply."""

    __slots__ = ("future", "on_late_reply", "sent")

    def __init__(
        self, sent: float, future: asyncio.Future[Any], orphan: Callable[[Any], None] | None
    ) -> None:
        self.sent = sent
        self.future = future
        self.on_late_reply = orphan


class RedisConnection(asyncio.Protocol):
    """A connection that reconnects by itself.

    Attributes:
        fault: Why it could not be made, without addresses and passwords; empty while it stands.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        load_commands: Callable[[], list[tuple[Argument, ...]]],
        tls: ssl.SSLContext | None = None,
        name: str = "limits",
    ) -> None:
        """`name` is the store's in logs and in the list of loops."""
        self.fault = ""
        self._name = name
        self._address = address = redis_address(url)
        finders: list[Callable[[], Awaitable[str]]] = [partial(_known, one) for one in address.servers]
        finders += [partial(self._ask_sentinel, one) for one in address.sentinels] if address.service else []
        self._finders = deque(finders)
        self._tls = tls
        self._timeout_s = timeout_s
        self._load_commands = load_commands
        self._pending: deque[PendingCommand] = deque()
        self._out: list[bytes] = []
        self._sent_in_turn, self._is_busy = 0, False
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._ready = False
        self._stalled = False
        self._timeout_timer: asyncio.TimerHandle | None = None
        self._reconnect_loop = BackgroundLoop(f"{name}-connection", self._reconnect)
        self._attempts = 0
        self._lost = asyncio.Event()

    @property
    def is_available(self) -> bool:
        """Whether the node can be reached now."""
        return self._ready and not self._stalled

    async def start(self) -> None:
        """Connects, or keeps trying in the background when that fails."""
        try:
            await self._connect()
        except _CONNECT_ERRORS as error:
            self.fault = _reason(error)
            log.warning("the %s store does not answer at the start", self._name, extra={"why": self.fault})
        self._reconnect_loop.start()

    async def stop(self) -> None:
        """Closes the connection."""
        await self._reconnect_loop.stop()
        if self._transport is not None:
            self._transport.close()
        self._fail_all()

    def execute(
        self, *args: Argument, on_late_reply: Callable[[Any], None] | None = None
    ) -> "asyncio.Future[Any]":
        """Returns the future of one command's reply; raises `LimiterUnavailable`, now or then."""
        if not self._ready or self._stalled:
            raise LimiterUnavailable
        return self._send(args, on_late_reply)

    def _send(self, args: tuple[Argument, ...], orphan: Callable[[Any], None] | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._pending.append(PendingCommand(loop.time(), future, orphan))
        if not self._sent_in_turn:
            loop.call_soon(self._end_turn)
        self._sent_in_turn += 1
        self._out.append(hiredis.pack_command(args))  # type: ignore[arg-type]  # its stub means tuples of one
        if self._timeout_timer is None:
            self._timeout_timer = loop.call_later(self._timeout_s, self._check_timeout)
        return future

    def flush_if_alone(self) -> None:
        """Writes the first command of a turn of the event loop at once, unless the turn before had several.

        Several share a write at the turn's end, which costs less.
        """
        if self._sent_in_turn == 1 and not self._is_busy:
            self.flush()

    def _end_turn(self) -> None:
        self._sent_in_turn, self._is_busy = 0, self._sent_in_turn > 1
        self.flush()

    def flush(self) -> None:
        """Writes what was not written yet; else the end of this turn of the event loop does."""
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts with a new parser."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._reader = hiredis.Reader()
        self._stalled = False

    def data_received(self, data: bytes) -> None:
        """Hands each reply to its command."""
        self._reader.feed(data)
        if self._stalled:
            self._stalled, self.fault = False, ""
        while (reply := self._next_reply()) is not False:
            command = self._pending.popleft()
            if command.future.done():
                if command.on_late_reply is not None and not isinstance(reply, hiredis.ReplyError):
                    command.on_late_reply(reply)
            elif isinstance(reply, hiredis.ReplyError):
                command.future.set_exception(LimiterUnavailable(str(reply)))
                if str(reply).startswith(_LOST_RIGHTS) and self._transport is not None:
                    self._finders.rotate(-1)
                    self._transport.abort()
            else:
                command.future.set_result(reply)

    def _next_reply(self) -> Any:  # noqa: ANN401 -- RESP
        """Returns the next complete reply, or False; closes a connection whose peer does not speak Redis."""
        try:
            reply = self._reader.gets()
        except hiredis.ProtocolError:
            pass
        else:
            if reply is False or self._pending:
                return reply
        for command in self._pending:
            if not command.future.done():
                command.future.set_exception(LimiterUnavailable(_NO_REDIS))
        if self._transport is not None:
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Fails every command, and wakes the reconnect loop."""
        self._ready = False
        self._transport = None
        self._fail_all()
        self._lost.set()

    # Timeouts: replies come in order, so only the oldest command is checked

    def _check_timeout(self, *, second_check: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._timeout_timer = None
        if not self._pending:
            return
        late_s = loop.time() - self._pending[0].sent
        if late_s < self._timeout_s:
            self._timeout_timer = loop.call_later(self._timeout_s - late_s, self._check_timeout)
        elif not second_check:
            # The clock also ran while this process was busy: check the socket once more.
            self._timeout_timer = loop.call_later(
                _SECOND_CHECK_S, lambda: self._check_timeout(second_check=True)
            )
        else:
            self._stall(late_s)

    def _stall(self, late_s: float) -> None:
        if not self._stalled:
            log.warning("the %s store does not answer", self._name)
        self._stalled, self.fault = True, "it does not answer in time"
        for command in self._pending:
            if not command.future.done():
                command.future.set_exception(LimiterUnavailable("no answer in time"))
        if late_s > STALL_LIMIT_S and self._transport is not None:
            self._transport.abort()
        else:
            loop = asyncio.get_running_loop()
            self._timeout_timer = loop.call_later(
                self._timeout_s, lambda: self._check_timeout(second_check=True)
            )

    def _fail_all(self) -> None:
        self._out.clear()
        while self._pending:
            command = self._pending.popleft()
            if not command.future.done():
                command.future.set_exception(LimiterUnavailable("connection lost"))

    # Connecting

    async def _reconnect(self) -> None:
        if self._ready:
            self._attempts = 0
            self._lost.clear()
            await self._lost.wait()
            log.warning("the connection to the %s store is lost", self._name)
        try:
            await self._connect()
            log.warning("the %s store answers again", self._name)
        except _CONNECT_ERRORS as error:
            if self.fault != (reason := _reason(error)):
                self.fault = reason
                log.warning("the %s store cannot be reached", self._name, extra={"why": reason})
            await asyncio.sleep(_RETRY_S[min(self._attempts, len(_RETRY_S) - 1)])
            self._attempts += 1

    async def _connect(self) -> None:
        """Connects to the first server that takes writes; raises the first error of one that answered."""
        fault: Exception | None = None
        for find in tuple(self._finders):
            try:
                await self._connect_to(await find())
            except _CONNECT_ERRORS as error:
                answered = isinstance(error, LimiterUnavailable) and not isinstance(fault, LimiterUnavailable)
                fault = error if fault is None or answered else fault
                self._finders.rotate(-1)
            else:
                self.fault = ""
                return
        raise fault or LimiterUnavailable

    async def _ask_sentinel(self, url: str) -> str:
        """Returns the address of the primary that a Sentinel names."""
        timeout_s = max(self._timeout_s, _SENTINEL_TIMEOUT_S)
        sentinel = RedisConnection(url, timeout_s=timeout_s, load_commands=list, tls=self._tls)
        try:
            await sentinel._connect()
            name = self._address.service
            found: list[bytes] | None = await sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        except _CONNECT_ERRORS as error:
            raise LimiterUnavailable(f"a Sentinel says nothing: {_reason(error)}") from None
        finally:
            await sentinel.stop()
        if not found:
            raise LimiterUnavailable("a Sentinel knows no service of this name")
        return self._address.server_at(found[0].decode(), int(found[1]))

    async def _connect_to(self, url: str) -> None:
        address = redis_address(url)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(max(CONNECT_TIMEOUT_S, 2 * self._timeout_s)):
            if not address.hosts:
                await loop.create_unix_connection(lambda: self, address.socket_path)
            else:
                tls_context = _tls_context(address.parameters, self._tls) if address.is_tls else None
                host, port = address.hosts[0]
                await loop.create_connection(lambda: self, host or "127.0.0.1", port, ssl=tls_context)
            try:
                for args in _login_commands(address):
                    await self._send(args, None)
                if len(self._finders) > 1 or self._address.service:
                    await self._require_primary()
                for args in self._load_commands():
                    await self._send(args, None)
            except (LimiterUnavailable, asyncio.CancelledError):
                while self._transport is not None:  # else its end would be taken for the next one's
                    self._transport.abort()
                    await asyncio.sleep(0)
                raise
        self._ready = True

    async def _require_primary(self) -> None:
        """Raises `LimiterUnavailable` for a replica; a cluster's replica knows the cluster, and will do."""
        try:
            role: list[Any] = await self._send(("ROLE",), None)
            info: bytes = b"" if role[0] == b"master" else await self._send(("INFO", "cluster"), None)
        except LimiterUnavailable as unavailable:
            if str(unavailable).startswith("NOPERM"):
                return  # a replica fails at the first write
            raise
        if role[0] != b"master" and b"cluster_enabled:1" not in info:
            raise LimiterUnavailable("no primary among its hosts")


async def _known(url: str) -> str:
    return url


def _reason(error: Exception) -> str:
    """The reason without addresses or passwords: of a reply only its code."""
    if isinstance(error, LimiterUnavailable):
        code = str(error).partition(" ")[0]
        return _ERROR_REASONS.get(code, f"it answers {code}" if code.isupper() else str(error) or "no answer")
    reason: str = classify_error(error).reason
    return reason


def _tls_context(parameters: dict[str, str], default: ssl.SSLContext | None) -> ssl.SSLContext:
    """The context that the URL's `ssl_` parameters ask for; without any the default."""
    given = {name: value for name, value in parameters.items() if name.startswith("ssl_") and value}
    if not given and default is not None:
        return default
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
    if given.get("ssl_certfile"):
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    is_unverified = given.get("ssl_cert_reqs") in {"none", "CERT_NONE"}
    if is_unverified or given.get("ssl_check_hostname", "true").lower() in _FALSE:
        context.check_hostname = False
    if is_unverified:
        context.verify_mode = ssl.CERT_NONE
    return context


def _login_commands(address: RedisAddress) -> list[tuple[Argument, ...]]:
    """The AUTH and SELECT commands of an address."""
    args: list[tuple[Argument, ...]] = []
    user, password = address.credentials
    if password:
        args.append(("AUTH", user, password) if user else ("AUTH", password))
    if address.database:
        args.append(("SELECT", address.database))
    return args
