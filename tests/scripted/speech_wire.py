"""OpenAI's speech: bytes in the requested format, or events with the same bytes."""

import base64
import json

from scripted.script import Json, Script

MEDIA = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
PIECE_BYTES = 3000


def media(body: Json) -> str:
    """The content type of the answer to a body."""
    return "text/event-stream" if _as_events(body) else MEDIA[body.get("response_format") or "mp3"]


def frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The audio in pieces, each of them different; as events with a last one that states tokens."""
    begin = f"{body.get('response_format') or 'mp3'} {number} ".encode()
    pieces = [(begin + str(at).encode()).ljust(PIECE_BYTES, b"\0") for at in range(script.frames)]
    if not _as_events(body):
        return pieces, []
    deltas = [_event("speech.audio.delta", audio=base64.b64encode(piece).decode()) for piece in pieces]
    total = script.prompt_tokens + script.completion_tokens
    usage = {
        "input_tokens": script.prompt_tokens,
        "output_tokens": script.completion_tokens,
        "total_tokens": total,
    }
    return deltas, [_event("speech.audio.done", usage=usage)]


def _as_events(body: Json) -> bool:
    return body.get("stream_format") == "sse" and "tts-1" not in body["model"]


def _event(kind: str, **fields: object) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"
