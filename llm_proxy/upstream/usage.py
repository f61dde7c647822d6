"""Tokens and money as an answer states them.

Money: the sidecar writes dollars as a float; it becomes integer nano-dollars here, rounded up once, by way
of its decimal text without the last digits, which are a float's noise and no money. A number that is not one,
or beyond what a call can use or cost, is unknown, never zero.
Source: https://platform.openai.com/docs/api-reference/chat/object (usage).
"""

from decimal import ROUND_CEILING, Decimal

import orjson

from llm_proxy.token_details import count, read_details, tier_of
from llm_proxy.upstream.reply import Usage
from llm_proxy.upstream.shape import Json

NANO = Decimal(10) ** 9
MAX_USD = 10**5
"""Of one call."""
COUNTED = "llmp_counted"
"""Our sidecar's mark on tokens that LiteLLM counted; no caller sees it."""
STATED_COST = "llmp_stated_cost"
"""Our sidecar's name for the cost a provider stated, where `cost` is LiteLLM's."""
_EXACT = Decimal("1e-4")
"""Of a nano-dollar: finer than any price list, coarser than a float's error below ten thousand dollars."""


def nano_usd(dollars: object) -> int | None:
    """Dollars as text or number, in nano-dollars rounded up; None when it says nothing."""
    if dollars is None or isinstance(dollars, bool):
        return None
    try:
        amount = Decimal(str(dollars))
        if not 0 <= amount <= MAX_USD:
            return None
        return int((amount * NANO).quantize(_EXACT).to_integral_value(ROUND_CEILING))
    except (ArithmeticError, ValueError):
        return None


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
        nano_usd(usage.get("cost")),
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
