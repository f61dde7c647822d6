"""A provider's error as a caller hears it, whole and streamed, in every dialect; and as its record keeps it.

The errors are those of `scripted/failures.py`.
"""

# ruff: noqa: E501, ISC004 -- messages stay in one piece where they fit a screen

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from endpoint_errors import CHAT, GENERATE, OWN, STREAM
from loopback import NO_TLS
from running_stack import ADMIN_KEY, Json, RunningStack, script
from sidecar_parts import needs_parts

DOORS = ((CHAT, False), (CHAT, True), (OWN, False), (OWN, True), (GENERATE, False), (STREAM, True))
TEMPERATURE = "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported."
VERIFY = (
    "Your organization must be verified to stream this model. Please go to: [removed] and click on Verify "
    "Organization. If you just verified, it can take up to 15 minutes for access to propagate."
)
ROLES = "Conversation roles must alternate user/assistant/user/assistant/..."
Heard = tuple[int, str | None, str | None, str]
HEARD: dict[str, Heard] = {
    "temperature": (400, "unsupported_value", "temperature", TEMPERATURE),
    "verify": (400, "unsupported_value", "stream", VERIFY),
    "no-such-model": (
        404,
        "model_not_found",
        "model",
        "The model `gpt-99` does not exist or you do not have access to it.",
    ),
    "conflict": (409, None, None, "The resource is being updated by another request."),
    "own-code": (400, "colour_zz7", None, "Bad colour."),
    "media": (415, None, None, "Unsupported media type 'image/tiff'."),
    "mistral-detail": (422, None, "seed", "seed: Extra inputs are not permitted"),
    "groq-large": (
        413,
        "rate_limit_exceeded",
        None,
        "Request too large for model `llama-3.3-70b-versatile` in organization `[removed]` service tier `on_demand` "
        "on tokens per minute (TPM): Limit 6000, Requested 7200, please reduce your message size and try again.",
    ),
    "too-long": (
        400,
        "context_length_exceeded",
        "messages",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ),
    "vllm-pydantic": (400, None, "tools.0.function", "tools.0.function: Field required"),
    "openrouter-raw": (
        400,
        None,
        None,
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    "openrouter-flagged": (403, "content_policy_violation", None, "Input flagged by moderation"),
    "xai-unsafe": (
        403,
        "content_policy_violation",
        None,
        "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
    ),
    "half": (400, None, None, "bad \ufffd temperature"),
    "ollama-tools": (400, None, None, "[removed] does not support tools"),
    "ollama-image": (
        400,
        None,
        None,
        "Failed to create new sequence: failed to process inputs: this model is missing data required for image input",
    ),
    "llamacpp-image": (
        400,
        None,
        None,
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
    ),
    "llamacpp-roles": (400, None, None, ROLES),
    "llamacpp-rows": (400, None, None, ROLES),
    "secrets": (
        400,
        None,
        None,
        "Bad header 'Authorization: [removed]' sent to [removed] by [removed]: see [removed], request [removed], "
        "project [removed]",
    ),
}  # fmt: skip
OURS: dict[str, tuple[int, str, str | None, str]] = {
    # status, code, Retry-After, what the record says
    "wrong-key": (
        502,
        "provider_auth",
        None,
        "Incorrect API key provided: [removed] You can find your API key at [removed].",
    ),
    "gemini-key": (502, "provider_auth", None, "API key not valid. Please pass a valid API key."),
    "vertex-denied": (
        502,
        "provider_auth",
        None,
        "Permission 'aiplatform.endpoints.predict' denied on resource '[removed]'.",
    ),
    "deepseek-balance": (429, "insufficient_quota", None, "Insufficient Balance"),
    "xai-credits": (
        429,
        "insufficient_quota",
        None,
        "Your newly created team doesn't have any credits yet.",
    ),
    "gemini-spent": (
        429,
        "insufficient_quota",
        None,
        "You exceeded your current quota, please check your plan and billing.",
    ),
    "gemini-quota": (
        429,
        "rate_limit_exceeded",
        "35",
        "You exceeded your current quota, please check your plan and billing details. For more information, head to: "
        "[removed]. * Quota exceeded for metric: [removed] limit: 20 Please retry in 34.074824224s.",
    ),
    "groq-minutes": (
        429,
        "rate_limit_exceeded",
        "180",
        "Rate limit reached for model `llama` on tokens per day (TPD). Please try again in 2m59.56s.",
    ),
    "overloaded": (503, "provider_overloaded", "5", "Overloaded"),
    "llamacpp-loading": (503, "provider_overloaded", "9", "Loading model"),
    "internal": (
        502,
        "provider_error",
        None,
        "The server had an error processing your request. Contact us at [removed] if it persists. (Please include the "
        "request ID [removed] in your message.)",
    ),
    "half-failed": (502, "provider_error", None, "bad \ufffd luck"),
    "unknown-503": (
        503,
        "provider_overloaded",
        "5",
        "status 503, without a message of a known shape",
    ),
}  # fmt: skip


def _body(name: str, door: str, *, streamed: bool) -> Json:
    fields: Json = {} if door in (GENERATE, STREAM) else {"stream": streamed, "seed": 5, "tools": TOOLS}
    said = script(do=f"says-{name}")
    return {"model": "p/errors", "messages": [{"role": "user", "content": said}], **fields}


TOOLS: list[Json] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


async def _ask(stack: RunningStack, name: str) -> list[httpx.Response]:
    headers = {**stack.auth, "Cache-Control": "no-cache"}
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=headers, timeout=20) as client:
        return list(
            await asyncio.gather(
                *(client.post(door, json=_body(name, door, streamed=streamed)) for door, streamed in DOORS)
            )
        )


