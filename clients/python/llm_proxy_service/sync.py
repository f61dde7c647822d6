"""The same service for code without an event loop.

Invariant: one thread runs the loop of the calls; a call is handed to it and waited for, figures are read at
once. So every method may be used from any thread, also below a running event loop.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from functools import update_wrapper
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from llm_proxy_service.catalog import ProviderConfig
from llm_proxy_service.client import LLMProxyService, Model
from llm_proxy_service.errors import LLMProxyError
from llm_proxy_service.request import LLMRequest
from llm_proxy_service.response import (
    EmbeddingResponse,
    HealthReport,
    LLMChunk,
    LLMResponse,
    ProviderMetrics,
    RateLimitStatus,
    ServiceStats,
)

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


def _arguments_of(
    original: Callable[Concatenate[LLMProxyService, Arguments], object],
) -> Callable[[Callable[..., Result]], Callable[Concatenate["SyncLLMProxyService", Arguments], Result]]:
    """Gives a method the arguments of another, also in `help` and in editors."""

    def give(
        method: Callable[..., Result],
    ) -> Callable[Concatenate["SyncLLMProxyService", Arguments], Result]:
        return update_wrapper(method, original, assigned=(), updated=())

    return give


class SyncLLMProxyService:
    """`LLMProxyService` with methods that wait; the arguments are the same.

    Use it in a `with` block, or call `stop` at the end.
    """

    @_arguments_of(LLMProxyService.__init__)
    def __init__(self, *args: Any, **named: Any) -> None:  # noqa: ANN401 -- as decorated
        self._service = LLMProxyService(*args, **named)
        self.response_cache = self._service.response_cache
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm-proxy-service", daemon=True)
        self._thread.start()
        self._closing = threading.RLock()  # the garbage collector may come back here
        self._closed = False

    def start(self) -> None:
        """As `LLMProxyService.start`."""
        self._wait(self._service.start())

    def stop(self) -> None:
        """As `LLMProxyService.stop`; ends the thread too, and with it calls that still run."""
        with self._closing:
            if self._closed:
                return
            ending = self._begin(self._end())
            self._closed = True
        try:
            ending.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def generate_completion(self, request: LLMRequest) -> LLMResponse:
        """As `LLMProxyService.generate_completion`."""
        return self._wait(self._service.generate_completion(request))

    def generate_streaming_completion(self, request: LLMRequest) -> Iterator[LLMChunk]:
        """As `LLMProxyService.generate_streaming_completion`."""
        chunks = self._service.generate_streaming_completion(request)

        async def following() -> LLMChunk | None:
            return await anext(chunks, None)

        try:
            while (chunk := self._wait(following())) is not None:
                yield chunk
        finally:
            self._close(chunks)

    def generate_structured(self, request: LLMRequest, model: type[Model]) -> Model:
        """As `LLMProxyService.generate_structured`."""
        return self._wait(self._service.generate_structured(request, model))

    @_arguments_of(LLMProxyService.generate_embeddings)
    def generate_embeddings(self, *args: Any, **named: Any) -> EmbeddingResponse:  # noqa: ANN401 -- the same
        """As `LLMProxyService.generate_embeddings`."""
        return self._wait(self._service.generate_embeddings(*args, **named))

    def register_provider(self, name: str, provider: ProviderConfig) -> None:
        """As `LLMProxyService.register_provider`."""

        async def register() -> None:
            self._service.register_provider(name, provider)

        self._wait(register())

    def list_providers(self) -> list[str]:
        """As `LLMProxyService.list_providers`."""
        return self._service.list_providers()

    def is_provider_available(self, name: str) -> bool:
        """As `LLMProxyService.is_provider_available`."""
        return self._service.is_provider_available(name)

    def get_provider_metrics(self, name: str) -> ProviderMetrics:
        """As `LLMProxyService.get_provider_metrics`."""
        return self._service.get_provider_metrics(name)

    def get_rate_limit_status(self, name: str) -> RateLimitStatus:
        """As `LLMProxyService.get_rate_limit_status`."""
        return self._service.get_rate_limit_status(name)

    def get_service_stats(self) -> ServiceStats:
        """As `LLMProxyService.get_service_stats`."""
        return self._service.get_service_stats()

    def health_check(self) -> HealthReport:
        """As `LLMProxyService.health_check`."""
        return self._wait(self._service.health_check())

    def _wait(self, call: Coroutine[Any, Any, Result]) -> Result:
        running = self._hand_over(call)
        try:
            return running.result()
        except CancelledError:
            raise LLMProxyError("the service was stopped during the call", code="stopped") from None
        except BaseException:  # Ctrl-C in the waiting thread ends the call as well
            running.cancel()
            raise

    def _hand_over(self, call: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Have the loop run a call; what comes after `stop` is not begun: it would never end."""
        with self._closing:
            if not self._closed:
                return self._begin(call)
        call.close()
        raise LLMProxyError("the service was stopped; make a new one", code="stopped")

    def _begin(self, call: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def _close(self, chunks: AsyncGenerator[LLMChunk]) -> None:
        """End a stream that was left; in the loop's thread, where it may be collected, asyncio does that."""
        if threading.current_thread() is self._thread:
            return
        with contextlib.suppress(LLMProxyError):  # `stop` ended it
            self._wait(chunks.aclose())

    async def _end(self) -> None:
        await self._service.stop()
        await _cancel_others()
        await self._loop.shutdown_asyncgens()


async def _cancel_others() -> None:
    """End every other task of this loop, and those that they begin at their end."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
