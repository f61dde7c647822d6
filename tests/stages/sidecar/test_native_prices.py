"""Prices of native answers and of embeddings, calculated without LiteLLM, are LiteLLM's to the last digit.

So is what the call log takes of them.
"""

import pytest
from stages.sidecar.price_comparison import Json, compare

PRICES: Json = {"input_cost_per_token": 1.7e-06, "output_cost_per_token": 9.3e-06}
CACHED: Json = {
    "cache_read_input_token_cost": 3.1e-07,
    "cache_creation_input_token_cost": 2.3e-06,
    "cache_creation_input_token_cost_above_1hr": 3.7e-06,
}
MODELS: dict[str, tuple[str, Json]] = {
    "responses-own": ("openai/of-nobody", PRICES | CACHED),
    "responses-published": ("openai/gpt-5", {}),
    "responses-above": ("openai/gpt-5.4", {}),
    "messages-own": ("anthropic/of-nobody", PRICES | CACHED),
    "messages-own-uncached": ("anthropic/of-nobody", PRICES),
    "messages-published": ("anthropic/claude-sonnet-4-6", {}),
    "messages-regions": ("anthropic/claude-opus-4-6", {}),
    "messages-above": ("anthropic/claude-sonnet-4-5", {}),
    "embeddings-own": ("openai/of-nobody", PRICES),
    "embeddings-published": ("openai/text-embedding-3-small", {}),
}
"""The operation and a word -> the model and `model_info` of a deployment."""
TIMES = 80
COMPARE = """
import types
from datetime import UTC, datetime
from llm_proxy.sidecar import call_log, direct_answers, direct_templates
OPERATIONS = {
    "responses": ("aresponses", native_prices.price_response),
    "messages": ("anthropic_messages", native_prices.price_message),
    "embeddings": ("aembedding", None),
}
LIMITS = [at + more for at in (200_000, 272_000) for more in (-1, 0, 1)]
TIERS = [None, None, "default", "standard", "flex", "priority", "auto", "of-nobody"]

def part(most):
    return rng.choice([0, 0, None, rng.randint(0, most)])

def optional(document):
    return {name: value for name, value in document.items() if value is not None or rng.random() < 0.5}

def of_responses(prompt, completion, tier):
    cached = part(prompt)
    details = {"cached_tokens": cached or 0, "cache_write_tokens": part(prompt - (cached or 0))}
    details = rng.choice([optional(details), optional(details), {"cache_write_tokens": 3}, {}, None])
    usage = {
        "input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion,
        "input_tokens_details": details,
        "output_tokens_details": rng.choice([{"reasoning_tokens": part(completion)}, {}, None]),
    }
    usage = optional(usage)
    document = {"id": "r", "object": "response", "created_at": rng.choice([1, 1, 1, 1.0]), "usage": usage}
    document["status"] = rng.choice(["completed", "incomplete"])
    model = rng.choice([pricing.model, "gpt-4o-2024-08-06", "of-somebody"])
    document |= {"model": model, "service_tier": tier}
    return document, direct_internals.response_object(document)

def of_messages(prompt, completion, tier):
    short, long = part(prompt) or 0, part(prompt) or 0
    split = {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
    usage = optional({
        "input_tokens": prompt, "output_tokens": completion,
        "cache_read_input_tokens": part(prompt),
        "cache_creation_input_tokens": rng.choice([short + long, short + long, part(prompt)]),
        "cache_creation": rng.choice([split, split, None]),
        "service_tier": tier,
        "inference_geo": rng.choice([None, None, None, "global", "not_available", "us"]),
        "speed": rng.choice([None, None, None, None, "fast"]),
        "output_tokens_details": rng.choice([None, {}, {"thinking_tokens": part(completion)}]),
        "server_tool_use": rng.choice([None, None, None, {"web_search_requests": 3}]),
    })
    thought = {"type": "thinking", "thinking": rng.choice(["", "A few words. " * 9])}
    searched = {"type": "server_tool_use", "name": "tool_search_tool_regex"}
    content = [{"type": "text", "text": "a"}, *rng.choice([[], [thought], [searched]])]
    document = {"id": "m", "content": content, "usage": usage}
    return document, direct_internals.message_object(document, pricing)

def of_embeddings(prompt, completion, tier):
    usage = rng.choice([{}, {"completion_tokens": 0}]) | {"prompt_tokens": prompt, "total_tokens": prompt}
    document = {"object": "list", "data": [], "usage": usage}
    document["model"] = rng.choice([pricing.model, "of-somebody"])
    return usage, direct_internals.answer_object(document, rng.choice([{}, STATED]), pricing)

def row_of(pricing, result, cost_usd, parts):
    answer = direct_requests.ProviderAnswer(200, {}, b"", b"", 0.0)
    call = direct_templates.DirectCall("responses", "g", "a", {}, None)
    template = types.SimpleNamespace(pricing=pricing, deployment="d")
    at = datetime.fromtimestamp(0, UTC)
    good = direct_answers.GoodAnswer(result, call, template, answer, {}, cost_usd, parts, at, at)
    return call_log.row_of_event(good._event("1", "m"), result, at, at)

STATED = {"x-litellm-response-cost": "0.125"}
theirs = direct_internals.price
left = []
def note(result, pricing):
    left.append(result)
    return theirs(result, pricing)
direct_internals.price = note

found = {}
for name in asked["models"]:
    operation = name.partition("-")[0]
    call_type, price = OPERATIONS[operation]
    pricing = asyncio.run(pricing_of(name))
    pricing.call_type = call_type
    tally = found[name] = {"flat": 0, "plain": 0, "others": []}
    for _ in range(asked["times"]):
        small = rng.randrange(1, 300), rng.randrange(1, 90_000)
        prompt = rng.choice([*small, *small, rng.randrange(1, 400_000), rng.choice(LIMITS)])
        completion = rng.choice([1, rng.randrange(1, 300), rng.randrange(1, 100_000)])
        usage, made = globals()["of_" + operation](prompt, completion, rng.choice(TIERS))
        before = json.dumps(usage)
        expected = theirs(made, pricing)
        left.clear()
        if price is not None:
            logged, got = price(usage, pricing)
            if operation == "responses":
                made.usage = direct_internals.chat_usage(made.usage)
            is_flat = not any(one is logged for one in left)
            tally["plain"] += isinstance(logged, flat_prices.PlainAnswer)
            rows = [row_of(pricing, one, *expected) for one in (logged, made)]
            if rows[0] != rows[1]:
                tally["others"].append([before, *map(repr, rows)])
        else:
            counts = flat_prices.plain_prompt(usage)
            got = flat_prices.price_of_counts(
                counts, made.model, None, pricing, flat_prices.VECTORS, made._hidden_params
            )
            is_flat = got is not None
        tally["flat"] += is_flat
        if is_flat and list(got) != list(expected):
            tally["others"].append([before, made.model, got, expected])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Json:
    """What both made of random usages, by deployment."""
    return compare(MODELS, TIMES, COMPARE)


@pytest.mark.parametrize("name", MODELS)
def test_prices_are_litellm_s(found: Json, name: str) -> None:
    """Cost and parts: with parts of the cache for minutes and for an hour, thoughts, tiers, around limits."""
    assert found[name]["others"] == []
    assert found[name]["flat"] > TIMES / 8
    assert name.startswith("embeddings") or found[name]["plain"]
