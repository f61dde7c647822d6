"""Canned transcripts of mock mode: the same file's name and size give the same words, in every format."""

import orjson

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.json_access import Json
from llm_proxy.quantities import encode_usage, usage_comment


def _text(call: Call) -> str:
    return f"Mock transcript of {call.files[0].filename}, {call.files[0].size_bytes} bytes."


def transcript_usage(call: Call) -> str:
    """What the sidecar would state: the file's length."""
    return encode_usage({}, call.quantities, 0)


def transcript_body(call: Call) -> bytes:
    """The answer in the requested format."""
    text, seconds = _text(call), call.quantities.audio_ms / 1000
    form = call.body.get("response_format", "json")
    end = f"00:00:{min(int(seconds), 59):02}"
    if form == "text":
        return f"{text}\n".encode()
    if form == "srt":
        return f"1\n00:00:00,000 --> {end},000\n{text}\n\n".encode()
    if form == "vtt":
        return f"WEBVTT\n\n00:00:00.000 --> {end}.000\n{text}\n\n".encode()
    answer: Json = {
        "text": text,
        "usage": {"type": "duration", "seconds": -(-call.quantities.audio_ms // 1000)},
    }
    segment: Json = {"id": 0, "start": 0.0, "end": seconds, "text": text}
    if form == "verbose_json":
        answer |= {"task": "transcribe", "language": "english", "duration": seconds, "segments": [segment]}
    elif form == "diarized_json":
        segment |= {"type": "transcript.text.segment", "id": "seg_mock", "speaker": "A"}
        answer |= {"task": "transcribe", "duration": seconds, "segments": [segment]}
    return orjson.dumps(answer)


def transcript_frames(call: Call) -> tuple[bytes, ...]:
    """The events of a stream, and what they used."""
    words = [f"{word} " for word in _text(call).split()]
    words[-1] = words[-1].rstrip()
    deltas = [_event({"type": "transcript.text.delta", "delta": word}) for word in words]
    done = _event({"type": "transcript.text.done", "text": "".join(words)})
    return (*deltas, done, usage_comment(transcript_usage(call)))


def _event(document: Json) -> bytes:
    return sse.encode_event(orjson.dumps(document))
