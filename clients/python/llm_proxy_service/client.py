"""The service's public face: the same calls through a gateway or in this process.

Invariants: the mode is chosen once, when the service is made; what differs between the modes lives behind
`Backend`. A service belongs to the event loop on which it was started.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from llm_proxy_service.backend import Backend
from llm_proxy_service.catalog import LLMProvider, LoadBalanceStrategy, ProviderConfig
from llm_proxy_service.errors import InvalidResponseError, LLMProxyError
from llm_proxy_service.options import ServiceOptions, complete, strategy_named
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
from llm_proxy_service.structured import PydanticModel, parse_answer, response_format_of

Model = TypeVar("Model", bound=PydanticModel)


class ResponseCache:
    """The cache of a service's answers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def clear(self) -> None:
        """Forget every answer; through a gateway, accept none that is older than this moment."""
        self._backend.clear_cache()


class LLMProxyService:
    """Calls language models, through a gateway where `base_url` or `LLM_PROXY_URL` names one, else directly.

    Arguments that are not given are read from the environment: `LLM_PROXY_CACHE_SIZE`, `LLM_PROXY_CACHE_TTL`,
    `LLM_PROXY_MAX_RETRIES`, `LLM_PROXY_LOAD_BALANCE`, `LLM_PROXY_URL`, `LLM_PROXY_API_KEY`.

    Args:
        cache_size: Number of answers in the cache; 0 turns it off. The default is 1000.
        cache_ttl: Seconds an answer is kept. The default is an hour.
        load_balance_strategy: How one of several providers is chosen. The default is `ROUND_ROBIN`.
        enable_failover: Whether others take over when a provider fails; by default they do.
        max_retries: Further attempts after the first. The default is 3.
        base_url: The gateway's address.
        api_key: The caller's key at the gateway.
        timeout: Seconds without a byte after which a call is given up. The default is 600.

    Raises:
        ConfigurationError: A value is not valid.
    """

    def __init__(  # noqa: PLR0913 -- the guide's words, each with a default
        self,
        cache_size: int | None = None,
        cache_ttl: float | None = None,
        load_balance_strategy: LoadBalanceStrategy | str | None = None,
        enable_failover: bool | None = None,  # noqa: FBT001 -- the same
        max_retries: int | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
    ) -> None:
        stated = ServiceOptions(
            cache_size=cache_size,
            cache_ttl=cache_ttl,
            load_balance_strategy=strategy_named(load_balance_strategy) if load_balance_strategy else None,
            enable_failover=enable_failover,
            max_retries=max_retries,
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
        )
        self._backend = _backend(complete(stated))
        self._starting: asyncio.Task[None] | None = None
        self._stopped = False
        self.response_cache = ResponseCache(self._backend)

    async def start(self) -> None:
        """Make the service ready; a call does it too. A second start changes nothing.

        Raises:
            ConfigurationError: The package that this mode needs is missing, or a setting is wrong.
        """
        if self._stopped:
            raise LLMProxyError("the service was stopped; make a new one", code="stopped")
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._backend.start())
        await asyncio.shield(self._starting)

    async def stop(self) -> None:
        """Close the connections and reject new calls; a gateway ends calls that still run."""
        if not self._stopped:
            self._stopped = True
            await self._backend.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def generate_completion(self, request: LLMRequest) -> LLMResponse:
        """The model's complete answer; cancelling this ends the call at the provider.

        Raises:
            LLMProxyError: There is no answer; its attributes say why and whether to try again.
        """
        await self.start()
        return await self._backend.complete(request)

    async def generate_streaming_completion(self, request: LLMRequest) -> AsyncGenerator[LLMChunk]:
        """The model's answer as it is written; leaving the loop ends the call at the provider.

        Raises:
            StreamBrokenError: The stream ended too early; what was received is incomplete.
            LLMProxyError: There is no answer.
        """
        await self.start()
        async with aclosing(self._backend.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def generate_structured(self, request: LLMRequest, model: type[Model]) -> Model:
        """The answer as an object of a pydantic model; if a cached answer does not fit, the model is called.

        Raises:
            InvalidResponseError: The answer does not fit the model; `content` has it.
            LLMProxyError: There is no answer.
        """
        formatted = response_format_of(request, model)
        response = await self.generate_completion(formatted)
        try:
            return parse_answer(response, model)
        except InvalidResponseError:
            if not response.cached:
                raise
        return parse_answer(await self.generate_completion(replace(formatted, cache_enabled=False)), model)

    async def generate_embeddings(
        self,
        inputs: Sequence[str] | str,
        model: str,
        *,
        dimensions: int | None = None,
        cache_enabled: bool = True,
        provider: LLMProvider | str | None = None,
    ) -> EmbeddingResponse:
        """The vectors of some texts, in their order.

        Raises:
            LLMProxyError: There is no answer.
        """
        await self.start()
        request = EmbeddingRequest(
            model=model,
            inputs=[inputs] if isinstance(inputs, str) else list(inputs),
            dimensions=dimensions,
            cache_enabled=cache_enabled,
            provider=provider,
        )
        return await self._backend.embed(request)

    def register_provider(self, name: str, provider: ProviderConfig) -> None:
        """Add a provider under a name, or replace the one that has it.

        Through a gateway the name stands for its own provider of this kind.

        Raises:
            ConfigurationError: The configuration lacks what this kind of provider needs.
        """
        self._backend.register(name, provider.config)

    def list_providers(self) -> list[str]:
        """The names of the providers, in the order in which they were added."""
        return self._backend.providers()

    def is_provider_available(self, name: str) -> bool:
        """Whether calls go to this provider now; False where none has the name."""
        return self._backend.is_available(name)

    def get_provider_metrics(self, name: str) -> ProviderMetrics:
        """Requests, errors, latency, tokens and cost of one provider.

        Raises:
            NotFoundError: No provider has this name.
        """
        return self._backend.metrics(name)

    def get_rate_limit_status(self, name: str) -> RateLimitStatus:
        """How many requests the provider may have in this minute, and how many are left.

        Raises:
            NotFoundError: No provider has this name.
        """
        return self._backend.rate_limit(name)

    def get_service_stats(self) -> ServiceStats:
        """Requests, cache hits, tokens and cost so far."""
        return self._backend.stats()

    async def health_check(self) -> HealthReport:
        """Whether the service and each provider can be used; calls no model."""
        if self._stopped:
            return {"status": "stopped", "providers": {}}
        await self.start()
        return await self._backend.health()


def _backend(options: ServiceOptions) -> Backend:
    """The mode that the options choose; each is imported only where it is used."""
    if options.base_url is not None:
        from llm_proxy_service import gateway  # noqa: PLC0415 -- see above

        return gateway.connect(options)
    from llm_proxy_service import in_process  # noqa: PLC0415 -- the same

    return in_process.connect(options)
