"""What the Python client says of itself and of its gateway: figures, limits, providers, health."""

import asyncio
import logging
from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_stack import RunningStack

from llm_proxy_service import (
    AnthropicProvider,
    HuggingFaceProvider,
    LLMProvider,
    LLMProxyError,
    LLMProxyService,
    ModelConfig,
    NotFoundError,
    OpenAIProvider,
    RateLimitError,
    create_completion_request,
)


async def key_of(stack: RunningStack, **limits: object) -> str:
    """A virtual key of this test's own."""
    body = {"name": f"key-{uuid4().hex[:8]}", "models": ["*"], **limits}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.post(
            f"{stack.url}/admin/keys", json=body, headers={"Authorization": f"Bearer {stack.admin_key}"}
        )
    key: str = answer.json()["key"]
    return key


async def until(holds: Callable[[], bool], read_by: LLMProxyService | None = None) -> None:
    """Wait until it holds, for at most 20 s; a service reads its figures meanwhile, if it is named."""
    async with asyncio.timeout(20):
        while not holds():
            if read_by is not None:
                await read_by.health_check()
            await asyncio.sleep(0.1)


async def test_own_calls_count_at_once_and_others_of_the_key_soon(stack: RunningStack) -> None:
    """Requests, failures, cache hits, tokens and cost; a second service sees what the first one did."""
    key = await key_of(stack)
    async with (
        LLMProxyService(base_url=stack.url, api_key=key) as service,
        LLMProxyService(base_url=stack.url, api_key=key) as other,
    ):
        request = create_completion_request(uuid4().hex, model="plain")
        await service.generate_completion(request)
        await service.generate_completion(request)
        with pytest.raises(LLMProxyError):
            await service.generate_completion(create_completion_request("x", model="p/status-400"))
        stats = service.get_service_stats()
        assert (stats["total_requests"], stats["failed_requests"], stats["cache_hits"]) == (3, 1, 1)
        assert (stats["cache_misses"], stats["total_tokens"]) == (1, 80)
        assert stats["total_cost"] == pytest.approx(63e-6)
        metrics = service.get_provider_metrics("openai")
        assert metrics["request_count"] == 2
        assert metrics["avg_latency"] > 0
        await until(lambda: other.get_service_stats()["total_requests"] == 3, other)
        seen = other.get_service_stats()
        assert (seen["failed_requests"], seen["cache_hits"]) == (1, 1)
        assert seen["total_cost"] == pytest.approx(63e-6)
        assert other.get_provider_metrics("openai")["error_rate"] == pytest.approx(1 / 3)


async def test_providers_are_those_of_the_gateways_models(stack: RunningStack) -> None:
    """Listed and available; a registered name stands for the kind; no provider has another name."""
    async with LLMProxyService(base_url=stack.url, api_key=await key_of(stack)) as service:
        assert {"openai", "anthropic", "gemini"} <= set(service.list_providers())
        assert service.is_provider_available("anthropic")
        assert service.is_provider_available("google")
        assert not service.is_provider_available("huggingface")
        assert not service.is_provider_available("nobody")
        with pytest.raises(NotFoundError, match="openai"):
            service.get_provider_metrics("nobody")
        claude = ModelConfig(provider=LLMProvider.ANTHROPIC, model_name="claude")
        service.register_provider("backup", AnthropicProvider(claude))
        absent = ModelConfig(provider=LLMProvider.HUGGINGFACE, model_name="absent")
        service.register_provider("absent", HuggingFaceProvider(absent))
        assert service.list_providers()[:2] == ["backup", "absent"]
        assert service.is_provider_available("backup")
        assert not service.is_provider_available("absent")
        health = (await service.health_check())["providers"]
        assert (health["backup"], health["absent"]) == ("healthy", "unhealthy")
        request = create_completion_request(uuid4().hex, model="claude", provider="backup")
        assert (await service.generate_completion(request)).provider == "anthropic"
        request = create_completion_request(uuid4().hex, model="plain", provider="backup")
        with pytest.raises(NotFoundError):
            await service.generate_completion(request)


