"""The catalog for the gateway: model groups, their deployments, limits and prices as LiteLLM knows them.

Invariants: configured groups only, wildcards are not expanded; a deployment's own values win over published
ones; prices are decimal strings in USD per token; an unknown price is null, never 0.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.config import FALLBACK_KEYS
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch

BASE_PRICES = ("input_cost_per_token", "output_cost_per_token")
DERIVED_PRICE_PREFIXES = {
    "input_cost_per_token": ("input_cost_per_", "cache_read_input_", "cache_creation_input_"),
    "output_cost_per_token": ("output_cost_per_",),
}
"""A base price -> how the names of the prices begin that are 0 where it is."""
STATED_COST_HEADER = "llm_provider-x-litellm-response-cost"
"""Where LiteLLM keeps the cost that a provider stated itself."""


def published_entry(model: str) -> Mapping[str, Any]:
    """LiteLLM's published entry for a model named `provider/model`, or nothing."""
    entries: Mapping[str, Mapping[str, Any]] = litellm_internals.litellm_module().model_cost
    provider, _, name = model.partition("/")
    bare = entries.get(name) or {}
    return entries.get(model) or (bare if bare.get("litellm_provider") == provider else {})


def qualified_model(provider: str, model: str) -> str:
    """A model's name with its provider before it, as LiteLLM writes it now and then."""
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"


def has_price(deployment: str, model: str) -> bool:
    """Whether a price is known, be it 0."""
    own: Mapping[str, Any] = litellm_internals.litellm_module().model_cost.get(deployment) or {}
    return any(entry.get(name) is not None for entry in (own, published_entry(model)) for name in BASE_PRICES)


def is_cost_known(cost: object, headers: object, deployment: str, model: str) -> bool:
    """Whether what LiteLLM calculated is a cost: it says 0 where it knows no price.

    Args:
        cost: What it calculated.
        headers: The provider's, as LiteLLM keeps them; a cost the provider stated is among them.
        deployment: Its id.
        model: The model's name, with the provider before it.
    """
    stated = as_object(headers).get(STATED_COST_HEADER) is not None
    return cost is not None and (bool(cost) or stated or has_price(deployment, model))


def own_prices(entry: Json) -> Json:
    """The prices that an entry of the model list states itself."""
    params, info = as_object(entry.get("litellm_params")), as_object(entry.get("model_info"))
    given = [*info.items(), *params.items()]
    return {name: value for name, value in given if "cost" in name and value is not None}


def _install_free_deployments() -> None:
    """Make the prices 0 that follow from one stated as 0; once LiteLLM has read the model list."""
    router = litellm_internals.router()
    for entry in router.model_list if router is not None else ():
        own = own_prices(entry)
        starts = tuple(
            start
            for base, kinds in DERIVED_PRICE_PREFIXES.items()
            if base in own and not float(own[base])
            for start in kinds
        )
        if starts:
            identity = str(as_object(entry.get("model_info")).get("id"))
            kept = as_object(litellm_internals.litellm_module().model_cost.get(identity))
            implied = {name: 0.0 for name in kept if name.startswith(starts) and name not in own}
            litellm_internals.litellm_module().register_model({identity: implied})


FREE_DEPLOYMENTS = LiteLLMPatch(
    name="free_deployments",
    install=_install_free_deployments,
    reason=(
        "A deployment priced at 0 is billed the published price for cached tokens and for service tiers, "
        "where its model's name is a listed one."
    ),
    since="1.108.6",
    report="To file: `custom pricing of 0 inherits cache and service-tier prices of the public model`.",
    until="A custom price of 0 is 0 for all tokens of its kind.",
    tests=("tests/flow/test_token_prices.py::test_free_is_free_for_every_kind_of_token",),
    after_start=True,
)

PROVIDER_KEY = "provider"
"""What `model_info` may call a provider that is spoken to in another's protocol."""
TOKEN_LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens")


