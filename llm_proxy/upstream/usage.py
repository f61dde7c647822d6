"""Tokens and money as an answer states them.

The sidecar writes dollars as a float; they become integer nano-dollars here. A number that is not one, or
beyond what a call can use or cost, is unknown, never zero.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage).
"""

from typing import NamedTuple

import orjson

from llm_proxy.json_access import Json
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