async def test_a_provider_of_a_wildcard_is_known_by_a_registered_model(stack: RunningStack) -> None:
    """The key may use `deepseek/*` alone, which is listed as no model."""
    key = await key_of(stack, models=["deepseek/*"])
    async with LLMProxyService(base_url=stack.url, api_key=key) as service:
        assert service.list_providers() == []
        config = ModelConfig(provider=LLMProvider.OPENAI, model_name="deepseek/x")
        service.register_provider("seek", OpenAIProvider(config))
        await until(lambda: service.is_provider_available("seek"))


async def test_what_a_registered_provider_has_at_the_gateway_is_logged(
    stack: RunningStack, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key, price and limit are named, the key's text is not."""
    config = ModelConfig(
        provider=LLMProvider.OPENAI,
        model_name="gpt-4",
        api_key="sk-secret",
        cost_per_1k_tokens=0.03,
        rate_limit=60,
    )
    with caplog.at_level(logging.WARNING, "llm_proxy_service"):
        LLMProxyService(base_url=stack.url).register_provider("openai", OpenAIProvider(config))
    assert "api_key, cost_per_1k_tokens, rate_limit" in caplog.text
    assert "model_list" in caplog.text
    assert "sk-secret" not in caplog.text


async def test_the_keys_limit_is_what_is_left(stack: RunningStack) -> None:
    """Read from the gateway, then from each answer; a rejected call says how long to wait."""
    key = await key_of(stack, rpm=3)
    async with LLMProxyService(base_url=stack.url, api_key=key, max_retries=0) as service:
        status = service.get_rate_limit_status("openai")
        assert (status["limit"], status["remaining"]) == (3, 3)
        for left in (2, 1, 0):
            await service.generate_completion(create_completion_request(uuid4().hex, model="plain"))
            assert service.get_rate_limit_status("openai")["remaining"] == left
        with pytest.raises(RateLimitError) as caught:
            await service.generate_completion(create_completion_request(uuid4().hex, model="plain"))
        assert caught.value.retryable
        assert caught.value.retry_after is not None
        assert 0 < service.get_rate_limit_status("openai")["reset_in"] <= 61
    async with LLMProxyService(base_url=stack.url, api_key=stack.key) as service:
        assert service.get_rate_limit_status("openai")["limit"] is None


async def test_a_call_that_the_gateway_turned_away_is_sent_again(stack: RunningStack) -> None:
    """One call may run at once: the second waits as long as the gateway says, and is answered."""
    key = await key_of(stack, parallel=1)
    async with LLMProxyService(base_url=stack.url, api_key=key) as service:
        script = '{"do": "slow", "frames": 8, "gap_ms": 100}'
        requests = [create_completion_request(f"{uuid4().hex} {script}", model="plain") for _ in range(2)]
        answers = await asyncio.gather(*map(service.generate_completion, requests))
        assert all(answer.content for answer in answers)
    assert len(await stack.calls()) == 2


async def test_health_names_the_service_and_its_providers(stack: RunningStack) -> None:
    """Calls no model; a provider whose latest calls all failed is not available."""
    key = await key_of(stack)
    async with LLMProxyService(base_url=stack.url, api_key=key) as service:
        health = await service.health_check()
        assert health["status"] in {"healthy", "degraded"}
        assert health["providers"]["openai"] == "healthy"
        assert await stack.calls() == []
        for _ in range(3):
            with pytest.raises(LLMProxyError):
                await service.generate_completion(
                    create_completion_request(uuid4().hex, model="p/status-500")
                )
        await until(lambda: not service.is_provider_available("openai"), service)
        assert (await service.health_check())["providers"]["openai"] == "unhealthy"
    assert await service.health_check() == {"status": "stopped", "providers": {}}
