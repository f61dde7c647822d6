"""The price of a native answer whose usage has plain counts, by the rates of `flat_prices`.

Invariants: counts are what LiteLLM makes of the usage; an answer that states anything else that a price may
depend on (searches, another region, a fast mode, several iterations) is LiteLLM's to price.
"""

from llm_proxy.json_access import Json, as_object, is_object
from llm_proxy.sidecar import direct_internals
from llm_proxy.sidecar.flat_prices import (
    AnswerForm,
    PlainAnswer,
    PlainCounts,
    PlainUsage,
    is_plain_usage,
    plain_counts,
    price_of_counts,
)
from llm_proxy.sidecar.litellm_internals import Untyped

RESPONSE_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
RESPONSE_PARTS = {
    "input_tokens_details": frozenset({"cached_tokens", "cache_write_tokens"}),
    "output_tokens_details": frozenset({"reasoning_tokens"}),
}
"""Details of the usage of a response -> the counts that they consist of."""
MESSAGE_COUNTS = ("input_tokens", "output_tokens")
MESSAGE_PARTS = {
    "cache_creation": frozenset({"ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"}),
    "output_tokens_details": frozenset({"thinking_tokens"}),
}
"""The same of a message."""
OF_THE_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")
ANYWHERE = (None, "global", "not_available")
"""Regions that have no price of their own."""
TEXTS_AND_CALLS = frozenset({"text", "tool_use"})

Price = tuple[float | None, Untyped]
"""A cost in USD, None if it is not known, and its parts."""


def price_response(document: Json, pricing: Untyped) -> tuple[Untyped, Price]:
    """Return what is logged of a response, and what it costs.

    Args:
        document: The response as the provider states it.
        pricing: LiteLLM's logging object of the call that the request's template was learned from.
    """
    usage, model, tier = document.get("usage"), document.get("model"), document.get("service_tier")
    known: tuple[float, Json] | None = None
    if isinstance(model, str) and isinstance(tier, str | None):
        counts = plain_counts(usage, RESPONSE_COUNTS, RESPONSE_PARTS)
        known = price_of_counts(counts, model, tier or None, pricing, RESPONSE)
    if known is not None and _is_plain_response(document):
        return PlainAnswer(document["id"], PlainUsage(_as_of_chat(document["usage"])), tier), known
    result = direct_internals.response_object(document)
    priced = known or direct_internals.price(result, pricing)
    result.usage = direct_internals.chat_usage(result.usage)
    return result, priced


def _is_plain_response(document: Json) -> bool:
    """Whether LiteLLM's class takes a response with plain counts, and changes none of what is logged."""
    prompt = document["usage"].get("input_tokens_details")
    return (
        (prompt is None or prompt.get("cached_tokens", 0) is not None)
        and isinstance(document.get("id"), str)
        and type(document.get("created_at")) is int
        and isinstance(document.get("status"), str | None)
        and isinstance(document.get("object"), str | None)
    )


def _as_of_chat(usage: Json) -> Json:
    """Return plain counts of a response by the names of a chat's."""
    prompt, completion = (usage.get(name) for name in RESPONSE_PARTS)
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "prompt_tokens_details": None if prompt is None else {"cached_tokens": 0, **prompt},
        "completion_tokens_details": completion,
    }


def price_message(document: Json, pricing: Untyped) -> tuple[Untyped, Price]:
    """Return the same of a message; LiteLLM counts the tokens of thoughts.

    Args:
        document: The message, of a stream with what its events state.
        pricing: As for a response.
    """
    usage, answer_id, result = as_object(document["usage"]), document.get("id"), None
    is_plain = isinstance(answer_id, str) and bool(answer_id) and _has_no_thoughts(document)
    thoughts = as_object(usage.get("output_tokens_details")).get("thinking_tokens")
    if not is_plain:
        result = direct_internals.message_object(document, pricing)
        thoughts = result.usage.completion_tokens_details.reasoning_tokens
    counts, tier = _message_counts(usage, thoughts), usage.get("service_tier")
    known = price_of_counts(counts, pricing.model, tier or None, pricing, MESSAGE)
    if is_plain and counts is not None and known is not None:
        return PlainAnswer(str(answer_id), PlainUsage(_message_as_of_chat(counts, usage)), tier), known
    result = result or direct_internals.message_object(document, pricing)
    return result, known or direct_internals.price(result, pricing)


def _has_no_thoughts(document: Json) -> bool:
    """Whether a message has texts and calls of the caller's tools alone."""
    return all(
        is_object(one) and one.get("type") in TEXTS_AND_CALLS and not one.get("thinking")
        for one in document["content"]
    )


def _message_as_of_chat(counts: PlainCounts, usage: Json) -> Json:
    """Return plain counts of a message by the names of a chat's."""
    written = counts.written + counts.written_1h
    prompt = {
        "cached_tokens": counts.cached,
        "cache_creation_tokens": written,
        "cache_creation_token_details": usage.get("cache_creation"),
        "text_tokens": counts.fresh,
    }
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "text_tokens": counts.completion - counts.reasoning,
        },
    }


def _message_counts(usage: Json, thoughts: int | None) -> PlainCounts | None:
    """Return a message's counts, with those of its thoughts; None if it has others."""
    cached = {name: usage.get(name) or 0 for name in OF_THE_CACHE}
    others = {"service_tier", "inference_geo", *OF_THE_CACHE}
    counted = {name: value for name, value in usage.items() if value is not None and name not in others}
    is_plain = is_plain_usage(counted | cached, (*MESSAGE_COUNTS, *OF_THE_CACHE), MESSAGE_PARTS)
    has_tier = isinstance(usage.get("service_tier"), str | None)
    if not is_plain or not has_tier or usage.get("inference_geo") not in ANYWHERE:
        return None
    read, written = cached.values()
    parts = as_object(usage.get("cache_creation"))
    written_1h = parts.get("ephemeral_1h_input_tokens") or 0
    if parts and (parts.get("ephemeral_5m_input_tokens") or 0) + written_1h != written:
        return None
    found = PlainCounts(
        usage["input_tokens"] + read + written,
        usage["output_tokens"],
        read,
        thoughts or 0,
        written - written_1h,
        written_1h,
    )
    return found if found.is_sound() else None


def _response(counts: PlainCounts, tier: str | None, model: str, pricing: Untyped) -> Untyped:  # noqa: ARG001 -- one signature
    usage = {
        "input_tokens": counts.prompt,
        "output_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
    }
    stated = {"service_tier": tier} if tier else {}
    document = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": model}
    return direct_internals.response_object({**document, "usage": usage, **stated})


def _message(counts: PlainCounts, tier: str | None, model: str, pricing: Untyped) -> Untyped:  # noqa: ARG001 -- one signature
    split = {"ephemeral_5m_input_tokens": counts.written, "ephemeral_1h_input_tokens": counts.written_1h}
    usage = {
        "input_tokens": counts.fresh,
        "output_tokens": counts.completion,
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": counts.written + counts.written_1h,
        "cache_creation": split,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
        **({"service_tier": tier} if tier else {}),
    }
    return direct_internals.message_object({"id": "msg_1", "content": [], "usage": usage}, pricing)


RESPONSE = AnswerForm(_response, frozenset({"completion", "cached", "reasoning", "written"}))
MESSAGE = AnswerForm(_message, frozenset(PlainCounts._fields))
