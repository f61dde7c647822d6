"""What Claude Code relies on beside the answers: counts at once, its user id, headers, final errors."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
from loopback import NO_TLS
from running_stack import Json, RunningStack, script

VERSION = {"anthropic-version": "2023-06-01"}


async def key_of(stack: RunningStack, client: httpx.AsyncClient, **spec: Any) -> str:
    """A new key."""
    body = {"name": f"key-{uuid4().hex[:8]}", "tenant": f"agents-{uuid4().hex[:8]}", **spec}
    answer = await client.post(
        f"{stack.url}/admin/keys", json=body, headers={"Authorization": f"Bearer {stack.admin_key}"}
    )
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["key"]
    return made


def message(text: str = "hello", **fields: Any) -> Json:
    """A small message, its own."""
    said = f"{text} {uuid4().hex}"
    return {"model": "plain", "max_tokens": 16, "messages": [{"role": "user", "content": said}], **fields}


async def test_counts_take_no_request_of_a_limit(stack: RunningStack) -> None:
    """34 at once, as `/context` asks, beside a limit of one request a minute."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        headers = {"x-api-key": await key_of(stack, client, rpm=1), **VERSION}
        counted = await asyncio.gather(
            *(
                client.post("/v1/messages/count_tokens?beta=true", json=message(), headers=headers)
                for _ in range(34)
            )
        )
        assert [answer.status_code for answer in counted] == [200] * 34
        assert all(10 < answer.json()["input_tokens"] < 60 for answer in counted)
        first = await client.post("/v1/messages?beta=true", json=message(), headers=headers)
        second = await client.post("/v1/messages?beta=true", json=message(), headers=headers)
    assert first.status_code == 200, first.text
    assert (second.status_code, second.json()["error"]["type"]) == (429, "rate_limit_error")
    assert second.json()["request_id"] == second.headers["request-id"] == second.headers["x-request-id"]
    assert int(second.headers["retry-after"]) > 0


async def test_a_key_bound_to_a_user_works_with_claude_code_s_user_id(stack: RunningStack) -> None:
    """The session is Claude Code's, the user the key's; another user by a plain name is rejected."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        bound = {"Authorization": f"Bearer {await key_of(stack, client, user='ann')}", **VERSION}
        free = {"Authorization": f"Bearer {await key_of(stack, client)}", **VERSION}
        claude_code = {"user_id": '{"device_id":"dev1","account_uuid":"","session_id":"ses1"}'}
        answers = [
            await client.post("/v1/messages", json=message(metadata=claude_code), headers=headers)
            for headers in (bound, free)
        ]
        other = await client.post("/v1/messages", json=message(metadata={"user_id": "bob"}), headers=bound)
    assert [answer.status_code for answer in answers] == [200, 200]
    records = [await stack.story(answer.headers["request-id"]) for answer in answers]
    assert [(one["user_id"], one["session_id"]) for one in records] == [("ann", "ses1"), ("dev1", "ses1")]
    assert (other.status_code, other.json()["error"]["type"]) == (403, "permission_error")


async def test_a_refusal_says_that_repeating_does_not_help(stack: RunningStack) -> None:
    """400, 401 and 404: clients would ask six times."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        headers = {**stack.auth, **VERSION}
        refused = [
            await client.post("/v1/messages", json=message(max_tokens="x"), headers=headers),
            await client.post("/v1/messages", json=message(), headers={**VERSION, "x-api-key": "sk-none"}),
            await client.post("/v1/messages", json=message(model="nobody-has-this"), headers=headers),
            await client.post("/v1/messages", json=message(script(do="context")), headers=headers),
            await client.post("/v1/messages", json=message(), headers={**headers, "anthropic-version": "x"}),
            await client.post("/v1/messages", content=b"{", headers=headers),
        ]
        overloaded = await client.post("/v1/messages", json=message(script(do="status-503")), headers=headers)
    assert [answer.status_code for answer in refused] == [400, 401, 404, 400, 400, 400]
    assert all(answer.headers["x-should-retry"] == "false" for answer in refused)
    assert all(answer.json()["type"] == "error" for answer in refused)
    assert refused[1].json()["error"]["type"] == "authentication_error"
    assert overloaded.json()["error"]["type"] == "overloaded_error"
    assert overloaded.status_code == 529


async def test_a_native_and_a_translated_call_are_explained(stack: RunningStack) -> None:
    """`/v1/explain` reads a message as the route does."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=30) as client:
        for model in ("plain", "native-claude"):
            explained = await client.post(
                "/v1/explain", params={"path": "/v1/messages"}, json=message(model=model), headers=stack.auth
            )
            assert explained.status_code == 200, explained.text
