"""How many tokens an answer holds, when nobody said: a stream that ended early, a provider without counts.

Pure. A frame is a token at least; providers who put more into one are caught by its text: what a frame
weighs beyond its envelope, at four bytes a token as for prompts. The envelope is the same in every frame of
a stream, so it is read from the last alone.
Units: tokens, bytes as they came from the sidecar.
"""

import json

import orjson

from llm_proxy.json_access import Json, as_object, as_objects

BYTES_PER_TOKEN = 4
ESCAPED_BYTES_PER_TOKEN = 12
"""Of text written as `\\uXXXX`, six bytes a character."""


def passed_tokens(frames: int, passed_bytes: int, last: bytes) -> int:
    """An estimate of the completion tokens in so many frames of content.

    Args:
        frames: How many there were.
        passed_bytes: What they weighed together.
        last: The last of them; others may stand before it.
    """
    frame = _last_frame(last)
    event = last_event(last)
    if not event:
        return frames
    escaped = b"\\u" in frame
    text = "".join(_texts(event))
    text_bytes = len(json.dumps(text) if escaped else orjson.dumps(text)) - 2
    said_bytes = passed_bytes - frames * (len(frame) + 2 - text_bytes)
    return max(frames, said_bytes // (ESCAPED_BYTES_PER_TOKEN if escaped else BYTES_PER_TOKEN))


def last_event(frames: bytes) -> Json:
    """What the last of some frames says; empty when it is no JSON."""
    try:
        return as_object(orjson.loads(_last_frame(frames)[5:]))
    except orjson.JSONDecodeError:
        return {}


def as_usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """An estimate in OpenAI's shape."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def estimated_usage(document: Json, prompt_tokens: int) -> Json:
    """The usage of a whole answer that states none; embeddings have no completion."""
    if document.get("object") == "list":
        return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return as_usage(prompt_tokens, text_tokens(document))


def said_tokens(body: bytes) -> int:
    """An estimate of the completion tokens in a whole answer; embeddings hold none."""
    try:
        return text_tokens(as_object(orjson.loads(body)))
    except orjson.JSONDecodeError:
        return 0


def text_tokens(document: Json) -> int:
    """The same for an answer that was read."""
    return sum(len(text.encode("utf-8", "replace")) for text in _texts(document)) // BYTES_PER_TOKEN


def _last_frame(frames: bytes) -> bytes:
    return frames.rstrip(b"\n").rpartition(b"\n\n")[2]


def _texts(event: Json) -> list[str]:
    """Everything a frame or an answer says."""
    found: list[object] = []
    for choice in as_objects(event.get("choices")):
        delta = as_object(choice.get("delta") or choice.get("message"))
        calls = [as_object(call.get("function")) for call in as_objects(delta.get("tool_calls"))]
        found += [choice.get("text"), delta.get("content"), delta.get("reasoning_content")]
        found += [call.get("arguments") for call in calls]
    return [one for one in found if isinstance(one, str)]
