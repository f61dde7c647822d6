"""Images: OpenAI's generations and edits, whole and streamed; Imagen's and Gemini's pictures."""

import base64
import json
import struct
import zlib

from scripted.gemini_wire import usage as gemini_usage
from scripted.openai_wire import MADE
from scripted.script import Json, Script

GPT = "gpt-image"
LINK = "https://images.example/{number}-{at}.png"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(shade: int = 0) -> bytes:
    """A whole PNG of one grey point."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(bytes([0, shade]))) + _chunk(b"IEND", b"")
    )


def encoded(script: Script, shade: int = 0) -> str:
    """A picture as base64; one of `image_bytes` has its rest filled with zeros."""
    picture = png(shade)
    return base64.b64encode(picture.ljust(script.image_bytes, b"\0")).decode()


def _settings(body: Json) -> Json:
    size = body.get("size", "auto")
    return {
        "background": "transparent" if body.get("background") == "transparent" else "opaque",
        "output_format": body.get("output_format") or "png",
        "quality": body.get("quality") if body.get("quality") not in (None, "auto") else "medium",
        "size": "1024x1024" if size in (None, "auto") else size,
    }


def usage(script: Script) -> Json:
    """The tokens of one call, as the GPT image models state them."""
    return {
        "input_tokens": script.prompt_tokens,
        "input_tokens_details": {
            "image_tokens": script.image_tokens,
            "text_tokens": script.prompt_tokens - script.image_tokens,
        },
        "output_tokens": script.completion_tokens,
        "output_tokens_details": {"image_tokens": script.completion_tokens, "text_tokens": 0},
        "total_tokens": script.prompt_tokens + script.completion_tokens,
    }


def whole(script: Script, body: Json, number: int) -> Json:
    """An answer: GPT image models send pictures and their usage, others links or pictures and no usage."""
    count = int(body.get("n") or 1)
    if GPT in body["model"]:
        pictures = [{"b64_json": encoded(script, at)} for at in range(count)]
        stated: Json = {"usage": usage(script)} if script.counted else {}
        return {"created": MADE, **_settings(body), "data": pictures, **stated, "provider_addition": True}
    revised = {"revised_prompt": "a prompt, revised"}
    if body.get("response_format") == "b64_json":
        shown = [{"b64_json": encoded(script, at)} for at in range(count)]
    else:
        shown = [{"url": LINK.format(number=number, at=at)} for at in range(count)]
    return {"created": MADE, "data": [one | revised for one in shown]}


def _stream(operation: str, script: Script, body: Json) -> tuple[list[bytes], list[bytes]]:
    shown = {"created_at": MADE, **_settings(body)}
    partial = f"{operation}.partial_image"
    content = [
        _event(partial, {"b64_json": encoded(script, at), **shown, "partial_image_index": at})
        for at in range(int(body.get("partial_images") or 0))
    ]
    stated: Json = {"usage": usage(script)} if script.counted else {}
    ends = [
        _event(f"{operation}.completed", {"b64_json": encoded(script, 100 + at), **shown, **stated})
        for at in range(int(body.get("n") or 1))
    ]
    return content, ends


def _event(kind: str, fields: Json) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def generation_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:  # noqa: ARG001 -- as the others
    """Partial images, then one last event an image."""
    return _stream("image_generation", script, body)


def edit_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:  # noqa: ARG001 -- the same
    """The same of an edit."""
    return _stream("image_edit", script, body)


def error_frame() -> bytes:
    """The event of a picture that may not be shown."""
    error = {
        "type": "image_generation_user_error",
        "code": "moderation_blocked",
        "message": "Your request was rejected by the safety system.",
        "param": None,
    }
    return _event("error", {"error": error})


def predictions(script: Script, body: Json) -> Json:
    """Imagen's answer: pictures, and no usage."""
    count = int(body.get("parameters", {}).get("sampleCount") or 1)
    one = [{"mimeType": "image/png", "bytesBase64Encoded": encoded(script, at)} for at in range(count)]
    return {"predictions": one}


def invoked(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- as the others
    """The answer of Stability's models at Bedrock."""
    return {"seeds": [7], "finish_reasons": [None], "images": [encoded(script)]}


def stable(script: Script, body: Json, number: int) -> Json:  # noqa: ARG001 -- the same
    """Stability's own answer."""
    return {"image": encoded(script), "finish_reason": "SUCCESS", "seed": 7}


def gemini_makes_pictures(body: Json) -> bool:
    """Whether the answer to a `generateContent` has a picture."""
    options: Json = body.get("generationConfig") or {}
    return "IMAGE" in (options.get("response_modalities") or options.get("responseModalities") or ())


def content(script: Script, body: Json, number: int) -> Json:
    """Gemini's answer: a picture between texts."""
    inline = {"inlineData": {"mimeType": "image/png", "data": encoded(script)}}
    parts = [{"text": "Here it is."}, inline]
    counts = gemini_usage(script) | {
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": script.prompt_tokens}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": script.completion_tokens}],
    }
    return {
        "candidates": [
            {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0},
        ],
        "usageMetadata": counts,
        "modelVersion": body["model"],
        "responseId": f"g{number}",
    }
