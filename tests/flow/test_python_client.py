"""The Python client through the gateway: answers, streams, tools, errors, cancellation, further attempts."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from interruptible_proxy import InterruptibleProxy
from pydantic import BaseModel
from running_stack import RunningStack, script

from llm_proxy.stack.probe import free_port
from llm_proxy_service import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    LLMProxyError,
    LLMProxyService,
    NotFoundError,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    StreamBrokenError,
    SyncLLMProxyService,
    UnsupportedError,
    create_chat_request,
    create_completion_request,
)

FUNCTION: dict[str, Any] = {
    "name": "look_up",
    "description": "Look a city up",
    "parameters": {"type": "object", "properties": {}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class City(BaseModel):
    """A schema of the caller's."""

    name: str


def new(**directive: Any) -> str:
    """A prompt that no cache knows, with what the provider is to play."""
    return f"{uuid4().hex} {script(**{'do': 'ok'} | directive)}"


@pytest.fixture
async def service(stack: RunningStack) -> AsyncIterator[LLMProxyService]:
    """The client of the running stack."""
    async with LLMProxyService(base_url=stack.url, api_key=stack.key, timeout=20) as made:
        yield made


async def left_at_the_provider(stack: RunningStack) -> bool:
    """Whether the provider sees its caller hang up, within 10 s."""
    async with asyncio.timeout(10):
        while not any(call["client_left_s"] is not None for call in await stack.calls()):  # noqa: ASYNC110 -- the same
            await asyncio.sleep(0.05)
    return True


async def called(stack: RunningStack) -> None:
    """Wait until the provider has the call."""
    async with asyncio.timeout(20):
        while not await stack.calls():  # noqa: ASYNC110 -- nothing signals it
            await asyncio.sleep(0.02)


