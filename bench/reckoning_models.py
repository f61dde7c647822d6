"""The models of a reckoning: a group for each provider family with prices of its own; what a call costs.

Invariants: prices are text in the configuration and `Decimal` here, so that the cost worked out here owes
nothing to anybody's floats. Money: nano-dollars, rounded up once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

Json = dict[str, Any]
NANO = Decimal(10) ** 9
PROVIDER_KEY = "sk-scripted"
_WRITE = "cache_creation_input_token_cost"
_ROOTS = {"anthropic": "", "ollama_chat": "", "gemini": "/v1beta"}


Tier = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """One group.

    Attributes:
        physical: LiteLLM's name, `provider/model`.
        price: Dollars per token: prompt, completion, prompt read from the provider's cache; None is unknown.
        writes: Dollars per token written to that cache, for 5 minutes and an hour; None where it has none.
        tiers: By service tier: prompt, completion, read, written.
        choices: It answers `n` > 1.
        tools: It calls tools.
        reasons: It states reasoning tokens.
        remembers: It states tokens read from its cache.
    """

    physical: str
    price: tuple[str, str, str] | None = None
    writes: tuple[str, str] | None = None
    tiers: Mapping[str, Tier] = field(default_factory=dict[str, Tier])
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
TIERS = {
    "flex": ("0.00000007", "0.00000031", "0.00000004", "0.00000009"),
    "priority": ("0.00000025", "0.000001", "0.000000125", "0.0000003125"),
}
MODELS = {
    "gpt": replace(_openai("gpt-4o-mini", CHEAP), writes=("0.0000001875", "0.0000001875"), tiers=TIERS),
    "claude": Model(
        "anthropic/claude-sonnet-4-20250514",
        ("0.000003", "0.000015", "0.0000003"),
        writes=("0.00000375", "0.000006"),
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
    "sure": Model("deepseek/deepseek-chat", ("0.0000001", "0.0000003", "0.00000002")),
    "unpriced": _openai("never-heard-of", None),
    "steady": _openai("gpt-4o-mini", CHEAP),
    "first": _openai("gpt-4.1", ("0.000002", "0.000008", "0.0000005")),
}
PARTS = ("cached_tokens", "cache_write_tokens", "cache_write_1h_tokens")
SURE = "sure"
"""Of a provider of its own, that never fails and is never left: what it bills is known to the nano-dollar."""
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
    if model.writes:
        info |= {_WRITE: float(model.writes[0]), f"{_WRITE}_above_1hr": float(model.writes[1])}
    for tier, prices in model.tiers.items():
        info |= {f"{name}_{tier}": float(price) for name, price in zip((*names, _WRITE), prices, strict=True)}
    base = provider_url + _ROOTS.get(model.provider, "/v1")
    params = {"model": model.physical, "api_base": base, "api_key": PROVIDER_KEY}
    return {"model_name": name, "litellm_params": params, "model_info": info}


def cost_nano_usd(group: str, usage: Json) -> int | None:
    """What a provider's stated tokens cost, in nano-dollars rounded up; None without a price."""
    model = MODELS[group]
    if model.price is None:
        return None
    prompt_usd, completion_usd, cached_usd = map(Decimal, model.price)
    write_usd, hour_usd = map(Decimal, model.writes or ("0", "0"))
    tier = model.tiers.get(usage["service_tier"])
    if tier is not None:
        prompt_usd, completion_usd, cached_usd, write_usd = map(Decimal, tier)
    cached, written, an_hour = (usage[name] for name in PARTS)
    dollars = (usage["prompt_tokens"] - cached - written) * prompt_usd + cached * cached_usd
    dollars += (written - an_hour) * write_usd + an_hour * hour_usd
    dollars += usage["completion_tokens"] * completion_usd
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))
