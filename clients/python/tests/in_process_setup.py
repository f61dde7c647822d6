"""Services with scripted providers, and requests that say what is to be played."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import scripted_providers as providers
from pydantic import BaseModel

from llm_proxy_service import (
    LLMProvider,
    LLMProxyError,
    LLMProxyService,
    LLMRequest,
    LoadBalanceStrategy,
    ModelConfig,
    OpenAIProvider,
    create_completion_request,
)

NUMBERS = count()
WEATHER = {"name": "get_weather", "description": "The weather now", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": WEATHER}


class City(BaseModel):
    """An answer of a shape."""

    name: str


def scripted_model(number: int, model: str = "gpt-4", **fields: Any) -> ModelConfig:
    """A model at one of the scripted providers, as OpenAI's."""
    address = f"{providers.addresses()[number]}/v1"
    usual = ModelConfig(provider=LLMProvider.OPENAI, model_name=model, api_base=address, api_key="sk-test")
    return replace(usual, **fields)


def service_with(
    *configs: ModelConfig, strategy: LoadBalanceStrategy | None = None, **options: Any
) -> LLMProxyService:
    """A service with providers a, b, c."""
    providers.reset()
    service = LLMProxyService(load_balance_strategy=strategy, **options)
    for name, config in zip("abc", configs, strict=False):
        service.register_provider(name, OpenAIProvider(config))
    return service


@contextmanager
def closed_address() -> Generator[str]:
    """An address that refuses connections: its port is held, so no server can take it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def ask(model: str | None = "gpt-4", timeout: float | None = None, **script: Any) -> LLMRequest:
    """A request that no other equals, with what the provider is to play."""
    played = {"do": "ok", "key": f"k{next(NUMBERS)}", **script}
    return create_completion_request(json.dumps(played), model=model, timeout=timeout)


async def error_of(service: LLMProxyService, request: LLMRequest) -> LLMProxyError:
    """What a completion that fails raises."""
    return await failure_of(service.generate_completion(request))


async def failure_of(call: Awaitable[object]) -> LLMProxyError:
    """What a call that fails raises."""
    try:
        await call
    except LLMProxyError as error:
        return error
    raise AssertionError("it did not fail")


async def broken(service: LLMProxyService, request: LLMRequest) -> tuple[str, LLMProxyError]:
    """What a stream that fails brought, and what it raised."""
    received = ""
    try:
        async for chunk in service.generate_streaming_completion(request):
            received += chunk.content
    except LLMProxyError as error:
        return received, error
    raise AssertionError("it did not fail")


def raised(call: Callable[[], object]) -> LLMProxyError:
    """What a synchronous call that fails raises."""
    try:
        call()
    except LLMProxyError as error:
        return error
    raise AssertionError("it did not fail")


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something outside has happened."""
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never happened")
