"""A caller's program, for `mypy --strict`; `test_types.py` checks it and runs it nowhere."""

import asyncio
from typing import assert_type

from pydantic import BaseModel

from llm_proxy_service import (
    AnthropicProvider,
    EmbeddingResponse,
    HealthReport,
    LLMProvider,
    LLMProxyError,
    LLMProxyService,
    LLMRequest,
    LoadBalanceStrategy,
    ModelCapability,
    ModelConfig,
    OpenAIProvider,
    RateLimitError,
    SyncLLMProxyService,
    create_chat_request,
    create_completion_request,
)


class City(BaseModel):
    """What the model is to answer."""

    name: str


def providers() -> dict[str, OpenAIProvider | AnthropicProvider]:
    """The registered ones."""
    chat = [ModelCapability.CHAT_COMPLETION, ModelCapability.FUNCTION_CALLING]
    first = ModelConfig(
        provider=LLMProvider.OPENAI,
        model_name="gpt-4",
        capabilities=chat,
        max_tokens=4000,
        cost_per_1k_tokens=0.03,
        rate_limit=60,
        priority=1,
    )
    second = ModelConfig(provider=LLMProvider.ANTHROPIC, model_name="claude-3-sonnet", priority=2)
    return {"openai": OpenAIProvider(first), "anthropic": AnthropicProvider(second)}


async def chat() -> None:
    """Every call, with the types a caller counts on."""
    async with LLMProxyService(
        cache_size=1000,
        cache_ttl=3600,
        load_balance_strategy=LoadBalanceStrategy.ROUND_ROBIN,
        enable_failover=True,
        max_retries=3,
    ) as service:
        for name, provider in providers().items():
            service.register_provider(name, provider)
        conversation = [{"role": "user", "content": "hi"}]
        request = create_chat_request(messages=conversation, model="gpt-4", temperature=0.5, max_tokens=100)
        assert_type(request, LLMRequest)
        try:
            response = await service.generate_completion(request)
        except RateLimitError as error:
            assert_type(error.retry_after, float | None)
            return
        except LLMProxyError as error:
            assert_type((error.status, error.retryable), tuple[int | None, bool])
            return
        conversation.append({"role": "assistant", "content": response.content})
        if response.function_call:
            assert_type(response.function_call["arguments"], str)
        assert_type(response.usage["total_tokens"], int)
        request.stream = True
        request.cache_enabled = False
        async for chunk in service.generate_streaming_completion(request):
            assert_type(chunk.content, str)
        assert_type(await service.generate_structured(create_completion_request("Where?"), City), City)
        assert_type(service.get_service_stats()["total_cost"], float)
        assert_type(await service.health_check(), HealthReport)
        for name in service.list_providers():
            assert_type(service.get_provider_metrics(name)["error_rate"], float)
            assert_type(service.get_rate_limit_status(name)["remaining"], int | None)
            assert_type(service.is_provider_available(name), bool)
        service.response_cache.clear()


def without_a_loop() -> str:
    """The synchronous face."""
    with SyncLLMProxyService(1000, base_url="http://127.0.0.1:7007", api_key="sk-...") as service:
        assert_type(service.generate_embeddings("hi", "m", dimensions=8), EmbeddingResponse)
        return "".join(
            chunk.content for chunk in service.generate_streaming_completion(create_completion_request("hi"))
        )


if __name__ == "__main__":
    asyncio.run(chat())