def _message(answer: httpx.Response) -> tuple[str, Json]:
    """The message of an error in any dialect, and where its code and param stand."""
    reported: Json = answer.json()
    if "statusCode" in reported:
        return reported["message"], reported
    if "detail" in reported:
        assert reported["detail"] == reported["error"]["message"]
    return reported["error"]["message"], reported["error"]


@pytest.mark.parametrize("name", HEARD)
async def test_a_caller_hears_what_the_provider_said_of_the_request(stack: RunningStack, name: str) -> None:
    """Cleaned; with the provider's status and code, and the field at fault; the record has the same."""
    status, code, param, message = HEARD[name]
    for answer in await _ask(stack, name):
        heard, error = _message(answer)
        assert (answer.status_code, error["code"], heard) == (status, code, message)
        assert error["param"] in (param, None)
        assert answer.headers["x-llm-proxy-refused-by"] == "provider"
        assert "x-should-retry" not in answer.headers
        story = await stack.story(answer.headers["x-request-id"])
        assert (story["status"], story["provider_message"]) == (status, message)
    assert _message((await _ask(stack, name))[0])[1]["param"] == param


async def test_a_providers_own_code_is_no_label_of_a_metric(stack: RunningStack) -> None:
    """A provider could make series without bound; our own codes for its refusals have theirs."""
    for name in ("own-code", "groq-large", "no-such-model"):
        assert (await _ask(stack, name))[0].status_code == HEARD[name][0]
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=headers) as client:
        page = (await client.get("/metrics")).text
    codes = {one.split('"')[1] for one in page.splitlines() if one.startswith("llm_proxy_refusals_total{")}
    assert "colour_zz7" not in page
    assert {"other", "model_not_found"} <= codes


@pytest.mark.parametrize("name", OURS)
async def test_what_is_not_the_callers_is_told_to_the_record_alone(stack: RunningStack, name: str) -> None:
    """A message of ours for the caller, also by its own look at the record; the operator reads the reason."""
    status, code, wait, reason = OURS[name]
    for answer in await _ask(stack, name):
        heard, error = _message(answer)
        assert (answer.status_code, error["code"], answer.headers.get("retry-after")) == (status, code, wait)
        assert reason not in heard
        request_id = answer.headers["x-request-id"]
        story = await stack.story(request_id)
        assert (story["status"], story["provider_message"]) == (status, reason)
        async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth) as client:
            own: dict[str, Any] = (await client.get(f"/v1/requests/{request_id}")).json()
        assert own["request_id"] == story["request_id"]
        assert "provider_message" not in own


@pytest.mark.parametrize("name", ["unknown-json", "unknown-page"])
async def test_a_body_of_no_known_shape_gives_the_request_id_and_no_text(
    stack: RunningStack, name: str
) -> None:
    """Whatever it holds."""
    for answer in await _ask(stack, name):
        heard, _ = _message(answer)
        request_id = answer.headers["x-request-id"]
        assert answer.status_code == 400
        assert heard == f"The model's provider rejected the request as invalid (request {request_id})."
        story = await stack.story(request_id)
        assert story["provider_message"] == "status 400, without a message of a known shape"


@pytest.mark.parametrize(
    ("name", "model", "tokens"),
    [
        ("vllm-context", "p/errors", "4096"),
        ("xai-context", "p/errors", "131072"),
        ("groq-context", "p/errors", ""),
        ("mistral-context", "p/errors", "32768"),
        ("bedrock-context", "p/errors", ""),
        ("ollama-context", "p/errors", ""),
        ("llamacpp-context", "p/errors", "4096"),
        ("llamacpp-full", "p/errors", ""),
        ("tgi-context", "p/errors", "4096"),
        ("cohere-context", "p/errors", "4081"),
        ("cerebras-context", "p/errors", "8192"),
        ("gemini-tokens", "gemini", "1048576"),
        ("too-long", "claude", "210000 tokens > 200000 maximum"),
    ],
)
async def test_a_prompt_too_long_is_known_in_every_providers_words(
    stack: RunningStack, name: str, model: str, tokens: str
) -> None:
    """As OpenAI's own code, with the provider's numbers."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as client:
        answer = await client.post(
            CHAT, json={**_body(name, CHAT, streamed=False), "model": model, "seed": None}
        )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert tokens in error["message"]


async def test_the_log_has_one_line_with_the_reason(stack: RunningStack, service_folder: Path) -> None:
    """An operator finds out why without the sidecar's log."""
    answer = (await _ask(stack, "internal"))[0]
    request_id = answer.headers["x-request-id"].replace("-", "")
    log = (service_folder / "logs" / "gateway.log").read_text()
    lines = [
        line for line in log.splitlines() if request_id in line.replace("-", "") and "a call failed" in line
    ]
    assert len(lines) == 1
    assert "The server had an error processing your request." in lines[0]
    assert ADMIN_KEY not in lines[0]


