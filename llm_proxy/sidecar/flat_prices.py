"""The price of an answer whose usage has plain counts, where LiteLLM's rates do not depend on the call.

Invariants: rates are those that LiteLLM billed; they serve an answer only after LiteLLM's own prices of other
usages were these sums, to the last digit and with all parts. Where a price depends on anything else (time,
region, discounts, a table of tiers, a cost that the provider states), and from a prompt's size on at which
another rate begins, LiteLLM calculates. Rates are dropped once an entry of LiteLLM's list of prices changes.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm_proxy.json_access import Json, as_object, is_object
from llm_proxy.sidecar import direct_internals
from llm_proxy.sidecar.litellm_internals import Untyped

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
PARTS = {
    "prompt_tokens_details": frozenset({"cached_tokens", "audio_tokens"}),
    "completion_tokens_details": frozenset(
        {
            *("reasoning_tokens", "audio_tokens"),
            *("accepted_prediction_tokens", "rejected_prediction_tokens"),
        }
    ),
}
"""Details of OpenAI's usage -> the counts that they consist of."""
FLAT_ATTRIBUTE = "_llmp_flat_prices"
MAX_FLAT_PRICES = 16
"""Of one form of calls: a provider may state another model and another tier in each answer."""
OWN_RULES = frozenset({"azure", "azure_ai", "perplexity", "vertex_ai", "vertex_ai_beta"})
"""Providers whose prices LiteLLM calculates by more than an answer's usage."""
PRICE_NAMES = ("cost", "pric", "multiplier", "peak")
"""Parts of the names by which an entry states what the price of a plain usage depends on."""
CONSTANT_RATE = re.compile(
    r"((input|output)_cost_per_(token|token_cache_hit|reasoning_token|audio_token|image_token|image|video_token)"
    r"|cache_(read|creation)_input_(audio_)?token_cost(_above_1hr)?|search_context_cost_per_query"
    r"|regional_processing_uplift_multiplier)"
    r"(_above_(?P<limit>[0-9]+)(?P<thousands>k?)_tokens)?(_(priority|flex|batches|balanced|ultrafast|eu|us))?"
)
OPEN_END = 10**9
"""More tokens than a call has."""
VARYING = frozenset(
    {
        *("input_cost", "output_cost", "total_cost", "original_cost"),
        *("cache_read_cost", "cache_creation_cost", "reasoning_cost"),
    }
)
"""Parts of a cost that depend on the counts."""
NOTHING_ADDED: Json = {
    "service_tier": None,
    "tool_usage_cost": 0.0,
    "data_residency": None,
    "vertex_location": None,
    "discount_percent": 0.0,
    "discount_amount": 0.0,
    "margin_percent": 0.0,
    "margin_fixed_amount": 0.0,
    "margin_total_amount": 0.0,
}
"""The other parts, whatever the tier, where a cost is the sum of its tokens."""


class PlainCounts(NamedTuple):
    """The tokens of an answer that has no others.

    Attributes:
        prompt: All of the prompt, those of the cache among them.
        cached: Read from the provider's cache.
        written: Written to it, for some minutes.
        written_1h: Written to it, for an hour.
    """

    prompt: int
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    written: int = 0
    written_1h: int = 0

    @property
    def fresh(self) -> int:
        """Tokens of the prompt that the cache has no part in."""
        return self.prompt - self.cached - self.written - self.written_1h

    def is_sound(self) -> bool:
        """Whether parts are no larger than their sums."""
        return self.fresh >= 0 and self.reasoning <= self.completion and max(self) < OPEN_END

    def as_usage(self) -> Json:
        """Return them as a provider states them."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


class PlainUsage:
    """A usage with OpenAI's counts alone, by the names by which LiteLLM's object is read."""

    def __init__(self, stated: Json) -> None:
        self._stated = stated
        self.prompt_tokens: int = stated["prompt_tokens"]
        self.completion_tokens: int = stated["completion_tokens"]

    def model_dump(self, **_: object) -> Json:
        """Return it as the provider states it."""
        return self._stated


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """What a row takes of LiteLLM's object of an answer with such a usage."""

    id: str
    usage: PlainUsage
    service_tier: str | None


