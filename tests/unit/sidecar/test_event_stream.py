"""A provider's bytes become events by the specification, however they are chunked."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.sidecar import event_stream
from llm_proxy.sidecar.event_stream import EventDecoder, EventTooLong, ServerSentEvent

SEPARATORS = "\u2028\u2029\u0085\u000b\u000c\u001c\u001d\u001e"
"""Characters at which `str.splitlines` ends a line, and the specification does not."""
ODD = f'data: {{"a":"x{SEPARATORS}y"}}'
PARTS = st.sampled_from(
    [
        ODD,
        "data:no space",
        'data: {"b": 1}',
        'data: {"b":',
        "data: 1}",
        "data",
        "data:",
        ": a comment",
        ":",
        "event: error",
        "event:",
        "id: 7",
        "retry: 10",
        "unknown: field",
        "data: [DONE]",
        "data: é\U0001f600",
        "",
    ]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def events(raw: bytes, cuts: list[int] | None = None) -> list[ServerSentEvent]:
    """Return a decoder's events of bytes that came in these pieces."""
    decoder, found, start = EventDecoder(), list[ServerSentEvent](), 0
    for cut in [*sorted(one % (len(raw) + 1) for one in cuts or []), len(raw)]:
        found += decoder.feed(raw[start:cut])
        start = cut
    return found + decoder.flush()


@given(
    st.lists(st.tuples(PARTS, ENDS), max_size=12),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.booleans(),
)
def test_any_chunking_gives_the_same_events(
    lines: list[tuple[str, str]],
    cuts: list[int],
    marked: bool,  # noqa: FBT001 -- a drawn value
) -> None:
    """With any line ends, mixed, with or without a byte order mark."""
    text = "".join(line + end for line, end in lines)
    raw = text.encode()
    whole = events(raw)
    assert events((b"\xef\xbb\xbf" if marked else b"") + raw, cuts) == whole
    if "\r" not in text:
        assert events(text.replace("\n", "\r\n").encode(), cuts) == whole
        assert events(text.replace("\n", "\r").encode(), cuts) == whole


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1),
            min_size=1,
            max_size=3,
        )
    )
)
def test_written_events_are_decoded(blocks: list[list[str]]) -> None:
    """An event's lines are joined; no character within a line ends it."""
    raw = "".join("".join(f"data: |{line}|\n" for line in lines) + "\n" for lines in blocks).encode()
    assert [event.data for event in events(b"event: x\n" + raw)] == [
        "\n".join(f"|{line}|" for line in lines) for lines in blocks
    ]


def test_the_fields_of_an_event() -> None:
    """One space after the colon is no part of the value; unknown fields and comments are ignored."""
    raw = b": OPENROUTER PROCESSING\n\nevent:error\nid: 1\nretry: 5\nfoo: bar\ndata:{\ndata: }\n\ndata: x\n\n"
    assert events(raw) == [ServerSentEvent("{\n}", "error"), ServerSentEvent("x")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_without_an_empty_line_between_them_are_two(end: str) -> None:
    """Some servers leave it out."""
    raw = end.join(['data: {"a": 1}', 'data: {"b": 2}', "data: [DONE]"]).encode()
    assert [event.data for event in events(raw)] == ['{"a": 1}', '{"b": 2}', "[DONE]"]


def test_json_lines_are_lines() -> None:
    """The same line ends, no events."""
    raw = f'{{"a": "{SEPARATORS}"}}\r\n\n{{"b": 2}}'.encode()
    assert events(raw) == [
        ServerSentEvent(f'{{"a": "{SEPARATORS}"}}', is_json_line=True),
        ServerSentEvent('{"b": 2}', is_json_line=True),
    ]


def test_bytes_that_are_no_utf_8_are_replaced() -> None:
    """By the specification."""
    assert events(b"data: a\xff\xc3\n\n") == [ServerSentEvent("a\ufffd\ufffd")]


@pytest.mark.parametrize("piece", [b"x" * 2**16, b"data: x" + b"x" * 2**16 + b"\n"])
def test_an_event_is_bounded(piece: bytes) -> None:
    """A line without an end, and an event of many lines."""
    decoder = EventDecoder()
    decoder.feed(b"data: {\n")

    def endless() -> None:
        for _ in range(event_stream.MAX_EVENT_BYTES // 2**16 + 2):
            decoder.feed(piece)

    with pytest.raises(EventTooLong):
        endless()


@pytest.mark.parametrize("opening", [b"data:{\n", b"data:[DONE]\n", b"data: {\ndata:\n"])
@pytest.mark.parametrize("line", [b"data:}\n", b"data:\n", b"data: {}\n", b"data: ]}\n"])
def test_an_event_of_many_lines_is_read_in_linear_time(opening: bytes, line: bytes) -> None:
    """However often its lines look like an end; a quadratic decoder needs minutes."""
    decoder, started = EventDecoder(), time.process_time()
    with contextlib.suppress(EventTooLong):
        decoder.feed(opening + line * 2 * event_stream.MAX_EVENT_LINES)
    assert time.process_time() - started < 5


def test_empty_lines_of_data_are_bounded_too() -> None:
    """They hold no bytes but are lines."""
    with pytest.raises(EventTooLong):
        EventDecoder().feed(b"data: {\n" + b"data:\n" * event_stream.MAX_EVENT_LINES)


def test_deep_nesting_is_no_complete_event() -> None:
    """It is joined with the following lines; the JSON parser rejects it later."""
    deep = b'{"a":' * 100_000 + b"}" * 100_000
    assert len(events(b"data: " + deep + b"\ndata: x\n\n")) == 1


@pytest.mark.parametrize(
    "block", [b"data: a", b"data:", b"data:  \t", b"data: \xff", b"data: a\ndata: b", b"data", b": a"]
)
@pytest.mark.parametrize("before", [b"", b"data: x\n\n", b"data: x\n", b'{"a": 1}\n', b"\xef\xbb"])
@pytest.mark.parametrize("after", [b"\xef\xbb\xbfdata: y\n\n", b"event: n\ndata: y\n\n", b'{"b": 2}\n'])
def test_a_whole_event_is_read_like_its_bytes(before: bytes, block: bytes, after: bytes) -> None:
    """Whatever comes before it and after it."""
    decoder, other = EventDecoder(), EventDecoder()
    found = [*decoder.feed(before), *decoder.feed_block(block, b"\r\n\r\n"), *decoder.feed(after)]
    assert found == [*other.feed(before), *other.feed(block + b"\r\n\r\n"), *other.feed(after)]
    assert decoder.flush() == other.flush()
