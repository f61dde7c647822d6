"""Tokens and cost of an answer: as stated, or estimated where nothing was stated.

Invariants: a number that is none, or beyond what a call can use or cost, is unknown, never 0; an estimate
counts four bytes a token, at least one token a frame. Units: tokens; integer nano-dollars, rounded up once.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage).
"""

import json
from typing import NamedTuple

import orjson

from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.money import usd_to_nano
from llm_proxy.token_details import count, read_details, tier_of

COUNTED = "llmp_counted"
"""Our sidecar's mark on tokens that LiteLLM counted; no caller sees it."""
STATED_COST = "llmp_stated_cost"
"""Our sidecar's name for the cost a provider stated, where `cost` is LiteLLM's."""


class Usage(NamedTuple):
    """Tokens as an answer states them.

    Attributes:
        counted: The sidecar counted them, for want of the provider's word.
        details: JSON: further parts of the tokens, as `token_details` names them; None when there are none.
        service_tier: The tier the answer states.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_nano_usd: int | None = None
    counted: bool = False
    cache_write_tokens: int | None = None
    details: str | None = None
    service_tier: str | None = None


def read_usage(usage: Json, document: Json | None = None) -> Usage | None:
    """The usage object of an answer or a usage frame (`document`); None when it counts nothing.

    A provider may state zeros. Where it states nothing our sidecar leaves the usage out; an unmodified
    LiteLLM writes zeros there (`is_zero`).
    """
    prompt, completion = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    details = read_details(usage)
    return Usage(
        prompt or 0,
        completion or 0,
        details.cached_tokens,
        details.reasoning_tokens,
        usd_to_nano(usage.get("cost")),
        COUNTED in usage,
        details.cache_write_tokens,
        orjson.dumps(details.others).decode() if details.others else None,
        tier_of(document or {}, usage),
    )


def strip_usage(usage: Json) -> None:
    """Take out what the sidecar added to a usage object, LiteLLM's cost among it, a provider's own not."""
    usage.pop(COUNTED, None)
    usage.pop("cost", None)
    if STATED_COST in usage:
        usage["cost"] = usage.pop(STATED_COST)


def is_zero(usage: Usage) -> bool:
    """Whether it says that nothing was used."""
    return not usage.prompt_tokens and not usage.completion_tokens


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
