"""The catalog for the gateway: model groups, their deployments, limits and prices as LiteLLM knows them.

Invariants: configured groups only, wildcards are not expanded; a deployment's own values win over published
ones; prices are decimal strings in USD per token; an unknown price is null, never 0.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_proxy.endpoints import COMPLETIONS, Endpoint, endpoints_of_mode
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals, native_wires
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.model_substitution import FALLBACK_KEYS
from llm_proxy.sidecar.unit_prices import UNIT_PRICES, decimal_text, unit_prices

BASE_PRICES = ("input_cost_per_token", "output_cost_per_token")
OWN_PRICES = (*BASE_PRICES, *UNIT_PRICES)
STATED_COST_HEADER = "llm_provider-x-litellm-response-cost"
"""LiteLLM's header with a cost that the provider stated."""
PROVIDER_KEY = "provider"
"""Key of `model_info` that names the provider of a deployment reached by another provider's protocol."""
COMPLETING_PROTOCOLS = frozenset({"openai", "azure", "azure_text", "text-completion-openai"})
"""Providers whose completions LiteLLM requests at an endpoint that chat models need not have."""
PROVIDER_FAMILIES = ("bedrock", "vertex_ai")
"""Providers whose models the price list has by kinds: `bedrock_converse`, `vertex_ai-chat-models`."""
TOKEN_LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens")


def list_models(router: Untyped) -> Json:
    """Return OpenAI's list of models: groups and aliases that are not hidden."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "llm-proxy"}
        for name in _model_names(router)
        if not _is_hidden(router, name)
    ]
    return {"object": "list", "data": data}


async def list_cooldowns(router: Untyped) -> Json:
    """Return the deployments that get no calls for now, by id: until when (Unix seconds), and why."""
    if router is None:
        return {"cooldowns": {}}
    ids = [str(one["model_info"]["id"]) for one in router.model_list or ()]
    found = await router.cooldown_cache.async_get_active_cooldowns(model_ids=ids, parent_otel_span=None)
    return {
        "cooldowns": {
            name: {"until": one["timestamp"] + one["cooldown_time"], "status": str(one["status_code"])}
            for name, one in found
        }
    }


def build_catalog(
    router: Untyped, *, observed: bool = False, guardrails: Iterable[Json] = (), with_timeouts: bool = False
) -> Json:
    """Return all groups with their deployments and fallbacks.

    Args:
        router: LiteLLM's router.
        observed: Whether a callback other than ours runs.
        guardrails: As `guardrails.list_guardrails` returns them.
        with_timeouts: Add each deployment's timeouts and attempts.
    """
    if router is None:
        return {"groups": [], "default_fallbacks": []}
    rules: dict[str, list[str]] = {}
    for name in FALLBACK_KEYS:
        for rule in map(as_object, as_list(getattr(router, name, None))):
            for source, targets in rule.items():
                rules.setdefault(source, []).extend(group_name(one) for one in as_list(targets))
    defaults = rules.pop("*", [])
    groups = [
        _group(router, name, rules.get(name, []), with_timeouts=with_timeouts)
        for name in _model_names(router)
    ]
    guardrails = list(guardrails)
    if guardrails:  # a native call sends the caller's body as it was, past every mask
        for deployment in (one for group in groups for one in group["deployments"]):
            deployment["native"] = []
    return {
        "watched": observed,
        "guardrails": guardrails,
        "groups": groups,
        "fallback_rules": {source: list(dict.fromkeys(targets)) for source, targets in rules.items()},
        "default_fallbacks": list(
            dict.fromkeys([*as_list(getattr(router, "default_fallbacks", None)), *defaults])
        ),
    }


def _model_names(router: Untyped) -> list[str]:
    if router is None:
        return []
    aliases = as_object(router.model_group_alias)
    return list(dict.fromkeys([*(deployment["model_name"] for deployment in router.model_list), *aliases]))


def _is_hidden(router: Untyped, name: str) -> bool:
    return as_object(as_object(router.model_group_alias).get(name)).get("hidden") is True


def _group(router: Untyped, name: str, fallbacks: list[str], *, with_timeouts: bool) -> Json:
    target = group_name(as_object(router.model_group_alias).get(name, name))
    deployments = [
        _deployment(one) | (_timeouts(router, target, one["litellm_params"]) if with_timeouts else {})
        for one in router.model_list
        if one["model_name"] == target
    ]
    modes: list[str | None] = [one.pop("mode") for one in deployments]
    known: list[frozenset[Endpoint] | None] = [one.pop("endpoints") for one in deployments]
    served = [one for one in known if one is not None]
    return {
        "name": name,
        "alias_of": target if target != name else None,
        "hidden": _is_hidden(router, name),
        "mode": next((mode for mode in modes if mode), "chat"),
        "endpoints": sorted(frozenset[Endpoint]().union(*served)) if served else None,
        "wildcard": "*" in name,
        "fallbacks": list(dict.fromkeys(fallbacks)),
        "guardrails": _own_guardrails(router, target),
        "deployments": deployments,
    }


def _own_guardrails(router: Untyped, group: str) -> list[str]:
    """Return the guardrails that a group's deployments name."""
    params = (as_object(one["litellm_params"]) for one in router.model_list if one["model_name"] == group)
    return list(dict.fromkeys(str(name) for one in params for name in as_list(one.get("guardrails"))))


