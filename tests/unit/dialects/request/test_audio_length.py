"""The length of audio by its head and size; any bytes give one."""

import io
import math
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects.request.audio_length import audio_ms
from llm_proxy.dialects.request.requested_quantities import requested_quantities
from llm_proxy.quantities import MAX_QUANTITY, Quantities

MAGICS = (b"", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"ID3\4\0\0", b"\xff\xfb", b"OggS", b"\x1aE\xdf\xa3")


def wav(seconds: float, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file of silence."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * int(rate * seconds)))
    return made.getvalue()


@pytest.mark.parametrize(("seconds", "rate", "channels"), [(1.5, 16_000, 1), (2, 44_100, 2), (0.25, 8000, 1)])
def test_a_wav_s_length_is_exact(seconds: float, rate: int, channels: int) -> None:
    """Also where other chunks stand before the samples, and where a stream did not know its length."""
    file = wav(seconds, rate, channels)
    assert audio_ms(file[:4096], len(file)) == seconds * 1000
    listed = file[:36] + b"LIST\5\0\0\0abcde\0" + file[36:]
    assert audio_ms(listed[:4096], len(listed)) == seconds * 1000
    for unknown in (b"\0\0\0\0", b"\xff\xff\xff\xff"):
        streamed = file[:40] + unknown + file[44:]
        assert audio_ms(streamed[:4096], len(streamed)) == seconds * 1000


def test_a_flac_s_length_is_exact() -> None:
    """By its samples: 24 000 a second, 36 000 of them."""
    file = b"fLaC\0\0\0\x22" + bytes(10) + (24_000 << 44 | 15 << 36 | 36_000).to_bytes(8, "big") + bytes(100)
    assert audio_ms(file, 50_000) == 1500
    assert audio_ms(file, 300_000) == 1500  # with a picture


@pytest.mark.parametrize(
    ("frame", "size", "expected_ms"),
    [
        (b"\xff\xfb\x90\x00", 160_000, 10_000),  # 128 kbit/s
        (b"\xff\xf3\x40\xc0", 80_000, 20_000),  # 32 kbit/s, 22 050 Hz
        (b"\xff\xfb\x90\x00" + bytes(32) + b"Xing\0\0\0\1" + (100).to_bytes(4, "big"), 10**5, 2613),
        (b"ID3\4\0\0\0\0\1\0" + bytes(128) + b"\xff\xfb\x90\x00", 160_138, 10_000),
    ],
)
def test_an_mp3_s_length_is_its_frames_or_its_bit_rate(frame: bytes, size: int, expected_ms: int) -> None:
    """A Xing tag counts the frames of a variable rate; a tag with the title stands before."""
    assert audio_ms(frame + bytes(400), size) == expected_ms


def test_a_head_that_makes_its_file_shorter_is_not_believed() -> None:
    """Decoders read all samples, of every `data`, at the rate of samples: so do reservation and bill."""
    file = wav(100)
    hurried = file[:28] + (2**24).to_bytes(4, "little") + file[32:]
    split = file[:40] + (2).to_bytes(4, "little") + b"\0\0data" + file[40:]
    assert audio_ms(hurried[:4096], len(hurried)) == 100_000
    assert 100_000 <= audio_ms(split[:4096], len(split)) < 100_010
    flac = b"fLaC\0\0\0\x22" + bytes(10) + (16_000 << 44 | 15 << 36 | 1).to_bytes(8, "big")
    assert audio_ms(flac, 16_000_000) == 1_000_000
    one_frame = b"\xff\xfb\x90\x00" + bytes(32) + b"Xing\0\0\0\1" + (1).to_bytes(4, "big")
    assert audio_ms(one_frame, 16_000_000) == 1_000_000


def test_another_file_is_estimated_by_its_size() -> None:
    """At 128 kbit/s, what browsers record at 48."""
    assert audio_ms(b"\0\0\0\x18ftypM4A ", 32_000) == 2000
    assert audio_ms(b"OggS", 30_000) == 5000
    assert audio_ms(b"", 0) == 0


@given(
    magic=st.sampled_from(MAGICS),
    rest=st.binary(max_size=200),
    size=st.integers(0, 2**31),
    cut=st.integers(0, 200),
)
def test_any_bytes_give_a_length(magic: bytes, rest: bytes, size: int, cut: int) -> None:
    """Between nothing and the most of a record."""
    head = (magic + rest)[:cut]
    assert 0 <= audio_ms(head, max(size, len(head))) <= MAX_QUANTITY


def test_lengths_are_rounded_up() -> None:
    """A started millisecond counts."""
    assert audio_ms(b"", 1) == math.ceil(1000 / 16_000)


def test_audio_asks_for_something_whatever_its_file() -> None:
    """An empty one has a price, and so has a body that is explained without its file."""
    assert requested_quantities("audio.transcriptions", {}, ()) == Quantities(audio_ms=1)
