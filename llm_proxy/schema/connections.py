"""Opens connections to Postgres, also where a pooler gives each transaction another session of the server.

Invariants: behind such a pooler no statement outlives a request and nothing is left in a session: statements
are unnamed and sent with their values. As no user of a pool changes a session but by `set_in_session`, only
that is reset. The pools of one gateway together stay within the address's `connection_limit`.
Sources: https://www.pgbouncer.org/features.html, `asyncpg.connection.Connection._get_statement`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import asyncpg

from llm_proxy.postgres_urls import client_parameters
from llm_proxy.schema.database import connecting

Pooler = Literal["auto", "transaction", "session"]
CONNECT_TIMEOUT_S, PATIENT_CONNECT_TIMEOUT_S = 5, 60
COMMAND_TIMEOUT_S = 30
CLOSE_TIMEOUT_S = RELEASE_TIMEOUT_S = 1
POOL_SIZE = 8
REPORTS_POOL_SIZE = 2
"""Connections for questions about usage, which may take long: nothing else waits for them."""
CONSOLE_POOL_SIZE = 4
MIN_CONNECTIONS = 2
"""An erasure holds one connection and needs another."""
_MAX_QUERIES, _MAX_IDLE_S = 50_000, 300.0  # asyncpg's own

_POOLER_PARAMETERS = {
    "pgbouncer": "true",
    "statement_cache_size": "0",
    "prepared_statement_cache_size": "0",
    "prepare_threshold": "0",
    "preparethreshold": "0",
}
"""Parameters by which other clients say that a pooler is in transaction mode, and their values then."""

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
_DIRECT_CACHE, _NO_CACHE = 100, 0
"""Statements that keep a name on the server: asyncpg's own number, and none."""

if TYPE_CHECKING:
    from asyncpg.pool import PoolAcquireContext, PoolConnectionProxy

    _DriverConnection = asyncpg.Connection[asyncpg.Record]
    _DriverPool = asyncpg.Pool[asyncpg.Record]
else:  # generic in its stubs only
    _DriverConnection, _DriverPool = asyncpg.Connection, asyncpg.Pool


class PooledConnection(_DriverConnection):
    """A connection that leaves a session alone which is not its own."""

    owns_session = False
    is_altered = False

    def get_reset_query(self) -> str:
        """Returns what a pool sends before it hands the connection to its next user."""
        return super().get_reset_query() if self.is_altered else ""

    async def set_in_session(self, statements: str) -> None:
        """Changes a session that is the connection's own, until the pool has it back."""
        if self.owns_session:
            self.is_altered = True
            await self.execute(statements)


Verify = Callable[[PooledConnection], Awaitable[None]]
_T = TypeVar("_T")


class LimitedPool(_DriverPool):
    """A pool in which no caller waits longer than `acquire_timeout_s`, if set, for a connection.

    A connection whose interrupted command Postgres does not end within `RELEASE_TIMEOUT_S` is cut.
    """

    acquire_timeout_s: float | None = None

    def acquire(self, *, timeout: float | None = None) -> "PoolAcquireContext[asyncpg.Record]":
        """Returns the pool's next free connection; raises `TimeoutError`."""
        return super().acquire(timeout=self.acquire_timeout_s if timeout is None else timeout)

    async def release(
        self,
        connection: "PoolConnectionProxy[asyncpg.Record]",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- asyncpg's signature
    ) -> None:
        """Takes a connection back; of its own accord asyncpg waits for the whole time of a command."""
        with contextlib.suppress(TimeoutError):  # it is cut then, and its user has an error already
            await super().release(connection, timeout=RELEASE_TIMEOUT_S if timeout is None else timeout)


class Connector:
    """Makes the connections of a gateway's pools; finds out at the first one whether a pooler answers."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        pooler: Pooler,
        *,
        is_patient: bool = False,
        verify: Verify | None = None,
    ) -> None:
        """`auto` finds out by the address and the first connection.

        `is_patient`: no caller waits for it; `verify` looks at each connection before it is used.
        """
        self._verify = verify
        parameters = client_parameters(url)
        is_named = any(parameters.get(name) == value for name, value in _POOLER_PARAMETERS.items())
        self._url = url
        self._tls = tls
        default_s = PATIENT_CONNECT_TIMEOUT_S if is_patient else CONNECT_TIMEOUT_S
        self._timeout_s = _positive(parameters.get("connect_timeout")) or default_s
        self._command_timeout_s = None if is_patient else COMMAND_TIMEOUT_S
        self._is_shared = True if is_named else None
        if pooler != "auto":
            self._is_shared = pooler == "transaction"

    async def __call__(self, *_: object, **__: object) -> PooledConnection:
        """Returns a new connection, as asyncpg's pool asks for it."""
        if self._is_shared is None:
            first = await self._connect(is_shared=True)
            self._is_shared = await _answer_or_cut(first, is_behind_pooler(first))
            if self._is_shared:
                return first
            await first.close()
        return await self._connect(is_shared=self._is_shared)

    async def _connect(self, *, is_shared: bool) -> PooledConnection:
        async with connecting():
            made: PooledConnection = await asyncpg.connect(
                self._url,
                ssl=self._tls,
                timeout=self._timeout_s,
                command_timeout=self._command_timeout_s,
                connection_class=PooledConnection,
                statement_cache_size=_NO_CACHE if is_shared else _DIRECT_CACHE,
            )
        made.owns_session = not is_shared
        if self._verify is not None:
            await _answer_or_cut(made, self._verify(made))
        return made


