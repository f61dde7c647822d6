"""Claude Code's requests, translated, at every provider family: none is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from all_providers import MODELS, AllProviders

from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.upstream.client import OPTIONAL_HEADER

Json = dict[str, Any]
FAMILIES = (
    "OpenAI", "OpenAI-compatible", "Anthropic", "Gemini", "Vertex", "Bedrock", "Ollama", "gpt-5", "gpt-5.1",
    "o3", "opus", "groq", "mistral", "cerebras", "xai", "vllm", "openrouter", "azure", "mixed", "falls",
)  # fmt: skip
MARK = {"cache_control": {"type": "ephemeral"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
SCHEMA: Json = {"type": "object", "properties": {}, "$schema": "x"}
TOOLS = [{"name": f"tool_{at}", "description": "d", "input_schema": SCHEMA} for at in range(11)]
TURNS: list[Json] = [
    {"role": "user", "content": [{"type": "text", "text": "Read a."}, IMAGE]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Two files.", "signature": "c2ln"},
            {"type": "text", "text": "Reading."},
            {"type": "tool_use", "id": "toolu_p_call_1", "name": "tool_1", "input": {"path": "a"}},
            {"type": "tool_use", "id": "toolu_p_call_2", "name": "tool_2", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_p_call_1",
                "content": [{"type": "text", "text": "a"}, IMAGE],
            },
            {"type": "tool_result", "tool_use_id": "toolu_p_call_2", "is_error": True, "content": "none"},
            {"type": "text", "text": "Go on.", **MARK},
        ],
    },
]
CLAUDE_CODE: Json = {
    "max_tokens": 32000,
    "system": [{"type": "text", "text": "billing"}, {"type": "text", "text": "rules", **MARK}],
    "messages": TURNS,
    "tools": [*TOOLS, {**TOOLS[0], "name": "tool_11", "defer_loading": True}],
    "metadata": {"user_id": '{"device_id":"d","account_uuid":"","session_id":"s"}'},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}
THINKING: dict[str, Json] = {
    "known": {"thinking": {"type": "enabled", "budget_tokens": 31999, "display": "summarized"}},
    "unknown": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    "adaptive": {"thinking": {"type": "adaptive"}},
    "plain": {},
}


FALLBACKS = {"falls": frozenset({"anthropic"})}


def _fallback_providers(group: str) -> frozenset[str]:
    return FALLBACKS.get(group, frozenset())


def sent(providers: AllProviders, group: str, fields: Json) -> tuple[int, str, list[Json]]:
    """The status and text of the sidecar's answer, and what the provider saw."""
    streamed = group != "Bedrock"  # which the scripted provider only plays whole
    asked = json.dumps({"model": group, **CLAUDE_CODE, **fields, "stream": streamed}).encode()
    options = RequestOptions(anthropic_version="2023-06-01", anthropic_betas=("claude-code-20250219",))
    models = replace(MODELS, fallback_providers=_fallback_providers)
    call = MESSAGES.parse("messages", asked, options, models, BodyLimits())
    assert call.endpoint == "chat.completions"
    providers.provider.post("/_reset")
    body = {**call.body, "cache": {"no-cache": True, "no-store": True}}
    headers = {OPTIONAL_HEADER: ",".join(call.optional_fields)}
    reply = providers.sidecar.post("/v1/chat/completions", json=body, headers=headers)
    return reply.status_code, reply.text, providers.provider.get("/_calls").json()["calls"]


@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize("group", FAMILIES)
def test_claude_code_s_request_passes(all_providers: AllProviders, group: str, thinking: str) -> None:
    """Also where a model has no effort, no cache marks, no images in outputs of tools."""
    status, text, calls = sent(all_providers, group, THINKING[thinking])
    assert status == 200, text
    assert calls
    seen = json.dumps(calls[-1]["body"])
    assert "iVBORw0KGgo" in seen
    assert "Go on." in seen
    if group == "OpenAI":
        assert calls[-1]["body"]["max_tokens"] == 16384  # the most that gpt-4o-mini writes
    if group == "OpenAI-compatible":
        assert calls[-1]["body"]["max_tokens"] == 32000
    if calls[-1]["family"] == "openai":
        assert "thinking_blocks" not in seen
        assert "cache_control" not in seen or group in {"openrouter", "mixed"}
    if calls[-1]["family"] == "anthropic" and thinking == "known":
        assert "c2ln" in seen
        assert "cache_control" in seen
