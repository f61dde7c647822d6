"""Images of mock mode: small real PNGs whose shade follows from the call."""

import struct
import zlib
from base64 import b64encode
from hashlib import sha256

import orjson

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.json_access import Json
from llm_proxy.quantities import Quantities, encode_usage, usage_comment

CREATED = 1_700_000_000
SIDE = 16
"""Of a picture, in points."""
IMAGE_TOKENS = 272
"""Of one picture, as of a small one of the GPT image models."""


def image_answer(call: Call, prompt_tokens: int) -> tuple[Json, str]:
    """Returns the answer, and the usage that the sidecar would state beside it."""
    count = call.body.get("n", 1)
    answer: Json = {"created": CREATED, **_settings(call)}
    answer["data"] = [{"b64_json": _picture(call, at)} for at in range(count)]
    return answer | {"usage": _usage(count, prompt_tokens)}, _stated(count, prompt_tokens)


def image_frames(call: Call, prompt_tokens: int) -> tuple[bytes, ...]:
    """Returns the requested partial images, a last event for each picture, and the sidecar's comment."""
    count, kind = (
        call.body.get("n", 1),
        "image_edit" if call.endpoint == "images.edits" else "image_generation",
    )
    shown = {"created_at": CREATED, **_settings(call)}
    partial = [
        _event(f"{kind}.partial_image", {"b64_json": _picture(call, at), **shown, "partial_image_index": at})
        for at in range(call.body.get("partial_images", 0))
    ]
    used = {"usage": _usage(1, prompt_tokens)}
    last = [
        _event(f"{kind}.completed", {"b64_json": _picture(call, at), **shown, **used}) for at in range(count)
    ]
    return *partial, *last, usage_comment(_stated(count, prompt_tokens))


def _event(kind: str, fields: Json) -> bytes:
    return sse.encode_event(orjson.dumps({"type": kind, **fields}), kind.encode())


def _settings(call: Call) -> Json:
    quality, size = call.body.get("quality", "auto"), call.body.get("size", "auto")
    return {
        "background": "opaque",
        "output_format": "png",
        "quality": "low" if quality == "auto" else quality,
        "size": "1024x1024" if size == "auto" else size,
    }


def _usage(count: int, prompt_tokens: int) -> Json:
    made = count * IMAGE_TOKENS
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": prompt_tokens},
        "output_tokens": made,
        "total_tokens": prompt_tokens + made,
    }


def _stated(count: int, prompt_tokens: int) -> str:
    tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": count * IMAGE_TOKENS}
    return encode_usage(tokens, Quantities(images=count), 0)


def _picture(call: Call, number: int) -> str:
    """Returns a PNG in base64: a grey square."""
    shade = sha256(orjson.dumps([call.body["prompt"], number])).digest()[0]
    points = (b"\0" + bytes([shade]) * SIDE) * SIDE  # each line begins with its filter
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(points)), (b"IEND", b""))
    return b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in chunks)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
