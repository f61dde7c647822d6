"""Errors in Anthropic's envelope; whom and what a request names beside its content."""

import pytest

from llm_proxy.dialects.messages.attribution import attribution_of
from llm_proxy.dialects.messages.betas import allowed_betas
from llm_proxy.dialects.messages.error_body import error_event, error_status, error_type, render_error
from llm_proxy.errors import (
    APIError,
    BadRequest,
    BodyTooLarge,
    BudgetExceeded,
    Forbidden,
    InternalError,
    ModelNotFound,
    Overloaded,
    ProviderFailed,
    ProviderOverloaded,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
    RateLimited,
    Unauthorized,
    UpstreamCoolingDown,
    UpstreamTimeout,
)
from llm_proxy.identity import NO_ATTRIBUTION, Attribution


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (ProviderRejected("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (Forbidden("x"), "permission_error"),
        (ModelNotFound("x"), "not_found_error"),
        (BodyTooLarge("x"), "request_too_large"),
        (RateLimited("x"), "rate_limit_error"),
        (ProviderRateLimited("x"), "rate_limit_error"),
        (BudgetExceeded("x"), "billing_error"),
        (ProviderQuotaExceeded("x"), "billing_error"),
        (ProviderOverloaded("x"), "overloaded_error"),
        (Overloaded("x"), "overloaded_error"),
        (UpstreamCoolingDown("x"), "overloaded_error"),
        (UpstreamTimeout("x"), "timeout_error"),
        (ProviderFailed("x"), "api_error"),
        (InternalError(), "api_error"),
    ],
)
def test_an_error_has_anthropic_s_type(error: APIError, kind: str) -> None:
    assert error_type(error) == kind
    assert error_status(error) == (529 if kind == "overloaded_error" else error.status)


def test_the_envelope() -> None:
    assert render_error(BadRequest("max_tokens: Field required"), "req_1") == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"},
        "request_id": "req_1",
    }
    assert error_event(RateLimited("x")).startswith(b"event: error\ndata: {")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "prompt is too long: 210000 tokens > 200000 maximum",
            "prompt is too long: 210000 tokens > 200000 maximum",
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your prompt has 9,000 tokens.",
            "prompt is too long: 9000 tokens > 8192 maximum. This model's",
        ),
        (
            "the request exceeds the available context size (4096 tokens): 5000 tokens, try increasing it",
            "prompt is too long: 5000 tokens > 4096 maximum. the request",
        ),
        ("Input is too long for gpt-4-2024.", "prompt is too long: Input is too long"),
    ],
)
def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_read(said: str, shown: str) -> None:
    error = ProviderRejected(said, code="context_length_exceeded")
    assert render_error(error)["error"]["message"].startswith(shown)


def test_a_chat_s_field_has_the_caller_s_name() -> None:
    error = ProviderRejected("Unsupported parameter: 'stop'.", param="stop", code="unsupported_parameter")
    assert render_error(error)["error"]["message"] == "Unsupported parameter: 'stop_sequences'."


def test_another_error_keeps_its_words() -> None:
    assert render_error(BadRequest("maximum 5, got 6"))["error"]["message"] == "maximum 5, got 6"


@pytest.mark.parametrize(
    ("metadata", "attribution"),
    [
        ({}, NO_ATTRIBUTION),
        ({"user_id": ""}, NO_ATTRIBUTION),
        ({"user_id": "ann"}, Attribution(user="ann")),
        (
            {"user_id": '{"device_id":"d1","account_uuid":"","session_id":"s1"}'},
            Attribution(presumed_user="d1", session="s1"),
        ),
        (
            {"user_id": '{"device_id":"d1","account_uuid":"a1","session_id":"s1"}'},
            Attribution(presumed_user="a1", session="s1"),
        ),
        (
            {"user_id": "user_0a1b_account_a-1_session_s-1"},
            Attribution(presumed_user="a-1", session="s-1"),
        ),
        ({"user_id": "user_0a1b_account__session_s-1"}, Attribution(presumed_user="0a1b", session="s-1")),
        ({"user_id": "{no json"}, Attribution(user="{no json")),
        ({"user_id": '{"session_id":5}'}, Attribution()),
    ],
)
def test_a_user_id_names_a_user_and_claude_code_s_a_session(
    metadata: dict[str, str], attribution: Attribution
) -> None:
    assert attribution_of(metadata) == attribution


def test_a_long_user_id_is_cut() -> None:
    assert attribution_of({"user_id": "u" * 300 + "\n"}).user == "u" * 256


def test_known_betas_pass_whatever_their_date() -> None:
    words = (
        "claude-code-20250219",
        "context-management-2099-01-01",
        "server-side-fallback-2026-06-01",
        "own-2026-01-01",
    )
    assert allowed_betas(words) == words[:2]
    assert allowed_betas(words, {"own"}) == (*words[:2], words[3])
    assert allowed_betas(words, {"own-2026-01-01"}) == (*words[:2], words[3])
    assert allowed_betas(words, {"*"}) == words
    assert allowed_betas(("pdfs-2024-09-25", "pdfs-2024-09-25")) == ("pdfs-2024-09-25",)
