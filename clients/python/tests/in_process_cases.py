"""What the in-process mode does, seen at scripted providers; run by `case_driver.py`, named by the tests."""

import asyncio
import gc
import json
import os
import time

import scripted_providers as providers
from in_process_setup import (
    NUMBERS,
    TOOL,
    WEATHER,
    City,
    ask,
    closed_address,
    error_of,
    failure_of,
    raised,
    scripted_model,
    service_with,
    until,
)

from llm_proxy_service import (
    AuthenticationError,
    InvalidRequestError,
    InvalidResponseError,
    LLMProxyService,
    LoadBalanceStrategy,
    ModelCapability,
    NotFoundError,
    OpenAIProvider,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    create_chat_request,
    create_completion_request,
)


async def round_robin_is_even() -> None:
    async with service_with(scripted_model(0), scripted_model(1), scripted_model(2)) as service:
        for _ in range(9):
            await service.generate_completion(ask())
        assert providers.counts() == [3, 3, 3]
        await asyncio.gather(*(service.generate_completion(ask()) for _ in range(9)))
        assert providers.counts() == [6, 6, 6]


async def without_a_model_the_strategy_chooses_among_all() -> None:
    async with service_with(scripted_model(0), scripted_model(1, "claude-3-sonnet")) as service:
        answers = [await service.generate_completion(ask(model=None)) for _ in range(4)]
        assert [answer.provider for answer in answers] == ["a", "b", "a", "b"]
        await service.generate_completion(ask(model="no-such-model"))
        assert sum(providers.counts()) == 5


async def weighted_goes_by_weight() -> None:
    strategy = LoadBalanceStrategy.WEIGHTED
    async with service_with(
        scripted_model(0, weight=9), scripted_model(1, weight=1), strategy=strategy
    ) as service:
        await asyncio.gather(*(service.generate_completion(ask()) for _ in range(60)))
        first, second, _ = providers.counts()
        assert first + second == 60
        assert first > 40
    async with service_with(
        scripted_model(0, weight=0), scripted_model(1, weight=1), strategy=strategy
    ) as service:
        await asyncio.gather(*(service.generate_completion(ask()) for _ in range(10)))
        assert providers.counts() == [0, 10, 0]


async def the_cheapest_gets_everything() -> None:
    prices = [
        scripted_model(number, cost_per_1k_tokens=price) for number, price in enumerate((0.03, 0.01, 0.02))
    ]
    async with service_with(*prices, strategy=LoadBalanceStrategy.COST_OPTIMIZED) as service:
        for _ in range(6):
            answer = await service.generate_completion(ask(prompt_tokens=600, completion_tokens=400))
            assert answer.cost == 0.01
        assert providers.counts() == [0, 6, 0]
        assert abs(service.get_service_stats()["total_cost"] - 0.06) < 1e-9


async def the_fastest_gets_most() -> None:
    models = ("x--slow-first", "m1", "m2")
    service = LLMProxyService(load_balance_strategy=LoadBalanceStrategy.FASTEST_RESPONSE, cache_size=0)
    providers.reset()
    for number, model in enumerate(models):
        service.register_provider(f"p{number}", OpenAIProvider(scripted_model(number, model)))
    async with service:
        for _ in range(12):
            await service.generate_completion(create_completion_request("hi"))
            await asyncio.sleep(0.02)  # the Router notes a latency after the answer
        assert providers.counts()[0] <= 2


async def the_least_loaded_is_chosen_while_calls_run() -> None:
    async with service_with(
        scripted_model(0), scripted_model(1), strategy=LoadBalanceStrategy.LEAST_LOADED
    ) as service:
        slow = [
            asyncio.ensure_future(service.generate_completion(ask(do="slow-first", first_ms=30_000)))
            for _ in range(4)
        ]
        await until(lambda: providers.counts() == [2, 2, 0])
        slow[0].cancel()
        slow[2].cancel()
        await asyncio.wait(slow, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: service.get_provider_metrics("a")["active_requests"] == 0)
        for _ in range(3):
            await service.generate_completion(ask())
        assert providers.counts() == [5, 2, 0]
        for task in slow:
            task.cancel()


async def another_provider_takes_over_at_once() -> None:
    """By priority, whatever failed: a status, a stall, a limit, a broken connection, a wrong key."""
    configs = (
        scripted_model(0),
        scripted_model(1, "backup", priority=3),
        scripted_model(2, "first-backup", priority=2),
    )
    for play in ("status-500", "status-429", "status-401", "status-404", "drop", "hang", "garbage", "empty"):
        async with service_with(*configs) as service:
            service.register_provider("a", OpenAIProvider(scripted_model(0, f"gpt--{play}")))
            request = create_completion_request("hi", model=f"gpt--{play}", timeout=1)
            answer = await service.generate_completion(request)
            assert answer.provider == "c", play
            assert providers.counts() == [1, 0, 1], play
            assert service.get_provider_metrics("a")["error_rate"] == 1.0


