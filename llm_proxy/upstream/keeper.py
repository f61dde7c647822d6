"""Keeps what the gateway knows of its sidecars fresh: who is alive, what they serve, where names point.

One background task; never on a request's way. Invariants: only the liveness route and the catalogue are
ever called, never a model; a failed refresh keeps the last good catalogue; an ejected sidecar that answers
its liveness route is live again. Units: seconds.
"""

import asyncio
import ipaddress
import logging
import socket
from urllib.parse import urlsplit

import aiohttp
import orjson

from llm_proxy.upstream.catalog import Catalog, from_model_info, from_own
from llm_proxy.upstream.client import Client
from llm_proxy.upstream.pool import Sidecar, expand

log = logging.getLogger(__name__)

CHECK_S = 1.0
RESOLVE_S = 5.0
CATALOG_S = 30.0
LIVENESS = "/health/liveliness"


class Keeper:
    """Checks sidecars, reads their catalogue, follows their names."""

    def __init__(self, client: Client, urls: tuple[str, ...]) -> None:
        self._client = client
        self._urls = expand(urls)
        self._task: asyncio.Task[None] | None = None
        self._resolved_at = self._read_at = float("-inf")

    async def start(self) -> None:
        """Begin; the first look is taken in the background."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._look(loop.time())
            except Exception:  # the watch must outlive whatever it meets
                log.exception("looking after the sidecars failed")
            await asyncio.sleep(CHECK_S if self._client.catalog is not None else CHECK_S / 4)

    async def _look(self, now: float) -> None:
        if now - self._resolved_at >= RESOLVE_S:
            self._resolved_at = now
            await self._resolve()
        await asyncio.gather(*(self._check(one) for one in self._client.pool.sidecars))
        if self._client.catalog is None or now - self._read_at >= CATALOG_S:
            await self._read_catalog(now)

    async def _check(self, sidecar: Sidecar) -> None:
        loop = asyncio.get_running_loop()
        was_live = sidecar.live and sidecar.served > 0
        try:
            status, _ = await self._client.get(sidecar, LIVENESS)
        except (aiohttp.ClientConnectorError, ConnectionRefusedError):
            if sidecar.live:
                log.warning("a sidecar is unreachable", extra={"sidecar": sidecar.url})
            sidecar.failed(loop.time(), fatal=True)
            return
        except (aiohttp.ClientError, OSError, TimeoutError):
            sidecar.failed(loop.time(), fatal=sidecar.in_flight == 0)
            return
        if status == 200:
            if not was_live:
                log.info("a sidecar is live", extra={"sidecar": sidecar.url})
            sidecar.succeeded()
        else:
            sidecar.failed(loop.time(), fatal=True)

    async def _read_catalog(self, now: float) -> None:
        for sidecar in self._client.pool.sidecars:
            if not sidecar.live:
                continue
            try:
                found = await self._fetch(sidecar)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, AttributeError):
                continue
            if found is not None:
                self._client.catalog, self._read_at = found, now
                return

    async def _fetch(self, sidecar: Sidecar) -> Catalog | None:
        status, body = await self._client.get(sidecar, "/llmp/catalog")
        if status == 200:
            return from_own(orjson.loads(body))
        status, body = await self._client.get(sidecar, "/v1/model/info")
        return from_model_info(orjson.loads(body)) if status == 200 else None

    async def _resolve(self) -> None:
        """Several addresses behind one name are several sidecars."""
        found: list[tuple[str, str | None]] = []
        for url in self._urls:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if parts.scheme != "http" or host == "localhost" or _is_address(host):
                found.append((url, None))
                continue
            found.extend(await _addresses(url, host, parts.port or 80))
        if found:
            self._client.pool.replace(found)


async def _addresses(url: str, host: str, port: int) -> list[tuple[str, str | None]]:
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [(url, None)]
    addresses = sorted({str(info[4][0]) for info in infos})
    if len(addresses) == 1:
        return [(url, None)]
    return [(f"http://{f'[{one}]' if ':' in one else one}:{port}", host) for one in addresses]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
