"""Streams, cancellation and the synchronous face in-process; run by `case_driver.py`."""

import asyncio
from contextlib import aclosing

import scripted_providers as providers
from in_process_setup import City, ask, broken, raised, scripted_model, service_with, until

from llm_proxy_service import (
    AnthropicProvider,
    GoogleProvider,
    LLMProvider,
    LLMProxyService,
    ModelConfig,
    OllamaProvider,
    OpenAIProvider,
    ProviderError,
    StreamBrokenError,
    SyncLLMProxyService,
    create_completion_request,
)


async def streams_arrive_piece_by_piece_and_say_what_they_cost() -> None:
    async with service_with(scripted_model(0, cost_per_1k_tokens=1.0)) as service:
        chunks = [chunk async for chunk in service.generate_streaming_completion(ask(frames=5))]
        assert sum(bool(chunk.content) for chunk in chunks) == 5
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
        (last,) = [chunk for chunk in chunks if chunk.usage]
        assert last.usage == {"prompt_tokens": 17, "completion_tokens": 23, "total_tokens": 40}
        assert (last.cost, last.provider) == (0.04, "a")
        metrics = service.get_provider_metrics("a")
        assert (metrics["total_tokens"], metrics["active_requests"]) == (40, 0)


async def a_broken_stream_raises() -> None:
    plays = ("cut", "reset", "eof", "half-frame", "garbage", "error-in-200", "silence")
    for play in plays:
        async with service_with(scripted_model(0), scripted_model(1)) as service:
            received, error = await broken(service, ask(do=play, timeout=1))
            assert (type(error), error.provider) == (StreamBrokenError, "a"), play
            assert received, play
            assert providers.counts() == [1, 0, 0], play
            metrics = service.get_provider_metrics("a")
            assert (metrics["error_count"], metrics["active_requests"]) == (1, 0)


async def broken_streams_of_other_providers_raise() -> None:
    address = providers.addresses()[0]
    for kind, wrapper in (
        (LLMProvider.ANTHROPIC, AnthropicProvider),
        (LLMProvider.GOOGLE, GoogleProvider),
        (LLMProvider.OLLAMA, OllamaProvider),
    ):
        config = ModelConfig(provider=kind, model_name="m", api_base=address, api_key="k")
        async with LLMProxyService(max_retries=0) as service:
            service.register_provider("it", wrapper(config))
            whole = "".join([c.content async for c in service.generate_streaming_completion(ask("m"))])
            assert whole
            assert (await service.generate_completion(ask("m"))).content
            for play in ("cut", "empty", "not-sse", *(() if kind is LLMProvider.GOOGLE else ("eof",))):
                _, error = await broken(service, ask("m", do=play))
                assert error.provider == "it", (kind, play)


async def before_its_first_content_a_stream_may_come_from_another() -> None:
    for play in ("status-500", "drop", "hang", "empty", "not-sse"):
        async with service_with(scripted_model(0, f"gpt--{play}"), scripted_model(1, "backup")) as service:
            request = create_completion_request("hi", model=f"gpt--{play}", timeout=1)
            chunks = [chunk async for chunk in service.generate_streaming_completion(request)]
            assert chunks[-1].provider == "b", play
            assert providers.counts() == [1, 1, 0], play


async def leaving_the_loop_ends_the_call() -> None:
    async with service_with(scripted_model(0)) as service:
        async for chunk in service.generate_streaming_completion(ask(do="slow", gap_ms=100, frames=600)):
            if chunk.content:
                break
        await until(lambda: providers.calls(0)[0]["client_left_s"] is not None)
        async with aclosing(
            service.generate_streaming_completion(ask(do="slow", gap_ms=100, frames=600))
        ) as chunks:
            await anext(chunks)
        await until(lambda: providers.calls(0)[1]["client_left_s"] is not None)
        assert service.get_provider_metrics("a")["active_requests"] == 0


async def cancelling_ends_the_call() -> None:
    async with service_with(scripted_model(0)) as service:

        async def follow() -> None:
            async for _ in service.generate_streaming_completion(ask(do="silence")):
                pass

        for number, call in enumerate((service.generate_completion(ask(do="hang")), follow())):
            task = asyncio.ensure_future(call)
            await until(lambda number=number: providers.counts()[0] == number + 1)  # type: ignore[misc]
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await until(lambda number=number: providers.calls(0)[number]["client_left_s"] is not None)  # type: ignore[misc]
        assert service.get_provider_metrics("a")["active_requests"] == 0


async def the_synchronous_face_does_the_same() -> None:
    """From a thread of its own, as it would be without a loop, and below this one."""

    def drive() -> None:
        with SyncLLMProxyService(max_retries=0) as service:
            service.register_provider("a", OpenAIProvider(scripted_model(0, "gpt-4o")))
            assert service.generate_completion(ask()).content
            assert "".join(chunk.content for chunk in service.generate_streaming_completion(ask()))
            for chunk in service.generate_streaming_completion(ask(do="slow", gap_ms=100, frames=600)):
                if chunk.content:
                    break
            assert service.generate_structured(ask(text='{"name": "Rome"}'), City).name == "Rome"
            assert service.health_check()["status"] == "healthy"
            assert service.get_service_stats()["total_requests"] == 4
            assert service.list_providers() == ["a"]
            failure = raised(lambda: service.generate_completion(ask(do="status-500")))
            assert (type(failure), failure.status) == (ProviderError, 500)
        assert raised(lambda: service.generate_completion(ask())).code == "stopped"

    providers.reset()
    await asyncio.to_thread(drive)
    drive()
    await until(lambda: providers.calls(0)[2]["client_left_s"] is not None)