async def a_provider_that_is_down_is_called_last() -> None:
    """Its port is closed: after three attempts the other one comes first, until that fails too."""
    with closed_address() as address:
        down = scripted_model(0, api_base=address)
        async with service_with(down, scripted_model(1), cache_size=0, max_retries=0) as service:
            for _ in range(10):
                assert (await service.generate_completion(ask())).provider == "b"
            figures = service.get_provider_metrics("a")
            assert figures["request_count"] == 3
            assert (await service.health_check())["providers"]["a"] != "healthy"
            assert (await error_of(service, ask(do="status-500"))).provider == "a"
            assert (await service.generate_completion(ask())).provider == "b"


async def without_failover_only_the_chosen_is_tried_again() -> None:
    async with service_with(
        scripted_model(0), scripted_model(1), enable_failover=False, max_retries=1
    ) as service:
        error = await error_of(service, ask(do="status-500"))
        shown = (type(error), error.status, error.retryable, error.provider)
        assert shown == (ProviderError, 500, True, "a")
        assert providers.counts() == [2, 0, 0]
        assert service.get_service_stats()["failed_requests"] == 1


async def retries_wait_and_end() -> None:
    async with service_with(scripted_model(0), max_retries=2) as service:
        began = time.monotonic()
        answer = await service.generate_completion(ask(do="flaky", fails=2, status=503))
        assert time.monotonic() - began > 0.9
        assert (answer.provider, providers.counts()[0]) == ("a", 3)
        error = await error_of(service, ask(do="status-503"))
        assert (error.status, providers.counts()[0]) == (503, 6)


async def what_may_have_run_is_not_sent_again() -> None:
    plays = {
        "hang": RequestTimeoutError,
        "drop": ProviderError,
        "cut": ProviderError,
        "silence": RequestTimeoutError,
    }
    for play, kind in plays.items():
        async with service_with(scripted_model(0), max_retries=3) as service:
            error = await error_of(service, ask(do=play, timeout=0.5))
            assert (type(error), error.retryable, error.status) == (kind, False, None), play
            assert providers.counts() == [1, 0, 0], play


async def what_was_never_sent_is_sent_again() -> None:
    with closed_address() as address:
        async with service_with(scripted_model(0, api_base=address), max_retries=2) as service:
            error = await error_of(service, ask())
            assert (type(error), error.code, error.retryable) == (ProviderError, "unreachable", True)
            assert service.get_provider_metrics("a")["error_count"] == 3
            assert not service.is_provider_available("a")
            assert (await service.health_check())["providers"]["a"] in {"failing", "cooling_down"}


async def a_conflict_at_the_provider_is_sent_again() -> None:
    async with service_with(scripted_model(0)) as service:
        assert (await service.generate_completion(ask(do="flaky", status=409))).content
        assert providers.counts() == [2, 0, 0]


async def the_caller_s_own_error_goes_nowhere_else() -> None:
    async with service_with(scripted_model(0), scripted_model(1)) as service:
        error = await error_of(service, ask(do="status-400"))
        assert (type(error), error.status, error.retryable) == (InvalidRequestError, 400, False)
        assert error.request_id == "req_scripted"
        assert sum(providers.counts()) == 1
        assert service.get_provider_metrics("a")["error_rate"] == 0.0


async def a_limit_says_how_long_it_lasts() -> None:
    async with service_with(scripted_model(0), max_retries=3) as service:
        error = await error_of(service, ask(do="status-429", retry_after="30"))
        assert (type(error), error.retry_after, error.retryable) == (RateLimitError, 30.0, True)
        assert providers.counts()[0] == 1


async def a_rate_limit_is_kept_and_reported() -> None:
    async with service_with(scripted_model(0, rate_limit=2), max_retries=0) as service:
        assert service.get_rate_limit_status("a") == {"limit": 2, "remaining": 2, "reset_in": 0.0}
        await asyncio.gather(*(service.generate_completion(ask()) for _ in range(2)))
        assert service.get_rate_limit_status("a")["remaining"] == 0
        assert not service.is_provider_available("a")
        error = await error_of(service, ask())
        assert (type(error), error.status, error.code) == (RateLimitError, 429, "rate_limited")
        assert 0 < (error.retry_after or 0) <= 60
        assert providers.counts()[0] == 2
        service.register_provider("b", OpenAIProvider(scripted_model(1)))
        await service.generate_completion(ask())
        assert providers.counts() == [2, 1, 0]
        assert (await service.health_check())["providers"] == {"a": "rate_limited", "b": "healthy"}