async def test_an_answer_says_who_gave_it_and_what_it_cost(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """Text, usage, cost, provider and model; the id finds the record, which has the caller's own id."""
    request = create_completion_request(new(text="Paris."), model="plain", temperature=0.7, max_tokens=200)
    answer = await service.generate_completion(request)
    assert (answer.content, answer.finish_reason, answer.cached) == ("Paris.", "stop", False)
    assert answer.usage == {"prompt_tokens": 17, "completion_tokens": 23, "total_tokens": 40}
    assert (answer.provider, answer.model) == ("openai", "plain")
    assert answer.cost == pytest.approx(17e-6 + 46e-6)
    assert answer.latency > 0
    (seen,) = await stack.calls()
    assert (seen["body"]["temperature"], seen["body"]["max_tokens"]) == (0.7, 200)
    assert answer.request_id is not None
    assert (await stack.story(answer.request_id))["client_request_id"] == request.id


async def test_a_cached_answer_is_free_and_may_be_declined(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """A repeated request is a hit; not without the cache, after `clear`, or where the service keeps none."""
    request = create_chat_request([{"role": "user", "content": new()}], model="plain")
    first = await service.generate_completion(request)
    again = await service.generate_completion(request)
    assert (again.cached, again.cost, again.content) == (True, 0.0, first.content)
    assert len(await stack.calls()) == 1
    request.cache_enabled = False
    assert not (await service.generate_completion(request)).cached
    request.cache_enabled = True
    service.response_cache.clear()
    assert not (await service.generate_completion(request)).cached
    async with LLMProxyService(base_url=stack.url, api_key=stack.key, cache_size=0) as keeps_none:
        assert not (await keeps_none.generate_completion(request)).cached
    assert len(await stack.calls()) == 4


@pytest.mark.parametrize("text", ["", "one\u2028two\u0085three\x1cfour"])
async def test_a_stream_arrives_in_chunks(service: LLMProxyService, text: str) -> None:
    """The chunks make the text, whatever line ends it holds; the last one has the tokens."""
    request = create_completion_request(new(text=text), model="plain")
    request.stream = True
    chunks = [chunk async for chunk in service.generate_streaming_completion(request)]
    joined = "".join(chunk.content for chunk in chunks)
    assert joined == text if text else len(joined.split()) == 8
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].usage == {"prompt_tokens": 17, "completion_tokens": 23, "total_tokens": 40}
    assert all(chunk.provider == "openai" and chunk.request_id for chunk in chunks)


@pytest.mark.parametrize("older", [True, False])
async def test_functions_and_tools_are_called(
    stack: RunningStack, service: LLMProxyService, *, older: bool
) -> None:
    """Either form is offered as tools; the first call is a function call too, each call has its arguments."""
    offered: dict[str, Any] = (
        {"functions": [FUNCTION]} if older else {"tools": [{"type": "function", "function": FUNCTION}]}
    )
    request = create_chat_request([{"role": "user", "content": new(do="tools")}], model="p/x", **offered)
    answer = await service.generate_completion(request)
    assert answer.function_call is not None
    assert answer.function_call["name"] == "look_up"
    assert [json.loads(call["function"]["arguments"])["city"] for call in answer.tool_calls] == [
        "Oslo",
        "Turku",
    ]
    pieces = [
        piece async for chunk in service.generate_streaming_completion(request) for piece in chunk.tool_calls
    ]
    joined = "".join(piece["function"].get("arguments", "") for piece in pieces if piece["index"] == 1)
    assert json.loads(joined) == {"city": "Turku"}
    assert {json.dumps(call["body"]["tools"][0]["function"]) for call in await stack.calls()} == {
        json.dumps(FUNCTION)
    }


async def test_an_answer_becomes_an_object_of_a_pydantic_model(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """The schema reaches the provider, its JSON the caller's class."""
    request = create_completion_request(new(text='{"name": "Oslo"}'), model="plain")
    assert await service.generate_structured(request, City) == City(name="Oslo")
    (seen,) = await stack.calls()
    assert seen["body"]["response_format"]["json_schema"]["name"] == "City"


async def test_vectors_are_in_the_order_of_their_texts(service: LLMProxyService) -> None:
    """One for each text, numbers; the call has a request id and a provider."""
    found = await service.generate_embeddings(["a", "b", "c"], "p/ok")
    assert [len(vector) for vector in found.vectors] == [8, 8, 8]
    assert (found.provider, found.usage["completion_tokens"]) == ("openai", 0)
    assert found.request_id
    one = await service.generate_embeddings("b", "p/ok", cache_enabled=False)
    assert list(one.vectors[0]) == pytest.approx(list(found.vectors[1]))


async def test_an_image_in_a_message_reaches_the_provider(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """As it was given."""
    parts = [{"type": "text", "text": new()}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    await service.generate_completion(
        create_chat_request([{"role": "user", "content": parts}], model="plain")
    )
    (seen,) = await stack.calls()
    assert seen["body"]["messages"][0]["content"][1]["image_url"]["url"] == PIXEL


@pytest.mark.parametrize(
    ("model", "kind", "status", "code", "retryable"),
    [
        ("nobody-has-this", NotFoundError, 404, "model_not_found", False),
        ("p/context", InvalidRequestError, 400, "context_length_exceeded", False),
        ("p/status-401", ProviderError, 502, "provider_auth", False),
        ("p/quota", RateLimitError, 429, "insufficient_quota", False),
        ("p/status-500", ProviderError, 502, "provider_error", True),
    ],
)
async def test_an_error_says_what_a_program_needs(
    service: LLMProxyService,
    model: str,
    kind: type[LLMProxyError],
    status: int,
    code: str,
    *,
    retryable: bool,
) -> None:
    """Class, status, code, whether to try again, and the id."""
    with pytest.raises(kind) as caught:
        await service.generate_completion(create_completion_request(uuid4().hex, model=model))
    error = caught.value
    assert (error.status, error.code, error.retryable) == (status, code, retryable)
    assert error.request_id
    assert str(error)


async def test_a_wrong_key_is_an_authentication_error(stack: RunningStack) -> None:
    """The service starts; the first call says it, and how to give a key where there is none."""
    async with LLMProxyService(base_url=stack.url, api_key="not-ours-0123456789") as service:
        with pytest.raises(AuthenticationError):
            await service.generate_completion(create_completion_request(new(), model="plain"))
        assert (await service.health_check())["status"] == "unhealthy"
    async with LLMProxyService(base_url=stack.url) as service:
        with pytest.raises(AuthenticationError, match="LLM_PROXY_API_KEY"):
            await service.generate_completion(create_completion_request(new(), model="plain"))


async def test_a_failure_at_the_provider_is_not_sent_again(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """The gateway's router has its attempts (here 1 + 2); the client adds none."""
    with pytest.raises(ProviderError):
        await service.generate_completion(create_completion_request(new(do="status-500"), model="retried"))
    assert len(await stack.calls()) == 3


@pytest.mark.parametrize("do", ["cut", "error-in-200", "garbage"])
async def test_a_broken_stream_raises(service: LLMProxyService, do: str) -> None:
    """What came before is there; the error says that it is not all."""
    received: list[str] = []
    request = create_completion_request(new(do=do, after=3, frames=20), model="plain")

    async def read() -> None:
        async for chunk in service.generate_streaming_completion(request):
            received.append(chunk.content)  # noqa: PERF401 -- what came before the error counts

    with pytest.raises(StreamBrokenError) as caught:
        await read()
    assert len("".join(received).split()) == 2
    assert caught.value.request_id
    assert not caught.value.retryable


async def test_leaving_the_loop_ends_the_call_at_the_provider(
    stack: RunningStack, service: LLMProxyService
) -> None:
    """The provider sees its caller hang up."""
    request = create_completion_request(new(do="slow", frames=400, gap_ms=50), model="plain")
    async for _ in service.generate_streaming_completion(request):
        break
    assert await left_at_the_provider(stack)


@pytest.mark.parametrize("streamed", [True, False])
async def test_cancellation_reaches_the_provider(
    stack: RunningStack, service: LLMProxyService, *, streamed: bool
) -> None:
    """A cancelled task leaves nothing running."""
    request = create_completion_request(new(do="hang"), model="plain")

    async def call() -> None:
        if not streamed:
            await service.generate_completion(request)
        async for _ in service.generate_streaming_completion(request):
            pass

    calling = asyncio.create_task(call())
    await called(stack)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await left_at_the_provider(stack)


async def test_stop_ends_what_runs(stack: RunningStack) -> None:
    """The waiting call ends in an error, and at the provider; later calls say that it was stopped."""
    service = LLMProxyService(base_url=stack.url, api_key=stack.key)
    calling = asyncio.create_task(
        service.generate_completion(create_completion_request(new(do="hang"), model="plain"))
    )
    await called(stack)
    await service.stop()
    with pytest.raises(LLMProxyError):
        await calling
    assert await left_at_the_provider(stack)
    with pytest.raises(LLMProxyError, match="stopped"):
        await service.generate_completion(create_completion_request(new(), model="plain"))


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"seed": object()}},
        {"extra": {"temperature": float("nan")}},
        {"prompt": "\ud800"},
        {"provider": "ö"},
    ],
)
async def test_what_cannot_be_sent_is_refused(
    stack: RunningStack, service: LLMProxyService, fields: dict[str, Any]
) -> None:
    """As the request's fault; nothing is called."""
    request = create_completion_request("x", model="plain")
    for name, value in fields.items():
        setattr(request, name, value)
    with pytest.raises(InvalidRequestError):
        await service.generate_completion(request)
    assert await stack.calls() == []


async def test_stop_ends_a_stream(stack: RunningStack) -> None:
    """Its reader gets the error that it is not whole."""
    service = LLMProxyService(base_url=stack.url, api_key=stack.key)
    request = create_completion_request(new(do="slow", frames=400, gap_ms=50), model="plain")
    chunks = service.generate_streaming_completion(request)
    assert (await anext(chunks)).content
    await service.stop()
    with pytest.raises(StreamBrokenError):
        assert [chunk async for chunk in chunks]
    assert await left_at_the_provider(stack)


async def test_silence_is_a_timeout(stack: RunningStack, service: LLMProxyService) -> None:
    """The call is given up, here and at the provider, and not sent again."""
    request = create_completion_request(new(do="hang"), model="plain", timeout=0.5)
    with pytest.raises(RequestTimeoutError) as caught:
        await service.generate_completion(request)
    assert not caught.value.retryable
    assert await left_at_the_provider(stack)
    assert len(await stack.calls()) == 1
    request = create_completion_request(new(do="silence", after=2), model="plain", timeout=0.5)
    with pytest.raises(StreamBrokenError):
        assert [chunk async for chunk in service.generate_streaming_completion(request)]


async def test_a_gateway_that_is_away_is_called_again(stack: RunningStack) -> None:
    """Nothing ran where nothing was connected: the call succeeds once the gateway listens."""
    wire = InterruptibleProxy(stack.url)
    await wire.start()
    await wire.cut()
    async with LLMProxyService(base_url=wire.url, api_key=stack.key, max_retries=6) as service:
        calling = asyncio.create_task(
            service.generate_completion(create_completion_request(new(), model="plain"))
        )
        await asyncio.sleep(0.1)
        await wire.start()
        assert (await calling).content
        await wire.cut()
    away = f"http://127.0.0.1:{free_port()}"
    async with LLMProxyService(base_url=away, max_retries=0) as service:
        with pytest.raises(ProviderError, match=away) as caught:
            await service.generate_completion(create_completion_request(new(), model="plain"))
        assert (caught.value.code, caught.value.retryable) == ("unreachable", True)
        assert await service.health_check() == {"status": "unhealthy", "providers": {}}


async def test_a_call_whose_connection_breaks_is_not_sent_again(stack: RunningStack) -> None:
    """The model may have run."""
    wire = InterruptibleProxy(stack.url)
    await wire.start()
    async with LLMProxyService(base_url=wire.url, api_key=stack.key) as service:
        calling = asyncio.create_task(
            service.generate_completion(create_completion_request(new(do="hang"), model="plain"))
        )
        await called(stack)
        await wire.cut()
        await wire.start()
        with pytest.raises(ProviderError) as caught:
            await calling
        assert (caught.value.code, caught.value.retryable) == ("connection_broken", False)
        await wire.cut()
    assert len(await stack.calls()) == 1


async def test_the_same_without_an_event_loop(stack: RunningStack) -> None:
    """Answers, streams, a stream that is left, vectors and figures."""

    def use() -> None:
        with SyncLLMProxyService(base_url=f"{stack.url}/v1", api_key=stack.key) as service:
            request = create_completion_request(new(), model="plain")
            assert service.generate_completion(request).content
            chunks = list(service.generate_streaming_completion(request))
            assert len("".join(chunk.content for chunk in chunks).split()) == 8
            for _ in service.generate_streaming_completion(
                create_completion_request(new(do="slow", frames=400, gap_ms=50), model="plain")
            ):
                break
            assert len(service.generate_embeddings("a", "p/ok").vectors) == 1
            assert service.get_service_stats()["total_requests"] >= 4

    await asyncio.to_thread(use)
    assert await left_at_the_provider(stack)


async def test_a_service_belongs_to_its_loop(stack: RunningStack, service: LLMProxyService) -> None:
    """A call on another one gets that error, and sends nothing."""

    def call() -> None:
        asyncio.run(service.health_check())
        asyncio.run(service.generate_completion(create_completion_request(new(), model="plain")))

    with pytest.raises(LLMProxyError, match="another event loop"):
        await asyncio.to_thread(call)
    assert await stack.calls() == []


def test_what_the_gateway_decides_is_logged_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A strategy and a cache's size are one line each, naming what to set; no failover is refused."""
    LLMProxyService(
        1000, 3600, "COST_OPTIMIZED", enable_failover=True, max_retries=3, base_url="http://here:1"
    )
    assert "LLM_PROXY_LOAD_BALANCE=COST_OPTIMIZED" in caplog.text
    assert "CACHE_REDIS_URL" in caplog.text
    with pytest.raises(UnsupportedError, match="fallbacks"):
        LLMProxyService(enable_failover=False, base_url="http://here:1")


@pytest.mark.parametrize(
    "base_url",
    ["here:7007", "ftp://here", "http://", "/v1", "http://[::1", "http://here/?a=1", "http://u:sk-1@here"],
)
def test_an_address_that_is_none_is_refused(base_url: str) -> None:
    """When the service is made; a password in it is not shown."""
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        LLMProxyService(base_url=base_url)
    assert "sk-1" not in str(caught.value)
