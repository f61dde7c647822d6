"""Tokens of an answer: as stated, or estimated where nothing was stated.

Invariants: a number that is none, or beyond what a call can use or cost, is unknown, never 0; an estimate
counts four bytes a token, at least one token a frame. Units: tokens; integer nano-dollars, rounded up once.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage).
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from llm_proxy.dialects import BYTES_PER_TOKEN
from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.money import usd_to_nano
from llm_proxy.quantities import NOTHING, USAGE_HEADER, Quantities, decode_usage
from llm_proxy.token_details import read_details, service_tier, token_count

COUNTED_FIELD = "llmp_counted"
"""Our sidecar's mark on tokens that LiteLLM counted; not sent to callers."""
STATED_COST_FIELD = "llmp_stated_cost"
"""Our sidecar's name for the cost a provider stated, where `cost` is LiteLLM's."""
ESCAPED_BYTES_PER_TOKEN = 12
"""Of text written as `\\uXXXX`, six bytes a character."""
_USAGE_HEADER = USAGE_HEADER.encode()
_OWN_FIELDS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
)


class TokenUsage(NamedTuple):
    """Tokens of an answer.

    Attributes:
        counted_by_sidecar: The sidecar counted them, because the provider stated none.
        details: JSON: further parts of the tokens, as `token_details` names them; None when there are none.
        service_tier: The tier the answer states.
        quantities: What the answer used beside tokens.
        spoken_ms: How long the speech of an answer is, as far as its bytes say; it is not recorded.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_nano_usd: int | None = None
    counted_by_sidecar: bool = False
    cache_write_tokens: int | None = None
    details: str | None = None
    service_tier: str | None = None
    quantities: Quantities = NOTHING
    spoken_ms: int = 0


NOTHING_USED = TokenUsage(0, 0, cost_nano_usd=0)
"""Of a request for which no model runs."""


class UnreadUsage(NamedTuple):
    """A usage object that counts tokens and states no cost, as it came with an answer; it is read later."""

    usage: Json
    document: Json

    def read(self) -> TokenUsage | None:
        """Returns what `read_usage` does."""
        return read_usage(self.usage, self.document)


def read_usage(usage: Json, document: Json | None = None) -> TokenUsage | None:
    """Returns the usage object of an answer or a usage frame (`document`); None when it counts nothing.

    A provider may state zeros. Where it states nothing our sidecar leaves the usage out; an unmodified
    LiteLLM writes zeros there (`is_zero`).
    """
    prompt, completion = token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    details = read_details(usage)
    return TokenUsage(
        prompt or 0,
        completion or 0,
        details.cached_tokens,
        details.reasoning_tokens,
        usd_to_nano(usage.get("cost")),
        COUNTED_FIELD in usage,
        details.cache_write_tokens,
        orjson.dumps(details.others).decode() if details.others else None,
        service_tier(document or {}, usage),
    )


def stated_usage(text: bytes) -> TokenUsage | None:
    """Returns the usage that our sidecar states beside an answer, as `quantities` encodes it."""
    stated = decode_usage(text)
    if stated is None:
        return None
    tokens = stated.tokens
    others = {name: count for name, count in tokens.items() if count and name not in _OWN_FIELDS}
    return TokenUsage(
        tokens.get("prompt_tokens", 0),
        tokens.get("completion_tokens", 0),
        tokens.get("cached_tokens"),
        tokens.get("reasoning_tokens"),
        usd_to_nano(stated.cost),
        cache_write_tokens=tokens.get("cache_write_tokens"),
        details=orjson.dumps(others).decode() if others else None,
        quantities=stated.quantities,
    )


def usage_in_header(headers: Mapping[bytes, bytes]) -> TokenUsage | None:
    """Returns the usage in an answer's headers (names in lower case); None where it is not stated."""
    return stated_usage(headers.get(_USAGE_HEADER, b""))


def usage_of_responses(response: Json) -> Json:
    """Returns the usage of an answer of OpenAI's Responses in the words of its chats, tier included."""
    usage = as_object(response.get("usage"))
    return {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
        "service_tier": response.get("service_tier"),
    }


def usage_of_message(usage: Json) -> Json:
    """Returns the usage of one of Anthropic's messages in the words of OpenAI's chats.

    Anthropic counts what it writes to its cache and reads from it beside the input; OpenAI within the prompt.
    """
    written, cached = usage.get("cache_creation_input_tokens"), usage.get("cache_read_input_tokens")
    prompt = [token_count(one) for one in (usage.get("input_tokens"), written, cached)]
    details: Json = {"cache_creation_token_details": usage.get("cache_creation")}
    details |= {"cached_tokens": cached, "cache_write_tokens": written}
    thinking = as_object(usage.get("output_tokens_details")).get("thinking_tokens")
    return {
        "prompt_tokens": sum(one or 0 for one in prompt) if prompt[0] is not None else None,
        "completion_tokens": usage.get("output_tokens"),
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": thinking},
        "service_tier": usage.get("service_tier"),
    }


