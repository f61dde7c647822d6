"""Server-sent events: encoding, parsing, and decoding of any chunks."""

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
    """Frames and rest depend on the bytes, not on the chunks."""
    whole, parts = sse.SSEDecoder(), sse.SSEDecoder()
    expected = whole.feed(stream + b"data: end")
    frames = [frame for chunk in _cut(stream, cuts) for frame in parts.feed(chunk)] + parts.feed(b"data: end")
    assert expected == frames
    assert whole.rest == parts.rest


@given(streams)
def test_no_byte_is_lost_or_added(stream: bytes) -> None:
    """Frames and rest joined are the stream without a leading byte order mark."""
    splitter = sse.SSEDecoder()
    frames = splitter.feed(stream)
    assert stream.removeprefix(b"\xef\xbb\xbf") == b"".join(
        frames
    ) + splitter.rest or b"\xef\xbb\xbf".startswith(stream)


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\r" not in raw), max_size=5),
    st.integers(1, 7),
)
def test_encoded_events_are_parsed_back(payloads: list[bytes], step: int) -> None:
    """Also data with line feeds, in any chunks."""
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
def test_frames_are_parsed_as_the_standard_says(raw: bytes, data: bytes | None, name: bytes) -> None:
    """One space after the colon is removed, data lines are joined, comments and unknown fields skipped."""
    assert sse.SSEEvent(data, name) == sse.parse_event(raw)


def test_frame_above_the_maximum_is_rejected() -> None:
    """A stream without empty lines does not fill the memory."""
    splitter = sse.SSEDecoder(max_bytes=100)
    with pytest.raises(sse.FrameTooLong):
        splitter.feed(b"data: " + b"x" * 200)


_without_bare_cr = st.lists(st.sampled_from([one for one in _PIECES if one != b"\r"]), max_size=24).map(
    b"".join
)


@given(_without_bare_cr, st.lists(st.integers(0, 200), max_size=8))
def test_a_gate_passes_whole_frames_in_any_chunking(stream: bytes, cuts: list[int]) -> None:
    """No byte is lost, line ends are LF, and what follows the last empty line waits."""
    gate = sse.FrameGate()
    passed = b"".join(gate.feed(chunk) for chunk in _cut(stream, cuts))
    held_bytes, rest = gate.held_bytes, gate.close()
    assert passed + rest == stream.replace(b"\r\n", b"\n")
    assert passed.endswith(b"\n\n") or not passed
    assert b"\n\n" not in rest
    assert (held_bytes, gate.held_bytes) == (len(rest), 0)


def test_a_gate_holds_no_more_than_its_maximum() -> None:
    """A frame may be as long; one byte more ends the stream."""
    gate = sse.FrameGate(8)
    assert gate.feed(b"12345678") == b""
    with pytest.raises(sse.FrameTooLong):
        gate.feed(b"9")
