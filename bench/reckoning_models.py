"""The models of a reckoning: a group for each provider family with prices of its own; what a call costs.

Invariants: prices are text in the configuration and `Decimal` here, so that the cost worked out here owes
nothing to anybody's floats. Money: nano-dollars, rounded up once.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

Json = dict[str, Any]
NANO = Decimal(10) ** 9
PROVIDER_KEY = "sk-scripted"
_ROOTS = {"anthropic": "", "ollama_chat": "", "gemini": "/v1beta"}


@dataclass(frozen=True, slots=True)
class Model:
    """One group.

    Attributes:
        physical: LiteLLM's name, `provider/model`.
        price: Dollars per token: prompt, completion, prompt read from the provider's cache; None is unknown.
        choices: It answers `n` > 1.
        tools: It calls tools.
        reasons: It states reasoning tokens.
        remembers: It states tokens read from its cache.
    """

    physical: str
    price: tuple[str, str, str] | None = None
    choices: bool = False
    tools: bool = False
    reasons: bool = False
    remembers: bool = False
    mode: str = "chat"

    @property
    def provider(self) -> str:
        """LiteLLM's name of the provider."""
        return self.physical.partition("/")[0]


def _openai(name: str, price: tuple[str, str, str] | None) -> Model:
    return Model(f"openai/{name}", price, choices=True, tools=True, reasons=True, remembers=True)


CHEAP = ("0.00000015", "0.0000006", "0.000000075")
MODELS = {
    "gpt": _openai("gpt-4o-mini", CHEAP),
    "claude": Model(
        "anthropic/claude-sonnet-4-20250514",
        ("0.000003", "0.000015", "0.0000003"),
        tools=True,
        remembers=True,
    ),
    "gemini": Model(
        "gemini/gemini-2.5-flash",
        ("0.0000003", "0.0000025", "0.000000075"),
        tools=True,
        reasons=True,
        remembers=True,
    ),
    "ollama": Model("ollama_chat/llama3.1:8b", ("0.0000000125", "0.0000000333", "0.0000000125")),
    "compatible": Model(
        "hosted_vllm/qwen3-8b", ("0.000000137", "0.00000041", "0.000000137"), choices=True, tools=True
    ),
    "text": Model(
        "text-completion-openai/gpt-3.5-turbo-instruct",
        ("0.0000015", "0.000002", "0.0000015"),
        choices=True,
        mode="completion",
    ),
    "embed": Model("openai/text-embedding-3-small", ("0.00000002", "0", "0.00000002"), mode="embedding"),
    "unpriced": _openai("never-heard-of", None),
    "steady": _openai("gpt-4o-mini", CHEAP),
    "first": _openai("gpt-4.1", ("0.000002", "0.000008", "0.0000005")),
}
CHATS = ("gpt", "claude", "gemini", "ollama", "compatible")
FALLBACK = {"first": "gemini"}
MOST_TRIES = 3
"""At the group `steady`."""


def config(provider_url: str) -> Json:
    """LiteLLM's configuration for a provider at this address."""
    return {
        "model_list": [_entry(name, model, provider_url) for name, model in MODELS.items()],
        "router_settings": {
            "num_retries": 1,
            "retry_policy": {"DefaultRetries": 0},
            "model_group_retry_policy": {"steady": {"InternalServerErrorRetries": MOST_TRIES - 1}},
            "fallbacks": [{source: [target]} for source, target in FALLBACK.items()],
            "disable_cooldowns": True,
        },
        "general_settings": {"cancel_on_disconnect": True},
    }


def _entry(name: str, model: Model, provider_url: str) -> Json:
    names = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    info: Json = {"id": f"the-{name}", "mode": model.mode}
    if model.price:
        info |= dict(zip(names, map(float, model.price), strict=True))
    base = provider_url + _ROOTS.get(model.provider, "/v1")
    params = {"model": model.physical, "api_base": base, "api_key": PROVIDER_KEY}
    return {"model_name": name, "litellm_params": params, "model_info": info}


def cost_nano_usd(group: str, usage: Json) -> int | None:
    """What a provider's stated tokens cost, in nano-dollars rounded up; None without a price."""
    price = MODELS[group].price
    if price is None:
        return None
    prompt_usd, completion_usd, cached_usd = map(Decimal, price)
    cached = usage["cached_tokens"]
    dollars = (usage["prompt_tokens"] - cached) * prompt_usd + cached * cached_usd
    dollars += usage["completion_tokens"] * completion_usd
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))
