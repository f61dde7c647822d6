"""A provider's message, cleaned: no secret, one line, the numbers, and nothing of the request."""

# ruff: noqa: E501, ISC004 -- messages stay in one piece where they fit a screen

import json
import re
import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_proxy.upstream.error_text import MAX_CHARS, MAX_COMPARED_BYTES, clean_message, without_request_text

ALNUM = string.ascii_letters + string.digits
KEY_CHARACTERS = st.text(ALNUM, min_size=20, max_size=64).filter(
    lambda text: any(one.isdigit() for one in text) and any(one.isalpha() for one in text)
)
HEX = st.text("0123456789abcdef", min_size=32, max_size=64).filter(
    lambda text: any(one.isdigit() for one in text) and any(one.isalpha() for one in text)
)
LABEL = st.text(string.ascii_lowercase, min_size=2, max_size=10)
SECRETS = st.one_of(
    st.builds("sk-{}".format, KEY_CHARACTERS),
    st.builds("sk-ant-api03-{}".format, KEY_CHARACTERS),
    st.builds("gsk_{}".format, KEY_CHARACTERS),
    st.builds("AIza{}".format, KEY_CHARACTERS),
    st.builds("AKIA{}".format, st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16)),
    st.builds("eyJ{0}.eyJ{0}.{0}".format, KEY_CHARACTERS),
    KEY_CHARACTERS,
    HEX,
    st.uuids().map(str),
    st.builds("https://{}.{}.com/v1/{}".format, LABEL, LABEL, LABEL),
    st.builds("{}.{}.svc.cluster.local:8000".format, LABEL, LABEL),
    st.builds("{}.internal".format, LABEL),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str).filter(lambda text: len(text) > 2),
    st.builds("{}@{}.com".format, LABEL, LABEL),
    st.builds("/{}/{}/config.yaml".format, LABEL, LABEL),
    st.builds("org-{}".format, KEY_CHARACTERS),
    st.builds("req_{}".format, KEY_CHARACTERS),
    st.builds("arn:aws:bedrock:eu-west-1:123456789012:{}/{}".format, LABEL, LABEL),
)
FRAMES = st.sampled_from(
    [
        "Incorrect API key provided: {}.",
        "The model `{}` does not exist",
        "Rate limit reached in organization {} on tokens per min",
        "cannot connect to {}, try again",
        "({})",
        "'{}' is wrong",
        "url={} failed",
        "litellm.BadRequestError: OpenAIException - {} was refused",
    ]
)


@given(FRAMES, SECRETS)
def test_no_secret_survives(frame: str, secret: str) -> None:
    """Wherever it stands."""
    cleaned = clean_message(frame.format(secret))
    assert secret not in cleaned
    assert secret.rpartition("/")[2] not in cleaned or len(secret.rpartition("/")[2]) < 6


@given(
    st.one_of(
        st.text(max_size=3000), st.lists(st.one_of(SECRETS, st.text(max_size=40)), max_size=40).map(" ".join)
    )
)
@example("AA\\\x1bn")
@example("AA\\\\n")
@example("AA\\()n")
@example("AA\\u005cu005cn")
def test_a_cleaned_message_is_one_bounded_line_and_idempotent(text: str) -> None:
    """For any text."""
    cleaned = clean_message(text)
    assert len(cleaned) <= MAX_CHARS
    assert cleaned.isprintable()
    assert clean_message(cleaned) == cleaned
    cleaned.encode()