async def answers_are_cached_for_their_time() -> None:
    async with service_with(scripted_model(0), cache_size=2, cache_ttl=0.4) as service:
        request = ask()
        first, second = [await service.generate_completion(request) for _ in range(2)]
        assert (first.cached, second.cached, second.content) == (False, True, first.content)
        assert (second.cost, providers.counts()[0]) == (0.0, 1)
        request.cache_enabled = False
        await service.generate_completion(request)
        assert providers.counts()[0] == 2
        request.cache_enabled = True
        service.response_cache.clear()
        await service.generate_completion(request)
        assert providers.counts()[0] == 3
        await asyncio.sleep(0.5)
        assert not (await service.generate_completion(request)).cached
        stats = service.get_service_stats()
        assert (stats["total_requests"], stats["cache_hits"], stats["cache_misses"]) == (5, 1, 3)


async def the_cache_has_a_size() -> None:
    async with service_with(scripted_model(0), cache_size=2) as service:
        requests = [ask() for _ in range(3)]
        for request in requests:
            await service.generate_completion(request)
        again = [(await service.generate_completion(request)).cached for request in reversed(requests)]
        assert again.count(True) == 2
    async with service_with(scripted_model(0), cache_size=0) as service:
        request = ask()
        for _ in range(2):
            await service.generate_completion(request)
        assert providers.counts()[0] == 2


async def capabilities_decide_which_is_called() -> None:
    chat = [ModelCapability.CHAT_COMPLETION]
    async with service_with(
        scripted_model(0, capabilities=chat),
        scripted_model(1, capabilities=[*chat, ModelCapability.FUNCTION_CALLING]),
    ) as service:
        for _ in range(3):
            request = create_chat_request(
                [{"role": "user", "content": f"hi {next(NUMBERS)}"}], model="gpt-4", functions=[WEATHER]
            )
            await service.generate_completion(request)
        assert providers.counts() == [0, 3, 0]
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        looking = create_chat_request([{"role": "user", "content": [picture]}], model="gpt-4")
        error = await error_of(service, looking)
        assert (type(error), error.code) == (InvalidRequestError, "unsupported_capability")


async def functions_and_tools_are_called() -> None:
    async with service_with(scripted_model(0)) as service:
        messages = [{"role": "user", "content": json.dumps({"do": "tools"})}]
        older = await service.generate_completion(
            create_chat_request(messages, model="gpt-4", functions=[WEATHER])
        )
        assert older.function_call
        assert older.function_call["name"] == "get_weather"
        json.loads(older.function_call["arguments"])
        today = await service.generate_completion(create_chat_request(messages, model="gpt-4", tools=[TOOL]))
        assert [call["function"]["name"] for call in today.tool_calls] == ["get_weather"] * 2
        streamed = create_chat_request(messages, model="gpt-4", tools=[TOOL])
        chunks = [chunk async for chunk in service.generate_streaming_completion(streamed)]
        pieces = [call for chunk in chunks for call in chunk.tool_calls]
        assert "".join(piece["function"].get("name", "") for piece in pieces) == "get_weather" * 2


async def images_reach_the_provider() -> None:
    async with service_with(scripted_model(0)) as service:
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        parts = [{"type": "text", "text": "What is this?"}, picture]
        await service.generate_completion(
            create_chat_request([{"role": "user", "content": parts}], model="gpt-4")
        )
        assert providers.calls(0)[0]["body"]["messages"][0]["content"] == parts


async def an_answer_becomes_a_pydantic_object() -> None:
    async with service_with(scripted_model(0, "gpt-4o")) as service:
        city = await service.generate_structured(ask("gpt-4o", text='{"name": "Paris"}'), City)
        assert city == City(name="Paris")
        sent = providers.calls(0)[0]["body"]["response_format"]["json_schema"]
        assert (sent["name"], sent["strict"]) == ("City", True)


async def a_cached_answer_that_fits_no_object_leads_to_a_new_call() -> None:
    """The same request, after the provider's first answer was no City."""
    async with service_with(scripted_model(0, "gpt-4o")) as service:
        request = ask("gpt-4o", text='{"town": "Paris"}')
        for calls in (1, 2):
            error = await failure_of(service.generate_structured(request, City))
            assert isinstance(error, InvalidResponseError)
            assert error.content == '{"town": "Paris"}'
            assert len(providers.calls(0)) == calls


