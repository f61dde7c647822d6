"""Bedrock's wire: `/model/{id}/converse`, whole answers alone, and the streamed invocation of Claude."""

import base64
import json
import struct
import zlib

from scripted import anthropic_wire
from scripted.script import Json, Script


def message(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- every wire's signature
    """A whole answer."""
    usage = {
        "inputTokens": script.prompt_tokens,
        "outputTokens": script.completion_tokens,
        "totalTokens": script.prompt_tokens + script.completion_tokens,
    }
    said = {"role": "assistant", "content": [{"text": "".join(script.words())}]}
    return {
        "output": {"message": said},
        "stopReason": "end_turn",
        "usage": usage,
        "metrics": {"latencyMs": 1},
    }


def error(status: int, kind: str) -> Json:  # noqa: ARG001 -- the same
    """An error body."""
    return {"message": f"Scripted status {status}."}


def error_frame() -> bytes:
    """Never sent: nothing is streamed."""
    return b""


def message_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """Claude's events in Amazon's event stream, as `InvokeModelWithResponseStream` sends them."""
    content, closing = anthropic_wire.frames(script, body, number)
    return [*map(_framed, content)], [*map(_framed, closing)]


def _framed(event: bytes) -> bytes:
    """One event as a message of the stream: lengths, headers, payload, checksums."""
    data = event.partition(b"data: ")[2].strip()
    payload = json.dumps({"bytes": base64.b64encode(data).decode()}).encode()
    told = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack(f">B{len(name)}sBH{len(value)}s", len(name), name.encode(), 7, len(value), value.encode())
        for name, value in told.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    started = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return started + struct.pack(">I", zlib.crc32(started))
