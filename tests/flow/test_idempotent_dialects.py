"""`Idempotency-Key` on every path that costs, before a real sidecar, and as the SDKs send it."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import anthropic
import httpx
import openai
import pytest
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, Json, RunningStack, say, script

SOUND = {"file": ("a.mp3", b"ID3 not really music" * 500, "audio/mpeg")}
PICTURE = {"image": ("a.png", b"\x89PNG\r\n\x1a\n" + b"x" * 5000, "image/png")}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
MESSAGE = {"max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
BODIES: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", {"model": "plain", "messages": say("hello")}),
    "chat-stream": ("/v1/chat/completions", {"model": "plain", "messages": say("hello"), "stream": True}),
    "azure": ("/openai/deployments/plain/chat/completions?api-version=1", {"messages": say("hello")}),
    "completion": ("/v1/completions", {"model": "plain", "prompt": "hello"}),
    "completion-stream": ("/v1/completions", {"model": "plain", "prompt": "hello", "stream": True}),
    "embedding": ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "hello"}),
    "response": ("/v1/responses", {"model": "plain", "input": "hello"}),
    "response-stream": ("/v1/responses", {"model": "plain", "input": "hello", "stream": True}),
    "native-response": ("/v1/responses", {"model": "native-gpt", "input": "hello"}),
    "native-response-stream": ("/v1/responses", {"model": "native-gpt", "input": "hello", "stream": True}),
    "message": ("/v1/messages", {"model": "claude", **MESSAGE}),
    "message-stream": ("/v1/messages", {"model": "claude", **MESSAGE, "stream": True}),
    "native-message": ("/v1/messages", {"model": "native-claude", **MESSAGE}),
    "native-message-stream": ("/v1/messages", {"model": "native-claude", **MESSAGE, "stream": True}),
    "gemini": ("/v1beta/models/gemini:generateContent", CONTENTS),
    "gemini-stream": ("/v1beta/models/gemini:streamGenerateContent?alt=sse", CONTENTS),
    "native-gemini": ("/v1beta/models/native-gemini:generateContent", CONTENTS),
    "native-gemini-stream": ("/v1beta/models/native-gemini:streamGenerateContent?alt=sse", CONTENTS),
    "rerank": ("/v2/rerank", {"model": "ranker", "query": "x", "documents": ["a", "b"]}),
    "cohere-embed": (
        "/v2/embed",
        {
            "model": "all-minilm-l6-v2",
            "texts": ["hello"],
            "input_type": "search_query",
            "embedding_types": ["float"],
        },
    ),
    "moderation": ("/v1/moderations", {"input": "hello"}),
    "image": ("/v1/images/generations", {"model": "painter", "prompt": "a cat"}),
    "image-stream": ("/v1/images/generations", {"model": "painter", "prompt": "a cat", "stream": True}),
    "speech": ("/v1/audio/speech", {"model": "speaker", "input": "hello", "voice": "alloy"}),
    "internal": ("/internal/llm/proxy", {"model": "plain", "messages": say("hello")}),
    "generate": ("/llm-proxy/generate", {"model": "plain", "messages": say("hello")}),
    "generate-stream": ("/llm-proxy/stream", {"model": "plain", "messages": say("hello")}),
}
FORMS: dict[str, tuple[str, Json, Json]] = {
    "transcription": ("/v1/audio/transcriptions", {"model": "p/whisper-1"}, SOUND),
    "transcription-stream": (
        "/v1/audio/transcriptions",
        {"model": "p/gpt-4o-transcribe", "stream": "true"},
        SOUND,
    ),
    "image-edit": ("/v1/images/edits", {"model": "painter", "prompt": "a dog"}, PICTURE),
}


def new(body: Json) -> Json:
    """The body with a text that no cache has."""
    made: Json = json.loads(json.dumps(body).replace("hello", f"hello {uuid4().hex}"))
    return made


async def ask_twice(stack: RunningStack, path: str, **request: Any) -> tuple[httpx.Response, httpx.Response]:
    """The answers to one request, sent twice with one key."""
    headers = stack.auth | {"Idempotency-Key": uuid4().hex}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        first = await client.post(stack.url + path, headers=headers, **request)
        return first, await client.post(stack.url + path, headers=headers, **request)


def is_replay(first: httpx.Response, again: httpx.Response) -> bool:
    """Whether the second answer is the first one, and its header says so."""
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, first.content), (
        first.text
    )
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-llm-proxy-cost-usd"] == "0.000000000"
    return again.headers.get("idempotency-replayed") == "true" and "idempotency-replayed" not in first.headers


@pytest.mark.parametrize("name", BODIES)
async def test_every_path_answers_a_repetition_with_the_first_answer(stack: RunningStack, name: str) -> None:
    """Whole or streamed, translated or native; the provider is called once."""
    path, body = BODIES[name]
    first, again = await ask_twice(stack, path, json=new(body))
    assert is_replay(first, again)
    assert len(await stack.calls()) == 1


@pytest.mark.parametrize("name", FORMS)
async def test_a_form_is_the_same_by_its_fields_and_files(stack: RunningStack, name: str) -> None:
    """Whatever the boundary; another file is another request."""
    path, fields, files = FORMS[name]
    first, again = await ask_twice(stack, path, data=fields, files=files)
    assert is_replay(first, again)
    assert len(await stack.calls()) == 1
    headers = stack.auth | {"Idempotency-Key": uuid4().hex}
    ((field, (filename, content, kind)),) = files.items()
    changed = {field: (filename, content[:-1] + b"y", kind)}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        one = await client.post(stack.url + path, headers=headers, data=fields, files=files)
        other = await client.post(stack.url + path, headers=headers, data=fields, files=changed)
    assert (one.status_code, other.status_code) == (200, 422)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/messages", {"model": "claude", **MESSAGE}, "invalid_request_error"),
        ("/v1beta/models/gemini:generateContent", CONTENTS, "INVALID_ARGUMENT"),
        ("/v1/responses", {"model": "plain", "input": "hello"}, "idempotency_key_reused"),
    ],
)
async def test_a_reused_key_is_told_in_the_callers_dialect(
    stack: RunningStack, path: str, body: Json, code: str
) -> None:
    """With the status of the draft."""
    headers = stack.auth | {"Idempotency-Key": uuid4().hex}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        assert (await client.post(stack.url + path, headers=headers, json=body)).status_code == 200
        reused = await client.post(f"{stack.url}{path}?x=1", headers=headers, json=body)
    assert reused.status_code == 422
    assert code in reused.text
    assert reused.headers["x-should-retry"] == "false"


async def test_a_repetition_is_found_as_a_request_and_counted_as_none(stack: RunningStack) -> None:
    """Usage, its groups and its run have one call; the search and the run's calls have both."""
    tenant, run = uuid4().hex, uuid4().hex
    headers = stack.auth | {"Idempotency-Key": uuid4().hex, "X-Tenant-Id": tenant, "X-Run-Id": run}
    body = {"model": "plain", "messages": say(f"hello {run}")}
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        answers = [await client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(3)]
        ids = [one.headers["x-request-id"] for one in answers]

        async def read(path: str, **params: str) -> Json:
            found: Json = (await client.get(path, params=params, headers=admin)).json()
            return found

        async with asyncio.timeout(20):
            while len((searched := await read("/v1/requests", run=run))["data"]) < len(ids):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        assert [one["request_id"] for one in searched["data"]] == ids[::-1]
        for by in ("", "key", "hour", "user,model", "tag"):
            usage = await read("/v1/usage", tenant=tenant, group_by=by)
            assert usage["total"]["requests"] == 1, by
            assert [row["requests"] for row in usage["data"]] == [1], by
        shown = await read(f"/v1/runs/{run}")
    assert (shown["run"]["calls"], shown["run"]["turns"]) == (1, 1)
    assert [one["request_id"] for one in shown["data"]] == ids
    assert [one["replay_of"] for one in shown["data"]] == [None, ids[0], ids[0]]