@given(st.integers(0, 9_999_999_999), st.integers(0, 9_999_999_999))
def test_numbers_are_kept(asked: int, most: int) -> None:
    """Clients read them."""
    for frame in (
        "prompt is too long: {} tokens > {} maximum",
        "This model's maximum context length is {} tokens. However, you requested {} tokens.",
        "max_tokens: {} > {}",
    ):
        assert clean_message(frame.format(asked, most)) == frame.format(asked, most)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
        "The model claude-sonnet-4-20250514 or meta-llama/Llama-3.1-8B-Instruct does not exist",
        "messages.0.content.1.image.source.base64: invalid base64 data",
        "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum length 40.",
        "response_format.json_schema.name must match '^[a-zA-Z0-9_-]{1,64}$'",
        "The seed must be <= 9223372036854775807",
        "Invalid schema for function 'f': In context=('properties', 'x'), array schema missing items.",
        "generate_content_free_tier_requests, limit: 20, 3 per min and/or 1/2",
    ],
)
def test_names_of_models_fields_and_values_are_kept(message: str) -> None:
    """Unchanged."""
    assert clean_message(message) == message


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        (
            "litellm.BadRequestError: AnthropicException - bad. Received Model Group=dear\nAvailable Model Group "
            "Fallbacks=['cheap']",
            "bad.",
        ),
        ("Error code: 400 - no such thing LiteLLM Retried: 2 times, LiteLLM Max Retries: 3", "no such thing"),
        ('boom\nTraceback (most recent call last):\n  File "/app/main.py", line 3, in f', "boom"),
        (
            "gpt-5 models don't support temperature=0.2. Only temperature=1 is supported. To drop unsupported params "
            "set `litellm.drop_params = True`",
            "gpt-5 models don't support temperature=0.2. Only temperature=1 is supported.",
        ),
        (
            "litellm.BadRequestError: Anthropic requires at least one non-system message. Either provide one, or set "
            "`litellm.modify_params = True` // `litellm_settings::modify_params: True` to add the dummy user message",
            "Anthropic requires at least one non-system message.",
        ),
        (
            "1 validation error for Request\nseed\n  Field required [type=missing, input_value={'a': 1}, "
            "input_type=dict]\n    For further information visit https://errors.pydantic.dev/2.11/v/missing",
            "1 validation error for Request seed Field required",
        ),
        ("see http%3A%2F%2F10.1.2.3%3A8000%2Fv1 for more", "see [removed] for more"),
        (
            "bad key -----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAAEF\n-----END PRIVATE KEY----- given",
            "bad key [removed] given",
        ),
        ("bad key -----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B", "bad key [removed]"),
        ("{'error': 'x'}", ""),
        ("[removed]", ""),
    ],
)
def test_wrapping_and_tracebacks_are_removed(message: str, cleaned: str) -> None:
    """What LiteLLM and Python add is not the provider's."""
    assert clean_message(message) == cleaned


@pytest.mark.parametrize(
    "name",
    [
        "gpu01",
        "gpu-node-3",
        "my-internal-host.prod",
        "llm-7",
        "vllm-a",
        "prod-llm-2:8000",
        "db.staging",
        "llama-server-2",
    ],
)
@pytest.mark.parametrize(
    "message",
    [
        "connect to {} failed",
        "Cannot connect to host '{}'",
        "no answer from {}: connection refused",
        "Could not resolve {}.",
        "dial tcp: lookup {}: no such host",
        "getaddrinfo ENOTFOUND {}",
        "APIConnectionError: Error at {}",
        "upstream request to {} timed out",
    ],
)
def test_no_private_host_name_survives(message: str, name: str) -> None:
    """With or without a port or a domain."""
    cleaned = clean_message(message.format(name))
    assert name.partition(":")[0] not in cleaned
    assert "removed" in cleaned or not cleaned


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("my-internal-host.prod said no", "[removed] said no"),
        ("out of memory on gpu-node-3 and worker12", "out of memory on [removed] and [removed]"),
        ("server prod-llm-2 is full", "server [removed] is full"),
    ],
)
def test_a_host_name_is_recognised_in_any_message(message: str, cleaned: str) -> None:
    """By its form, or by the word before it."""
    assert clean_message(message) == cleaned


@pytest.mark.parametrize(
    "message",
    [
        "please switch to gpt-4o-mini",
        "The request to gpt-5 timed out",
        "The connection to claude-sonnet-4-20250514 broke",
        "cannot convert the image to base64",
        "set tools.0.test to read-only",
        "messages.0.content.test is from 2024-06-01",
        "The server had an error processing your request",
        "Invalid 'node1': expected an object",
    ],
)
def test_what_is_no_host_name_is_kept(message: str) -> None:
    """Models, fields, dates and plain words."""
    assert clean_message(message) == message


