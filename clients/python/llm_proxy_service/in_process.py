"""The mode that calls the providers from this process.

Invariants: a provider that failed is not tried twice in one round, and one whose call may have run is not
tried again at all; rounds are `max_retries` + 1, with growing pauses between them. Streams are neither cached
nor continued: after their first content no other provider takes over.
"""

import asyncio
import hashlib
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from llm_proxy_service.backend import Backend
from llm_proxy_service.catalog import LoadBalanceStrategy, ModelCapability, ModelConfig
from llm_proxy_service.chat_answers import Served, read_answer, read_chunk, read_vectors
from llm_proxy_service.errors import (
    InvalidRequestError,
    LLMProxyError,
    NotFoundError,
    ProviderError,
    StreamBrokenError,
)
from llm_proxy_service.json_reading import Json
from llm_proxy_service.litellm_errors import may_go_elsewhere, translate
from llm_proxy_service.meters import ProviderMeter, RequestWindow
from llm_proxy_service.options import CACHE_SIZE, CACHE_TTL_S, MAX_RETRIES, TIMEOUT_S, ServiceOptions
from llm_proxy_service.registry import Kind, Place, ProviderRegistry
from llm_proxy_service.request import EmbeddingRequest, LLMRequest
from llm_proxy_service.response import (
    EmbeddingResponse,
    HealthReport,
    LLMChunk,
    LLMResponse,
    ProviderMetrics,
    RateLimitStatus,
    ServiceStats,
)
from llm_proxy_service.routing import Attempt, RoutedCalls, ended_properly, raw_of, request_id_of

Result = TypeVar("Result")
Answer = TypeVar("Answer", LLMResponse, EmbeddingResponse)
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S = 0.5, 8.0, 10.0
"""Between rounds; a provider that wants a longer pause than the last is not waited for."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream whose provider has begun to answer, and what it sent so far."""

    place: Place
    source: Any
    pieces: list[Any]
    began: float


