"""The mode that calls through a gateway, which has the providers, their keys, strategies and cache.

Invariants: what the caller says of them is sent where the gateway takes it from a call; of the rest one line
in the log says where it is set, and what would mislead is refused.
"""

import json
import logging
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import httpx

from llm_proxy_service.backend import Backend
from llm_proxy_service.catalog import ModelConfig
from llm_proxy_service.chat_answers import Served, read_answer, read_chunk, read_vectors
from llm_proxy_service.errors import (
    InvalidRequestError,
    LLMProxyError,
    StreamBrokenError,
    UnsupportedError,
)
from llm_proxy_service.gateway_errors import reason_of, stated_in_stream
from llm_proxy_service.gateway_figures import GatewayFigures
from llm_proxy_service.gateway_http import GatewayCall, GatewayConnection, events
from llm_proxy_service.json_reading import Json, as_object
from llm_proxy_service.options import ServiceOptions
from llm_proxy_service.request import EmbeddingRequest, LLMRequest
from llm_proxy_service.response import (
    EmbeddingResponse,
    HealthReport,
    LLMChunk,
    LLMResponse,
    ProviderMetrics,
    RateLimitStatus,
    ServiceStats,
    Usage,
)

log = logging.getLogger("llm_proxy_service")
FRESH = "no-cache, no-store"
LONGEST_AGE_S = 999_999_999
END = "[DONE]"
STREAMED: Json = {"stream": True, "stream_options": {"include_usage": True}}


def connect(options: ServiceOptions) -> Backend:
    """The gateway at `options.base_url`; nothing is sent yet.

    Raises:
        ConfigurationError: The address or the key cannot be one.
        UnsupportedError: A wish that only the gateway's operator can fulfil, and that would mislead if it
            were ignored.
    """
    if options.enable_failover is False:
        raise UnsupportedError(
            "through a gateway, enable_failover=False has no effect: the gateway decides. Set "
            "`fallbacks: []` and `num_retries: 0` under router_settings in its litellm-config.yaml",
            code="unsupported_setting",
        )
    backend = GatewayBackend(GatewayConnection(options), options)
    for line in _set_elsewhere(options):
        log.warning(line)
    return backend


