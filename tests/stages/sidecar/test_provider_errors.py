"""Headers with the provider's own error of a failed call; none where the provider stated nothing."""

from urllib.parse import unquote
from uuid import uuid4

import pytest
from sidecars import PROVIDER_KEY, Json, Mode, Sidecar

EXPECTED = {
    "status-400": (400, "invalid_value", "invalid_request_error", "top_logprobs"),
    "status-401": (401, "invalid_api_key", "invalid_request_error", None),
    "status-403": (403, "forbidden", "permission_error", None),
    "status-404": (404, "model_not_found", "invalid_request_error", "model"),
    "status-413": (413, "request_too_large", "invalid_request_error", None),
    "status-422": (422, "unprocessable", "invalid_request_error", "tools"),
    "status-500": (500, "server_error", "server_error", None),
    "status-503": (503, "server_error", "server_error", None),
    "context": (400, "context_length_exceeded", "invalid_request_error", "messages"),
    "quota": (429, "insufficient_quota", "insufficient_quota", None),
    "policy": (400, "content_policy_violation", "invalid_request_error", None),
    "html-502": (502, None, None, None),
}
NAMES = ("status", "code", "type", "param")


@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize("how", EXPECTED)
async def test_headers_have_the_provider_s_status_code_type_and_param(
    sidecar: Sidecar, how: str, mode: Mode
) -> None:
    """LiteLLM drops them; the body stays LiteLLM's."""
    answer = await sidecar.ask(mode, "lone", f"{how}-{uuid4()}", do=how)
    found = tuple(answer.headers.get(f"x-llmp-provider-{name}") for name in NAMES)
    status, *details = EXPECTED[how]
    assert found == (str(status), *details)
    assert answer.status >= 400
    assert "error" in answer.json


@pytest.mark.parametrize(
    ("family", "how", "status", "code"),
    [
        ("anthropic", "status-529", 529, "overloaded_error"),
        ("anthropic", "status-429", 429, "rate_limit_error"),
        ("anthropic", "context", 400, "invalid_request_error"),
        ("gemini", "status-429", 429, "RESOURCE_EXHAUSTED"),
        ("gemini", "status-400", 400, "INVALID_ARGUMENT"),
        ("gemini", "status-503", 503, "UNAVAILABLE"),
    ],
)
async def test_errors_of_other_formats_are_parsed(
    sidecar: Sidecar, family: str, how: str, status: int, code: str
) -> None:
    """Anthropic's type and Google's status are the code."""
    answer = await sidecar.chat(f"lone-{family}", f"{how}-{uuid4()}", do=how)
    assert answer.headers["x-llmp-provider-status"] == str(status)
    assert answer.headers["x-llmp-provider-code"] == code


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("17", "17"), ("0.25", "0.25"), ("Wed, 21 Oct 2099 07:28:00 GMT", "86400")]
)
async def test_retry_after_is_in_seconds(sidecar: Sidecar, retry_after: str, seconds: str) -> None:
    """From a number or a date, at most a day; the sidecar itself does not wait longer than a few seconds."""
    answer = await sidecar.chat("lone", f"{uuid4()}", do="status-429", retry_after=retry_after)
    assert answer.status == 429
    assert answer.headers["x-llmp-retry-after"] == seconds


@pytest.mark.parametrize("how", ["drop", "cut", "garbage", "empty", "hang"])
async def test_an_error_without_a_response_has_no_provider_headers(sidecar: Sidecar, how: str) -> None:
    """A broken connection, an unreadable answer, no answer."""
    answer = await sidecar.chat("lone", f"{how}-{uuid4()}", do=how)
    assert answer.status >= 408
    assert not [name for name in answer.headers if name.startswith("x-llmp-provider")]


async def test_an_error_of_litellm_itself_has_no_provider_headers(sidecar: Sidecar) -> None:
    """An unknown model, a body without messages."""
    unknown = await sidecar.chat("no-such-model")
    empty = await sidecar.post("/v1/chat/completions", {"model": "lone"})
    for answer in (unknown, empty):
        assert answer.status == 400
        assert not [name for name in answer.headers if name.startswith("x-llmp-provider")]
        assert "x-llmp-deployment" not in answer.headers
    assert unknown.headers["x-llmp-attempts"] == "0"


