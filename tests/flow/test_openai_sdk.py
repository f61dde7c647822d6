"""The newest OpenAI SDK against the gateway, a real sidecar and a scripted provider."""

import json

import openai
import pytest
from running_stack import RunningStack, say


async def test_a_chat_completion_is_complete(stack: RunningStack) -> None:
    """Text, finish reason, usage and fingerprint are the provider's."""
    answer = await stack.openai.chat.completions.create(model="p/ok", messages=say("hello"))
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "stop"
    assert len((answer.choices[0].message.content or "").split()) == 8
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (17, 23)
    assert answer.system_fingerprint == "fp_scripted"


async def test_a_stream_has_no_usage_frame_that_was_not_requested(
    stack: RunningStack,
) -> None:
    """Every chunk has a choice, the last one a finish reason."""
    stream = await stack.openai.chat.completions.create(model="p/ok", messages=say("hello"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()) == 8


async def test_requested_usage_is_the_last_frame(stack: RunningStack) -> None:
    """The last frame has no choices, the provider's counts, and no cost."""
    stream = await stack.openai.chat.completions.create(
        model="p/ok", messages=say("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 40
    assert "cost" not in chunks[-1].usage.model_dump()
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_calls_arrive_as_the_provider_sent_them(stack: RunningStack, streamed: bool) -> None:  # noqa: FBT001 -- a parameter
    """Names, ids and arguments, in JSON or in deltas."""
    if streamed:
        names: dict[int, str] = {}
        arguments: dict[int, str] = {}
        stream = await stack.openai.chat.completions.create(
            model="p/tools", messages=say("weather"), stream=True
        )
        async for chunk in stream:
            for call in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                assert call.function is not None
                names.setdefault(call.index, call.function.name or "")
                arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        found = [(names[at], arguments[at]) for at in sorted(names)]
    else:
        answer = await stack.openai.chat.completions.create(model="p/tools", messages=say("weather"))
        calls = answer.choices[0].message.tool_calls or []
        found = [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]
        assert answer.choices[0].finish_reason == "tool_calls"
    assert [(name, json.loads(text)) for name, text in found] == [
        ("look_up", {"city": "Oslo"}),
        ("look_up", {"city": "Turku"}),
    ]


async def test_embeddings_and_completions_work(stack: RunningStack) -> None:
    """The other two endpoints, through the same SDK."""
    vectors = await stack.openai.embeddings.create(model="p/ok", input=["one"], encoding_format="float")
    assert len(vectors.data[0].embedding) == 8
    text = await stack.openai.completions.create(model="p/ok", prompt="once")
    assert text.choices[0].text


async def test_models_are_the_configured_groups(stack: RunningStack) -> None:
    """No wildcard's expansion is listed; one model can be requested, also with slashes in its name."""
    listed = [model.id async for model in stack.openai.models.list()]
    assert "plain" in listed
    assert not any("*" in name for name in listed)
    assert len(listed) < 50
    assert (await stack.openai.models.retrieve("p/some-model")).id == "p/some-model"
    with pytest.raises(openai.NotFoundError):
        await stack.openai.models.retrieve("nobody-has-this")


@pytest.mark.parametrize(
    ("model", "error", "status", "code"),
    [
        ("nobody-has-this", openai.NotFoundError, 404, "model_not_found"),
        ("p/status-400", openai.BadRequestError, 400, None),
        ("p/context", openai.BadRequestError, 400, "context_length_exceeded"),
        ("p/status-401", openai.InternalServerError, 502, "provider_auth"),
        ("p/status-403", openai.InternalServerError, 502, "provider_auth"),
        ("p/quota", openai.RateLimitError, 429, "insufficient_quota"),
        ("p/status-429", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("p/status-422", openai.UnprocessableEntityError, 422, None),
        ("p/status-500", openai.InternalServerError, 502, "provider_error"),
        ("p/html-502", openai.InternalServerError, 502, "provider_error"),
        ("p/drop", openai.InternalServerError, 502, "provider_error"),
        ("p/policy", openai.BadRequestError, 400, "content_policy_violation"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_s_failure_is_the_right_sdk_exception(
    stack: RunningStack,
    model: str,
    error: type[openai.APIStatusError],
    status: int,
    code: str | None,
    streamed: bool,  # noqa: FBT001
) -> None:
    """Status, code and exception class, for JSON and streams; the text names nothing of the sidecar."""
    with pytest.raises(error) as caught:
        await stack.openai.chat.completions.create(model=model, messages=say("hello"), stream=streamed)
    refused = caught.value
    assert refused.status_code == status
    if code is not None:
        assert refused.code == code
    text = refused.response.text.lower()
    for secret in ("litellm", "127.0.0.1", "traceback", "sk-", "deployment", "router"):
        assert secret not in text


async def test_an_invalid_key_is_401_with_the_scheme(stack: RunningStack) -> None:
    """The SDK raises `AuthenticationError`; `WWW-Authenticate` names the scheme."""
    stranger = stack.openai.with_options(api_key="not-ours-0123456789")
    with pytest.raises(openai.AuthenticationError) as caught:
        await stranger.chat.completions.create(model="p/ok", messages=say("hello"))
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
    assert caught.value.code == "invalid_api_key"
    assert "not-ours" not in caught.value.response.text


async def test_the_gateway_s_headers_are_sent_and_the_sidecar_s_are_not(stack: RunningStack) -> None:
    """Request id, model, provider, cost, cache, attempts; not one `x-litellm-*` or `llm_provider-*`."""
    raw = await stack.openai.chat.completions.with_raw_response.create(
        model="p/ok", messages=say("hello you")
    )
    headers = raw.headers
    assert len(headers["x-request-id"]) == 36
    assert headers["x-llm-proxy-cost-usd"] == "0.000063000"
    assert headers["x-llm-proxy-attempts"] == "1"
    assert headers["x-llm-proxy-cache"] in {"miss", "hit", "off"}
    assert not [name for name in headers if name.startswith(("x-litellm", "llm_provider", "x-llmp"))]
