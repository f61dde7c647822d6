"""Frames that differ in their text alone are read, and rendered, by what they have in common."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.dialects.responses import chat_frames

from llm_proxy.dialects.dialect import ResponseMeta, StreamRenderer
from llm_proxy.dialects.messages.request import MessagesContext
from llm_proxy.dialects.messages.stream import MessagesStream
from llm_proxy.dialects.translation.chat_answer import (
    ChatAnswerReader,
    ChatDelta,
    ThinkingPiece,
    ToolCallPiece,
)

Json = dict[str, Any]
ENVELOPES: list[Json] = [
    {}, {"finish_reason": None}, {"finish_reason": "length"}, {"logprobs": None}, {"index": 1},
    {"logprobs": {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}},
]  # fmt: skip
CALLS: list[Json] = [
    {"tool_calls": [{"index": at, "id": f"call_{own}", "function": {"name": "f", "arguments": given}}]}
    for at, own in ((0, 0), (1, 1), (0, 2))
    for given in ('{"a":', '{"a":1}')
]
OTHER: list[Json] = [
    *CALLS, {"tool_calls": [{"index": 0, "id": "call_0", "function": {"arguments": "1}"}}]},
    {"reasoning_content": "so"}, {"refusal": "no"}, {}, {"content": None}, {"content": ["a"]},
    {"content": "a", "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]},
]  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(["a", "", '"', "\\", '"}', '","x":"', "\n\n", "\x00"]),
)


def plain(text: str, **choice: Any) -> bytes:
    """A frame with a text."""
    return chat_frames.frame({"content": text}, **choice)


def spaced(frame: bytes) -> bytes:
    """The same frame as servers in Python write it."""
    return b"data: " + json.dumps(orjson.loads(frame[6:])).encode() + b"\n\n"


DELTAS: list[Callable[[str], Json]] = [
    lambda text: {"content": text},
    lambda text: {"content": text, "role": "assistant", "refusal": None, "tool_calls": None},
    lambda text: {"reasoning_content": text},
    lambda text: {"reasoning": text, "reasoning_content": text},
    lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
    lambda text: {"tool_calls": [{"index": 1, "id": None, "function": {"name": None, "arguments": text}}]},
    lambda text: {"tool_calls": [{"index": 0, "id": "call_0", "function": {"arguments": text}}]},
    lambda text: {"tool_calls": [{"index": 0, "custom": {"input": text}}]},
    lambda text: {"thinking_blocks": [{"type": "thinking", "thinking": text, "signature": ""}]},
]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """The frames of a stream: strings, a few in each envelope, and other deltas between them."""
    frames: list[bytes] = []
    for _ in range(draw(st.integers(1, 5))):
        envelope, delta = draw(st.sampled_from(ENVELOPES)), draw(st.sampled_from(DELTAS))
        some = [chat_frames.frame(delta(text), **envelope) for text in draw(st.lists(TEXTS, max_size=5))]
        some += [chat_frames.frame(other) for other in draw(st.lists(st.sampled_from(OTHER), max_size=1))]
        frames += map(spaced, some) if draw(st.booleans()) else some
    return frames


def never_whole(frames: list[bytes]) -> list[bytes]:
    """The same bytes in pieces of which none is a frame."""
    pieces: list[bytes] = []
    rest = b""
    for frame in frames:
        pieces.append(rest + frame[:-3])
        rest = frame[-3:]
    return [*pieces, rest]


def open_messages() -> StreamRenderer:
    """A stream of Messages."""
    return MessagesStream("m", MessagesContext(wants_thinking=True))


def open_response() -> StreamRenderer:
    """A stream of a response without a key to seal with, which would differ each time."""
    return chat_frames.stream(chat_frames.context(), seal=None)


@pytest.mark.parametrize("open_stream", [open_messages, open_response])
@given(frames=streams())
def test_frames_one_by_one_give_the_same_events(
    open_stream: Callable[[], StreamRenderer], frames: list[bytes]
) -> None:
    """Which text is where, what is said around it, and how it is written: none of that matters."""
    frames = [*map(chat_frames.frame, (CALLS[0], CALLS[2])), *frames, chat_frames.ending()]
    one_by_one, in_pieces = open_stream(), open_stream()
    events = b"".join(map(one_by_one.feed, frames)) + one_by_one.end(ResponseMeta())
    assert events == b"".join(map(in_pieces.feed, never_whole(frames))) + in_pieces.end(ResponseMeta())


@given(frames=streams())
def test_frames_one_by_one_give_the_same_deltas(frames: list[bytes]) -> None:
    """Of each of several choices, too."""
    for choice in (None, 0, 1):
        one_by_one, in_pieces = ChatAnswerReader(choice), ChatAnswerReader(choice)
        deltas = [delta for frame in frames for delta in one_by_one.feed(frame)]
        assert deltas == [delta for piece in never_whole(frames) for delta in in_pieces.feed(piece)]
        assert one_by_one.frames == in_pieces.frames
        assert one_by_one.finish_reason == in_pieces.finish_reason


ALIKE: list[tuple[Callable[[str], Json], Callable[[str], ChatDelta]]] = [
    (DELTAS[2], lambda text: ChatDelta(thinking=(ThinkingPiece(text),))),
    (DELTAS[4], lambda text: ChatDelta(tool_calls=(ToolCallPiece(0, text=text),))),
    (DELTAS[6], lambda text: ChatDelta(tool_calls=(ToolCallPiece(0, "call_0", text=text),))),
]


@pytest.mark.parametrize(("delta", "read"), ALIKE)
def test_thoughts_and_arguments_are_read_like_texts(
    delta: Callable[[str], Json], read: Callable[[str], ChatDelta]
) -> None:
    """They are no text; a call that begins has other arguments than the one before."""
    reader = ChatAnswerReader()
    reader.feed(chat_frames.frame(CALLS[0]))
    for text in ("one", '"two"', "", "three"):
        found = [read(text)] if text or read(text).tool_calls else []
        assert reader.feed(chat_frames.frame(delta(text))) == found
        assert reader.text_of(chat_frames.frame(delta("four"))) is None
    (begun,) = reader.feed(chat_frames.frame(CALLS[4]))
    assert begun.tool_calls[0].position == 1
    (later,) = reader.feed(chat_frames.frame(delta("five")))
    assert [piece.position for piece in later.tool_calls] in ([], [1])


@pytest.mark.parametrize("written", [bytes, spaced])
@pytest.mark.parametrize("choice", [{}, {"finish_reason": None, "logprobs": None}])
def test_a_text_is_read_where_the_one_before_stood(written: Callable[[bytes], bytes], choice: Json) -> None:
    """Without the rest of its frame, from the second frame on."""
    reader = ChatAnswerReader()
    assert reader.text_of(written(plain("one", **choice))) is None
    reader.feed(written(plain("one", **choice)))
    for text in ("two", ' "three" \\ \n', "\u20ac\x07"):
        assert reader.text_of(written(plain(text, **choice))) == text
    assert reader.frames == 4


@pytest.mark.parametrize(
    "frame",
    [
        plain("b", finish_reason="stop"),
        plain(""),
        plain("b") + plain("c"),
        plain("b")[:-1],
        plain("b").replace(b'"b"', b"null"),
        plain("b").replace(b'"b"', b'"b'),
        plain("b").replace(b'"b"', b'"\xff"'),
        plain("b").replace(b'"b"', b'"b","role":"assistant"'),
        plain("b").replace(b'"b"', b'\n"b"'),
        plain("b").replace(b"chatcmpl-1", b"chatcmpl-2"),
    ],
)
def test_any_other_frame_is_left_to_be_read_whole(frame: bytes) -> None:
    reader = ChatAnswerReader()
    reader.feed(plain("a"))
    assert reader.text_of(frame) is None
    assert reader.frames == 1
    assert reader.text_of(plain("b")) == "b"


@pytest.mark.parametrize(
    "frame",
    [
        b'data: {"content":"a","choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a","content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\u0061"}}]}\n\n',
        b'event: chunk\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
    ],
)
def test_a_frame_whose_text_is_not_found_for_certain_is_no_form(frame: bytes) -> None:
    """It says its text in two places, or in another spelling."""
    reader = ChatAnswerReader()
    for _ in range(3):
        assert reader.text_of(frame) is None
        assert reader.feed(frame) == [ChatDelta("a")]


def test_envelopes_that_change_with_each_frame_are_soon_not_compared_any_more() -> None:
    """OpenAI pads each frame to another length where its caller does not forbid that."""
    reader = ChatAnswerReader()
    for at in range(20):
        frame = plain("word", padding="x" * at)
        assert reader.feed(frame) == [ChatDelta("word")]
    assert reader.text_of(plain("word", padding="x" * 19)) is None
