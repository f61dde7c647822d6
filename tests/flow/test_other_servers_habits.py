"""Habits of other servers' clients: paths, methods, credentials, no model; models a key may not use."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from running_stack import ADMIN_KEY, KEY, Json, RunningStack, say

CHAT = "/v1/chat/completions"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """Returns an HTTP client with a valid key."""
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth, timeout=20) as one:
        yield one


async def create_key(client: httpx.AsyncClient, **spec: object) -> dict[str, str]:
    """Creates a key; returns its header."""
    made = await client.post("/admin/keys", json={"name": f"key-{uuid4().hex[:8]}", **spec}, headers=ADMIN)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def chat(**fields: object) -> Json:
    """Returns the body of a small chat that no other test sends."""
    return {"model": "plain", "messages": say(f"chat {uuid4().hex}"), **fields}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models", "/models", "/v1/models/plain", "/v1/llm/models", "/openai/v1/models", "/v1/models/",
        "/internal/llm/models", "/health/live", "/health/ready", "/health", "/openapi.json", "/v1/limits",
        "/nowhere", "/v1/models/nobody", "/internal/llm/models/",
    ],
)  # fmt: skip
async def test_head_is_get_without_its_body(client: httpx.AsyncClient, path: str) -> None:
    """The same status and type, no body, and the connection stays open."""
    whole, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert (await client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nowhere", 404),
        ("POST", "/models/gemini-2.5-flash:streamGenerateContent", 404),
        ("DELETE", "/v1/models/plain", 404),
        ("PUT", "/health/live", 405),
        ("POST", "/v1/models", 405),
        ("PATCH", "/admin/keys", 405),
        ("HEAD", CHAT, 405),
    ],
)
async def test_an_unknown_path_is_404_and_another_method_405(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    """405 names every method there is."""
    answer = await client.request(method, path, headers=ADMIN)
    assert answer.status_code == status
    allowed = {"/health/live": "GET, HEAD", "/v1/models": "GET, HEAD", "/admin/keys": "GET, HEAD, POST"}
    if status == 405:
        assert answer.headers["allow"] == allowed.get(path, "POST")
    else:
        assert answer.json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/health/liveliness", "/health/live"),
        ("/health/liveness", "/health/live"),
        ("/health/readiness", "/health/ready"),
        ("/health/readiness/", "/health/ready"),
    ],
)
async def test_litellms_health_paths_are_answered(client: httpx.AsyncClient, path: str, ours: str) -> None:
    """As the gateway's own."""
    theirs, own = await client.get(path), await client.get(ours)
    assert (theirs.status_code, theirs.json()["status"]) == (own.status_code, own.json()["status"])


