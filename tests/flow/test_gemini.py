"""Google's API in front of providers of chats: from the caller to the scripted provider and back."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script

from llm_proxy import sse

CHAT_ONLY = "p/ok"
FUNCTIONS: list[Json] = [
    {
        "functionDeclarations": [
            {
                "name": "look_up",
                "description": "Weather of a city.",
                "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}},
            }
        ]
    }
]


def ask(text: str = "hello", **fields: Any) -> Json:
    """A body with one text."""
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


async def post(stack: RunningStack, path: str, body: Json, **headers: str) -> httpx.Response:
    """One request with the credential of Google's clients."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        own = {"x-goog-api-key": stack.key, "x-goog-api-client": "google-genai-sdk/3.6.1"}
        return await client.post(stack.url + path, json=body, headers=own | headers)


def events(reply: httpx.Response) -> list[Json]:
    """The chunks of a stream of events."""
    return [json.loads(sse.parse_event(one).data or b"") for one in sse.SSEDecoder().feed(reply.content)]


def texts(chunks: list[Json]) -> str:
    """What the chunks say."""
    found = [one["candidates"][0]["content"]["parts"] for one in chunks]
    return "".join(part.get("text", "") for parts in found for part in parts)


@pytest.mark.parametrize("version", ["v1beta", "v1"])
async def test_an_answer_is_whole(stack: RunningStack, version: str) -> None:
    """The provider's text and usage; the record names the operation and the dialect."""
    body = ask(f"hello {version}", generationConfig={"maxOutputTokens": 50, "topP": 0.5})
    reply = await post(stack, f"/{version}/models/{CHAT_ONLY}:generateContent", body)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert len(texts([answer]).split()) == 8
    assert (answer["candidates"][0]["finishReason"], answer["modelVersion"]) == ("STOP", CHAT_ONLY)
    assert answer["usageMetadata"]["promptTokenCount"] == 17
    assert answer["usageMetadata"]["totalTokenCount"] == 40
    [call] = await stack.calls()
    assert (call["body"]["max_tokens"], call["body"]["top_p"]) == (50, 0.5)
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["dialect"], story["prompt_tokens"], story["completion_tokens"]) == ("gemini", 17, 23)


async def test_a_stream_is_events_or_an_array(stack: RunningStack) -> None:
    """The same chunks; text leaves as it comes."""
    path = f"/v1beta/models/{CHAT_ONLY}:streamGenerateContent"
    as_events, as_array = await asyncio.gather(
        post(stack, f"{path}?alt=sse", ask()), post(stack, path, ask())
    )
    assert as_events.headers["content-type"].startswith("text/event-stream")
    assert as_array.headers["content-type"].startswith("application/json")
    for chunks in (events(as_events), as_array.json()):
        assert len(chunks) > 5
        assert len(texts(chunks).split()) == 8
        assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
        assert chunks[-1]["usageMetadata"]["candidatesTokenCount"] == 23


@pytest.mark.parametrize("model", ["p/tools", "gemini", "claude"])
async def test_a_task_with_parallel_functions(stack: RunningStack, model: str) -> None:
    """Calls, their outputs with an image and an error, and the answer, as agents do it."""
    path = f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
    body = ask(script(do="helpful"), tools=FUNCTIONS)
    parts = [
        part
        for chunk in events(await post(stack, path, body))
        for part in chunk["candidates"][0]["content"]["parts"]
        if "functionCall" in part
    ]
    assert [part["functionCall"]["args"] for part in parts] == [{"city": "Oslo"}, {"city": "Turku"}]
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    outputs = [{"output": "sunny"}, {"error": "no such city"}]
    answered = [
        {
            "functionResponse": {
                "id": part["functionCall"]["id"],
                "name": "look_up",
                "response": output,
                "parts": more,
            }
        }
        for part, output, more in zip(parts, outputs, ([image], []), strict=True)
    ]
    body["contents"] += [{"role": "model", "parts": parts}, {"role": "user", "parts": answered}]
    reply = await post(stack, path.replace("streamGenerateContent?alt=sse", "generateContent"), body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["candidates"][0]["finishReason"] == "STOP"
    sent = json.dumps((await stack.calls())[-1]["body"])
    assert "sunny" in sent
    assert "Error: no such city" in sent
    assert "iVBORw0KGgo=" in sent


@pytest.mark.parametrize(
    ("directive", "status", "state"),
    [
        ({"do": "status-429"}, 429, "RESOURCE_EXHAUSTED"),
        ({"do": "status-500"}, 502, "UNAVAILABLE"),
        ({"do": "status-400"}, 400, "INVALID_ARGUMENT"),
    ],
)
async def test_a_providers_error(stack: RunningStack, directive: Json, status: int, state: str) -> None:
    """In Google's envelope, before a stream too."""
    for operation in ("generateContent", "streamGenerateContent", "streamGenerateContent?alt=sse"):
        reply = await post(stack, f"/v1beta/models/{CHAT_ONLY}:{operation}", ask(script(**directive)))
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["status"]) == (status, status, state)