class AnswerForm(NamedTuple):
    """Answers of an operation.

    Attributes:
        make: Returns LiteLLM's object of an answer with these counts, this tier and this model.
        has: The counts that such answers may state, beside the prompt's.
    """

    make: Callable[[PlainCounts, str | None, str, Untyped], Untyped]
    has: frozenset[str]


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """Rates in USD a token, and what else a price of LiteLLM's consists of.

    Attributes:
        below: Prompts with fewer tokens have these rates.
        is_own: Whether the deployment states its prices, so that a cost that the provider states is no cost.
        constant: The parts of a cost that do not depend on counts.
        prices: Which list of prices LiteLLM had.
        entries: The entries of that list that may be the deployment's, as they were.
    """

    per_input: float
    per_cached: float
    per_output: float
    per_reasoning: float
    per_written: float
    per_written_1h: float
    below: int
    is_own: bool
    constant: Json
    prices: tuple[int, int]
    entries: Mapping[str, Json]

    def price(self, counts: PlainCounts) -> tuple[float, Json]:
        """Return the cost and its parts, by the operations by which LiteLLM calculates them."""
        cached = float(counts.cached) * self.per_cached
        reasoning = float(counts.reasoning) * self.per_reasoning
        written = counts.written * self.per_written + counts.written_1h * self.per_written_1h
        given = float(counts.fresh) * self.per_input + cached + written
        made = float(counts.completion - counts.reasoning) * self.per_output + reasoning
        cost = given + made
        parts = {
            **self.constant,
            "input_cost": given,
            "output_cost": made,
            "total_cost": cost,
            "original_cost": cost,
        }
        if cached > 0:
            parts["cache_read_cost"] = cached
        if written > 0:
            parts["cache_creation_cost"] = written
        if reasoning > 0:
            parts["reasoning_cost"] = reasoning
        return cost, parts

    def holds(self) -> bool:
        """Whether LiteLLM's entries are what they were."""
        return self.prices == direct_internals.known_prices() and all(
            direct_internals.price_entry(name) == entry for name, entry in self.entries.items()
        )


def price(
    usage: object, model: str, tier: str | None, pricing: Untyped, hidden: Json
) -> tuple[float, Json] | None:
    """Return what a chat's answer costs, and the parts of the cost; None if LiteLLM has to calculate it.

    Args:
        usage: As the answer states it.
        model: Of the answer.
        tier: The service tier of the answer.
        pricing: LiteLLM's logging object of the call that the request's template was learned from.
        hidden: What LiteLLM keeps beside the answer.
    """
    return price_of_counts(plain_counts(usage), model, tier, pricing, CHAT, hidden)


def price_of_counts(
    counts: PlainCounts | None,
    model: str,
    tier: str | None,
    pricing: Untyped,
    form: AnswerForm,
    hidden: Json | None = None,
) -> tuple[float, Json] | None:
    """Return the same of any answer by its counts, if it has no others.

    Args:
        counts: None if the answer has others.
        model: Of the answer.
        tier: The service tier of the answer.
        pricing: LiteLLM's logging object, which prices answers of one form.
        form: The answer's.
        hidden: What LiteLLM keeps beside the answer; None if a cost stated there is none.
    """
    if counts is None:
        return None
    flat = _flat_price(model, tier, pricing, form)
    if flat is None or counts.prompt >= flat.below:
        return None
    is_stated = hidden is not None and not flat.is_own and direct_internals.states_cost(hidden)
    return None if is_stated else flat.price(counts)


def _flat_price(model: str, tier: str | None, pricing: Untyped, form: AnswerForm) -> FlatPrice | None:
    known: dict[tuple[str, str | None], FlatPrice | None] | None = getattr(pricing, FLAT_ATTRIBUTE, None)
    if known is None:
        setattr(pricing, FLAT_ATTRIBUTE, known := {})
    key = model, tier
    found = known.get(key)
    is_new = key not in known and len(known) < MAX_FLAT_PRICES
    if is_new or (found is not None and not found.holds()):
        found = known[key] = _learn(model, tier, pricing, form)
    return found


