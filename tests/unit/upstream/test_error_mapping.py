"""A sidecar's errors become OpenAI's status, code and param, with a cleaned message."""

# ruff: noqa: E501, ISC004 -- messages stay in one piece where they fit a screen

import time
from collections.abc import Iterator, KeysView
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.upstream.error_kinds import concerns_one_field, find_named_field
from llm_proxy.upstream.error_mapping import map_error, map_stream_error

LITELLM_422 = (
    "litellm.BadRequestError: GeminiException - Error converting to valid response block=Expecting value: "
    "line 1 column 1 (char 0). File an issue if litellm error - https://github.com/"
)
TOO_LONG = (
    'b\'{"error": {"message": "The input token count (12) exceeds the maximum number of tokens allowed."}}\'',
    "AnthropicException - prompt is too long: 210000 tokens > 200000 maximum",
    "AnthropicException - input length and `max_tokens` exceed context limit: 199000 + 4000 > 200000",
    "BedrockException - Input is too long for requested model.",
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
    "the request exceeds the available context size, try increasing it",
    "The prompt (total length 9001) is too long to fit into the model (context length 8192).",
    "Too many input tokens. Max input tokens: 8192, request input token count: 9001",
    "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length "
    "of only 4096 tokens, which is not enough.",
    "Unable to submit request because the input token count is 40000 but model only supports up to 32768.",
    "Invalid request: Your request exceeded model token limit: 8192 (requested: 9001)",
    "prompt token count of 140000 exceeds the limit of 128000",
    "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]",
    "The estimated number of input and maximum output tokens (9001) exceeded this model context window limit (8192).",
    "invalid params, context window exceeds limit (2013)",
    "Prompt exceeds max length",
    "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens).",
    "Malformed input request: expected maxLength: 50000, actual: 60000, please reformat your input and try again.",
    "Request body too large for gpt-4o model. Max size: 8000 tokens.",
    "prompt too long; exceeded max context length by 12 tokens",
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
    "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens "
    "and your request has 12 input tokens.",
    "Malformed input request: #/inputText: expected maxLength: 50000, actual: 60000, please reformat your input.",
    "Please reduce the length of the messages or completion. Current length is 9001 while limit is 8192",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
)


def _body(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None}})


@pytest.mark.parametrize("message", TOO_LONG)
@pytest.mark.parametrize("headers", [{}, {"x-llmp-provider-status": "400"}], ids=["LiteLLM", "our sidecar"])
def test_a_prompt_too_long_is_recognised_in_every_providers_wording(
    message: str, headers: dict[str, str]
) -> None:
    """Streamed or not: LiteLLM knows some of them only one way."""
    error = map_error(400, headers, _body(message), model="m")
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")


OF_A_PART = (
    "Invalid 'messages[0].name': string too long. Expected a string with maximum length 64, but got a string with length 70 instead.",
    "Invalid 'tools[3].function.description': string too long. Expected a string with maximum length 1024.",
    "Invalid 'user': string too long. Expected a string with maximum length 64.",
    "tools.0.custom.name: String should have at most 128 characters",
    "`metadata.k` exceeds the maximum allowed length of 512",
    "stop: exceeds the maximum allowed content length",
    "The tool's name is longer than the maximum allowed length",
    "Malformed input request: #/stop_sequences/0: expected maxLength: 100, actual: 200, please reformat.",
    "max_tokens (100000) exceeds the maximum number of tokens allowed (8192)",
    '"system" is too long: the input is too long',
)


@pytest.mark.parametrize("message", OF_A_PART)
def test_a_field_too_long_keeps_the_providers_code(message: str) -> None:
    """LiteLLM calls some of them context errors; a client would shorten its prompt in vain."""
    headers = {"x-llmp-attempts": "1", "x-llmp-message": message, "x-llmp-provider-status": "400"}
    body = _body(f"litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - {message}")
    error = map_error(400, {**headers, "x-llmp-provider-code": "invalid_value"}, body, model="m")
    assert (error.status, error.code) == (400, "invalid_value")
    error = map_error(400, {**headers, "x-llmp-provider-code": "context_length_exceeded"}, body, model="m")
    assert error.code == "context_length_exceeded"