class GatewayBackend:
    """Calls by HTTP, in OpenAI's schema."""

    def __init__(self, connection: GatewayConnection, options: ServiceOptions) -> None:
        self._connection = connection
        self._figures = GatewayFigures(connection)
        self._keeps_none = options.cache_size == 0 or options.cache_ttl == 0
        self._cache_ttl_s = options.cache_ttl
        self._cleared_at: float | None = None

    async def start(self) -> None:
        """Open the connections and read what the gateway has; a gateway that is away fails the first call."""
        self._connection.open()
        self._figures.open()
        await self._figures.refresh()

    async def stop(self) -> None:
        """Close the connections; the gateway ends what still ran."""
        await self._figures.close()
        await self._connection.close()

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """The answer, whole."""
        began = time.monotonic()
        call = self._chat(request, {})
        with self._failures_counted():
            raw, served = await self._document(call)
            answer = read_answer(raw, served, time.monotonic() - began)
        self._figures.count(served, answer.usage, answer.latency)
        return answer

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMChunk]:
        """The answer in chunks."""
        began = time.monotonic()
        call = self._chat(request, STREAMED)
        with self._failures_counted():
            async with self._connection.answer(call) as response, aclosing(events(response)) as frames:
                served = self._served(response.headers)
                async with aclosing(self._counted(_chunks(frames, served), served, began)) as chunks:
                    async for chunk in chunks:
                        yield chunk

    async def _counted(
        self, chunks: AsyncGenerator[LLMChunk], served: Served, began: float
    ) -> AsyncGenerator[LLMChunk]:
        """The same chunks; a stream that is read to its end, or left by its reader, counts as answered."""
        usage: Usage | None = None
        self._figures.began(served.provider)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    usage = chunk.usage or usage
                    yield chunk
        except GeneratorExit:
            self._figures.count(served, usage, time.monotonic() - began)
            raise
        finally:
            self._figures.ended(served.provider)
        self._figures.count(served, usage, time.monotonic() - began)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """The vectors of the inputs."""
        began = time.monotonic()
        body: dict[str, Any] = {
            "model": request.model,
            "input": list(request.inputs),
            "encoding_format": "float",
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        call = GatewayCall("/v1/embeddings", body, self._headers(request), request.timeout)
        with self._failures_counted():
            raw, served = await self._document(call)
            found = read_vectors(raw, served, len(request.inputs))
        self._figures.count(served, found.usage, time.monotonic() - began)
        return found

    def register(self, name: str, config: ModelConfig) -> None:
        """Let a name stand for the gateway's provider of this kind; the gateway has the rest."""
        self._figures.register(name, config)
        stated = {
            "api_key": config.api_key is not None,
            "api_base": config.api_base is not None,
            "cost_per_1k_tokens": config.cost_per_1k_tokens is not None,
            "rate_limit": config.rate_limit is not None,
            "priority": config.priority != 1,
            "weight": config.weight != 1.0,
        }
        if ignored := [setting for setting, given in stated.items() if given]:
            log.warning(
                "%s of the provider %r are the gateway's to choose: set them at the entry of %s in the "
                "model_list of its litellm-config.yaml",
                *(", ".join(ignored), name, config.model_name),
            )

    def providers(self) -> list[str]:
        """The registered names, then the gateway's own."""
        return self._figures.providers()

    def is_available(self, name: str) -> bool:
        """Whether the gateway has the provider, and its latest calls did not all fail."""
        return self._figures.is_available(name)

    def metrics(self, name: str) -> ProviderMetrics:
        """The figures of one provider."""
        return self._figures.metrics(name)

    def rate_limit(self, name: str) -> RateLimitStatus:
        """The key's limit on requests a minute."""
        return self._figures.rate_limit(name)

    def stats(self) -> ServiceStats:
        """The figures of the service."""
        return self._figures.stats()

    async def health(self) -> HealthReport:
        """The gateway's state, and its providers'."""
        return await self._figures.health()

    def clear_cache(self) -> None:
        """Accept no answer from the gateway's cache that is older than this moment."""
        self._cleared_at = time.monotonic()

    async def _document(self, call: GatewayCall) -> tuple[Json, Served]:
        """A whole answer, and who gave it."""
        async with self._connection.answer(call) as response:
            return await self._connection.read_json(response), self._served(response.headers)

    @contextmanager
    def _failures_counted(self) -> Generator[None]:
        try:
            yield
        except LLMProxyError as error:
            self._figures.count_failed(error.provider)
            raise

    def _chat(self, request: LLMRequest, more: Json) -> GatewayCall:
        named = {} if request.model is None else {"model": request.model}
        body = {**named, **request.body(), **more}
        return GatewayCall("/v1/chat/completions", body, self._headers(request), request.timeout)

    def _headers(self, request: LLMRequest | EmbeddingRequest) -> dict[str, str]:
        headers = {"X-Request-Id": request.id} if _fits_header(request.id) else {}
        if control := self._cache_control(enabled=request.cache_enabled):
            headers["Cache-Control"] = control
        if request.provider is not None:
            headers["X-Provider"] = self._figures.kind_of(str(request.provider))
            if not _fits_header(headers["X-Provider"]):
                message = f"{request.provider!r} is no provider's name"
                raise InvalidRequestError(message, code="invalid_request")
        return headers

    def _cache_control(self, *, enabled: bool) -> str | None:
        if self._keeps_none or not enabled:
            return FRESH
        ages_s = [] if self._cache_ttl_s is None else [self._cache_ttl_s]
        if self._cleared_at is not None:
            ages_s.append(time.monotonic() - self._cleared_at)
        return f"max-age={int(min((*ages_s, LONGEST_AGE_S)))}" if ages_s else None

    def _served(self, headers: Mapping[str, str]) -> Served:
        self._figures.note_limit(headers)
        cached = headers.get("x-llm-proxy-cache") == "hit"
        cost = headers.get("x-llm-proxy-cost-usd")
        return Served(
            provider=headers.get("x-llm-proxy-provider", ""),
            model=headers.get("x-llm-proxy-model"),
            request_id=headers.get("x-request-id"),
            cost=0.0 if cached else None if cost is None else float(cost),
            cached=cached,
        )


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


async def _chunks(frames: AsyncGenerator[str], served: Served) -> AsyncGenerator[LLMChunk]:
    """The chunks of a stream's events.

    Raises:
        StreamBrokenError: It ended before its end, or stated an error.
    """
    whole = False
    try:
        async for data in frames:
            whole = whole or data == END
            if not whole and (chunk := _chunk(data, served)) is not None:
                yield chunk
    except httpx.TimeoutException as fault:
        raise _broken("no more came of it in time", served, "timeout") from fault
    except httpx.HTTPError as fault:
        if not whole:
            raise _broken(f"the connection broke: {reason_of(fault)}", served) from fault
    if not whole:
        raise _broken("it has no end mark", served)


def _chunk(data: str, served: Served) -> LLMChunk | None:
    try:
        frame = as_object(json.loads(data))
    except ValueError as fault:
        raise _broken("a part of it is no JSON", served) from fault
    if "error" in frame:
        message, code = stated_in_stream(frame)
        raise _broken(message, served, code or "stream_broken")
    return read_chunk(frame, served)


def _broken(reason: str, served: Served, code: str = "stream_broken") -> StreamBrokenError:
    return StreamBrokenError(
        f"the stream ended too early: {reason}",
        code=code,
        request_id=served.request_id,
        provider=served.provider or None,
    )


def _set_elsewhere(options: ServiceOptions) -> Iterator[str]:
    """The options of this service that only the gateway's operator can set."""
    strategy = options.load_balance_strategy
    if strategy is not None:
        yield (
            f"load_balance_strategy={strategy.name} is the gateway's to choose: start it with "
            f"LLM_PROXY_LOAD_BALANCE={strategy.name}, or set router_settings.routing_strategy in its "
            "litellm-config.yaml"
        )
    if options.cache_size:
        yield (
            f"cache_size={options.cache_size} is the gateway's to choose: its cache is as large as the "
            "maxmemory of the Valkey that CACHE_REDIS_URL names"
        )
