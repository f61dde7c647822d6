"""Server-sent events, whatever way the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy import sse

_PIECES = [
    b"data: ",
    b"data:",
    b"event: e",
    b":",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"x",
    b"{}",
    b"\xef\xbb\xbf",
    b"[DONE]",
]
streams = st.lists(st.sampled_from(_PIECES), max_size=24).map(b"".join)


def _cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@given(streams, st.lists(st.integers(0, 200), max_size=8))
def test_any_chunking_gives_the_same_frames(stream: bytes, cuts: list[int]) -> None:
    """Frames and remainder depend on the bytes, not on how they arrived."""
    whole, parts = sse.SSEDecoder(), sse.SSEDecoder()
    expected = whole.feed(stream + b"data: end")
    frames = [frame for chunk in _cut(stream, cuts) for frame in parts.feed(chunk)] + parts.feed(b"data: end")
    assert expected == frames
    assert whole.rest == parts.rest


@given(streams)
def test_no_byte_is_lost_or_invented(stream: bytes) -> None:
    """Frames and remainder joined are the stream, a leading byte order mark apart."""
    splitter = sse.SSEDecoder()
    frames = splitter.feed(stream)
    assert stream.removeprefix(b"\xef\xbb\xbf") == b"".join(
        frames
    ) + splitter.rest or b"\xef\xbb\xbf".startswith(stream)


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\r" not in raw), max_size=5),
    st.integers(1, 7),
)
def test_what_was_framed_is_read_back(payloads: list[bytes], step: int) -> None:
    """Data framed, cut anywhere and parsed is the same data, line feeds included."""
    stream = b"".join(sse.encode_event(payload) for payload in payloads)
    splitter = sse.SSEDecoder()
    frames = [raw for at in range(0, len(stream), step) for raw in splitter.feed(stream[at : at + step])]
    assert payloads == [sse.parse_event(raw).data for raw in frames]


@pytest.mark.parametrize(
    ("raw", "data", "name"),
    [
        (b"data: a\n\n", b"a", b""),
        (b"data:a\n\n", b"a", b""),
        (b"data:  a\n\n", b" a", b""),
        (b"data: a\ndata: b\n\n", b"a\nb", b""),
        (b"event: error\r\ndata: a\r\n\r\n", b"a", b"error"),
        (b": ping\n\n", None, b""),
        (b"id: 1\nretry: 10\n\n", None, b""),
        (b"data\n\n", b"", b""),
    ],
)
def test_a_frame_is_read_as_the_standard_says(raw: bytes, data: bytes | None, name: bytes) -> None:
    """One space after the colon goes, data lines are joined, comments and unknown fields are skipped."""
    assert sse.SSEEvent(data, name) == sse.parse_event(raw)


def test_an_endless_frame_is_refused() -> None:
    """A stream without empty lines is not held in memory for ever."""
    splitter = sse.SSEDecoder(max_bytes=100)
    with pytest.raises(sse.EventTooLong):
        splitter.feed(b"data: " + b"x" * 200)