@given(
    st.sampled_from(("metadata", "name", "stop", "system", "tools", "user", "messages[0].name", "prompt.id")),
    st.sampled_from(("'{}': {}", "`{}` {}", "{}: {}", 'The value of "{}" is wrong: {}')),
    st.sampled_from(TOO_LONG),
)
def test_no_message_about_one_field_is_a_context_error(field: str, form: str, words: str) -> None:
    """Unless the provider's code says so."""
    headers = {
        "x-llmp-attempts": "1",
        "x-llmp-message": form.format(field, words),
        "x-llmp-provider-status": "400",
    }
    assert map_error(400, headers, b"{}", model="m").code is None
    param = {**headers, "x-llmp-message": words, "x-llmp-provider-param": field}
    assert map_error(400, param, b"{}", model="m").code is None


@pytest.mark.parametrize("headers", [{}, {"x-llmp-provider-status": "422"}], ids=["LiteLLM", "our sidecar"])
def test_an_unreadable_answer_is_the_providers_fault(headers: dict[str, str]) -> None:
    """Not the caller's, though LiteLLM calls it 422."""
    error = map_error(422, headers, _body(LITELLM_422), model="m")
    assert (error.status, error.code, error.origin) == (502, "provider_error", "provider")


def test_a_model_unknown_to_the_provider_is_the_providers_error() -> None:
    """404 as for a name that is not served, with the provider as origin."""
    headers = {"x-llmp-provider-status": "404"}
    error = map_error(404, headers, _body("no such model"), model="m")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.origin == "provider"


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (400, {"code": "invalid_request_error", "type": "invalid_request_error"}, None),
        (400, {"code": "invalid_value", "type": "invalid_request_error"}, "invalid_value"),
        (413, {"code": "request_too_large", "type": "request_too_large"}, "request_too_large"),
        (413, {}, "request_too_large"),
        (422, {"code": "INVALID_ARGUMENT", "type": "INVALID_ARGUMENT"}, None),
    ],
)
def test_a_type_is_not_taken_for_a_code(status: int, said: dict[str, str], code: str | None) -> None:
    """Some providers have only a type."""
    headers = {"x-llmp-provider-status": str(status)} | {f"x-llmp-provider-{n}": v for n, v in said.items()}
    error = map_error(status, headers, _body("no"), model="m")
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize(
    ("status", "text", "code", "message"),
    [
        (
            400,
            "litellm.BadRequestError: OpenAIException - Unsupported value: 'temperature' does not support 0.2 "
            "with this model.. Received Model Group=gpt\nAvailable Model Group Fallbacks=None",
            None,
            "Unsupported value: 'temperature' does not support 0.2 with this model..",
        ),
        (
            400,
            'litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":'
            '"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}',
            "context_length_exceeded",
            "prompt is too long: 210000 tokens > 200000 maximum",
        ),
        (
            400,
            "something of its own",
            None,
            "The model's provider rejected the request as invalid (request r1).",
        ),
        (
            500,
            'litellm.InternalServerError: AnthropicException - {"error":{"type":"overloaded_error","message":'
            '"Overloaded"}}. Handle with `litellm.InternalServerError`.',
            "provider_overloaded",
            "The model's provider is overloaded; please try again later.",
        ),
    ],
)
def test_an_unmodified_litellm_quotes_the_provider(
    status: int, text: str, code: str | None, message: str
) -> None:
    """Its wrapping is removed; a text without it is not the provider's."""
    error = map_error(status, {"llm_provider-date": "x"}, _body(text), model="m", request_id="r1")
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("gpt-5 models don't support temperature=0.2. Only temperature=1 is supported.", "temperature"),
        (
            "litellm.UnsupportedParamsError: gpt-5 does not support reasoning_effort='none'",
            "reasoning_effort",
        ),
        ("o3 does not support parameters: ['logprobs'], for model=o3", "logprobs"),
        ("Function calling is not supported by petals.", None),
        ("tools.0.custom.name: String should have at most 128 characters", "tools.0.custom.name"),
        ("Setting `seed` is not supported by that model", "seed"),
        ("Invalid 'messages[1].content': expected a string", "messages[1].content"),
        ("the model stopped as the user asked in the messages", None),
    ],
)
def test_the_field_at_fault_is_the_one_in_the_message(message: str, field: str | None) -> None:
    """And one the request has; never a guess."""
    body = _body(f"litellm.UnsupportedParamsError: {message}")
    fields = ("model", "messages", "temperature", "tools", "reasoning_effort", "logprobs", "seed", "user")
    headers = {"x-llmp-origin": "litellm", "x-llmp-message": message, "x-llmp-attempts": "1"}
    error = map_error(400, headers, body, model="m", fields=fields)
    assert (error.param, error.code) == (field, "unsupported_parameter")
    assert "litellm" not in error.message


