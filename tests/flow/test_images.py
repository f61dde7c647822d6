"""Images from outside: what callers send and get, whole and streamed, what is recorded and refused."""

import asyncio
import base64
import json

import httpx
import openai
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script
from scripted.images_wire import png

PATH = "/v1/images/generations"
PARTIAL, COMPLETED = "image_generation.partial_image", "image_generation.completed"
PNG = b"\x89PNG"
USED = {"prompt_tokens": 300, "image_tokens": 200, "completion_tokens": 4160}
USD = 100 * 5e-06 + 200 * 8e-06 + 4160 * 3.2e-05
"""Of `USED`, at the published prices: text, an image that is read, an image that is made."""


async def post(
    stack: RunningStack, path: str = PATH, key: str | None = None, **body: object
) -> httpx.Response:
    """One call."""
    headers = {"Authorization": f"Bearer {key or stack.key}"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(
            stack.url + path, json={"model": "painter", "prompt": "a cat"} | body, headers=headers
        )


def events(answer: httpx.Response) -> list[Json]:
    """The events of a stream: each is named as its data."""
    found: list[Json] = []
    for frame in answer.text.split("\n\n")[:-1]:
        name, _, data = frame.partition("\ndata: ")
        event = json.loads(data)
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


@pytest.mark.parametrize("path", [PATH, "/images/generations", "/openai/v1/images/generations"])
async def test_images_are_made_at_every_path(stack: RunningStack, path: str) -> None:
    """The answer is the provider's, byte for byte; the record has its tokens, its image and its cost."""
    answer = await post(stack, path, prompt=script(do="ok", **USED), n=2, size="1024x1536", quality="high")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["size"], found["quality"], found["provider_addition"]) == ("1024x1536", "high", True)
    assert [base64.b64decode(one["b64_json"])[:4] for one in found["data"]] == [PNG, PNG]
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], story["outcome"], story["provider"]) == ("images.generations", "ok", "openai")
    assert (story["prompt_tokens"], story["completion_tokens"], story["images"]) == (300, 4160, 2)
    assert float(story["cost_usd"]) == pytest.approx(USD)
    assert (story["usage_source"], story["cache"]) == ("provider", "off")


async def test_without_a_model_it_is_the_operator_s_default(stack: RunningStack) -> None:
    """OpenAI's SDKs leave it out by default."""
    made = await stack.openai.images.generate(prompt="a cat")
    edited = await stack.openai.images.edit(image=("a.png", png(1), "image/png"), prompt="a hat")
    assert made.data
    assert edited.data
    assert [call["body"]["model"] for call in await stack.calls()] == ["gpt-image-1.5"] * 2


async def test_a_deployment_s_name_in_azure_s_path_is_the_model(stack: RunningStack) -> None:
    """Its SDK sends no other."""
    path = "/openai/deployments/azure-painter/images/generations?api-version=2025-04-01-preview"
    answer = await post(stack, path, model="any")
    assert answer.status_code == 200, answer.text
    [call] = await stack.calls()
    assert call["path"] == "/openai/deployments/gpt-image-1/images/generations"


async def test_the_sdk_makes_images_whole_and_streamed(stack: RunningStack) -> None:
    """With every field that the API has."""
    whole = await stack.openai.images.generate(
        model="painter", prompt="a cat", background="transparent", moderation="low", n=1, size="1024x1024",
        output_format="webp", output_compression=50, quality="low", user="u", safety_identifier="s",
        complexity="low",
    )  # fmt: skip
    assert whole.data is not None
    assert whole.data[0].b64_json is not None
    assert whole.usage is not None
    assert whole.usage.output_tokens == 23
    stream = await stack.openai.images.generate(
        model="painter", prompt="a cat", stream=True, partial_images=2
    )
    kinds: list[str] = []
    async for event in stream:
        kinds.append(event.type)
        assert base64.b64decode(event.b64_json).startswith(PNG)
    assert kinds == [PARTIAL, PARTIAL, COMPLETED]
    first, second = await stack.calls()
    assert (first["body"]["output_compression"], first["body"]["complexity"]) == (50, "low")
    assert (second["body"]["stream"], second["body"]["partial_images"]) == (True, 2)
    assert "stream_options" not in second["body"]


