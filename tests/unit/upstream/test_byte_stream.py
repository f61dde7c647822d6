"""Bytes of an answer that are no events."""

import struct

import pytest

from llm_proxy.upstream.byte_stream import ByteStream, is_event_stream


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        (b"audio/mpeg", "audio/mpeg"),
        (b"Audio/MPEG; rate=24000", "audio/mpeg"),
        (b"audio/x-wav", "audio/x-wav"),
        (b"text/html", "application/octet-stream"),
        (b"audio/", "application/octet-stream"),
        (b"audio/a b", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_a_media_type_is_audio_s_or_nothing_a_browser_runs(stated: bytes, shown: str) -> None:
    """Parameters are left out."""
    assert ByteStream({b"content-type": stated}).content_type == shown


def test_bytes_are_complete_by_their_end_alone() -> None:
    """And never without a byte, nor after a break."""
    whole, empty, broken = ByteStream({}), ByteStream({}), ByteStream({})
    assert whole.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert not whole.done
    broken.feed(b"a")
    broken.is_malformed = True
    for one in (whole, empty, broken):
        assert one.close() == b""
    assert (whole.done, empty.done, broken.done) == (True, False, False)


def test_what_was_used_stands_before_the_bytes() -> None:
    """So that a break is billed too."""
    stream = ByteStream({b"x-llmp-usage": b'{"characters":5}'})
    assert stream.usage is not None
    assert stream.usage.quantities.characters == 5
    assert ByteStream({}).usage is None
    assert stream.content_tokens() == 0


def test_events_are_recognized_by_their_media_type() -> None:
    """Whatever was requested."""
    assert is_event_stream({b"content-type": b"text/event-stream; charset=utf-8"})
    assert not is_event_stream({b"content-type": b"audio/mpeg"})
    assert not is_event_stream({})


def wav(seconds: int) -> bytes:
    """Silence of 8000 bytes a second, as a stream writes it: without its size."""
    layout = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    head = b"RIFF\xff\xff\xff\xffWAVEfmt " + layout + b"data\xff\xff\xff\xff"
    return head + bytes(8000 * seconds)


@pytest.mark.parametrize(
    ("media", "raw", "spoken_ms"),
    [
        (b"audio/pcm", bytes(48_000), 1000),
        (b"audio/wav", wav(3), 3000),
        (b"audio/mpeg", b"\xff\xfb\x90\x00".ljust(16_000, b"\0"), 1000),
        (b"audio/opus", b"OggS" + bytes(16_000), 0),
    ],
)
@pytest.mark.parametrize("piece", [1000, 100_000])
def test_the_length_of_what_is_spoken_is_read_from_its_beginning(
    media: bytes, raw: bytes, spoken_ms: int, piece: int
) -> None:
    """However the bytes come; a format that does not say it at its beginning has none."""
    stream = ByteStream({b"content-type": media, b"x-llmp-usage": b'{"characters":5}'})
    for at in range(0, len(raw), piece):
        stream.feed(raw[at : at + piece])
    assert stream.usage is not None
    assert stream.usage.spoken_ms == spoken_ms
