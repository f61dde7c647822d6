"""How long an audio file is, by its first bytes and its size: the basis of a reservation.

Pure; nothing is decoded. Invariants: any bytes give a length; a head that states none that can be, or that
lies about the size, counts as none, and the size at a usual bit rate is the estimate. Milliseconds, rounded
up. Sources: RFC 2361 (WAV), RFC 9639 (FLAC), ISO 11172-3 and 13818-3 (MP3), the Xing tag.
"""

from struct import Struct

from llm_proxy.quantities import MAX_QUANTITY

USUAL_BYTES_PER_S = 16_000
"""128 kbit/s, as music in MP3 or AAC."""
SPEECH_BYTES_PER_S = 6_000
"""48 kbit/s, as what browsers record: Opus in Ogg or WebM."""
_OPUS_CONTAINERS = (b"OggS", b"\x1aE\xdf\xa3")
_MAX_WAV_BYTES_PER_S = 2**24
_WAV_FORMAT = Struct("<HIIHH")
_MPEG1, _MPEG2, _MPEG25 = 3, 2, 0
_LAYER3 = 1
_KBIT_S = {
    _MPEG1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    _MPEG2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_SAMPLE_RATES = (44_100, 48_000, 32_000, 0)
_MONO = 3
_MAX_MP3_BYTES_PER_S = 40_000
_BESIDE_BYTES = 2**18
"""Of tags and pictures beside the sound; a head that leaves more of its file unexplained is not believed."""


def audio_ms(head: bytes, size: int) -> int:
    """Returns the length of a file of `size` bytes that begins with `head`."""
    known = stated_audio_ms(head, size)
    rate = SPEECH_BYTES_PER_S if head.startswith(_OPUS_CONTAINERS) else USUAL_BYTES_PER_S
    return min(known or _ms(size, rate), MAX_QUANTITY)


def stated_audio_ms(head: bytes, size: int) -> int:
    """Returns the length that the head of a WAV, FLAC or MP3 file of `size` bytes states; 0 for any other."""
    return _wav_ms(head, size) or _flac_ms(head, size) or _mp3_ms(head, size)


def _ms(count: int, per_s: int) -> int:
    return -(-count * 1000 // per_s)


def _believed(ms: int, size: int, most_per_s: int) -> int:
    """Returns a length in which that many bytes can be sound; 0 for a shorter one: decoders read them all."""
    return ms if size <= ms * most_per_s // 1000 + _BESIDE_BYTES else 0


def _wav_ms(head: bytes, size: int) -> int:
    """By the chunk `fmt ` and the size of `data`; what streams write there (0, the highest) is the rest.

    The rate of plain samples is what decoders go by, whatever the head says it is in bytes.
    """
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return 0
    at, per_s = 12, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            channels, sample_rate, per_s, _, bits = _WAV_FORMAT.unpack(
                head[at + 2 : at + 16].ljust(14, b"\0")
            )
            per_s = min(per_s, sample_rate * channels * max(bits, 16) // 8)
        elif name == b"data":
            rest = size - at
            usable = 0 < per_s <= _MAX_WAV_BYTES_PER_S
            known = rest - _BESIDE_BYTES <= length <= rest and length > 0
            return _ms(length if known else rest, per_s) if usable else 0
        at += length + length % 2
    return 0


def _flac_ms(head: bytes, size: int) -> int:
    """By the block STREAMINFO, the first of every FLAC file; packed samples are no larger than plain ones."""
    if head[:4] != b"fLaC" or len(head) < 26:
        return 0
    packed = int.from_bytes(head[18:26], "big")
    sample_rate, samples = packed >> 44, packed & (2**36 - 1)
    plain_per_s = sample_rate * ((packed >> 41 & 7) + 1) * ((packed >> 36 & 31) + 1) // 8
    return _believed(_ms(samples, sample_rate), size, plain_per_s) if sample_rate else 0


def _mp3_ms(head: bytes, size: int) -> int:
    """By the first frame: its count of frames where a Xing tag states it, else its bit rate."""
    at = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        at = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    if len(head) < at + 4 or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, head[at + 1] >> 1 & 3
    sample_rate = _SAMPLE_RATES[head[at + 2] >> 2 & 3] >> {_MPEG1: 0, _MPEG2: 1, _MPEG25: 2}.get(version, 32)
    kbit_s = _KBIT_S[_MPEG1 if version == _MPEG1 else _MPEG2][head[at + 2] >> 4]
    if layer != _LAYER3 or not sample_rate or not kbit_s:
        return 0
    mono = head[at + 3] >> 6 == _MONO
    side_bytes = (17 if mono else 32) if version == _MPEG1 else (9 if mono else 17)
    tag = at + 4 + side_bytes
    if head[tag : tag + 4] in (b"Xing", b"Info") and head[tag + 7 : tag + 8] and head[tag + 7] & 1:
        frames = int.from_bytes(head[tag + 8 : tag + 12], "big")
        stated = _ms(frames * (1152 if version == _MPEG1 else 576), sample_rate)
        if _believed(stated, size - at, _MAX_MP3_BYTES_PER_S):
            return stated
    return _ms((size - at) * 8, kbit_s * 1000)