def plain_counts(
    usage: object,
    counts: tuple[str, ...] = COUNTS,
    parts: Mapping[str, frozenset[str]] = PARTS,
) -> PlainCounts | None:
    """Return the counts of a usage that has no others, and whose parts are no larger than their sums.

    Args:
        usage: As the answer states it.
        counts: The names of the prompt's tokens, of the completion's, and of others that it has.
        parts: The name of the prompt's details and that of the completion's -> the counts they consist of.
    """
    if not is_object(usage) or not is_plain_usage(usage, counts, parts):
        return None
    prompt, completion = (as_object(usage.get(name)) for name in parts)
    found = PlainCounts(
        usage[counts[0]],
        usage[counts[1]],
        prompt.get("cached_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
        prompt.get("cache_write_tokens") or 0,
    )
    has_sound = prompt.get("audio_tokens") or completion.get("audio_tokens")
    return found if not has_sound and found.is_sound() else None


def plain_prompt(usage: object) -> PlainCounts | None:
    """Return the tokens of an answer of embeddings; None if it states others."""
    stated = {name: value for name, value in as_object(usage).items() if value}
    if not stated.keys() <= {"prompt_tokens", "total_tokens"} or not all(map(_is_count, stated.values())):
        return None
    found = PlainCounts(stated.get("prompt_tokens", 0))
    return found if found.prompt and found.is_sound() else None


def is_plain_usage(
    usage: Json,
    counts: tuple[str, ...] = COUNTS,
    parts: Mapping[str, frozenset[str]] = PARTS,
) -> bool:
    """Whether a usage has these counts, by default OpenAI's of a chat, and no other."""
    stated = 0
    for name, value in usage.items():
        if name in counts:
            stated += _is_count(value)
        elif name not in parts or not (value is None or _are_counts(value, parts[name])):
            return False
    return stated == len(counts)


def _are_counts(part: object, names: frozenset[str]) -> bool:
    if not is_object(part) or not part.keys() <= names:
        return False
    return all(one is None or _is_count(one) for one in part.values())


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _learn(model: str, tier: str | None, pricing: Untyped, form: AnswerForm) -> FlatPrice | None:
    """Return the rates by which LiteLLM bills a deployment; None if they depend on more than its entries."""
    entries = copy.deepcopy(direct_internals.price_entries(model, pricing))
    below = _first_limit(entries)
    if below is None or pricing.model_call_details.get("custom_llm_provider") in OWN_RULES:
        return None
    found: FlatPrice | None = None
    unstated = dict.fromkeys({*PlainCounts._fields[1:]} - form.has, 0)
    for counts in (one._replace(**unstated) for one in _samples(below)):
        made = form.make(counts, tier, model, pricing)
        cost_usd, parts = direct_internals.price(made, pricing)
        rates: Untyped = pricing.billed_token_rates
        constant = {name: value for name, value in as_object(parts).items() if name not in VARYING}
        is_sum = {**constant, "service_tier": None} == NOTHING_ADDED
        if cost_usd is None or rates is None or not is_sum:
            return None
        found = found or FlatPrice(
            rates.input_cost_per_token,
            rates.cache_read_input_token_cost,
            rates.output_cost_per_token,
            rates.output_cost_per_reasoning_token,
            rates.cache_creation_input_token_cost,
            rates.cache_creation_input_token_cost_above_1hr,
            below,
            bool(pricing.custom_pricing_for(made)),
            constant,
            direct_internals.known_prices(),
            entries,
        )
        if found.price(counts) != (cost_usd, parts):
            return None
    return found


def _samples(below: int) -> Iterator[PlainCounts]:
    """Yield usages from the smallest to the largest with the same rates."""
    yield PlainCounts(3, 7, 1, 2, 1, 1)
    yield PlainCounts(1031)
    for prompt in (below // 3, below - 1):
        yield PlainCounts(
            prompt, 5 * prompt + 3, prompt // 7, prompt // 3, written=prompt // 11, written_1h=prompt // 13
        )


def _first_limit(entries: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Return the size of a prompt from which another rate may hold; None if rates depend on other things."""
    limits = [OPEN_END]
    for entry in entries.values():
        for name, value in entry.items():
            if value is None or name.startswith("supports_") or not any(one in name for one in PRICE_NAMES):
                continue
            rate = CONSTANT_RATE.fullmatch(name)
            if rate is None:
                return None
            if rate["limit"]:
                limits.append(int(rate["limit"]) * (1000 if rate["thousands"] else 1))
    return min(limits)


def _chat(counts: PlainCounts, tier: str | None, model: str, pricing: Untyped) -> Untyped:
    hidden = direct_internals.hidden_of_stream(pricing, {})
    return direct_internals.answer_with_usage("", counts.as_usage(), tier, pricing, hidden, model)


def _vectors(counts: PlainCounts, tier: str | None, model: str, pricing: Untyped) -> Untyped:  # noqa: ARG001 -- one signature
    usage = {"prompt_tokens": counts.prompt, "total_tokens": counts.prompt}
    document: Json = {"object": "list", "model": model, "data": [], "usage": usage}
    return direct_internals.answer_object(document, {}, pricing)


CHAT = AnswerForm(_chat, frozenset({"completion", "cached", "reasoning"}))
VECTORS = AnswerForm(_vectors, frozenset())
