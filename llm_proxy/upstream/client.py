"""The one place that talks to the sidecar: a call in, a `Reply` out, over one aiohttp session.

Invariants: our own URL, `Host`, key and headers, never one of the caller's; a call whose connection was
refused goes to another sidecar at once; nothing that may have run is ever sent twice; calls at a sidecar
that has fallen silent end when it is given up; idle connections live 20 s, the sidecar keeps them 75 s.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from llm_proxy.dialects import Call
from llm_proxy.errors import Overloaded, Refused, UpstreamUnreachable
from llm_proxy.identity import Caller
from llm_proxy.upstream.answer import Answer, broke_off
from llm_proxy.upstream.catalog import Catalog
from llm_proxy.upstream.controls import Controls
from llm_proxy.upstream.deadlines import Deadlines
from llm_proxy.upstream.errors import refusal
from llm_proxy.upstream.pool import Pool, Sidecar
from llm_proxy.upstream.reply import CacheState, Served, count, milliseconds
from llm_proxy.upstream.room import Room
from llm_proxy.upstream.usage import nano_usd
from llm_proxy.upstream.watch import Watch

KEEPALIVE_S = 20
CONNECT_S = 3
MAX_ERROR_BYTES = 256 * 2**10
PATHS = {
    "chat.completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
_AGENT = "llm-proxy"


class Client:
    """Sends calls to the pool of sidecars."""

    def __init__(
        self,
        pool: Pool,
        key: str | None,
        deadlines: Deadlines,
        controls: Controls,
        *,
        room: Room | None = None,
        broke: Callable[[str, str], None] = lambda _sidecar, _code: None,
    ) -> None:
        """Put the client together.

        Args:
            pool: The sidecars.
            key: Ours at every sidecar.
            deadlines: How long a call may take.
            controls: What becomes of a call's body for LiteLLM.
            room: The queue for places; without one, a second's patience.
            broke: Told the address of a sidecar and what went wrong at it, to be counted.
        """
        self.pool = pool
        self.room = room or Room(pool, queue_s=1.0, most_waiting=100)
        self._broke = broke
        self._controls = controls
        self.catalog: Catalog | None = None
        self.deadlines = deadlines
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str], URL] = {}
        self._fixed = CIMultiDict(
            {"Accept-Encoding": "identity", "User-Agent": _AGENT, "Content-Type": "application/json"}
        )
        if key:
            self._fixed["Authorization"] = f"Bearer {key}"

    async def start(self) -> None:
        """Open the session on the running loop."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=5)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def get(self, sidecar: Sidecar, path: str, *, timeout_s: float = 5) -> tuple[int, bytes]:
        """A small GET for health and the catalogue; raises `OSError` or `aiohttp.ClientError`."""
        assert self._session is not None  # noqa: S101 -- started by the application's lifespan
        wait = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.get(self._url(sidecar, path), headers=self._fixed, timeout=wait) as response:
            return response.status, await response.read()

    async def send(
        self, call: Call, caller: Caller, request_id: str, watch: Watch, *, traceparent: str | None = None
    ) -> Answer:
        """Forward a call; returns when the sidecar's status is known.

        Raises:
            UpstreamUnreachable: No sidecar took it, or the connection broke before an answer.
            Overloaded: Every sidecar is full, and stayed so for the queue's time.
            Refused: The sidecar answered with an error; see `upstream.errors`.
        """
        body = orjson.dumps(self._controls.body(call, caller, self.catalog))
        headers = self._fixed.copy()
        headers["x-litellm-call-id"] = request_id
        if traceparent is not None:
            headers["traceparent"] = traceparent
        wait = self.deadlines.of(call.group)
        tried: list[Sidecar] = []
        loop = asyncio.get_running_loop()
        while len(tried) < len(self.pool.sidecars):
            sidecar = await self.room.take(loop.time(), tried)
            sidecar.calls.add(watch)
            watch.phase, watch.silent_at = "first_byte", loop.time() + wait.first_byte_s
            try:
                response = await self._post(sidecar, PATHS[call.door], headers, body)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                self._give(sidecar, watch)
                self._went_wrong(sidecar, "refused")
                tried.append(sidecar)
                continue
            except (aiohttp.ClientError, OSError) as broken:
                self._give(sidecar, watch)
                self._went_wrong(sidecar, "broke")
                raise broke_off() from broken
            except BaseException:
                self._give(sidecar, watch)
                raise
            return await self._answer(call, sidecar, response, watch)
        raise UpstreamUnreachable("No model backend can be reached.", retry_after_s=2)

    def check_room(self) -> None:
        """Raises `Overloaded` when a call that came now would find neither a place nor room to wait."""
        self.room.check(asyncio.get_running_loop().time())

    def abandon(self, sidecar: Sidecar) -> None:
        """Give up a sidecar that has been silent too long: the calls at it end, and are not repeated."""
        for watch in list(sidecar.calls):
            assert isinstance(watch, Watch)  # noqa: S101 -- none else is put there
            watch.interrupt("silent")

    async def _post(
        self, sidecar: Sidecar, path: str, headers: CIMultiDict[str], body: bytes
    ) -> aiohttp.ClientResponse:
        assert self._session is not None  # noqa: S101 -- started by the application's lifespan
        return await self._session.post(
            self._url(sidecar, path), data=body, headers=headers, allow_redirects=False
        )

    async def _answer(
        self, call: Call, sidecar: Sidecar, response: aiohttp.ClientResponse, watch: Watch
    ) -> Answer:
        served = self._served(call, response)
        idle_s = self.deadlines.of(call.group).idle_s
        answer = Answer(response, served, watch, idle_s=idle_s, freed=partial(self._give, sidecar, watch))
        if response.status == 200:
            sidecar.succeeded()
            if call.streaming:
                answer.stream(wants_usage=call.wants_usage)
            return answer
        try:
            text = await response.content.read(MAX_ERROR_BYTES)
            names = {name.lower(): value for name, value in response.headers.items()}
        except (aiohttp.ClientError, OSError) as broken:
            raise broke_off() from broken
        finally:
            answer.close()
        refused = refusal(response.status, names, text, model=call.model)
        self._judge(sidecar, refused)
        raise refused

    def _judge(self, sidecar: Sidecar, refused: Refused) -> None:
        """A sidecar is at fault for what it says of itself, never for what it says of a provider."""
        if isinstance(refused, UpstreamUnreachable | Overloaded):
            self._went_wrong(sidecar, refused.code or "refused")
        else:
            sidecar.succeeded()

    def _went_wrong(self, sidecar: Sidecar, code: str) -> None:
        if code == "refused":
            sidecar.gone()
        else:
            sidecar.failed(asyncio.get_running_loop().time())
        self._broke(sidecar.url, code)

    def _give(self, sidecar: Sidecar, watch: Watch) -> None:
        sidecar.calls.discard(watch)
        self.room.give(sidecar, asyncio.get_running_loop().time())

    def _url(self, sidecar: Sidecar, path: str) -> URL:
        key = (sidecar.url, path)
        found = self._urls.get(key)
        if found is None:
            found = self._urls[key] = URL(sidecar.url + path, encoded=True)
        return found

    def _served(self, call: Call, response: aiohttp.ClientResponse) -> Served:
        headers = response.headers
        deployment_id = headers.get("x-litellm-model-id")
        known = self.catalog.deployments.get(deployment_id) if self.catalog and deployment_id else None
        off: CacheState = "miss" if self._controls.cached(call) else "off"
        cache: CacheState = "hit" if "x-litellm-cache-key" in headers else off
        retries = count(headers, "x-litellm-attempted-retries") or 0
        fallbacks = count(headers, "x-litellm-attempted-fallbacks") or 0
        provider, physical = _named(headers.get("x-litellm-model-name"))
        if known is not None:
            provider, physical = known.provider, known.physical or physical
        return Served(
            group=headers.get("x-litellm-model-group") or call.group,
            physical=physical,
            provider=provider,
            deployment=deployment_id,
            cost_nano_usd=0
            if cache == "hit"
            else self._cost(known is None or known.input_pico_usd is not None, headers),
            cache=cache,
            attempts=0 if cache == "hit" else 1 + retries + fallbacks,
            sidecar_ms=milliseconds(headers.get("x-litellm-overhead-duration-ms")),
        )

    @staticmethod
    def _cost(priced: bool, headers: Any) -> int | None:  # noqa: ANN401, FBT001 -- aiohttp's header proxy; one flag
        return nano_usd(headers.get("x-litellm-response-cost")) if priced else None


def _named(model_name: str | None) -> tuple[str | None, str | None]:
    provider, _, physical = (model_name or "").partition("/")
    return (provider, physical) if physical else (None, provider or None)