def group_name(given: object) -> str:
    """Return the name of a group given as text or as an object with a `model`."""
    return str(as_object(given).get("model", given))


def _deployment(entry: Json) -> Json:
    params, info = as_object(entry["litellm_params"]), as_object(entry.get("model_info"))
    base = info.get("base_model") or params.get("base_model")  # Azure's names of deployments say nothing
    published = published_entry(str(base or "")) or published_entry(str(params["model"]))
    own = {**_without_none(info), **_without_none({name: params.get(name) for name in OWN_PRICES})}
    known: Json = {**published, **own}
    model, protocol = _split_provider(params)
    return {
        "id": info.get("id"),
        "provider": info.get(PROVIDER_KEY) or protocol,
        "wire": protocol,
        "physical": model,
        "mode": known.get("mode"),
        "endpoints": _endpoints(known, protocol),
        "created": _created(info),
        "native": native_wires.native_endpoints(params, info, model, protocol),
        **{name: known.get(name) for name in TOKEN_LIMITS},
        **{name: decimal_text(known.get(name)) for name in BASE_PRICES},
        "prices": unit_prices(known, own, protocol, str(base or model).removeprefix(f"{protocol}/")),
        "features": sorted(
            name for name, has in known.items() if name.startswith("supports_") and has is True
        ),
    }


def serves(router: Untyped, name: str, endpoint: Endpoint) -> bool:
    """Whether a group may serve an endpoint: one of its deployments does, or it is not known what they do."""
    target = group_name(as_object(router.model_group_alias).get(name, name))
    behind = [_deployment(one)["endpoints"] for one in router.model_list if one["model_name"] == target]
    return not behind or any(found is None or endpoint in found for found in behind)


def _endpoints(known: Json, protocol: str | None) -> frozenset[Endpoint] | None:
    """Return what a deployment serves; None if neither its mode nor its paths are stated.

    A provider that is not called in OpenAI's protocol gets a completion as a chat, from LiteLLM.
    """
    found = endpoints_of_mode(known.get("mode"), map(str, as_list(known.get(native_wires.SUPPORTED_KEY))))
    if found is None or protocol in COMPLETING_PROTOCOLS or "chat.completions" not in found:
        return found
    return found | COMPLETIONS


def _timeouts(router: Untyped, group: str, params: Json) -> Json:
    """Return how long LiteLLM waits for a deployment's bytes, in seconds, and how often it tries.

    By the router's own functions, so in its order of precedence: the deployment, then the router, then all.
    """
    limit_s: dict[str, Untyped] = {
        "timeout_s": router._get_timeout(kwargs={}, data=params),  # noqa: SLF001 -- no public function returns it
        "stream_timeout_s": router._get_timeout(kwargs={"stream": True}, data=params),  # noqa: SLF001 -- the same
    }
    numbers = {name: value for name, value in limit_s.items() if isinstance(value, int | float)}
    policy = as_object(router.model_group_retry_policy).get(group) or router.retry_policy
    by_policy: object = getattr(policy, "TimeoutErrorRetries", as_object(policy).get("TimeoutErrorRetries"))
    retries = next(
        (one for one in (by_policy, params.get("num_retries")) if isinstance(one, int)), router.num_retries
    )
    return {**numbers, "attempts": 1 + max(0, int(retries or 0))}


