"""The seam between the public face and the two modes: what a mode does.

Invariants: a backend raises nothing but `LLMProxyError` and what cancellation raises; closing a stream ends
the call at the provider. Counters and limits are read without waiting: they are what was last known.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from llm_proxy_service.catalog import ModelConfig
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


class Backend(Protocol):
    """One mode of the service; made from a `ServiceOptions`."""

    async def start(self) -> None:
        """Open what calls need; called once, on the loop of the calls."""
        ...

    async def stop(self) -> None:
        """Close what was opened."""
        ...

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """The answer, whole."""
        ...

    def stream(self, request: LLMRequest) -> AsyncGenerator[LLMChunk]:
        """The answer in chunks; nothing is sent before the first is requested.

        Raises:
            StreamBrokenError: At the chunk where the stream ended too early.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """The vectors of the inputs."""
        ...

    def register(self, name: str, config: ModelConfig) -> None:
        """Add a provider, or replace the one of this name; takes effect with the next call.

        Through a gateway the name stands for its provider of this kind.

        Raises:
            ConfigurationError: The configuration lacks what this kind of provider needs.
        """
        ...

    def providers(self) -> list[str]:
        """The names of the providers, in the order in which they were added."""
        ...

    def is_available(self, name: str) -> bool:
        """Whether calls go to this provider now; False where none has the name."""
        ...

    def metrics(self, name: str) -> ProviderMetrics:
        """The figures of one provider.

        Raises:
            NotFoundError: No provider has this name.
        """
        ...

    def rate_limit(self, name: str) -> RateLimitStatus:
        """The limit status of one provider.

        Raises:
            NotFoundError: No provider has this name.
        """
        ...

    def stats(self) -> ServiceStats:
        """The figures of the service."""
        ...

    async def health(self) -> HealthReport:
        """Whether the service and its providers can be used; calls no model."""
        ...

    def clear_cache(self) -> None:
        """Give no more cached answers that are older than this moment."""
        ...