async def test_a_provider_s_own_fields_reach_it(stack: RunningStack) -> None:
    """At OpenAI's wire beside the others, at Imagen among its parameters."""
    for model in ("painter", "azure-painter"):
        assert (await post(stack, model=model, seed=5, extra_body={"x": 1})).status_code == 200
        call = (await stack.calls())[-1]
        assert (call["body"]["seed"], call["body"]["x"]) == (5, 1)
        assert "extra_body" not in call["body"]
    answer = await post(stack, model="imagen", personGeneration="allow_adult")
    assert answer.status_code == 200, answer.text
    call = (await stack.calls())[-1]
    assert call["body"]["parameters"]["personGeneration"] == "allow_adult"


@pytest.mark.parametrize("model", ["painter", "azure-painter", "dalle", "plain"])
async def test_what_a_server_of_openai_s_protocol_takes_it_says_itself(
    stack: RunningStack, model: str
) -> None:
    """LiteLLM refuses `response_format` and `style` by the model's name; local servers take them."""
    fields = {"response_format": "b64_json", "style": "vivid", "quality": "low"}
    answer = await post(stack, model=model, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]
    [call] = await stack.calls()
    assert {name: call["body"].get(name) for name in fields} == fields


@pytest.mark.parametrize("model", ["painter", "azure-painter"])
async def test_a_stream_passes_its_events_and_nothing_else(stack: RunningStack, model: str) -> None:
    """No ping, no comment, no end mark; the record has what it used."""
    answer = await post(stack, model=model, prompt=script(do="ok"), stream=True, partial_images=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [one["type"] for one in events(answer)] == [PARTIAL] * 3 + [COMPLETED]
    assert "llmp" not in answer.text
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["outcome"], story["images"], story["completion_tokens"]) == ("ok", 1, 23)
    assert story["deployment"] == model
    assert float(story["cost_usd"]) > 0


async def test_imagen_streams_in_one_event_and_costs_by_the_image(stack: RunningStack) -> None:
    """And links pass where a provider sends links."""
    answer = await post(stack, model="imagen", n=2, stream=True, partial_images=2)
    assert [one["type"] for one in events(answer)] == [COMPLETED] * 2
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["images"], float(story["cost_usd"])) == (2, 0.08)
    linked = await post(stack, model="dalle", response_format="url", style="vivid", quality="hd")
    assert linked.json()["data"][0]["url"].startswith("https://images.example/")
    unpriced = await stack.story(linked.headers["x-request-id"])
    assert (unpriced["images"], unpriced["cost_usd"]) == (1, None)


async def test_a_picture_of_ten_megabytes_passes(stack: RunningStack) -> None:
    """In one event, and in an answer."""
    for stream in (False, True):
        answer = await post(stack, prompt=script(do="ok", image_bytes=10 * 10**6), stream=stream)
        assert answer.status_code == 200
        found = events(answer)[0] if stream else answer.json()["data"][0]
        assert len(base64.b64decode(found["b64_json"])) == 10 * 10**6


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": ...}, "prompt", "missing_required_parameter"),
        ({"prompt": ["a"]}, "prompt", "invalid_type"),
        ({"model": ""}, "model", "empty_string"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"size": 1024}, "size", "invalid_type"),
        ({"partial_images": 4}, "partial_images", "integer_above_max_value"),
        ({"output_compression": 101}, "output_compression", "integer_above_max_value"),
        ({"response_format": "base64"}, "response_format", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "unknown_parameter"),
        ({"api_base": "http://evil"}, "api_base", "unknown_parameter"),
        ({"custom_llm_provider": "x"}, "custom_llm_provider", "unknown_parameter"),
        ({"reference": {"url": "http://10.0.0.1/a.png"}}, "extra_body.reference.url", "invalid_url"),
        ({"model": "ranker"}, "model", "model_not_supported"),
    ],
)
async def test_a_wrong_field_is_named(stack: RunningStack, change: Json, param: str, code: str) -> None:
    """No provider is called."""
    fields: Json = {"model": "painter", "prompt": "x"} | change
    sent = {name: value for name, value in fields.items() if value is not ...}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.post(stack.url + PATH, json=sent, headers=stack.auth)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert await stack.calls() == []