async def embeddings_have_the_order_of_their_texts() -> None:
    async with service_with(scripted_model(0, "text-embedding-3-small")) as service:
        found = await service.generate_embeddings(["one", "two"], model="text-embedding-3-small")
        assert len(found.vectors) == 2
        assert found.provider == "a"
        assert found.cost is not None
        assert providers.calls(0)[0]["body"]["input"] == ["one", "two"]


async def larger_requests_are_lowered_to_max_tokens() -> None:
    async with service_with(scripted_model(0, max_tokens=50)) as service:
        for wanted, sent in ((200, 50), (20, 20), (None, None)):
            request = ask()
            request.max_tokens = wanted
            await service.generate_completion(request)
            assert providers.calls(0)[-1]["body"].get("max_tokens") == sent


async def keys_of_the_environment_make_providers() -> None:
    address = providers.addresses()[0]
    stated = {
        "OPENAI_API_KEY": "sk-env",
        "OPENAI_BASE_URL": f"{address}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-env",
        "ANTHROPIC_BASE_URL": address,
    }
    os.environ.update(stated)
    try:
        async with service_with() as service:
            assert service.list_providers() == ["openai", "anthropic"]
            first = await service.generate_completion(ask("gpt-3.5-turbo"))
            second = await service.generate_completion(ask("claude-3"))
            assert (first.provider, second.provider) == ("openai", "anthropic")
            assert [call["family"] for call in providers.calls(0)] == ["openai", "anthropic"]
            assert first.cost is not None
            assert (await service.health_check())["status"] == "healthy"
    finally:
        for name in stated:
            del os.environ[name]


async def a_model_without_a_provider_is_named() -> None:
    async with service_with() as service:
        error = await error_of(service, ask("gpt-4"))
        assert isinstance(error, NotFoundError)
        assert "OPENAI_API_KEY" in str(error)
        assert not service.is_provider_available("openai")
        assert (await service.health_check())["status"] == "unhealthy"
        missing = raised(lambda: service.get_provider_metrics("nobody"))
        assert isinstance(missing, NotFoundError)


async def a_wrong_key_is_no_retry() -> None:
    async with service_with(scripted_model(0)) as service:
        error = await error_of(service, ask(do="status-401"))
        assert (type(error), error.status, error.retryable) == (AuthenticationError, 401, False)
        assert providers.counts()[0] == 1
        await until(lambda: not service.is_provider_available("a"))
        assert (await service.generate_completion(ask())).provider == "a"


async def services_do_not_share_figures() -> None:
    async with service_with(scripted_model(0), max_retries=0) as first, LLMProxyService() as second:
        second.register_provider("a", OpenAIProvider(scripted_model(0)))
        await error_of(first, ask(do="status-401"))
        await until(lambda: not first.is_provider_available("a"))
        assert second.is_provider_available("a")
        assert second.get_service_stats()["total_requests"] == 0


async def a_wish_for_one_provider_is_kept() -> None:
    async with service_with(scripted_model(0), scripted_model(1)) as service:
        for _ in range(2):
            request = ask()
            request.provider = "b"
            assert (await service.generate_completion(request)).provider == "b"
        request = ask()
        request.provider = "nobody"
        assert isinstance(await error_of(service, request), NotFoundError)


async def further_fields_are_sent_and_change_no_call() -> None:
    async with service_with(scripted_model(0), max_retries=0) as service:
        request = ask()
        request.extra = {"seed": 7, "model": "other", "num_retries": 5}
        await service.generate_completion(request)
        sent = providers.calls(0)[0]["body"]
        assert (sent["seed"], sent["model"]) == (7, "gpt-4")
        request = ask(do="status-500")
        request.extra = {"num_retries": 5}
        await error_of(service, request)
        assert providers.counts()[0] == 2


async def stopping_closes_idle_connections() -> None:
    """Of this loop; LiteLLM opens others for the next service."""
    for _ in range(2):
        async with service_with(scripted_model(0)) as service:
            await service.generate_completion(ask())
        loop = asyncio.get_running_loop()
        sessions = [one for one in gc.get_objects() if type(one).__name__ == "ClientSession"]
        assert [one for one in sessions if one._loop is loop and not one.closed] == []  # noqa: SLF001 -- aiohttp's


async def a_stopped_service_says_so() -> None:
    service = service_with(scripted_model(0))
    await service.start()
    await service.stop()
    error = await error_of(service, ask())
    assert error.code == "stopped"
    assert await service.health_check() == {"status": "stopped", "providers": {}}