class InProcessBackend:
    """Calls from this process; the `Backend` without a gateway."""

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self._registry = ProviderRegistry(uuid4().hex)
        self._meters: dict[str, ProviderMeter] = defaultdict(ProviderMeter)
        self._calls: RoutedCalls | None = None
        self._cache: Any = None
        self._failover = options.enable_failover is not False
        self._totals: ServiceStats = {
            "total_requests": 0,
            "failed_requests": 0,
            "cache_hits": 0,
            "cache_misses": 0,
            "total_tokens": 0,
            "total_cost": 0.0,
        }

    async def start(self) -> None:
        """Import LiteLLM and make its Router."""
        options = self._options
        timeout = TIMEOUT_S if options.timeout is None else options.timeout
        strategy = options.load_balance_strategy or LoadBalanceStrategy.ROUND_ROBIN
        self._calls = RoutedCalls(strategy, timeout, self._registry, self._meters)
        size = CACHE_SIZE if options.cache_size is None else options.cache_size
        ttl = CACHE_TTL_S if options.cache_ttl is None else options.cache_ttl
        if size and ttl:
            caches = self._calls.litellm.caching.in_memory_cache
            self._cache = caches.InMemoryCache(max_size_in_memory=size, default_ttl=ttl)

    async def stop(self) -> None:
        """Take the Router's hooks out of LiteLLM, and close connections that are idle."""
        if self._calls is not None:
            await self._calls.close()

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """The answer, whole."""
        fields = self._fields(request)
        return await self._counted(request, "chat", fields, request.needs(), read_answer)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """The vectors of the inputs."""
        stated = {"input": request.inputs, "dimensions": request.dimensions, "timeout": request.timeout}
        fields = {name: value for name, value in stated.items() if value is not None}
        return await self._counted(
            request,
            "embeddings",
            fields,
            set(),
            lambda raw, served, _: read_vectors(raw, served, len(request.inputs)),
        )

    async def stream(self, request: LLMRequest) -> AsyncGenerator[LLMChunk]:
        """The answer in chunks."""
        self._totals["total_requests"] += 1
        fields = {**self._fields(request), "stream": True, "stream_options": {"include_usage": True}}
        try:
            opened = await self._rounds(
                request, "chat", request.needs(), lambda attempt: self._open(attempt, fields)
            )
            async with aclosing(self._chunks(opened)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except LLMProxyError:
            self._totals["failed_requests"] += 1
            raise

    def register(self, name: str, config: ModelConfig) -> None:
        """Add a provider, or replace the one of this name."""
        self._registry.add(name, config)

    def providers(self) -> list[str]:
        """The registered names, then those of the environment."""
        return self._registry.names()

    def is_available(self, name: str) -> bool:
        """Whether the provider has a key and requests left, does not cool down, and did not fail lately."""
        return self._state(name) == "healthy"

    def metrics(self, name: str) -> ProviderMetrics:
        """The figures of one provider."""
        self._known(name)
        return self._meters[name].metrics()

    def rate_limit(self, name: str) -> RateLimitStatus:
        """The limit status of one provider."""
        self._known(name)
        return self._limit(name)

    def stats(self) -> ServiceStats:
        """The figures of the service."""
        return {**self._totals}

    async def health(self) -> HealthReport:
        """What is known of the providers from their calls so far."""
        states = {name: self._state(name) for name in self._registry.names()}
        good = sum(state == "healthy" for state in states.values())
        status = "healthy" if good == len(states) > 0 else "degraded" if good else "unhealthy"
        return {"status": status, "providers": states}

    def clear_cache(self) -> None:
        """Forget every cached answer."""
        if self._cache is not None:
            self._cache.flush_cache()

    async def _counted(
        self,
        request: LLMRequest | EmbeddingRequest,
        kind: Kind,
        fields: dict[str, Any],
        needed: set[ModelCapability],
        read: Callable[[Json, Served, float], Answer],
    ) -> Answer:
        """The answer, from the cache where it is there; counted either way."""
        self._totals["total_requests"] += 1
        key = _cache_key(request.model, request.provider, kind, fields)
        cached: Answer | None = self._cached(key) if request.cache_enabled else None
        if cached is not None:
            return cached
        try:
            answer = await self._rounds(
                request, kind, needed, lambda attempt: self._answer(attempt, fields, read)
            )
        except LLMProxyError:
            self._totals["failed_requests"] += 1
            raise
        if self._cache is not None and request.cache_enabled:
            self._cache.set_cache(key, answer)
        return answer

    def _cached(self, key: str) -> Any:  # noqa: ANN401 -- what was kept under this key
        if self._cache is None:
            return None
        found: Any = self._cache.get_cache(key)
        self._totals["cache_misses" if found is None else "cache_hits"] += 1
        if found is None:
            return None
        return replace(found, cached=True, cost=0.0)

    async def _rounds(
        self,
        request: LLMRequest | EmbeddingRequest,
        kind: Kind,
        needed: set[ModelCapability],
        send: Callable[[Attempt], Awaitable[Result]],
    ) -> Result:
        """The first result; a provider that may not be called again is left out of further rounds."""
        stages = self._registry.stages(request.model, request.provider, kind, needed, failover=self._failover)
        retries = MAX_RETRIES if self._options.max_retries is None else self._options.max_retries
        for retry in range(retries + 1):
            failures: dict[str, LLMProxyError] = {}
            for stage in stages:
                while untried := [place for place in stage if place.id not in failures]:
                    if failures and not self._failover:
                        break
                    attempt = Attempt(kind, list(untried))
                    try:
                        return await send(attempt)
                    except LLMProxyError as error:
                        if not may_go_elsewhere(error):
                            raise
                        failed = untried if attempt.chosen is None else [attempt.chosen]
                        failures |= {place.id: error for place in failed}
            stages = _may_be_retried(stages, failures)
            await self._pause(retry, retries, stages, failures)
        raise AssertionError  # pragma: no cover -- the last pause raises

    async def _pause(
        self, retry: int, retries: int, stages: list[list[Place]], failures: dict[str, LLMProxyError]
    ) -> None:
        """Wait for the next round, or raise the last error where there is none."""
        again = [failures[place.id] for stage in stages for place in stage]
        pause = min(FIRST_PAUSE_S * 2**retry, LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)  # noqa: S311 -- jitter
        wanted = min((error.retry_after or 0.0 for error in again), default=0.0)
        if not again or retry == retries or wanted > LONGEST_RETRY_AFTER_S:
            *earlier, last = failures.values()
            for error in dict.fromkeys(earlier):
                last.add_note(f"before: {error.provider}: {error}")
            raise last
        await asyncio.sleep(max(pause, wanted))

    async def _call(self, attempt: Attempt, fields: dict[str, Any]) -> Any:  # noqa: ANN401 -- LiteLLM's answer
        """The Router's answer; its errors are ours, and counted."""
        assert self._calls is not None, "started by the first call"  # noqa: S101 -- for the type checkers
        try:
            return await self._calls.call(attempt, dict(fields))
        except Exception as error:
            name = attempt.chosen.name if attempt.chosen else None
            failure = translate(error, name)
            if name is not None:
                self._meters[name].fail(blameless=isinstance(failure, InvalidRequestError))
            raise failure from error
        except BaseException:
            if attempt.chosen is not None:
                self._meters[attempt.chosen.name].abandon()
            raise

    async def _answer(
        self, attempt: Attempt, fields: dict[str, Any], read: Callable[[Json, Served, float], Answer]
    ) -> Answer:
        """A whole answer, read and counted."""
        began = time.monotonic()
        answer = await self._call(attempt, fields)
        served = self._served(attempt, answer)
        try:
            response = read(raw_of(answer), served, time.monotonic() - began)
        except LLMProxyError:
            self._meters[served.provider].fail()
            raise
        self._settle(served.provider, began, response.usage["total_tokens"], served.cost)
        return response

    def _served(self, attempt: Attempt, answer: Any) -> Served:  # noqa: ANN401 -- LiteLLM's
        """Who answered, and for how much."""
        assert self._calls is not None  # noqa: S101 -- for the type checkers
        assert attempt.chosen is not None  # noqa: S101 -- the same
        cost = self._calls.cost(attempt.chosen, attempt.kind, getattr(answer, "usage", None))
        return Served(provider=attempt.chosen.name, request_id=request_id_of(answer), cost=cost)

    async def _open(self, attempt: Attempt, fields: dict[str, Any]) -> OpenStream:
        """The stream from its first content on: until then another provider may take over."""
        began = time.monotonic()
        source = await self._call(attempt, fields)
        assert attempt.chosen is not None  # noqa: S101 -- for the type checkers
        opened = OpenStream(attempt.chosen, source, [], began)
        meter = self._meters[attempt.chosen.name]
        try:
            await _read_to_content(opened)
        except Exception as error:
            meter.fail()
            await source.aclose()
            raise translate(error, attempt.chosen.name) from error
        except BaseException:
            meter.abandon()
            await source.aclose()
            raise
        return opened

    async def _chunks(self, opened: OpenStream) -> AsyncGenerator[LLMChunk]:
        """The chunks of a stream that has begun; closes it, however it ends."""
        assert self._calls is not None  # noqa: S101 -- for the type checkers
        name, meter = opened.place.name, self._meters[opened.place.name]
        request_id = request_id_of(opened.source)
        tokens, cost, end = 0, None, meter.abandon
        try:
            async with aclosing(_all_pieces(opened)) as pieces:
                async for piece in pieces:
                    usage = getattr(piece, "usage", None)
                    price = self._calls.cost(opened.place, "chat", usage)
                    if usage is not None:
                        tokens, cost = usage.total_tokens, price
                    served = Served(provider=name, request_id=request_id, cost=price)
                    if (chunk := read_chunk(raw_of(piece), served)) is not None:
                        yield chunk
        except Exception as error:
            end = meter.fail
            fault = translate(error, name)
            raise StreamBrokenError(
                f"the stream of {name} broke: {fault}",
                status=fault.status,
                code="stream_broken",
                request_id=request_id,
                provider=name,
            ) from error
        else:
            end = partial(self._settle, name, opened.began, tokens, cost)
        finally:
            end()
            await opened.source.aclose()

    def _settle(self, name: str, began: float, tokens: int, cost: float | None) -> None:
        """Count an attempt that succeeded."""
        self._meters[name].end(time.monotonic() - began, tokens, cost)
        self._totals["total_tokens"] += tokens
        self._totals["total_cost"] += cost or 0.0

    def _state(self, name: str) -> str:
        """`healthy`, `unknown`, `no_key`, `cooling_down`, `failing` or `rate_limited`."""
        places = self._registry.places(name)
        if name not in self._registry.names():
            return "unknown"
        if not self._registry.has_key(name):
            return "no_key"
        if self._calls is not None and self._calls.is_cooling(places):
            return "cooling_down"
        if name in self._meters and self._meters[name].is_failing():
            return "failing"
        return "rate_limited" if self._limit(name)["remaining"] == 0 else "healthy"

    def _limit(self, name: str) -> RateLimitStatus:
        """The limit of a provider; none where it has no place yet."""
        places = self._registry.places(name)
        return (places[0].window if places else RequestWindow(None)).status()

    def _known(self, name: str) -> None:
        if name not in self._registry.names():
            raise NotFoundError(f"there is no provider {name}", code="provider_not_found")

    @staticmethod
    def _fields(request: LLMRequest) -> dict[str, Any]:
        body = request.body()
        return body if request.timeout is None else {**body, "timeout": request.timeout}


def connect(options: ServiceOptions) -> Backend:
    """The providers of this process."""
    return InProcessBackend(options)


def _may_be_retried(stages: list[list[Place]], failures: dict[str, LLMProxyError]) -> list[list[Place]]:
    """The places of another round: those whose call certainly did not run, and may succeed later."""
    retryable = {place for place, error in failures.items() if error.retryable}
    again = [[place for place in stage if place.id in retryable] for stage in stages]
    return [stage for stage in again if stage]


def _cache_key(model: str | None, provider: str | None, kind: Kind, fields: dict[str, Any]) -> str:
    stated = json.dumps([model, provider, kind, fields], sort_keys=True, default=str)
    return hashlib.sha256(stated.encode()).hexdigest()


async def _read_to_content(opened: OpenStream) -> None:
    """Read pieces up to the first with content; none is needed where the stream ended properly.

    Raises:
        ProviderError: There was neither.
    """
    async for piece in opened.source:
        opened.pieces.append(piece)
        delta = piece.choices[0].delta if piece.choices else None
        if delta and (delta.content or delta.tool_calls or getattr(delta, "reasoning_content", None)):
            return
    if not ended_properly(opened.source):
        raise ProviderError("there was no stream", code="invalid_answer", provider=opened.place.name)


async def _all_pieces(opened: OpenStream) -> AsyncGenerator[Any]:
    """Every piece of a stream.

    Raises:
        ProviderError: The provider did not say that it is finished.
    """
    for piece in opened.pieces:
        yield piece
    async for piece in opened.source:
        yield piece
    if not ended_properly(opened.source):
        raise ProviderError("it ended too early", code="stream_broken", provider=opened.place.name)
