"""Reads the parts of a usage object with prices of their own: cached, cache writes, reasoning, audio, images.

Pure; used by the gateway and by the sidecar. Invariants: a value that is no number of tokens is absent, never
0. The names are OpenAI's; Anthropic's and DeepSeek's names are read as well.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_proxy.json_access import as_object

MAX_TOKENS = 10**9
"""The maximum of one call."""
MAX_TIER_CHARS = 32
_PROMPT, _COMPLETION = "prompt_tokens_details", "completion_tokens_details"
_WRITTEN = frozenset({"cache_write_tokens", "cache_creation_tokens"})
_SPLIT = {
    "ephemeral_5m_input_tokens": "cache_write_5m_tokens",
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
}
_KINDS = ("audio_tokens", "image_tokens", "text_tokens", "video_tokens")
_PREDICTED = ("accepted_prediction_tokens", "rejected_prediction_tokens")
_OF_PROMPT = {name: f"prompt_{name}" for name in _KINDS}
_OF_CACHED = {name: f"cached_{name}" for name in _KINDS}
_OF_COMPLETION = {name: f"completion_{name}" for name in _KINDS} | {name: name for name in _PREDICTED}


class TokenDetails(NamedTuple):
    """The parts of a call's tokens.

    Attributes:
        cached_tokens: Prompt tokens read from the provider's cache.
        cache_write_tokens: Prompt tokens written to it.
        others: Further parts by name, each above 0: `prompt_audio_tokens`, `cache_write_1h_tokens`, ...
    """

    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    others: dict[str, int]


def read_details(usage: Mapping[str, Any]) -> TokenDetails:
    """Returns the parts that a usage object states."""
    prompt, completion = as_object(usage.get(_PROMPT)), as_object(usage.get(_COMPLETION))
    cached = usage.get("cache_read_input_tokens", usage.get("prompt_cache_hit_tokens"))
    return TokenDetails(
        token_count(prompt.get("cached_tokens") if cached is None else cached),
        _written(usage, prompt),
        token_count(completion.get("reasoning_tokens")),
        _others(prompt, completion),
    )


def token_count(value: object) -> int | None:
    """Returns a number of tokens; None for any other value, and above `MAX_TOKENS`."""
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def first_count(*values: object) -> int | None:
    """Returns the first value that is a number of tokens; None if none is."""
    return next((count for value in values if (count := token_count(value)) is not None), None)


def service_tier(document: Mapping[str, Any], usage: Mapping[str, Any]) -> str | None:
    """Returns the service tier that a response, a frame or its usage states."""
    tier = document.get("service_tier") or usage.get("service_tier")
    return tier[:MAX_TIER_CHARS] if isinstance(tier, str) and tier.isascii() and tier.isprintable() else None


def _written(usage: Mapping[str, Any], prompt: Mapping[str, Any]) -> int | None:
    """Returns the tokens written to the cache: the largest number stated."""
    if "cache_creation_input_tokens" not in usage and _WRITTEN.isdisjoint(prompt):
        return None
    stated = (usage.get("cache_creation_input_tokens"), *(prompt.get(name) for name in _WRITTEN))
    return max((one for one in map(token_count, stated) if one is not None), default=None)


def _others(prompt: Mapping[str, Any], completion: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    if not (any(prompt.values()) or any(completion.values())):
        return found
    _collect(found, prompt, _OF_PROMPT)
    _collect(found, completion, _OF_COMPLETION)
    if "cached_tokens_details" in prompt:
        _collect(found, as_object(prompt.get("cached_tokens_details")), _OF_CACHED)
    if "cache_creation_token_details" in prompt:
        _collect(found, as_object(prompt.get("cache_creation_token_details")), _SPLIT)
    return found


def _collect(found: dict[str, int], part: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for name, value in part.items():
        if value and name in names and token_count(value):
            found[names[name]] = value
