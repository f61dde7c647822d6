"""OpenAI's chat answers read for the translators: every field, odd answers, any chunking."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.translation.chat_answer import (
    ChatAnswerReader,
    ChatDelta,
    ThinkingPiece,
    ToolCallPiece,
)
from llm_proxy.dialects.translation.usage import ChatUsage, finish_kind, read_chat_usage
from llm_proxy.errors import ProviderFailed

Json = dict[str, Any]


def frame(delta: Json, **choice: Any) -> bytes:
    event = {"id": "a", "model": "m", "created": 7, "choices": [{"index": 0, "delta": delta, **choice}]}
    return b"data: " + orjson.dumps(event) + b"\n\n"


def whole(message: Json, **answer: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return orjson.dumps({"id": "a", "model": "m", "created": 7, "choices": choices, **answer})


TOKEN = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
CALL = {"index": 1, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CITATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://a.example", "start_index": 0, "end_index": 1},
}
READ: list[tuple[Json, ChatDelta]] = [
    ({"content": "a", "role": "assistant"}, ChatDelta("a")),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ChatDelta("ab")),
    ({"refusal": "no", "content": None}, ChatDelta(refusal="no")),
    ({"reasoning_content": "so"}, ChatDelta(thinking=(ThinkingPiece("so"),))),
    ({"reasoning": "so"}, ChatDelta(thinking=(ThinkingPiece("so"),))),
    ({"reasoning": "so", "reasoning_content": "so"}, ChatDelta(thinking=(ThinkingPiece("so"),))),
    (
        {"reasoning_content": "so", "thinking_blocks": [{"type": "thinking", "thinking": "so"}]},
        ChatDelta(thinking=(ThinkingPiece("so"),)),
    ),
    (
        {
            "reasoning_content": "",
            "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}],
        },
        ChatDelta(thinking=(ThinkingPiece(signature="s"),)),
    ),
    (
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "d"}, {"type": "thinking"}, 5]},
        ChatDelta(thinking=(ThinkingPiece(redacted="d"),)),
    ),
    ({"tool_calls": [CALL]}, ChatDelta(tool_calls=(ToolCallPiece(0, "call_1", "f", "{}"),))),
    (
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "patch", "input": "x"}}]},
        ChatDelta(tool_calls=(ToolCallPiece(0, "c", "patch", "x", is_custom=True),)),
    ),
    (
        {"tool_calls": [{"index": 2, "function": {"arguments": "{"}}]},
        ChatDelta(tool_calls=(ToolCallPiece(0, text="{"),)),
    ),
    ({"content": "a", "annotations": [CITATION]}, ChatDelta("a", annotations=(CITATION,))),
    ({"images": [{"image_url": {"url": "data:image/png;base64,AA=="}}]},
     ChatDelta(images=("data:image/png;base64,AA==",))),
]  # fmt: skip


@pytest.mark.parametrize(("message", "delta"), READ)
def test_each_field_is_read_in_a_frame_and_in_an_answer(message: Json, delta: ChatDelta) -> None:
    assert ChatAnswerReader().feed(frame(message)) == [delta]
    assert ChatAnswerReader().read_answer(whole(message)) == delta


def test_log_probabilities_come_with_the_text_they_belong_to() -> None:
    chunk = frame({"content": "a"}, logprobs={"content": [TOKEN], "refusal": None})
    assert ChatAnswerReader().feed(chunk) == [ChatDelta("a", logprobs=(TOKEN,))]


def test_what_is_no_delta_is_an_attribute() -> None:
    reader = ChatAnswerReader()
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    last = b"data: " + orjson.dumps({"choices": [], "usage": usage, "service_tier": "flex"}) + b"\n\n"
    assert reader.feed(frame({"role": "assistant", "content": ""})) == []
    assert reader.feed(frame({}, finish_reason="length") + last) == []
    found = (reader.answer_id, reader.model, reader.created, reader.finish_reason, reader.service_tier)
    assert found == ("a", "m", 7, "length", "flex")
    assert reader.usage == ChatUsage(5, 2, 7)


@pytest.mark.parametrize("reply", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": 5}', b"<html>"])
def test_an_answer_without_choices_is_a_providers_failure(reply: bytes) -> None:
    with pytest.raises(ProviderFailed):
        ChatAnswerReader().read_answer(reply)


ODD: list[Json] = [
    {"content": 5, "tool_calls": {}, "thinking_blocks": "x", "annotations": 1, "images": [{}]},
    {"tool_calls": [5, None], "refusal": [], "reasoning": {}},
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_field_counts_as_absent(odd: Json) -> None:
    assert ChatAnswerReader().read_answer(whole(odd, usage=[], service_tier=5, created="x")) == ChatDelta()
    assert ChatAnswerReader().feed(frame(odd) + b"data: [1]\n\ndata: {bad\n\n: ping\n\n") == []


FRAMES = b"".join(frame(message) for message, _ in READ)


@given(st.lists(st.integers(0, len(FRAMES)), max_size=12))
def test_any_chunking_gives_the_same_deltas(cuts: list[int]) -> None:
    reader = ChatAnswerReader()
    edges = [0, *sorted(cuts), len(FRAMES)]
    deltas = [delta for start, end in pairwise(edges) for delta in reader.feed(FRAMES[start:end])]
    assert deltas == ChatAnswerReader().feed(FRAMES)


def test_calls_of_a_server_that_gives_each_the_same_index_are_several() -> None:
    calls: list[Json] = [
        {"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")
    ]
    more: Json = {"index": 0, "function": {"arguments": " "}}
    reader = ChatAnswerReader()
    deltas = reader.feed(b"".join(frame({"tool_calls": [call]}) for call in (*calls, calls[1], more)))
    told = [(piece.position, piece.call_id) for delta in deltas for piece in delta.tool_calls]
    assert told == [(0, "a"), (1, "b"), (1, "b"), (1, "")]
    nameless: list[Json] = [{"index": 0, "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    whole_calls = ChatAnswerReader().read_answer(whole({"tool_calls": nameless})).tool_calls
    assert [piece.position for piece in whole_calls] == [0, 1]


def test_the_parts_of_a_usage_are_read() -> None:
    usage = read_chat_usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {
                "cached_tokens": 40,
                "cache_creation_tokens": 30,
                "cache_creation_token_details": {
                    "ephemeral_1h_input_tokens": 10,
                    "ephemeral_5m_input_tokens": 20,
                },
            },
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
    )
    parts = {"cache_write_1h_tokens": 10, "cache_write_5m_tokens": 20}
    assert usage == ChatUsage(100, 20, 120, 40, 30, 10, 5, parts)
    assert usage is not None
    assert usage.uncached == 30
    assert read_chat_usage({"prompt_tokens": "7", "total_tokens": 7}) is None


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("stop", "stop"), ("function_call", "tool_calls"), ("length", "length"), (None, "stop"), ("eh", "stop")],
)
def test_a_finish_reason_is_one_of_four(reason: str | None, kind: str) -> None:
    assert finish_kind(reason) == kind