def _split_provider(params: Json) -> tuple[str, str | None]:
    """Return the model's name at the provider, and the provider whose protocol is used."""
    model = str(params["model"])
    try:
        name, provider, *_ = litellm_internals.provider_of(params | {"model": model})
    except Exception:  # noqa: BLE001 -- it raises for an unknown name
        provider, _, name = model.rpartition("/")
    return str(name), str(provider) if provider else None


def _created(info: Json) -> int | None:
    """Return `created_at` of a deployment, else the file's modification time, in seconds since 1970."""
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


def published_entry(model: str) -> Mapping[str, Any]:
    """Return LiteLLM's published entry for `provider/model`; empty if there is none."""
    entries: Mapping[str, Mapping[str, Any]] = litellm_internals.litellm_module().model_cost
    provider, _, name = model.partition("/")
    bare = entries.get(name) or {}
    return entries.get(model) or (bare if bare.get("litellm_provider") == provider else {})


def set_published_apart(model_list: Iterable[object]) -> None:
    """Move published entries whose name is the id of another provider's deployment; before LiteLLM's start.

    LiteLLM keeps a deployment's own prices in the same map, by its id, and would mix the two: calls of the
    deployment would cost 0, and those of the model what the deployment states. An entry that is moved stands
    at `provider/name`, where LiteLLM looks first.
    """
    entries: Untyped = litellm_internals.litellm_module().model_cost
    for one in map(as_object, model_list):
        params, info = as_object(one.get("litellm_params")), as_object(one.get("model_info"))
        name = str(info.get("id"))
        has_own = any(given.get(price) is not None for given in (params, info) for price in OWN_PRICES)
        if not has_own or "/" in name or name not in entries:
            continue
        stated, provider = str(entries[name].get("litellm_provider")), _split_provider(params)[1]
        maker = next((family for family in PROVIDER_FAMILIES if stated.startswith(family)), stated)
        if provider is not None and not stated.startswith(provider):
            entries.setdefault(f"{maker}/{name}", entries.pop(name))


def _own_entry(deployment: str, model: str) -> Mapping[str, Any]:
    """Return LiteLLM's entry of a deployment; empty if its id only is the name of another's model."""
    own: Mapping[str, Any] = litellm_internals.litellm_module().model_cost.get(deployment) or {}
    is_other_s = not str(own.get("litellm_provider") or model).startswith(model.partition("/")[0])
    return {} if is_other_s else own


def has_price(deployment: str, model: str) -> bool:
    """Whether a base price is known, 0 included."""
    own = _own_entry(deployment, model)
    return any(entry.get(name) is not None for entry in (own, published_entry(model)) for name in BASE_PRICES)


def is_free(deployment: str, model: str) -> bool:
    """Whether prices are known, and every one of them is 0."""
    prices = prices_of(deployment, model).values()
    return bool(prices) and not any(prices)


def prices_of(deployment: str, model: str) -> dict[str, float]:
    """Return every price that is known, by LiteLLM's name; a deployment's own before the published one."""
    own = _own_entry(deployment, model)
    known = {**published_entry(model), **_without_none(dict(own))}
    return {name: value for name, value in known.items() if "cost" in name and isinstance(value, int | float)}


def is_cost_known(cost: object, headers: object, deployment: str, model: str) -> bool:
    """Whether the value LiteLLM calculated is a cost: without a known price it calculates 0.

    Args:
        cost: The calculated value, USD.
        headers: The provider's headers as LiteLLM keeps them, with a cost the provider stated.
        deployment: The deployment's id.
        model: `provider/model`.
    """
    stated = as_object(headers).get(STATED_COST_HEADER) is not None
    return cost is not None and (bool(cost) or stated or has_price(deployment, model))


def qualified_model(provider: str, model: str) -> str:
    """Return `provider/model`; LiteLLM sometimes passes the model with its provider already."""
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"
