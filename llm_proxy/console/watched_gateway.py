"""Requests to the gateway, given up as soon as it is known to be silent: a page shows it within two seconds.

Invariants: a slow answer is awaited as long as the gateway answers anything; this is probed on a
connection of its own, once for all requests that wait; after a silence, reads fail at once for a moment, so
that a page that reads several things waits once. A change is always tried.
"""

import asyncio
from typing import Any

import httpx

PATIENCE_S = 1.0
"""How long an answer is awaited before the gateway is probed."""
BEAT_S = 0.9
"""How long the answer to a probe may take."""
_SILENT_FOR_S = 2.0


class GatewaySilent(httpx.TimeoutException):
    """The gateway answers nothing at all."""


class WatchedGateway:
    """An HTTP client of the gateway."""

    def __init__(self, client: httpx.AsyncClient, beats: httpx.AsyncClient) -> None:
        """`beats` probes whether the gateway lives: no other request may take its connections."""
        self._client = client
        self._beats = beats
        self._beat: asyncio.Task[bool] | None = None
        self._silent_until = float("-inf")

    @property
    def base_url(self) -> str:
        """The gateway's address, without `/v1` and without a slash at its end."""
        return str(self._client.base_url).rstrip("/")

    def build_request(self, method: str, path: str, **fields: Any) -> httpx.Request:  # noqa: ANN401 -- httpx's own
        """Returns a request; as `httpx.AsyncClient.build_request`."""
        return self._client.build_request(method, path, **fields)

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Sends a request; raises `httpx.HTTPError`, and of these `GatewaySilent` without a sign of life."""
        if request.method == "GET" and asyncio.get_running_loop().time() < self._silent_until:
            raise GatewaySilent("silent a moment ago", request=request)
        asked = asyncio.ensure_future(self._client.send(request, stream=stream))
        try:
            lives = await self._await(asked)
        except BaseException:
            await _give_up(asked)
            raise
        if not lives:
            await _give_up(asked)
            raise GatewaySilent("no sign of life", request=request)
        return asked.result()

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.aclose()
        await self._beats.aclose()

    async def _await(self, asked: "asyncio.Future[httpx.Response]") -> bool:
        """Waits for a request's end; returns False as soon as the gateway shows no sign of life."""
        while not asked.done():
            await asyncio.wait({asked}, timeout=PATIENCE_S)
            if not asked.done() and not await self._lives(asked):
                return False
        return True

    async def _lives(self, asked: "asyncio.Future[httpx.Response]") -> bool:
        """Returns whether the gateway answers a probe, or has answered the request meanwhile."""
        if self._beat is None or self._beat.done():
            self._beat = asyncio.create_task(self._ask_beat(), name="gateway-beat")
        beat = self._beat
        both: set[asyncio.Future[Any]] = {asked, beat}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return asked.done() or beat.result()

    async def _ask_beat(self) -> bool:
        try:
            async with asyncio.timeout(BEAT_S):
                await self._beats.get("/health/live")
        except (httpx.HTTPError, TimeoutError):
            self._silent_until = asyncio.get_running_loop().time() + _SILENT_FOR_S
            return False
        return True


async def _give_up(asked: "asyncio.Future[httpx.Response]") -> None:
    """Ends a request whose answer is not wanted any more, and its connection."""
    if asked.cancel():
        await asyncio.wait({asked})
    elif not asked.cancelled() and asked.exception() is None:
        await asked.result().aclose()
