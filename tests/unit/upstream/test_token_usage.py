"""Tokens of an answer: stated, estimated, zero."""

import json

import pytest

from llm_proxy.quantities import USAGE_HEADER, Quantities, encode_usage
from llm_proxy.upstream.stream_filter import StreamFilter
from llm_proxy.upstream.token_usage import (
    TokenUsage,
    estimate_answer_tokens,
    estimate_usage,
    is_zero,
    read_usage,
    usage_in_header,
)


def frame(text: str, *, escaped: bool = False) -> bytes:
    event = {"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(event, ensure_ascii=escaped).encode() + b"\n\n"


def estimate(*frames: bytes) -> int:
    stream = StreamFilter(wants_usage=False)
    for one in frames:
        stream.feed(one)
    return stream.content_tokens()


def test_a_frame_of_one_short_word_is_one_token() -> None:
    """Providers that send a frame for each token are counted by frames."""
    assert estimate(*[frame("a")] * 12) == 12


def test_a_frame_of_many_words_is_counted_by_its_bytes() -> None:
    """Providers that put a paragraph into a frame are counted by text."""
    assert estimate(frame("x" * 400), frame("y" * 40), frame("z" * 160)) == 150


@pytest.mark.parametrize("escaped", [False, True])
def test_escaped_text_counts_as_unescaped(escaped: bool) -> None:  # noqa: FBT001 -- a parameter
    """Cyrillic letters count as two bytes of text, written out or escaped."""
    assert estimate(*[frame("слово" * 20, escaped=escaped)] * 3) == 150


def test_arguments_of_tools_count_as_text() -> None:
    """A stream of tool calls has its tokens in their arguments."""
    call = {"index": 0, "function": {"arguments": "a" * 80}}
    raw = json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode()
    assert estimate(b"data: " + raw + b"\n\n") == 20


def test_an_empty_stream_used_no_tokens() -> None:
    """It broke before its first frame."""
    assert estimate() == 0


def test_an_answer_is_estimated_by_all_its_choices() -> None:
    """Chats, text completions and embeddings: four bytes a token."""
    chat = {"choices": [{"message": {"content": "a" * 20}}, {"message": {"content": "b" * 20}}]}
    assert estimate_answer_tokens(json.dumps(chat).encode()) == 10
    assert estimate_answer_tokens(json.dumps({"choices": [{"text": "c" * 8}]}).encode()) == 2
    assert estimate_answer_tokens(json.dumps({"data": [{"embedding": [0.1] * 99}]}).encode()) == 0
    assert estimate_answer_tokens(b"not json") == 0


def test_zeros_are_a_statement_and_missing_counts_are_none() -> None:
    """A provider may state that nothing was used."""
    stated = read_usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert stated is not None
    assert is_zero(stated)
    assert read_usage({}) is None
    assert read_usage({"prompt_tokens": None, "completion_tokens": "2"}) is None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"object": "chat.completion", "choices": [{"message": {"content": "a" * 40}}]}, (9, 10, 19)),
        ({"object": "list", "data": [{"embedding": [0.1]}]}, (9, None, 9)),
    ],
)
def test_an_answer_without_usage_gets_an_estimate(
    document: dict[str, object], expected: tuple[int, int | None, int]
) -> None:
    """In OpenAI's shape; embeddings have no completion."""
    usage = estimate_usage(document, 9)
    assert tuple(map(usage.get, ("prompt_tokens", "completion_tokens", "total_tokens"))) == expected


def test_usage_that_the_sidecar_states_in_a_header() -> None:
    """Tokens and their parts, quantities, and the cost in nano-dollars, rounded up."""
    tokens = {
        "prompt_tokens": 9, "completion_tokens": 4160, "cached_tokens": 0, "prompt_image_tokens": 5,
        "reasoning_tokens": 1, "cache_write_tokens": 2, "completion_text_tokens": 0,
    }  # fmt: skip
    header = encode_usage(tokens, Quantities(images=1), 0.0400000001)
    assert usage_in_header({USAGE_HEADER.encode(): header.encode()}) == TokenUsage(
        9,
        4160,
        0,
        1,
        40_000_001,
        cache_write_tokens=2,
        details='{"prompt_image_tokens":5}',
        quantities=Quantities(images=1),
    )


@pytest.mark.parametrize("stated", [None, b"", b"{}", b'{"cost": "much"'])
def test_a_header_that_states_no_usage_is_none(stated: bytes | None) -> None:
    """An unmodified LiteLLM sends no header; a broken one states nothing."""
    headers = {} if stated is None else {USAGE_HEADER.encode(): stated}
    assert usage_in_header(headers) is None


def test_a_cost_that_is_none_is_unknown() -> None:
    """The quantities beside it are known."""
    usage = usage_in_header({USAGE_HEADER.encode(): b'{"images":1,"cost":"-1"}'})
    assert usage == TokenUsage(0, 0, quantities=Quantities(images=1))