def usage_of_content(usage: Json) -> Json:
    """Returns the usage of Google's contents in the words of OpenAI's chats.

    Google counts thoughts beside the answer, and what tools put into the prompt beside the prompt.
    """
    prompt, of_tools = token_count(usage.get("promptTokenCount")), usage.get("toolUsePromptTokenCount")
    answer, thoughts = token_count(usage.get("candidatesTokenCount")), usage.get("thoughtsTokenCount")
    reasoning = token_count(thoughts)
    counted = answer is not None or reasoning is not None
    return {
        "prompt_tokens": None if prompt is None else prompt + (token_count(of_tools) or 0),
        "completion_tokens": (answer or 0) + (reasoning or 0) if counted else None,
        "prompt_tokens_details": {
            "cached_tokens": usage.get("cachedContentTokenCount"),
            "cached_tokens_details": _by_modality(usage.get("cacheTokensDetails")),
            **_by_modality(usage.get("promptTokensDetails")),
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            **_by_modality(usage.get("candidatesTokensDetails")),
        },
    }


def _by_modality(details: object) -> Json:
    """Returns tokens by modality, under OpenAI's names."""
    stated = ((str(one.get("modality") or "").lower(), one.get("tokenCount")) for one in as_objects(details))
    return {f"{kind}_tokens": tokens for kind, tokens in stated}


def strip_usage_additions(usage: Json) -> None:
    """Removes what the sidecar added to a usage object, also LiteLLM's cost, not a provider's own."""
    usage.pop(COUNTED_FIELD, None)
    usage.pop("cost", None)
    if STATED_COST_FIELD in usage:
        usage["cost"] = usage.pop(STATED_COST_FIELD)


def is_zero(usage: TokenUsage) -> bool:
    """Whether it states that nothing was used."""
    return not usage.prompt_tokens and not usage.completion_tokens


def estimate_stream_tokens(frames: int, content_bytes: int, last: bytes) -> int:
    """Estimates the completion tokens of content frames: one token a frame at least, else by their text.

    The text is what a frame has beyond its envelope, which is read from the last frame alone.

    Args:
        frames: How many frames there were.
        content_bytes: Their size together.
        last: The last of them; others may stand before it.
    """
    frame = _last_frame(last)
    event = last_event(last)
    if not event:
        return frames
    escaped = b"\\u" in frame
    text = "".join(_texts(event))
    text_bytes = len(json.dumps(text) if escaped else orjson.dumps(text)) - 2
    said_bytes = content_bytes - frames * (len(frame) + 2 - text_bytes)
    return max(frames, said_bytes // (ESCAPED_BYTES_PER_TOKEN if escaped else BYTES_PER_TOKEN))


def last_event(frames: bytes) -> Json:
    """Returns the event of the last of some frames; empty when it is not JSON."""
    data = _last_frame(frames).partition(b"data:")[2]
    try:
        return as_object(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}


def usage_object(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts in OpenAI's shape."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def estimate_usage(document: Json, prompt_tokens: int) -> Json:
    """Returns the usage of an answer that states none; embeddings have no completion."""
    if document.get("object") == "list":
        return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return usage_object(prompt_tokens, estimate_text_tokens(document))


def estimate_answer_tokens(body: bytes) -> int:
    """Estimates the completion tokens of an answer's bytes; 0 for embeddings."""
    try:
        return estimate_text_tokens(as_object(orjson.loads(body)))
    except orjson.JSONDecodeError:
        return 0


def estimate_text_tokens(document: Json) -> int:
    """Estimates the completion tokens of a parsed answer."""
    return sum(len(text.encode("utf-8", "replace")) for text in _texts(document)) // BYTES_PER_TOKEN


def _last_frame(frames: bytes) -> bytes:
    return frames.rstrip(b"\n").rpartition(b"\n\n")[2]


def _texts(event: Json) -> list[str]:
    """Returns every text of a frame or an answer, in any protocol."""
    found = _native_texts(event)
    for choice in as_objects(event.get("choices")):
        delta = as_object(choice.get("delta") or choice.get("message"))
        calls = [as_object(call.get("function")) for call in as_objects(delta.get("tool_calls"))]
        found += [choice.get("text"), delta.get("content"), delta.get("reasoning_content")]
        found += [call.get("arguments") for call in calls]
    return [one for one in found if isinstance(one, str)]


def _native_texts(event: Json) -> list[object]:
    """Returns the texts of a frame or an answer of Responses, Messages or Google's contents."""
    delta, items = event.get("delta"), as_objects(event.get("output"))
    parts = [as_object(delta), *as_objects(event.get("content"))]
    parts += [part for item in items for part in as_objects(item.get("content"))]
    contents = [as_object(one.get("content")) for one in as_objects(event.get("candidates"))]
    parts += [part for one in contents for part in as_objects(one.get("parts"))]
    found = [delta, *(item.get("arguments") for item in items)]
    return [*found, *(part.get(name) for part in parts for name in ("text", "thinking", "partial_json"))]