@pytest.mark.parametrize("name", ["api-key", "x-goog-api-key", "x-api-key", "API-Key"])
async def test_other_providers_headers_carry_a_key(stack: RunningStack, name: str) -> None:
    """On every kind of route; different values are rejected, equal ones are not."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as bare:
        assert (await bare.post(CHAT, json=chat(), headers={name: KEY})).status_code == 200
        assert (await bare.get("/v1/models", headers={name: KEY})).status_code == 200
        assert (await bare.get("/admin/keys", headers={name: ADMIN_KEY})).status_code == 200
        both = {name: KEY, "Authorization": f"Bearer {KEY}"}
        assert (await bare.post(CHAT, json=chat(), headers=both)).status_code == 200
        for other in ("Authorization", "x-internal-secret"):
            differing = {name: KEY, other: "Bearer another-key" if other == "Authorization" else "another"}
            assert (await bare.post(CHAT, json=chat(), headers=differing)).status_code == 401
        assert (await bare.post(CHAT, json=chat(), headers={name: "sk-wrong"})).status_code == 401


async def test_azures_path_and_a_trailing_slash_are_aliases(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """For the SDK too, with JSON and streams."""
    texts: dict[str, Json] = {
        CHAT: chat(),
        "/v1/completions": {"model": "plain", "prompt": uuid4().hex},
        "/v1/embeddings": {"model": "p/embed", "input": uuid4().hex},
    }
    for path, body in texts.items():
        for spelling in (
            path,
            path + "/",
            "/openai" + path,
            f"/openai{path}/",
            path.removeprefix("/v1") + "/",
        ):
            assert (await client.post(spelling, json=body)).status_code == 200, spelling
    for path in ("/openai/v1/models", "/v1/models/", "/openai/v1/models/", "/models/", "/v1/llm/models/"):
        assert (await client.get(path)).json() == (await client.get("/v1/models")).json(), path
    assert (await client.get("/openai/v1/models/p/ok/")).json()["id"] == "p/ok"
    assert (await client.get("/openai/v1/limits")).status_code == 200
    asked = await client.post("/v1/explain/", json=chat(), params={"path": "/openai/v1/chat/completions/"})
    assert asked.json()["verdict"] == "admitted"
    url = f"{stack.url}/openai/v1/"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as sdk:
        said = chat()["messages"]
        stream = await sdk.chat.completions.create(model="plain", messages=said, stream=True)
        assert [chunk async for chunk in stream]


@pytest.mark.parametrize(
    "path",
    [
        "/admin/keys/", "/admin/models/", "/admin/", "/internal/llm/models/", "/internal/llm/proxy/",
        "/openai/v1", "/openai/keys", "/openai/admin/keys", "/openai/health/live",
        "/openai/openai/v1/models", "/v1/chat/completions//", "/health/live//", "/v1//models",
        "/openai//v1/models", "/openai/v1//models",
        "/v1/openai/v1/models", "/Openai/v1/models", "//", "/openai/v1/internal/llm/models",
    ],
)  # fmt: skip
async def test_no_other_path_has_an_alias(client: httpx.AsyncClient, path: str) -> None:
    """Least of all paths that a proxy has rules for."""
    for method in ("GET", "POST"):
        answer = await client.request(method, path, headers=ADMIN, json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), method


async def test_no_model_is_the_default_model_if_the_key_may_use_it(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """Else 400; embeddings have no default."""
    for path, body in ((CHAT, {"messages": say(uuid4().hex)}), ("/v1/completions", {"prompt": uuid4().hex})):
        answer = await client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.json()["model"] == "plain"
        for models, status in ((["plain", "claude"], 200), (["pl*"], 200), (["claude"], 400)):
            theirs = await create_key(client, models=models)
            answer = await client.post(path, json=body, headers=theirs)
            assert answer.status_code == status, models
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("model", "missing_required_parameter")
    assert (await client.post("/v1/embeddings", json={"input": "x"})).status_code == 400
    assert {call["body"]["model"] for call in await stack.calls()} == {"plain"}


async def test_the_list_of_models_shows_what_is_known_of_each(
    stack: RunningStack, client: httpx.AsyncClient
) -> None:
    """Unknown fields are absent."""
    listed = {one["id"]: one for one in (await client.get("/v1/models")).json()["data"]}
    claude, plain = listed["claude"], listed["plain"]
    assert (claude["owned_by"], claude["mode"], claude["object"]) == ("anthropic", "chat", "model")
    assert claude["context_window"] >= 200_000
    assert claude["max_output_tokens"] >= 4096
    assert claude["created"] > 1_700_000_000
    assert listed["gemini"]["context_window"] > 1_000_000
    assert set(plain) == {"id", "object", "created", "owned_by", "mode", "endpoints"}
    assert (await client.get("/v1/models/claude")).json() == claude
    sdk = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=KEY)
    assert (await sdk.models.retrieve("claude")).created == claude["created"]
    await sdk.close()


async def test_the_openapi_page_needs_a_key(stack: RunningStack, client: httpx.AsyncClient) -> None:
    """A caller's, or an admin's."""
    assert CHAT in (await client.get("/openapi.json")).json()["paths"]
    assert (await client.get("/openapi.json", headers=ADMIN)).status_code == 200
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as bare:
        for path in ("/openapi.json", "/openapi.json/"):
            answer = await bare.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/docs", "/redoc"):
            assert (await bare.get(path)).status_code == 404


WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("POST", CHAT, {"json": chat()}),
    "completions": ("POST", "/v1/completions", {"json": {"prompt": "x"}}),
    "embeddings": ("POST", "/v1/embeddings", {"json": {"input": "x"}}),
    "internal": ("POST", "/internal/llm/proxy", {"json": {"messages": say("x")}}),
    "generate": ("POST", "/llm-proxy/generate", {"json": {"messages": say("x")}}),
    "stream": ("POST", "/llm-proxy/stream", {"json": {"messages": say("x")}}),
    "explain": ("POST", "/v1/explain", {"json": chat()}),
    "a provider": ("POST", CHAT, {"json": chat(), "headers": {"X-Provider": "anthropic"}}),
    "a provider in the body": ("POST", "/llm-proxy/generate", {"json": {**chat(), "provider": "anthropic"}}),
    "a wrong option": ("POST", CHAT, {"json": chat(stream_options={"include_usage": True})}),
    "a field of another's": ("POST", CHAT, {"json": chat(priority=5)}),
    "a private link": (
        "POST",
        CHAT,
        {
            "json": {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}],
                    }
                ]
            }
        },
    ),
    "the model": ("GET", "/v1/models/", {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["claude", "nickname", "p/ok"], ids=["a group", "an alias", "a wildcard"])
async def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(
    stack: RunningStack, client: httpx.AsyncClient, way: str, name: str
) -> None:
    """The same response, but for the name, as for an unknown model."""
    method, path, options = WAYS[way]
    key = await create_key(client, models=["plain"])
    answers: list[tuple[int, str]] = []
    for model in (name, "no-such-model"):
        headers, body = {**options.get("headers", {}), **key}, {**options.get("json", {}), "model": model}
        if method == "GET":
            answer = await client.get(path + model, headers=headers)
        else:
            answer = await client.post(path, headers=headers, json=body)
        answers.append((answer.status_code, answer.text.replace(model, "*")))
    assert answers[0] == answers[1]
    assert answers[0][0] == (200 if way == "explain" else 404)
    assert "model_not_found" in answers[0][1]
    assert await stack.calls() == []


async def test_a_switched_off_model_is_shown_to_keys_that_may_use_it(client: httpx.AsyncClient) -> None:
    """A kill switch does not reveal a model either."""
    mine, other = await create_key(client, models=["gemini"]), await create_key(client, models=["plain"])
    kill = {"kind": "model", "subject": "gemini"}
    assert (await client.put("/admin/kills", json=kill, headers=ADMIN)).is_success
    try:
        reported = await client.post(CHAT, json=chat(model="gemini"), headers=mine)
        untold = await client.post(CHAT, json=chat(model="gemini"), headers=other)
    finally:
        await client.delete("/admin/kills", params=kill, headers=ADMIN)
    assert (reported.status_code, reported.json()["error"]["code"]) == (403, "model_disabled")
    assert (untold.status_code, untold.json()["error"]["code"]) == (404, "model_not_found")