async def test_a_failure_names_the_last_deployment_and_the_attempts(sidecar: Sidecar) -> None:
    """LiteLLM's own headers name none."""
    for group, attempts in (("lone", "1"), ("solo", "3")):
        answer = await sidecar.chat(group, f"tried-{uuid4()}", do="status-500")
        reported = answer.headers["x-llmp-deployment"], answer.headers["x-llmp-attempts"]
        assert (answer.status, reported) == (500, (group, attempts))


@pytest.mark.parametrize("mode", ["chat", "stream"])
async def test_a_failure_s_log_line_has_no_text_of_the_provider(sidecar: Sidecar, mode: Mode) -> None:
    """It may repeat the prompt; the line has the kind of error."""
    sent = f"secret-{uuid4()}"
    answer = await sidecar.ask(mode, "lone", sent, do="echo")
    assert answer.status >= 400, answer.text
    assert sent in answer.text + unquote(answer.headers.get("x-llmp-message", ""))
    log = sidecar.log.read_text(encoding="utf-8", errors="replace")
    assert sent not in log
    assert f"call {answer.headers['x-litellm-call-id']} failed: " in log


@pytest.mark.parametrize("how", ["status-401", "status-500", "drop", "context"])
async def test_no_error_contains_the_provider_key(sidecar: Sidecar, how: str) -> None:
    """Neither body nor headers."""
    answer = await sidecar.chat("lone", f"{how}-{uuid4()}", do=how)
    assert PROVIDER_KEY not in answer.text + str(answer.headers)
    assert "Traceback" not in answer.text


async def test_an_error_with_status_200_is_an_error(sidecar: Sidecar) -> None:
    """A 200 with an error object as its body."""
    answer = await sidecar.chat("lone", f"{uuid4()}", do="error-in-200")
    assert answer.status >= 500


def _saying(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def _having_called(arguments: str) -> Json:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "y"},
        ]
    }


_NO_IMAGE: Json = {"type": "image_url", "image_url": {"url": "no-url"}}
UNTRANSLATABLE: list[tuple[str, Json]] = [
    ("openai", _saying({"type": "input_text", "text": "x"})),
    ("anthropic", {"tools": [{"type": "of_our_own"}]}),
    ("anthropic", {"tools": [{"type": "function"}]}),
    ("anthropic", {"web_search_options": {"search_context_size": 5}}),
    ("anthropic", _saying(_NO_IMAGE)),
    ("anthropic", _having_called("{oops")),
    ("gemini", _saying(_NO_IMAGE)),
    ("gemini", _having_called("{oops")),
    ("gemini", {"thinking": 5}),
    ("ollama_chat", _having_called("{oops")),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["chat", "stream"])
@pytest.mark.parametrize(("family", "fields"), UNTRANSLATABLE)
async def test_an_untranslatable_request_is_reported_and_tried_once(
    sidecar: Sidecar, family: str, fields: Json, mode: Mode
) -> None:
    """LiteLLM's translation fails; no provider is called, and the error is not the provider's."""
    mark = f"stumble-{uuid4()}"
    sent = (
        {"messages": [{"role": "user", "content": mark}], "user": mark}
        | fields
        | {"stream": mode == "stream"}
    )
    answer = await sidecar.post("/v1/chat/completions", {"model": family, **sent})
    assert answer.status >= 400
    assert answer.headers["x-llmp-origin"] in {"translation", "litellm"}
    assert await sidecar.provider.calls(mark) == []
    assert not answer.headers.get("x-litellm-attempted-retries")


@pytest.mark.parametrize("how", ["drop", "garbage"])
@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini", "ollama_chat"])
async def test_a_provider_s_failure_is_no_translation_error(sidecar: Sidecar, family: str, how: str) -> None:
    """However the answer is broken."""
    answer = await sidecar.chat(family, f"{how}-{uuid4()}", do=how)
    assert answer.status >= 400
    assert answer.headers.get("x-llmp-origin") not in {"translation", "litellm", "guardrail"}
