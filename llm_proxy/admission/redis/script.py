"""One Lua script at a Redis, run by its digest; and the client of a store that needs only such scripts."""

import hashlib
import ssl
from importlib.resources import files
from typing import Any

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.admission.redis.connection import Argument, RedisConnection


def script_source(name: str) -> str:
    """Returns the text of a script."""
    return files("llm_proxy.admission.redis").joinpath("lua", f"{name}.lua").read_text()


def open_store(url: str, name: str, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> ClusterClient:
    """Returns a client of a store, not started; logs have it under `name`."""

    def connection(at: str) -> RedisConnection:
        return RedisConnection(at, timeout_s=timeout_s, load_commands=list, tls=tls, name=name)

    return ClusterClient(url, connection, timeout_s=timeout_s)


class Script:
    """A script with the store's clock; `clock` replaces that, so that tests can set the time."""

    def __init__(self, cluster: ClusterClient, name: str, clock: str | None = None) -> None:
        self._cluster = cluster
        self._source = f"{clock or script_source('clock')}\n{script_source(name)}"
        self._sha = hashlib.sha1(self._source.encode()).hexdigest()  # noqa: S324 -- Redis names scripts so

    async def run(self, keys: tuple[str, ...], args: tuple[Argument, ...]) -> Any:  # noqa: ANN401 -- RESP
        """Returns the reply; raises `LimiterUnavailable`."""
        given = (len(keys), *keys, *args)
        try:
            return await self._cluster.execute(keys[0], "EVALSHA", self._sha, *given)
        except LimiterUnavailable as unavailable:
            if not str(unavailable).startswith("NOSCRIPT"):
                raise
        return await self._cluster.execute(keys[0], "EVAL", self._source, *given)