WORDS = st.text(string.ascii_letters.replace("u", "") + " \"'\\\n\täöüß世界", min_size=24, max_size=200)


@given(WORDS, st.booleans())
def test_nothing_of_the_request_is_kept(prompt: str, as_json: bool) -> None:  # noqa: FBT001 -- a parameter
    """However the provider quotes it."""
    request = json.dumps({"messages": [{"role": "user", "content": prompt}]}, ensure_ascii=False).encode()
    quoted = json.dumps({"content": prompt}, ensure_ascii=False) if as_json else repr({"content": prompt})
    kept = without_request_text(f"cannot read this: {quoted} !", request)
    assert kept is not None
    bare, said = (re.sub(r"\\+[nrtbf]?|[\s\"'`]", "", text).lower() for text in (kept, prompt))
    assert not any(said[at : at + 24] in bare for at in range(max(0, len(said) - 23)))


def test_escaped_letters_are_the_same_letters() -> None:
    """As in ASCII-only JSON."""
    request = json.dumps({"prompt": "größere Wörter über äußerst süße Äpfel"}, ensure_ascii=False).encode()
    kept = without_request_text(json.dumps("größere Wörter über äußerst süße Äpfel"), request)
    assert kept is not None
    assert "Wörter" not in kept


@given(st.text("a-.:/_@ 0A'\"{}[]=*%\\", min_size=1, max_size=8))
def test_no_repetition_takes_long(piece: str) -> None:
    """A backtracking pattern would stop the gateway for all callers."""
    began = time.process_time()
    clean_message((piece * 2000)[:2000])
    assert time.process_time() - began < 1


def test_text_the_request_does_not_have_is_kept() -> None:
    """And its short words too."""
    request = json.dumps({"model": "m", "temperature": 0.2, "messages": "a quick brown fox"}).encode()
    message = "temperature does not support 0.2, said the fox"
    assert without_request_text(message, request) == message
    assert without_request_text(message, b"") == message


@given(
    st.text("abc", min_size=24, max_size=60),
    st.integers(0, 40),
    st.text("abcd", max_size=40),
    st.integers(0, 40),
)
def test_an_echo_is_found_wherever_it_stands(echo: str, before: int, other: str, after: int) -> None:
    """On either side, at any distance from a block's border, next to similar text."""
    request = ("x" * before + other + echo + "y" * after).encode()
    kept = without_request_text(f"{other} wrong: {echo}; {other}", request)
    assert kept is not None
    assert echo not in kept
    assert "wrong:" in kept


HOSTILE = {
    "near misses": (("a" * 15 + "b"), "a" * 15 + "c"),
    "hits in every block": ("a" * 8 + "bcdefghi", "a" * 16 + "c"),
    "escapes": ("\\n", "\\n" * 7 + "a"),
    "one letter": ("a", "a"),
}


@pytest.mark.parametrize(("prompt", "echo"), HOSTILE.values(), ids=HOSTILE)
def test_the_time_of_a_comparison_is_bounded(prompt: str, echo: str) -> None:
    """The longest compared request takes a moment; a longer one is not read."""
    longest = (prompt * MAX_COMPARED_BYTES)[:MAX_COMPARED_BYTES].encode()
    began = time.process_time()
    assert without_request_text(echo * 500, longest) is not None
    assert without_request_text(echo * 500, longest + b"a") is None
    assert time.process_time() - began < 2


def test_an_echo_is_removed_up_to_the_longest_compared_request() -> None:
    """At its very end too."""
    echo = "the quick brown fox jumps over the lazy dog"
    request = echo.encode().rjust(MAX_COMPARED_BYTES, b".")
    assert without_request_text(f"wrong: {echo}", request) == "wrong:  [removed] "
