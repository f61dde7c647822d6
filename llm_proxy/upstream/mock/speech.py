"""Speech of mock mode: silence, as long as the text, as MP3, WAV or raw samples."""

import struct
from base64 import b64encode

import orjson

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.json_access import Json
from llm_proxy.quantities import encode_usage, usage_comment

SAMPLES_PER_S = 24_000
CHARACTERS_PER_PIECE = 20
"""A piece has a second, as of a slow speaker."""
_MP3_FRAME = b"\xff\xfb\x90\x00".ljust(417, b"\0")
"""26 ms of silence: MPEG-1, layer III, 128 kbit/s, 44.1 kHz."""
_MP3_FRAMES_PER_PIECE = 38
_SECOND = bytes(2 * SAMPLES_PER_S)


def speech_type(call: Call) -> str:
    """The media type of the bytes."""
    return {"mp3": "audio/mpeg", "pcm": "audio/pcm"}.get(_format(call), "audio/wav")


def speech_pieces(call: Call) -> tuple[bytes, ...]:
    """The audio in pieces; a format that mock mode does not have is WAV."""
    seconds = -(-len(call.body["input"]) // CHARACTERS_PER_PIECE)
    if _format(call) == "mp3":
        return (_MP3_FRAME * _MP3_FRAMES_PER_PIECE,) * seconds
    head = () if _format(call) == "pcm" else (_wav_head(seconds * len(_SECOND)),)
    return (*head, *(_SECOND,) * seconds)


def speech_frames(call: Call) -> tuple[bytes, ...]:
    """The same as events, with the tokens of a last one, and the sidecar's comment."""
    pieces = speech_pieces(call)
    tokens = {"input_tokens": max(1, len(call.body["input"]) // 4), "output_tokens": len(pieces)}
    total = sum(tokens.values())
    deltas = [_event("speech.audio.delta", {"audio": b64encode(one).decode()}) for one in pieces]
    done = _event("speech.audio.done", {"usage": tokens | {"total_tokens": total}})
    used = {"prompt_tokens": tokens["input_tokens"], "completion_tokens": tokens["output_tokens"]}
    return (*deltas, done, usage_comment(encode_usage(used, call.quantities, 0)))


def _format(call: Call) -> str:
    return str(call.body.get("response_format", "mp3"))


def _event(kind: str, fields: Json) -> bytes:
    return sse.encode_event(orjson.dumps({"type": kind, **fields}))


def _wav_head(size: int) -> bytes:
    layout = struct.pack("<IHHIIHH", 16, 1, 1, SAMPLES_PER_S, 2 * SAMPLES_PER_S, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", size)
