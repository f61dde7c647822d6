"""Prices that are calculated without LiteLLM are LiteLLM's, to the last digit."""

from typing import Any

import pytest
from stages.sidecar.price_comparison import compare

Json = dict[str, Any]
PRICES: Json = {"input_cost_per_token": 1.7e-06, "output_cost_per_token": 9.3e-06}
CACHED: Json = {"cache_read_input_token_cost": 3.1e-07, "cache_creation_input_token_cost": 2.3e-06}
THINKING: Json = {"output_cost_per_reasoning_token": 1.1e-05}
TIERS: Json = {
    "input_cost_per_token_flex": 7e-07,
    "output_cost_per_token_flex": 4.1e-06,
    "input_cost_per_token_priority": 3.3e-06,
    "cache_read_input_token_cost_priority": 9e-07,
}
ABOVE: Json = {
    "input_cost_per_token_above_200k_tokens": 3.9e-06,
    "output_cost_per_token_above_200k_tokens": 1.9e-05,
}
FLAT: dict[str, tuple[str, Json]] = {
    "own": ("openai/of-nobody", PRICES),
    "own-of-known": ("openai/gpt-4o", PRICES | CACHED),
    "cached": ("openai/of-nobody", PRICES | CACHED | THINKING),
    "tiers": ("openai/of-nobody", PRICES | CACHED | TIERS),
    "above": ("openai/of-nobody", PRICES | CACHED | ABOVE),
    "free": ("openai/of-nobody", dict.fromkeys(PRICES, 0.0)),
    "published": ("openai/gpt-4o", {}),
    "published-tiers": ("openai/gpt-5", {}),
    "published-above": ("openai/gpt-5.4", {}),
    "based": ("openai/of-nobody", {"base_model": "gpt-4o-mini"}),
    "of-another": ("openai/of-nobody", {}),
    "groq": ("groq/llama-3.3-70b-versatile", {}),
    "deepseek": ("deepseek/deepseek-chat", {}),
    "mistral": ("mistral/mistral-large-latest", {}),
}
"""Name -> the model and `model_info` of a deployment whose small prompts have constant rates."""
TIMES = 60
LEFT: dict[str, tuple[str, Json]] = {
    "off-peak": (
        "openai/of-nobody",
        PRICES | {"off_peak_pricing": {"hours_utc": "00:00-23:59", "input_cost_per_token": 1e-07}},
    ),
    "seconds": ("openai/of-nobody", {"input_cost_per_second": 0.01}),
    "table": (
        "openai/of-nobody",
        {
            "tiered_pricing": [
                {"range": [0, 32000], **PRICES},
                {"range": [32000, 1e6], "input_cost_per_token": 5e-06, "output_cost_per_token": 1e-05},
            ]
        },
    ),
    "eu": ("openai/gpt-5.4", {"api_base": "https://eu.api.openai.com/v1"}),
}
"""The same of deployments whose prices LiteLLM calculates."""
SURCHARGES = ((0, 100), (1000, 2000), (10**8, 5 * 10**8), (5 * 10**8, 10**9), (10**9, 10**10))
"""Sizes of prompts that cost more than their tokens; no call has the last ones."""
COMPARE = """
def litellm_price(usage, model, tier, pricing, hidden):
    made = direct_internals.answer_with_usage("a", usage, tier, pricing, hidden, model)
    return direct_internals.price(made, pricing)

def counts():
    small = rng.randrange(0, 300), rng.randrange(0, 100_000)
    prompt = rng.choice([*small, *small, *small, rng.randrange(0, 400_000), rng.choice(LIMITS)])
    completion = rng.choice([0, rng.randrange(0, 300), rng.randrange(0, 100_000)])
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if rng.random() < 0.7:
        cached = rng.choice([0, None, prompt, rng.randint(0, prompt)])
        usage["prompt_tokens_details"] = rng.choice([None, {}, {"cached_tokens": cached, "audio_tokens": 0}])
    if rng.random() < 0.7:
        thought = rng.choice([0, None, completion, rng.randint(0, completion)])
        stated = {"reasoning_tokens": thought, "accepted_prediction_tokens": rng.randint(0, 3)}
        usage["completion_tokens_details"] = rng.choice([None, stated])
    return usage

LIMITS = [at + more for at in (128_000, 200_000, 272_000) for more in (-1, 0, 1)]
TIERS = [None, None, "default", "flex", "priority", "auto", "of-nobody"]
found = {}
for name in asked["models"]:
    pricing = asyncio.run(pricing_of(name))
    tally = found[name] = {"flat": 0, "left": 0, "others": []}
    for _ in range(asked["times"]):
        usage, tier = counts(), rng.choice(TIERS)
        model = rng.choice([pricing.model, "gpt-4o-2024-08-06", "of-somebody"])
        stated = rng.choice([{}, {}, {"llm_provider-x-litellm-response-cost": "0.125"}])
        hidden = direct_internals.hidden_of_stream(pricing, stated)
        flat = flat_prices.price(usage, model, tier, pricing, hidden)
        tally["left" if flat is None else "flat"] += 1
        if flat not in (None, litellm_price(usage, model, tier, pricing, hidden)):
            tally["others"].append([usage, model, tier, stated, flat])

def flat_and_theirs(pricing):
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    hidden = direct_internals.hidden_of_stream(pricing, {})
    flat = flat_prices.price(usage, pricing.model, None, pricing, hidden)
    return [flat, litellm_price(usage, pricing.model, None, pricing, hidden)]

kept = asyncio.run(pricing_of("own"))
found["before"] = flat_and_theirs(kept)
litellm.register_model({"own": {"input_cost_per_token": 5e-06}})
found["after"] = flat_and_theirs(kept)
litellm.cost_discount_config = {"openai": 0.05}
found["discount"] = flat_and_theirs(asyncio.run(pricing_of("own")))
litellm.cost_discount_config, litellm.cost_margin_config = {}, {"openai": 0.1}
found["margin"] = flat_and_theirs(asyncio.run(pricing_of("own")))
litellm.cost_margin_config = {}

cost_per_token = litellm.cost_calculator.cost_per_token
found["surcharges"] = []
for least, most in asked["surcharges"]:
    def dearer(*args, usage_object=None, **options):
        given, made = cost_per_token(*args, usage_object=usage_object, **options)
        return given + 0.001 * (least <= usage_object.prompt_tokens < most), made
    litellm.cost_calculator.cost_per_token = dearer
    found["surcharges"].append(flat_and_theirs(asyncio.run(pricing_of("own")))[0])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Json:
    """What both made of random usages, by deployment."""
    return compare(FLAT | LEFT, TIMES, COMPARE, surcharges=SURCHARGES)


@pytest.mark.parametrize("name", FLAT)
def test_prices_are_litellm_s(found: Json, name: str) -> None:
    """Cost and parts, with any tier, around limits, whatever the provider states."""
    seen = found[name]
    assert seen["others"] == []
    assert seen["flat"] > TIMES / 3


@pytest.mark.parametrize("name", LEFT)
def test_prices_that_depend_on_more_are_left_to_litellm(found: Json, name: str) -> None:
    """On the time, a table, a region."""
    assert found[name]["flat"] == 0


def test_a_changed_price_holds_at_once(found: Json) -> None:
    """Though it is an entry of the same list."""
    assert found["before"][0] == found["before"][1]
    assert found["after"][0] == found["after"][1] != found["before"][1]


@pytest.mark.parametrize("name", ["discount", "margin"])
def test_discounts_and_margins_are_litellm_s(found: Json, name: str) -> None:
    """They are no part of a sum of tokens."""
    flat, theirs = found[name]
    assert flat is None
    assert theirs[0] != found["after"][1][0]


def test_prices_that_are_no_sum_for_prompts_of_some_size_are_litellm_s(found: Json) -> None:
    """Small, middle or large: LiteLLM's own prices of each size were compared, whatever the entries say."""
    *some, none = found["surcharges"]
    assert some == [None] * 4
    assert none is not None