LONG = "the prompt of a caller that must not stay in any record"


@pytest.mark.parametrize("status", [400, 500])
async def test_a_repeated_prompt_stays_out_of_record_and_log(
    stack: RunningStack, service_folder: Path, status: int
) -> None:
    """A provider that quotes the request: the caller may hear it, nobody keeps it."""
    said = f'{LONG}\nand its "second" line {script(do="echo", status=status)}'
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as client:
        for streamed in (False, True):
            body = {"model": "p/errors", "messages": [{"role": "user", "content": said}], "stream": streamed}
            answer = await client.post(CHAT, json=body)
            story = await stack.story(answer.headers["x-request-id"])
            assert story["provider_message"].startswith("Your message was not understood")
            assert LONG[:30] not in str(story)
            assert "second" not in story["provider_message"]
    for name in ("gateway.log", "sidecar-1.log"):
        assert LONG[:30] not in (service_folder / "logs" / name).read_text()


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        ("p/gpt-5", {"temperature": 0.2}, "temperature"),
        ("p/gpt-5", {"temperature": 0.2, "tools": TOOLS}, "temperature"),
        ("p/gpt-5", {"reasoning_effort": "none"}, "reasoning_effort"),
        ("p/gpt-5", {"logprobs": True, "tools": TOOLS}, "logprobs"),
        ("p/o3", {"temperature": 0.2}, "temperature"),
        ("claude", {"n": 2}, "n"),
        ("claude", {"logit_bias": {"5": 1}}, "logit_bias"),
    ],
)
async def test_the_field_that_the_model_does_not_know_is_named(
    stack: RunningStack, model: str, fields: Json, param: str
) -> None:
    """LiteLLM's own check names it in words; the provider is not asked."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
    for streamed in (False, True):
        async with httpx.AsyncClient(
            verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20
        ) as client:
            answer = await client.post(CHAT, json={**body, "stream": streamed})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)
        assert param in error["message"]
        assert "litellm" not in error["message"].lower()
        assert "drop" not in error["message"]
    assert await stack.calls() == []


@pytest.mark.parametrize(
    ("door", "body", "param"),
    [
        ("/v1/embeddings", {"input": script(do="says-ollama-context")}, "input"),
        ("/v1/embeddings", {"input": script(do="says-llamacpp-batch")}, "input"),
        ("/v1/completions", {"prompt": script(do="says-too-long")}, "prompt"),
        ("/v1/completions", {"prompt": script(do="says-too-long"), "stream": True}, "prompt"),
    ],
)
async def test_a_prompt_too_long_is_named_as_its_endpoint_names_it(
    stack: RunningStack, door: str, body: Json, param: str
) -> None:
    """Not `messages` where there are none."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as client:
        answer = await client.post(door, json={"model": "p/errors", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)


@pytest.mark.parametrize(
    ("play", "streamed", "reason"),
    [
        ("drop", False, "Server disconnected"),
        ("garbage", False, "JSONDecodeError"),
        pytest.param("error-in-200", True, "The server had an error.", marks=needs_parts("frames")),
        ("html-502", False, "status 502, without a message of a known shape"),
    ],
)
async def test_a_failure_without_a_providers_word_has_a_reason_in_the_record(
    stack: RunningStack,
    play: str,
    streamed: bool,  # noqa: FBT001 -- a parameter
    reason: str,
) -> None:
    """Also of a stream that broke off; the caller hears a message of ours."""
    body = {
        "model": "p/errors",
        "messages": [{"role": "user", "content": script(do=play)}],
        "stream": streamed,
    }
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as client:
        answer = await client.post(CHAT, json=body)
    assert reason not in answer.text
    assert reason in str((await stack.story(answer.headers["x-request-id"]))["provider_message"])


async def test_a_prompt_repeated_in_the_middle_of_a_stream_stays_out_of_record_and_logs(
    stack: RunningStack, service_folder: Path
) -> None:
    """An error event after some text; neither its text nor a traceback is kept."""
    delta: Json = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}}]}
    failed = {"error": {"message": f"engine at http://10.9.8.7:8000/v1 failed for '{LONG}'", "code": 500}}
    raw = [f"data: {json.dumps(one)}\n\n" for one in (delta, failed)]
    said = script(do="raw", raw=raw)
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as client:
        body = {"model": "p/errors", "messages": [{"role": "user", "content": said}], "stream": True}
        answer = await client.post(CHAT, json=body)
    assert "Hello" in answer.text
    assert "upstream_stream_cut" in answer.text
    story = await stack.story(answer.headers["x-request-id"])
    assert story["outcome"] == "cut"
    for name in ("gateway.log", "sidecar-1.log"):
        kept = (service_folder / "logs" / name).read_text() + str(story)
        assert LONG[:30] not in kept
        assert "10.9.8.7" not in kept
        assert "Traceback" not in kept
