"""Messages at a provider that speaks them: the body as it was sent, its events as they came."""

from typing import Any

import httpx
import pytest
from loopback import NO_TLS
from messages_events import accumulate, parse_events
from running_stack import KEY, Json, RunningStack, script

HEADERS = {
    "x-api-key": KEY,
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,thinking-token-count-2026-05-13,unknown-2099-01-01",
}
MARK = {"cache_control": {"type": "ephemeral"}}
SEARCH: Json = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
BODY: Json = {
    "model": "native-claude",
    "max_tokens": 4000,
    "system": [{"type": "text", "text": "rules", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "so", "signature": "c2ln"},
                SEARCH,
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                {"type": "text", "text": "found"},
            ],
        },
        {"role": "user", "content": [{"type": "text", "text": "go on", **MARK}]},
    ],
    "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
    "temperature": 1,
    "stop_sequences": ["zz"],
    "top_k": 5,
}  # fmt: skip


async def ask(stack: RunningStack, path: str = "/v1/messages?beta=true", **fields: Any) -> httpx.Response:
    """The gateway's answer."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(stack.url + path, json={**BODY, **fields}, headers=HEADERS)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_provider_sees_what_was_sent(stack: RunningStack, *, stream: bool) -> None:
    """With the caller's version and betas, but for words that are not allowed."""
    answer = await ask(stack, stream=stream)
    assert answer.status_code == 200, answer.text
    (call,) = await stack.calls()
    assert call["path"].partition("?")[0] == "/v1/messages"
    sent: Json = {**call["body"], "model": "native-claude"}
    assert sent == {**BODY, "stream": stream}
    assert call["headers"]["anthropic-version"] == "2023-06-01"
    assert set(call["headers"]["anthropic-beta"].split(",")) >= {
        "claude-code-20250219",
        "thinking-token-count-2026-05-13",
    }
    assert "unknown-2099-01-01" not in call["headers"]["anthropic-beta"]
    message = accumulate(parse_events(answer.content)) if stream else answer.json()
    assert (message["type"], message["stop_reason"]) == ("message", "end_turn")
    assert message["usage"]["output_tokens"] == 23


@pytest.mark.parametrize("do", ["cut", "eof", "error-in-200"])
async def test_a_truncated_stream_ends_in_an_error(stack: RunningStack, do: str) -> None:
    """Anthropic's event, and nothing after it."""
    answer = await ask(stack, stream=True, messages=[{"role": "user", "content": script(do=do)}])
    events = parse_events(answer.content)
    assert events[-1]["type"] == "error"
    assert "message_stop" not in [event["type"] for event in events]


@pytest.mark.parametrize(
    ("do", "status", "kind"),
    [
        ("context", 400, "invalid_request_error"),
        ("status-429", 429, "rate_limit_error"),
        ("status-529", 529, "overloaded_error"),
        ("status-500", 502, "api_error"),
    ],
)
async def test_a_provider_s_error_has_anthropic_s_envelope(
    stack: RunningStack, do: str, status: int, kind: str
) -> None:
    """Whatever LiteLLM made of it."""
    answer = await ask(stack, messages=[{"role": "user", "content": script(do=do)}])
    assert answer.status_code == status
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)
    if do == "context":
        assert answer.json()["error"]["message"].startswith(
            "prompt is too long: 210000 tokens > 200000 maximum"
        )


async def test_a_count_is_the_provider_s(stack: RunningStack) -> None:
    """Of the body as it was sent."""
    count = {name: value for name, value in BODY.items() if name in {"model", "messages", "system", "tools"}}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        answer = await client.post(
            f"{stack.url}/v1/messages/count_tokens?beta=true", json=count, headers=HEADERS
        )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"input_tokens": 20}
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_models_are_listed_in_anthropic_s_form(stack: RunningStack) -> None:
    """By pages, and one alone; an unknown one is an error in its envelope."""
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, headers=HEADERS) as client:
        page = (await client.get("/v1/models", params={"limit": 1000})).json()
        first = (await client.get("/v1/models", params={"limit": 2})).json()
        second = (await client.get("/v1/models", params={"limit": 2, "after_id": first["last_id"]})).json()
        one = (await client.get("/v1/models/claude")).json()
        gone = await client.get("/v1/models/none")
    names = [model["id"] for model in page["data"]]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, names[0], names[-1])
    assert [model["id"] for model in (*first["data"], *second["data"])] == names[:4]
    assert first["has_more"]
    assert (one["type"], one["id"], one["display_name"]) == ("model", "claude", "claude")
    assert (gone.status_code, gone.json()["error"]["type"]) == (404, "not_found_error")
    assert gone.headers["x-should-retry"] == "false"
