"""A provider's good answer to a direct native call: its bytes, and what LiteLLM makes of its usage.

Invariants: the cost and its parts are made of the usage alone; an answer that might cost more than that, or
that LiteLLM might reject, is none of these.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import orjson

from llm_proxy.json_access import Json, as_list, as_object, as_objects
from llm_proxy.sidecar import call_outcome, catalog, direct_internals, native_prices, openai_repair
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.direct_answers import RETRY_HEADERS, GoodAnswer, extra_headers
from llm_proxy.sidecar.direct_requests import ProviderAnswer, RequestTemplate
from llm_proxy.sidecar.direct_templates import DirectCall
from llm_proxy.sidecar.json_repair import needs_repair
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.native_prices import Price

ENDED = frozenset({"completed", "incomplete"})
"""States of a response that has ended without a failure."""
FREE_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
"""Items of a response that cost their tokens alone."""
REFUSAL = "refusal"
"""A stop reason at which LiteLLM's router may fall back."""


def read_response(
    answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer | None:
    """Return a provider's good answer of Responses; None if it is not one.

    Args:
        answer: With status 200.
        template: Of its request.
        call: The call.
        outcome: The call's record.
    """
    document = _document(answer)
    if not is_plain_response(document):
        return None
    extra = extra_headers(direct_internals.native_hidden(answer.headers), call.group)
    result, price = native_prices.price_response(document, template.pricing)
    return _priced(result, price, extra, answer, template, call, outcome)


def read_message(
    answer: ProviderAnswer, template: RequestTemplate, call: DirectCall, outcome: CallOutcome
) -> GoodAnswer | None:
    """Return a provider's good answer of Messages; None if it is not one.

    Args:
        answer: With status 200.
        template: Of its request.
        call: The call.
        outcome: The call's record.
    """
    document = _document(answer)
    texts = all(isinstance(document.get(name), str) for name in ("id", "model", "stop_reason"))
    is_message = document.get("type") == "message" and isinstance(document.get("content"), list) and texts
    if not is_message or document.get("stop_reason") == REFUSAL or document.get("error"):
        return None
    if not is_counted(document.get("usage")) or catalog.STATED_COST_HEADER in answer.headers:
        return None
    extra = {"x-litellm-model-group": call.group} | RETRY_HEADERS
    result, price = native_prices.price_message(document, template.pricing)
    found = _priced(result, price, extra, answer, template, call, outcome)
    record_stop_reason(document)
    last = outcome.attempts[-1]
    if catalog.is_cost_known(found.cost_usd, {}, last.deployment, last.model):
        outcome.native_cost_usd = found.cost_usd
    return found


def record_stop_reason(stated: Json) -> None:
    """Record a message's stop reason for the log, if it says more than OpenAI's."""
    call_outcome.record_finish_reason(openai_repair.informative_finish_reason(stated.get("stop_reason")))


def _document(answer: ProviderAnswer) -> Json:
    """Return the answer as JSON; nothing of one that must be repaired, or is none."""
    return {} if needs_repair(answer.raw) else as_object(orjson.loads(answer.raw))


def events_of(frames: bytes) -> Iterator[Json]:
    """Yield the JSON objects of complete events; what is none is left out."""
    for line in frames.split(b"\n"):
        if line.startswith(b"data:"):
            with suppress(ValueError):
                yield as_object(orjson.loads(line[5:]))


def is_plain_response(document: Json) -> bool:
    """Whether a response has ended well, and costs its tokens alone."""
    items = as_list(document.get("output"))
    if document.get("error") is not None or document.get("status") not in ENDED or not items:
        return False
    is_free = all(one.get("type") in FREE_ITEMS for one in as_objects(items))
    return is_free and is_counted(document.get("usage"))


def is_counted(usage: object) -> bool:
    """Whether a usage states tokens, and no cost of its own."""
    stated = as_object(usage)
    counts = [stated.get(name) for name in ("input_tokens", "output_tokens")]
    return all(type(one) is int for one in counts) and any(counts) and "cost" not in stated


def _priced(
    result: Untyped,
    price: Price,
    extra: Json,
    answer: ProviderAnswer,
    template: RequestTemplate,
    call: DirectCall,
    outcome: CallOutcome,
) -> GoodAnswer:
    call_outcome.record_response(None, states_tokens=True)
    started, ended = outcome.attempts[-1].started_at, datetime.now(UTC)
    return GoodAnswer(result, call, template, answer, extra, *price, started, ended, rendered=answer.raw)