async def _answer_or_cut(connection: PooledConnection, question: Awaitable[_T]) -> _T:
    """Returns a new connection's answer; cuts a connection that gives none, for its pool never gets it."""
    try:
        return await question
    except BaseException:
        connection.terminate()
        raise


def gateway_pools(
    url: str, tls: ssl.SSLContext | None, pooler: Pooler, verify: Verify | None = None
) -> tuple[Pool, Pool]:
    """Returns the running loop's pool for calls and its one for reports; with a low limit they are one.

    Neither is connected.

    Args:
        url: A normalized address; its `connection_limit` and `pool_timeout` hold.
        tls: The trusted certificates; None: as the address says.
        pooler: What stands before Postgres.
        verify: Looks at each new connection before it is used.
    """
    limit = _positive(client_parameters(url).get("connection_limit"))
    connector = Connector(url, tls, pooler, verify=verify)
    most = max(int(limit), MIN_CONNECTIONS) if limit else POOL_SIZE + REPORTS_POOL_SIZE
    reports = min(REPORTS_POOL_SIZE, (most - 1) // MIN_CONNECTIONS)
    pool = _pool(url, connector, min(POOL_SIZE, most - reports))
    return pool, _pool(url, connector, reports) if reports else pool


def console_pool(url: str, tls: ssl.SSLContext | None, pooler: Pooler) -> Pool:
    """Returns the running loop's pool for the console, not connected; its address's `connection_limit` holds.

    Args:
        url: A normalized address.
        tls: The trusted certificates; None: as the address says.
        pooler: What stands before Postgres.
    """
    limit = _positive(client_parameters(url).get("connection_limit"))
    size = min(CONSOLE_POOL_SIZE, max(int(limit), MIN_CONNECTIONS)) if limit else CONSOLE_POOL_SIZE
    return _pool(url, Connector(url, tls, pooler), size)


def _pool(url: str, connector: Connector, size: int) -> LimitedPool:
    pool = LimitedPool(
        min_size=0,
        max_size=size,
        max_queries=_MAX_QUERIES,
        max_inactive_connection_lifetime=_MAX_IDLE_S,
        loop=asyncio.get_running_loop(),  # else the driver takes one that may never run
        connect=connector,
        connection_class=PooledConnection,
        record_class=asyncpg.Record,
    )
    pool.acquire_timeout_s = _positive(client_parameters(url).get("pool_timeout"))
    return pool


@contextlib.asynccontextmanager
async def open_command_pool(url: str, tls: ssl.SSLContext | None) -> AsyncGenerator[Pool]:
    """Opens a pool of at most two connections for one command; raises the driver's errors.

    Args:
        url: A normalized address.
        tls: None means that the URL says how to connect.
    """
    connector = Connector(url, tls, "transaction", is_patient=True)
    async with _pool(url, connector, MIN_CONNECTIONS) as pool:
        yield pool


async def close_pool(pool: Pool) -> None:
    """Closes connections when they are returned; cuts the others after `CLOSE_TIMEOUT_S`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pool.close()
    pool.terminate()


async def connect(url: str, tls: ssl.SSLContext | None, pooler: Pooler = "transaction") -> PooledConnection:
    """Returns one connection for a process of its own, by default as one which a pooler serves."""
    return await Connector(url, tls, pooler, is_patient=True)()


async def is_behind_pooler(connection: PooledConnection) -> bool:
    """Returns whether another process answers than the login named: poolers name one they invent."""
    answering: int = await connection.fetchval("SELECT pg_backend_pid()")
    return answering != connection.get_server_pid()


def _positive(text: str | None) -> float | None:
    """The number of a parameter; None where it is missing, zero or no number."""
    try:
        number = float(text or 0)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
