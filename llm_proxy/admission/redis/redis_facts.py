"""Reads what the servers of a Redis or Valkey report of themselves.

Invariants: nothing is written; the servers are read side by side, each command within the connection's
timeout. Raises `LimiterUnavailable`, whose message holds no address.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.redis.connection import Argument, RedisConnection
from llm_proxy.store_facts import RedisFacts, parse_redis_info

_TIMES = 10
"""The quickest answer counts: the others also waited for what this process does beside."""


async def read_redis_facts(connections: Iterable[RedisConnection]) -> tuple[RedisFacts, ...]:
    """Returns the facts of each server, such as a backend's `cluster.connections`."""
    return tuple(await asyncio.gather(*(_read(one) for one in connections)))


@asynccontextmanager
async def open_redis(
    url: str, *, timeout_s: float, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[ClusterClient]:
    """Connects to a normalized address, or to all nodes of its cluster; its `fault` says why it could not."""

    def connection(at: str) -> RedisConnection:
        return RedisConnection(at, timeout_s=timeout_s, load_commands=list, tls=tls, name="examined")

    client = ClusterClient(url, connection, timeout_s=timeout_s)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def _read(connection: RedisConnection) -> RedisFacts:
    best_s, offset_s = float("inf"), None
    for _ in range(_TIMES):
        sent_s, began = time.time(), time.perf_counter()
        reply: list[bytes] | None = await _ask(connection, "TIME")
        took_s = time.perf_counter() - began
        if took_s < best_s:
            best_s = took_s
            now_s = None if reply is None else int(reply[0]) + int(reply[1]) / 1e6
            offset_s = None if now_s is None else now_s - sent_s - took_s / 2
    info, save = await asyncio.gather(_ask(connection, "INFO"), _ask(connection, "CONFIG", "GET", "save"))
    return parse_redis_info(
        info.decode() if info is not None else "",
        round_trip_ms=best_s * 1000,
        clock_offset_s=offset_s,
        save=save[1].decode() if save else None,
    )


async def _ask(connection: RedisConnection, *words: Argument) -> Any:  # noqa: ANN401 -- RESP
    """Returns the reply; None where this user may not read it, or the server does not know the command."""
    try:
        return await connection.execute(*words)
    except LimiterUnavailable as unavailable:
        if str(unavailable).startswith(("NOPERM", "ERR")):
            return None
        raise