async def test_a_field_that_the_model_s_provider_lacks_is_named(stack: RunningStack) -> None:
    """LiteLLM answers it with a traceback."""
    answer = await post(stack, model="imagen", output_compression=50)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "output_compression"
    assert await stack.calls() == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("directive", "status", "code"),
    [
        ({"do": "policy"}, 400, "content_policy_violation"),
        ({"do": "status-400"}, 400, None),
        ({"do": "status-429", "retry_after": "7"}, 429, "rate_limit_exceeded"),
        ({"do": "status-500"}, 502, "provider_error"),
        ({"do": "not-sse"}, 502, "provider_error"),
        ({"do": "empty"}, 502, "provider_error"),
        ({"do": "drop"}, 502, None),
    ],
)
async def test_a_failure_is_told_as_everywhere(
    stack: RunningStack, directive: Json, status: int, code: str | None, *, stream: bool
) -> None:
    """Its status, who refused, no key and no address; called once, and the record has the same."""
    answer = await post(stack, prompt=script(**directive), stream=stream)
    assert len(await stack.calls()) == 1
    assert answer.status_code == status, answer.text
    assert answer.headers["x-llm-proxy-refused-by"] == "provider"
    assert code in (None, answer.json()["error"]["code"])
    assert "canary" not in answer.text
    assert "127.0.0.1" not in answer.text
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["status"], story["outcome"]) == (status, "error")


@pytest.mark.parametrize(
    ("do", "code"),
    [("cut", "upstream_stream_cut"), ("eof", "upstream_stream_cut"), ("error-in-200", "moderation_blocked")],
)
async def test_a_broken_stream_ends_in_one_error_event(stack: RunningStack, do: str, code: str) -> None:
    """The SDK raises it; the call is not made again, and the record says that it was cut."""
    answer = await post(stack, prompt=script(do=do, after=1), stream=True, partial_images=2)
    assert answer.status_code == 200
    first, last = events(answer)
    assert (first["type"], last["type"], last["error"]["code"]) == (PARTIAL, "error", code)
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["outcome"], story["usage_source"], story["images"]) == ("cut", "estimated", 1)
    assert float(story["cost_usd"]) > 0
    assert len(await stack.calls()) == 1
    stream = await stack.openai.images.generate(
        model="painter", prompt=script(do=do, after=1), stream=True, partial_images=2
    )
    with pytest.raises(openai.APIError) as raised:
        _ = [event async for event in stream]
    assert raised.value.code == code


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_cancels_the_provider_s_call(stack: RunningStack, *, stream: bool) -> None:
    """Also where LiteLLM would wait in a thread."""
    for model in ("painter", "imagen"):
        body = {"model": model, "prompt": script(do="slow-first", first_ms=20000), "stream": stream}
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(stack.url + PATH, json=body, headers=stack.auth, timeout=1)
        async with asyncio.timeout(10):
            while (await stack.calls())[-1]["client_left_s"] is None:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)


async def test_limits_and_budgets_of_a_key_hold(stack: RunningStack) -> None:
    """The second call of a key whose budget the first one has used is refused; explain says so before."""
    key = await stack.new_key(budgets=[{"limit_usd": "0.13", "period": "day"}])
    first = await post(stack, key=key, prompt=script(do="ok", **USED))
    assert first.status_code == 200, first.text
    refused = await post(stack, key=key)
    assert refused.status_code == 429
    explained = await post(stack, f"/v1/explain?path={PATH}", key)
    assert explained.status_code == 200, explained.text
    assert explained.json()["verdict"] == "refused"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_may_be_one_of_images(stack: RunningStack, *, stream: bool) -> None:
    """What was made is taken of it; nothing is left after the call that passes its end."""
    key = await stack.new_key(budgets=[{"limit_images": 3, "period": "day"}])
    answers = [await post(stack, key=key, n=count, stream=stream) for count in (2, 2, 1)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert len(await stack.calls()) == 2


@pytest.mark.parametrize(
    "path", ["/v1/images/variations", "/images/variations", "/openai/v1/images/variations"]
)
async def test_variations_are_named_as_not_served(stack: RunningStack, path: str) -> None:
    """Not as an unknown path."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.post(stack.url + path, files={"image": b"x"}, headers=stack.auth)
    assert answer.status_code == 404
    assert "The gateway does not serve image variations." in answer.json()["error"]["message"]