def list_models(router: Untyped) -> Json:
    """OpenAI's list of models: the groups and aliases by name."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "llm-proxy"}
        for name in _model_names(router)
        if not _is_hidden(router, name)
    ]
    return {"object": "list", "data": data}


def build_catalog(router: Untyped, *, watched: bool = False) -> Json:
    """Every group with its deployments, and whether somebody watches the calls."""
    if router is None:
        return {"groups": [], "default_fallbacks": []}
    rules: dict[str, list[str]] = {}
    for name in FALLBACK_KEYS:
        for rule in map(as_object, as_list(getattr(router, name, None))):
            for source, targets in rule.items():
                rules.setdefault(source, []).extend(_group_name(one) for one in as_list(targets))
    defaults = rules.pop("*", [])
    return {
        "watched": watched,
        "groups": [_group(router, name, rules.get(name, [])) for name in _model_names(router)],
        "fallback_rules": {source: list(dict.fromkeys(targets)) for source, targets in rules.items()},
        "default_fallbacks": list(
            dict.fromkeys([*as_list(getattr(router, "default_fallbacks", None)), *defaults])
        ),
    }


def _group_name(given: object) -> str:
    """The name of a group that may stand among fields of its own."""
    return str(as_object(given).get("model", given))


def _model_names(router: Untyped) -> list[str]:
    if router is None:
        return []
    aliases = as_object(router.model_group_alias)
    return list(dict.fromkeys([*(deployment["model_name"] for deployment in router.model_list), *aliases]))


def _is_hidden(router: Untyped, name: str) -> bool:
    return as_object(as_object(router.model_group_alias).get(name)).get("hidden") is True


def _group(router: Untyped, name: str, fallbacks: list[str]) -> Json:
    target = _group_name(as_object(router.model_group_alias).get(name, name))
    deployments = [_deployment(one) for one in router.model_list if one["model_name"] == target]
    mode = next((one.pop("mode") for one in [dict(d) for d in deployments] if one.get("mode")), None)
    for one in deployments:
        one.pop("mode", None)
    return {
        "name": name,
        "alias_of": target if target != name else None,
        "hidden": _is_hidden(router, name),
        "mode": mode or "chat",
        "wildcard": "*" in name,
        "fallbacks": list(dict.fromkeys(fallbacks)),
        "deployments": deployments,
    }


def _deployment(entry: Json) -> Json:
    params, info = as_object(entry["litellm_params"]), as_object(entry.get("model_info"))
    published = published_entry(str(params["model"]))
    known: Json = {
        **published,
        **_without_none(info),
        **_without_none({name: params.get(name) for name in BASE_PRICES}),
    }
    physical, wire = _split_provider(params)
    return {
        "id": info.get("id"),
        "provider": info.get(PROVIDER_KEY) or wire,
        "wire": wire,
        "physical": physical,
        "mode": known.get("mode"),
        "created": _created(info),
        **{name: known.get(name) for name in TOKEN_LIMITS},
        **{name: _decimal_text(known.get(name)) for name in BASE_PRICES},
    }


def _created(info: Json) -> int | None:
    """When a deployment was made: what its configuration says, else that file's age; seconds since 1970."""
    stated = info.get("created_at")
    if isinstance(stated, str):
        with suppress(ValueError):
            stated = datetime.fromisoformat(stated)
    if isinstance(stated, datetime):
        return int(stated.timestamp())
    if isinstance(stated, int | float):
        return int(stated)
    try:
        return int(Path(os.environ["CONFIG_FILE_PATH"]).stat().st_mtime)
    except (KeyError, OSError):
        return None


def _without_none(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _split_provider(params: Json) -> tuple[str, str | None]:
    model = str(params["model"])
    try:
        physical, provider, *_ = litellm_internals.litellm_module().get_llm_provider(
            model=model,
            custom_llm_provider=params.get("custom_llm_provider"),
            api_base=params.get("api_base"),
        )
    except Exception:  # noqa: BLE001 -- it raises for a name it does not know
        provider, _, physical = model.rpartition("/")
    return str(physical), str(provider) if provider else None


def _decimal_text(value: object) -> str | None:
    return None if value is None else format(Decimal(str(value)).normalize(), "f")