@pytest.mark.parametrize("message", ["a" * 15 + "c", "word ", "'x' ", "Invalid 'temperature': 3. "])
def test_a_large_request_costs_no_time_and_its_echo_is_not_kept(message: str) -> None:
    """Neither its length nor the number of its fields makes an error expensive."""
    fields = {f"field{number}": None for number in range(200_000)}
    sent_body = (b"a" * 15 + b"b") * (19 * 2**16)
    headers = {"x-llmp-provider-status": "400", "x-llmp-message": message * 100}
    began = time.process_time()
    error = map_error(400, headers, b"{}", model="m", fields=fields.keys(), sent_body=sent_body)
    event = {"code": "400", "message": message * 10**6, "provider": headers}
    streamed = map_stream_error(event, fields=fields.keys(), sent_body=lambda: sent_body)
    assert time.process_time() - began < 5
    for one in (error, streamed):
        assert one.provider_message == "status 400, message not kept: the request is too large to compare"


class _Fields(KeysView[str]):
    """Fields that must not be iterated."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("temperature is wrong, not 'top_p'", "temperature"),
        ("'top_p.a[3]' is wrong", "top_p.a[3]"),
        ("top_p: wrong", "top_p"),
        ("wrong: x-top, a.top_p, top_p-x", None),
        ("no 'user' for `x-tra`", "user"),
        ("the user asked for x-tra", "x-tra"),
    ],
)
def test_only_the_message_is_searched_for_fields(message: str, named: str | None) -> None:
    """A caller may send as many fields as fit in a request."""
    fields = _Fields(dict.fromkeys(("temperature", "top_p", "user", "x-tra")))
    assert find_named_field(message, fields) == named
    assert concerns_one_field(f"{message} 'top_p' is too long", None, fields)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error: Image size (60.00MB) exceeds maximum allowed size (50MB). url={}", "too large"),
        ("Error: Unable to determine image content type from the server's headers. url={}", "type"),
        ("Error: Image URL download is disabled (MAX_IMAGE_URL_DOWNLOAD_SIZE_MB=0). url={}", "not fetched"),
        ("gaierror: no; Error: Unable to fetch image from URL after 3 attempts. url={}", "could not be"),
    ],
)
def test_a_link_that_was_not_fetched_is_named(said: str, words: str) -> None:
    """Of several, that one; the reason where it is the file's."""
    links = [f"https://a.example/{name}" for name in "ab"]
    parts = [{"type": "image_url", "image_url": {"url": link}} for link in links]
    sent = orjson.dumps({"messages": [{"role": "user", "content": parts}]})
    for at, link in enumerate(links):
        headers = {"x-llmp-origin": "link", "x-llmp-message": quote(said.format(link))}
        error = map_error(400, headers, b"", model="m", fields=("messages",), sent_body=sent)
        place = f"messages[0].content[{at}].image_url.url"
        assert (error.status, error.code, error.param) == (400, "url_not_fetched", place)
        assert words in error.message
        assert error.origin == "gateway"
        assert link not in error.message + str(error.provider_message)


def test_a_link_that_is_not_told_is_not_guessed() -> None:
    """A request without one, or that is no object, has no place."""
    for sent in (b"", b"[]", b"form", b'{"messages": []}'):
        error = map_error(
            400, {"x-llmp-origin": "link", "x-llmp-message": "x"}, b"", model="m", sent_body=sent
        )
        assert (error.param, error.message) == (None, "A link could not be fetched for the provider.")


def test_a_connection_error_is_recognised_beside_a_large_request() -> None:
    """By its class."""
    headers = {"x-llmp-origin": "connection", "x-llmp-message": "ConnectError: All attempts failed"}
    error = map_error(503, headers, b"{}", model="m", sent_body=b"a" * 10**6)
    assert error.provider_message == "ConnectError"


def test_a_broken_stream_does_not_read_its_request() -> None:
    """It has no provider's message to compare."""

    def sent_body() -> bytes:
        raise AssertionError

    assert map_stream_error({"code": "upstream_stream_cut"}, sent_body=sent_body).provider_message is None