@pytest.mark.parametrize("alt", ["", "?alt=sse"])
async def test_a_cut_stream_ends_in_an_error(stack: RunningStack, alt: str) -> None:
    """An object in place of the last chunk; the record says that it was cut."""
    path = f"/v1beta/models/{CHAT_ONLY}:streamGenerateContent{alt}"
    reply = await post(stack, path, ask(script(do="cut")))
    chunks = events(reply) if alt else reply.json()
    assert chunks[-1]["error"]["status"] == "UNAVAILABLE"
    assert all("finishReason" not in one["candidates"][0] for one in chunks[:-1])
    assert (await stack.story(reply.headers["x-request-id"]))["outcome"] == "cut"


async def test_errors_of_the_gateway(stack: RunningStack) -> None:
    """Key, model, field, method: each in Google's envelope."""
    path = f"/v1beta/models/{CHAT_ONLY}:generateContent"
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        in_address = await client.post(f"{stack.url}{path}?key={stack.key}", json=ask())
        other_method = await client.get(stack.url + path)
    assert (in_address.status_code, in_address.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert "x-goog-api-key" in in_address.json()["error"]["message"]
    assert (other_method.status_code, other_method.json()["error"]["code"]) == (405, 405)
    unknown = await post(stack, "/v1beta/models/nobody:generateContent", ask())
    assert (unknown.status_code, unknown.json()["error"]["status"]) == (404, "NOT_FOUND")
    wrong = await post(stack, path, {"contents": [{"parts": [{"txt": "a"}]}]})
    details = wrong.json()["error"]["details"]
    assert details[-1]["fieldViolations"][0]["field"] == "contents[0].parts[0].txt"


async def test_an_explanation(stack: RunningStack) -> None:
    """Of the same body, by the same path."""
    reply = await post(stack, f"/v1/explain?path=/v1beta/models/{CHAT_ONLY}:streamGenerateContent", ask())
    assert reply.status_code == 200, reply.text


async def test_tokens_are_counted(stack: RunningStack) -> None:
    """Of contents, of a whole request and of a native one; a count is no call."""
    instruction = {"systemInstruction": {"parts": [{"text": "You are " + "very " * 40}]}}
    totals: list[int] = []
    for model in (CHAT_ONLY, "native-gemini"):
        path = f"/v1beta/models/{model}:countTokens"
        whole = {
            "generateContentRequest": {"model": f"models/{model}", **ask(), **instruction, "tools": FUNCTIONS}
        }
        for body in (ask(), whole):
            reply = await post(stack, path, body)
            assert reply.status_code == 200, reply.text
            totals.append(reply.json()["totalTokens"])
        assert 0 < totals[-2] < totals[-1] - 40
    assert totals[1] < 1000 < totals[2]  # the native ones are the provider's own
    refused = await post(
        stack, f"/v1/models/{CHAT_ONLY}:countTokens", {"contents": [{"parts": [{"txt": "a"}]}]}
    )
    assert (refused.status_code, refused.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    large = await post(stack, f"/v1beta/models/{CHAT_ONLY}:countTokens", ask("word " * 300_000))
    assert large.json()["totalTokens"] >= 300_000
    assert [call for call in await stack.calls() if "countTokens" not in call["path"]] == []


async def test_vectors(stack: RunningStack) -> None:
    """One content, and a batch; recorded as embeddings."""
    path = "/v1beta/models/all-minilm-l6-v2"
    contents = [{"parts": [{"text": text}]} for text in ("a", "b")]
    one = await post(stack, f"{path}:embedContent", {"content": contents[0], "taskType": "RETRIEVAL_QUERY"})
    batch = await post(
        stack, f"{path}:batchEmbedContents", {"requests": [{"content": one} for one in contents]}
    )
    assert (one.status_code, batch.status_code) == (200, 200), batch.text
    assert [len(one["values"]) > 2 for one in batch.json()["embeddings"]] == [True, True]
    assert one.json()["embedding"]["values"] == batch.json()["embeddings"][0]["values"]
    others = [{"content": contents[0], "model": f"models/{CHAT_ONLY}"}]
    other = await post(stack, f"{path}:batchEmbedContents", {"requests": others})
    [violation] = other.json()["error"]["details"][-1]["fieldViolations"]
    assert (other.status_code, violation["field"]) == (400, "requests[0].model")
    assert (await stack.story(batch.headers["x-request-id"]))["dialect"] == "gemini"
    wrong = await post(stack, f"/v1/models/{CHAT_ONLY}:embedContent", {"content": {"parts": []}})
    assert wrong.json()["error"]["details"][-1]["fieldViolations"][0]["field"] == "content"


async def test_models_are_listed(stack: RunningStack) -> None:
    """As Google lists them; below `/v1` for its clients alone; errors in its envelope."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url) as client:
        google, other = {"x-goog-api-key": stack.key}, stack.auth
        pages = [(await client.get(path, headers=google)).json() for path in ("/v1beta/models", "/v1/models")]
        openai_page = (await client.get("/v1/models", headers=other)).json()
        one = (await client.get("/v1beta/models/all-minilm-l6-v2", headers=other)).json()
        missing = await client.get("/v1beta/models/nobody", headers=google)
        no_key = await client.get("/v1beta/models")
    assert pages[0] == pages[1]
    by_name = {model["name"]: model for model in pages[0]["models"]}
    assert "generateContent" in by_name["models/plain"]["supportedGenerationMethods"]
    assert {f"models/{model['id']}" for model in openai_page["data"]} == set(by_name)
    assert one["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert (no_key.status_code, no_key.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
