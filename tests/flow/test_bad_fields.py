"""Fields that are wrong, or that would steer the sidecar: refused by name before a provider hears of them.

The whole table of fields is in `tests/unit/dialects`; here each door refuses over its own wire.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from endpoint_errors import CHAT, GENERATE, OWN, STREAM, TEXT, VECTORS, error_of
from loopback import NO_TLS
from running_stack import Json, RunningStack, say

HELLO = say("fields")
BASES: dict[str, Json] = {
    CHAT: {"model": "p/ok", "messages": HELLO},
    TEXT: {"model": "p/ok", "prompt": "once"},
    VECTORS: {"model": "p/ok", "input": "once"},
    OWN: {"model": "p/ok", "messages": HELLO},
    GENERATE: {"model": "p/ok", "messages": HELLO},
    STREAM: {"model": "p/ok", "messages": HELLO},
}
WRONG: list[tuple[str, Json, str]] = [
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hello"}, "messages"),
    (CHAT, {"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [*HELLO, {"role": "user", "content": 1}]}, "messages[1].content"),
    (CHAT, {"messages": HELLO * 4097}, "messages"),
    (CHAT, {"model": ""}, "model"),
    (CHAT, {"model": 5}, "model"),
    (CHAT, {"model": "x" * 300}, "model"),
    (CHAT, {"temperature": "hot"}, "temperature"),
    (CHAT, {"temperature": 3}, "temperature"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_tokens": 10**30}, "max_tokens"),
    (CHAT, {"n": 1000}, "n"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"tools": {"type": "function"}}, "tools"),
    (CHAT, {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (CHAT, {"response_format": "json"}, "response_format"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
        "messages[0].content[0].type",
    ),
    (CHAT, {"model": "claude", "tools": [{"type": "of_our_own"}]}, "tools"),
    (CHAT, {"model": "gemini", "thinking": 5}, "thinking"),
    (CHAT, {"metadata": {"a": {"b": "c"}}}, "metadata.a"),
    (CHAT, {"extra_body": []}, "extra_body"),
    (CHAT, {"extra_body": {"temperature": 1}}, "extra_body.temperature"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": {"a": 1}}, "prompt"),
    (TEXT, {"prompt": ["a", 1]}, "prompt[1]"),
    (TEXT, {"logprobs": 9}, "logprobs"),
    (VECTORS, {"input": None}, "input"),
    (VECTORS, {"input": []}, "input"),
    (VECTORS, {"input": [""]}, "input[0]"),
    (VECTORS, {"input": ["x"] * 2049}, "input"),
    (VECTORS, {"dimensions": 0}, "dimensions"),
    (VECTORS, {"encoding_format": "hex"}, "encoding_format"),
    (OWN, {"messages": None}, "messages"),
    (OWN, {"n": 2}, "n"),
    (OWN, {"max_tokens": -1}, "max_tokens"),
    (OWN, {"metadata": "x"}, "metadata"),
    (OWN, {"metadata": {"agent_id": 5}}, "metadata.agent_id"),
    (GENERATE, {"messages": None}, "messages"),
    (GENERATE, {"maxTokens": "many"}, "maxTokens"),
    (GENERATE, {"stream": True}, "stream"),
    (GENERATE, {"provider": 5}, "provider"),
    (STREAM, {"stream": False}, "stream"),
    (STREAM, {"topP": 2}, "topP"),
]
OWNED: Json = {
    "api_key": "sk-mine", "api_base": "http://127.0.0.1:1", "base_url": "http://127.0.0.1:1",
    "api_version": "1", "custom_llm_provider": "openai", "extra_headers": {"X-A": "b"},
    "headers": {"X-A": "b"}, "provider_specific_header": {}, "fallbacks": ["plain"],
    "context_window_fallbacks": [], "default_fallbacks": [], "disable_fallbacks": True, "num_retries": 9,
    "max_retries": 9, "timeout": 1, "request_timeout": 1, "stream_timeout": 1, "mock_response": "hello",
    "mock_tool_calls": [], "mock_timeout": True, "mock_testing_rate_limit_error": True,
    "cache": {"no-cache": True}, "caching": True, "ttl": 5, "cache_key": "x", "no-log": True,
    "guardrails": ["off"], "disable_global_guardrails": True, "user_config": {}, "model_list": [],
    "router_settings_override": {}, "litellm_metadata": {}, "litellm_call_id": "x",
    "litellm_logging_obj": {}, "litellm_made_up": 1, "_litellm_x": 1, "litellm_params": {},
    "proxy_server_request": {}, "secret_fields": {}, "aws_secret_access_key": "x",
    "vertex_credentials": "{}", "azure_ad_token": "x", "input_cost_per_token": 0, "drop_params": True,
    "additional_drop_params": ["user"], "allowed_openai_params": ["x"], "specific_deployment": True,
    "model_info": {}, "callbacks": ["x"], "success_callback": ["x"], "langfuse_host": "http://127.0.0.1:1",
    "langfuse_secret": "x", "prompt_id": "x", "prompt_variables": {}, "ssl_verify": False, "client": {},
    "models": ["plain"], "route": "x", "user_api_key_auth": {}, "search_tools": [], "vector_store_id": "x",
    "organization": "x", "rpm": 1, "weight": 1,
}  # fmt: skip
IN_METADATA = (
    "api_base", "api_key", "fallbacks", "num_retries", "guardrails", "user_api_key", "user_api_key_team_id",
    "model_info", "litellm_metadata", "no-log", "callbacks", "mock_response", "langfuse_host", "headers",
)  # fmt: skip


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with a good key."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as one:
        yield one


@pytest.fixture
async def unheard(stack: RunningStack) -> AsyncIterator[None]:
    """Afterwards, the provider has seen nothing."""
    yield
    assert await stack.calls() == []


@pytest.mark.parametrize(("door", "fields", "param"), WRONG)
@pytest.mark.usefixtures("unheard")
async def test_a_wrong_field_is_400_and_named(
    client: httpx.AsyncClient, door: str, fields: Json, param: str
) -> None:
    """The door, the field, and `param` as the caller spelled it."""
    response = await client.post(door, json={**BASES[door], **fields})
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("door", "body", "param"),
    [
        (CHAT, {"model": "claude", "messages": HELLO, "store": True, "logprobs": False, "n": 1}, "store"),
        (CHAT, {"model": "claude", "messages": HELLO, "logit_bias": {"5": 1}}, "logit_bias"),
        (CHAT, {"model": "gemini", "messages": HELLO, "logit_bias": {"5": 1}}, "logit_bias"),
        (OWN, {"model": "claude", "messages": HELLO, "presence_penalty": 1}, "presence_penalty"),
    ],
)
@pytest.mark.usefixtures("unheard")
async def test_a_field_the_models_provider_does_not_have_is_400_and_named(
    client: httpx.AsyncClient, door: str, body: Json, param: str
) -> None:
    """Neither dropped nor sent: the caller is told."""
    response = await client.post(door, json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == param
    assert error_of(response)["code"] == "unsupported_parameter"
    assert "litellm" not in response.text.lower()


@pytest.mark.parametrize("door", [CHAT, TEXT, VECTORS, OWN, GENERATE])
@pytest.mark.usefixtures("unheard")
async def test_a_name_that_steers_the_sidecar_is_refused_at_every_door(
    client: httpx.AsyncClient, door: str
) -> None:
    """At top level and in `extra_body`, each by its name."""
    holder = "extraBody" if door == GENERATE else "extra_body"
    for name, value in OWNED.items():
        for body, param in (({name: value}, name), ({holder: {name: value}}, f"{holder}.{name}")):
            response = await client.post(door, json={**BASES[door], **body})
            assert response.status_code == 400, (name, body)
            assert error_of(response)["param"] == param
            assert error_of(response)["code"] == "unknown_parameter"


@pytest.mark.parametrize("name", IN_METADATA)
@pytest.mark.usefixtures("unheard")
async def test_a_control_in_metadata_is_refused(client: httpx.AsyncClient, name: str) -> None:
    """LiteLLM reads its own controls there; ours never reach it."""
    response = await client.post(CHAT, json={**BASES[CHAT], "metadata": {name: "x"}})
    assert response.status_code == 400
    assert error_of(response)["param"] == f"metadata.{name}"


@pytest.mark.parametrize(
    "header", ["x-litellm-timeout", "x-litellm-num-retries", "x-litellm-tags", "x-litellm-api-base"]
)
async def test_a_header_that_steers_the_sidecar_never_reaches_it(
    stack: RunningStack, client: httpx.AsyncClient, header: str
) -> None:
    """Nor the provider."""
    response = await client.post(
        CHAT, json=BASES[CHAT], headers={header: "0.001", "Cache-Control": "no-cache"}
    )
    assert response.status_code == 200
    (call,) = await stack.calls()
    assert header not in call["headers"]


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ("p/ok", "an_unheard_of_field", {"z": [1, None, True], "a": "b"}),
        ("p/ok", "chat_template_kwargs", {"enable_thinking": False}),
        ("p/ok", "top_k", 7),
        ("claude", "an_unheard_of_field", {"z": [1, None, True], "a": "b"}),
        ("claude", "top_k", 7),
        ("gemini", "an_unheard_of_field", {"z": [1, None, True], "a": "b"}),
    ],
)
@pytest.mark.parametrize("held", [False, True], ids=["top", "extra_body"])
async def test_a_field_of_the_models_own_arrives_untouched(
    stack: RunningStack,
    client: httpx.AsyncClient,
    model: str,
    name: str,
    value: Any,
    held: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Whatever we have never heard of is the model's to judge, in each provider's family."""
    own = {"extra_body": {name: value}} if held else {name: value}
    response = await client.post(
        CHAT, json={"model": model, "messages": HELLO, **own}, headers={"Cache-Control": "no-cache"}
    )
    assert response.status_code == 200
    (call,) = await stack.calls()
    assert call["body"][name] == value
    assert "extra_body" not in call["body"]