async def test_openais_sdk_with_the_header_and_with_its_own_keys(stack: RunningStack) -> None:
    """Its own keys are one a call, the same at each of its retries; a failure is tried anew with the key."""
    headers = {"Idempotency-Key": uuid4().hex}
    create = stack.openai.chat.completions.with_raw_response.create
    first, again = [
        await create(model="plain", messages=say("hello SDK"), extra_headers=headers) for _ in range(2)
    ]
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    with pytest.raises(openai.UnprocessableEntityError) as reused:
        await create(model="plain", messages=say("other"), extra_headers=headers)
    assert reused.value.code == "idempotency_key_reused"
    own = stack.openai.copy(max_retries=2)
    own._idempotency_header = "Idempotency-Key"  # noqa: SLF001 -- the option has no public name  # pyright: ignore[reportPrivateUsage]
    flaky = script(do="flaky", key=uuid4().hex, fails=1, status=500)
    answer = await own.chat.completions.create(model="plain", messages=say(flaky))
    assert answer.choices[0].message.content
    assert len(await stack.calls()) == 3


async def test_anthropics_sdk_with_the_header_whole_and_streamed(stack: RunningStack) -> None:
    """Its events are the first stream's."""
    async with anthropic.AsyncAnthropic(
        base_url=stack.url,
        api_key=KEY,
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=NO_TLS, timeout=30),
    ) as sdk:
        for _ in range(2):
            headers, messages = {"Idempotency-Key": uuid4().hex}, say(uuid4().hex)
            texts: list[list[str]] = []
            for _ in range(2):
                async with sdk.messages.stream(
                    model="claude", max_tokens=50, messages=messages, extra_headers=headers
                ) as stream:
                    texts.append([one async for one in stream.text_stream])
            assert texts[0] == texts[1]
            assert texts[0]
    assert len(await stack.calls()) == 2


async def test_operations_on_stored_responses_take_no_key(stack: RunningStack) -> None:
    """They cost nothing, and what they read changes."""
    headers = stack.auth | {"Idempotency-Key": uuid4().hex}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        made = await client.post(
            f"{stack.url}/v1/responses",
            headers=headers,
            json={"model": "native-gpt", "input": "x", "store": True},
        )
        path = f"{stack.url}/v1/responses/{made.json()['id']}"
        read = [(await client.get(path, headers=headers)).headers for _ in range(2)]
        deleted = await client.delete(path, headers=headers)
    assert all("idempotency-replayed" not in one for one in read)
    assert deleted.status_code == 200
