"""Azure OpenAI's spelling: its paths and its key, through the whole stack."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import openai
import pytest
from loopback import NO_TLS
from openai.types.chat import ChatCompletion
from raw_http import send_raw
from raw_requests import request
from running_stack import RunningStack, say, script

VERSION = {"api-version": "2024-10-21"}
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
WAV = b"RIFF" + bytes(40)


def client_of(stack: RunningStack) -> httpx.AsyncClient:
    """A client with the key as Azure's clients send it."""
    headers = {"api-key": stack.key, "Cache-Control": "no-store, no-cache"}
    return httpx.AsyncClient(base_url=stack.url, headers=headers, verify=NO_TLS, timeout=30)


@pytest.mark.parametrize("name", ["p/ok", "p%2Fok", "p%2fok", "%70/ok"])
@pytest.mark.parametrize("body", [{}, {"model": "plain"}, {"model": None}])
async def test_the_path_s_model_serves_a_call(
    stack: RunningStack, name: str, body: dict[str, object]
) -> None:
    """It counts before the body's; the record names model and endpoint, not the path."""
    async with client_of(stack) as client:
        answer = await client.post(
            f"/openai/deployments/{name}/chat/completions",
            params=VERSION,
            json={"messages": say("hello"), **body},
        )
    assert answer.status_code == 200, answer.text
    [call] = await stack.calls()
    assert call["body"]["model"] == "ok"
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["model"], story["door"]) == ("p/ok", "chat.completions")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nobody-has-this", 404, "model_not_found"),
        ("..", 404, "model_not_found"),
        ("%2e%2e%2f%2e%2e", 404, "model_not_found"),
        ("p/..", 404, "model_not_found"),
        ("p/%00", 404, "model_not_found"),
        ("p/a%0d%0aX-Y:%20z", 404, "model_not_found"),
        ("p%252Fok", 404, "model_not_found"),
        ("p/%ff", 400, "invalid_value"),
        ("p/%zz", 400, "invalid_value"),
        ("p/" + "x" * 300, 400, "string_above_max_length"),
    ],
)
async def test_a_name_that_no_model_has_is_an_error(
    stack: RunningStack, name: str, status: int, code: str
) -> None:
    """In OpenAI's envelope, naming the model; nothing reaches the sidecar."""
    sent = request(f"/openai/deployments/{name}/chat/completions".encode())
    answer = await asyncio.to_thread(send_raw, stack.port, sent)
    error = json.loads(answer.body)["error"]
    assert (answer.statuses, error["code"], error["param"]) == ([status], code, "model")
    assert await stack.calls() == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_another_method_is_405_with_allow(stack: RunningStack, method: str) -> None:
    """Without a look at the name or the key."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS) as client:
        answer = await client.request(method, "/openai/deployments/nobody-has-this/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_unknown_caller_learns_nothing_of_a_name(stack: RunningStack) -> None:
    """401 for a served name, an unknown and a malformed one."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, headers={"api-key": "sk-no"}) as client:
        for name in ("p/ok", "nobody-has-this", "%zz"):
            answer = await client.post(f"/openai/deployments/{name}/embeddings", json={"input": "x"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["p/ok/chat/completions", "p%2Fok/chat/completions?api-version=x"])
async def test_explain_takes_such_a_path(stack: RunningStack, path: str) -> None:
    """The explained call is of the path's model."""
    async with client_of(stack) as client:
        answer = await client.post(
            "/v1/explain", params={"path": f"/openai/deployments/{path}"}, json={"messages": say("hello")}
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "p/ok"


@pytest.fixture(params=["key", "token", "deployment", "v1"])
async def azure(stack: RunningStack, request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK's client: with a key, with a token of Entra ID, for one deployment, and for Azure's `v1`."""
    end, key = stack.url, stack.key
    made: dict[str, Callable[[], openai.AsyncOpenAI]] = {
        "key": lambda: openai.AsyncAzureOpenAI(azure_endpoint=end, api_key=key, api_version="2024-10-21"),
        "token": lambda: openai.AsyncAzureOpenAI(
            azure_endpoint=end, azure_ad_token=key, api_version="2025-04-01-preview"
        ),
        "deployment": lambda: openai.AsyncAzureOpenAI(
            azure_endpoint=end, azure_deployment="p/ok", api_key=key, api_version="2024-10-21"
        ),
        "v1": lambda: openai.AsyncOpenAI(
            base_url=f"{end}/openai/v1", api_key=key, default_query={"api-version": "preview"}
        ),
    }
    async with made[request.param]() as client:
        yield client


class TestTheSDKOfAzure:
    """`AsyncAzureOpenAI`, however it is set up, and `AsyncOpenAI` where Azure wants that."""

    async def test_a_chat_whole_and_streamed(self, azure: openai.AsyncOpenAI) -> None:
        """Text and usage are the provider's."""
        whole = await azure.chat.completions.create(model="p/ok", messages=say("hello"))
        assert whole.usage is not None
        assert (len((whole.choices[0].message.content or "").split()), whole.usage.total_tokens) == (8, 40)
        stream = await azure.chat.completions.create(
            model="p/ok", messages=say("hi"), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert len("".join(texts).split()) == 8
        assert chunks[-1].usage is not None

    async def test_tools(self, azure: openai.AsyncOpenAI) -> None:
        """Calls arrive as they were sent; the path's model answers where it names another than the body."""
        answer = await azure.chat.completions.create(model="p/ok", messages=say(script(do="tools")))
        calls = answer.choices[0].message.tool_calls or []
        assert [one.function.name for one in calls if one.type == "function"] == ["look_up", "look_up"]

    async def test_embeddings_and_completions(self, azure: openai.AsyncOpenAI) -> None:
        """In the SDK's default encoding, base64, too."""
        vectors = await azure.embeddings.create(model="p/ok", input=["one", "two"])
        assert [len(one.embedding) for one in vectors.data] == [8, 8]
        assert (await azure.completions.create(model="p/ok", prompt="once")).choices[0].text

    async def test_images(self, azure: openai.AsyncOpenAI) -> None:
        """Made, and edited from a form."""
        made = await azure.images.generate(model="p/ok", prompt="a cat")
        edited = await azure.images.edit(model="p/ok", prompt="a dog", image=("cat.png", PNG, "image/png"))
        assert [bool((one.data or [])[0].url) for one in (made, edited)] == [True, True]

    async def test_audio(self, azure: openai.AsyncOpenAI) -> None:
        """Spoken, and written down from a form, whose path names the model."""
        spoken = await azure.audio.speech.create(model="p/ok", input="Yes.", voice="alloy")
        assert await spoken.aread()
        recording = ("a.wav", WAV, "audio/wav")
        transcript = await azure.audio.transcriptions.create(model="p/ok", file=recording)
        with pytest.deprecated_call():  # the SDK's own word of it
            translated = await azure.audio.translations.create(model="p/ok", file=recording)  # pyright: ignore[reportDeprecated] -- clients still call it
        assert transcript.text
        assert translated.text

    async def test_responses(self, azure: openai.AsyncOpenAI) -> None:
        """Created, streamed, counted; a stored one is fetched by its id."""
        answer = await azure.responses.create(model="native-gpt", input="hello", store=False)
        assert answer.output_text
        stream = await azure.responses.create(model="plain", input="hello", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        counted = await azure.responses.input_tokens.count(model="plain", input="hello")
        assert counted.input_tokens > 0
        with pytest.raises(openai.NotFoundError):
            await azure.responses.retrieve("resp_nobody_has_this")

    async def test_models(self, azure: openai.AsyncOpenAI) -> None:
        """Those of the key; one with a slash in its name too."""
        listed = {model.id: model async for model in azure.models.list()}
        assert "plain" in listed
        assert (await azure.models.retrieve("p/some-model")).id == "p/some-model"

    async def test_errors_are_the_sdk_s(self, azure: openai.AsyncOpenAI) -> None:
        """By status, with code and message."""
        with pytest.raises(openai.BadRequestError) as caught:
            await azure.chat.completions.create(model="p/ok", messages=say("x"), temperature=9)
        assert (caught.value.param, caught.value.code) == ("temperature", "decimal_above_max_value")
        with pytest.raises(openai.InternalServerError):
            await azure.chat.completions.create(model="p/ok", messages=say(script(do="status-500")))
        with pytest.raises(openai.AuthenticationError):
            await azure.with_options(api_key="sk-unknown").models.list()


async def test_the_sync_client_reads_the_same(stack: RunningStack) -> None:
    """`AzureOpenAI`; an unknown deployment is its `NotFoundError`."""

    def call(model: str) -> ChatCompletion:
        with openai.AzureOpenAI(
            azure_endpoint=stack.url, api_key=stack.key, api_version="2024-10-21"
        ) as client:
            return client.chat.completions.create(model=model, messages=say("hello"))

    assert (await asyncio.to_thread(call, "p/ok")).choices
    with pytest.raises(openai.NotFoundError) as caught:
        await asyncio.to_thread(call, "nobody-has-this")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("version", ["2022-12-01", "2024-10-21", "preview", "v1", "", None])
async def test_the_lists_are_azure_s_with_any_version(stack: RunningStack, version: str | None) -> None:
    """Deployments with their model and state; models with what they can do."""
    query = {} if version is None else {"api-version": version}
    async with client_of(stack) as client:
        deployments = (await client.get("/openai/deployments", params=query)).json()
        models = (await client.get("/openai/models", params=query)).json()
        one = (await client.get("/openai/deployments/claude", params=query)).json()
        another = (await client.get("/openai/models/p%2Fok", params=query)).json()
        missing = await client.get("/openai/deployments/nobody-has-this", params=query)
    assert deployments["object"] == models["object"] == "list"
    listed = {found["id"]: found for found in deployments["data"]}
    assert listed["claude"] == one
    assert (one["object"], one["model"], one["status"]) == (
        "deployment",
        "claude-sonnet-4-20250514",
        "succeeded",
    )
    known = {found["id"]: found["capabilities"] for found in models["data"]}
    assert known["claude"] == another["capabilities"] | {"completion": True}
    assert known["claude"]["chat_completion"]
    assert not known["claude"]["embeddings"]
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_older_sdk_asks_below_its_deployment(stack: RunningStack) -> None:
    """For the list of models, and for files, which no wildcard takes for a model."""
    async with client_of(stack) as client:
        listed = await client.get("/openai/deployments/p%2Fok/models", params=VERSION)
        files = await client.get("/openai/deployments/p%2Fok/files", params=VERSION)
        sent = await client.post("/openai/deployments/p/ok/files", params=VERSION)
    assert "plain" in {one["id"] for one in listed.json()["data"]}
    for answer in (files, sent):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        assert "does not serve files" in answer.json()["error"]["message"]
