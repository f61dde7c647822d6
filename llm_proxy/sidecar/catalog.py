"""What is served, for the gateway: groups, the deployments behind them, their limits and prices.

Invariants: configured groups only, no expanded wildcards; prices are decimal strings per token, null when
unknown.
"""

import os
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from llm_proxy.json_access import Json
from llm_proxy.sidecar import prices, seams
from llm_proxy.sidecar.effective import FALLBACKS
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping

OWN_WORD = "provider"
"""What `model_info` may call a provider that is spoken to in another's protocol."""
LIMITS = ("max_tokens", "max_input_tokens", "max_output_tokens")


def models(router: Theirs) -> Json:
    """OpenAI's list of models: the groups and aliases by name."""
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "llm-proxy"}
        for name in _names(router)
        if not _hidden(router, name)
    ]
    return {"object": "list", "data": data}


def catalog(router: Theirs, *, watched: bool = False) -> Json:
    """Every group with its deployments, and whether somebody watches the calls."""
    if router is None:
        return {"groups": [], "default_fallbacks": []}
    rules: dict[str, list[str]] = {}
    for name in FALLBACKS:
        for rule in map(mapping, items(getattr(router, name, None))):
            for source, targets in rule.items():
                rules.setdefault(source, []).extend(_target(one) for one in items(targets))
    defaults = rules.pop("*", [])
    return {
        "watched": watched,
        "groups": [_group(router, name, rules.get(name, [])) for name in _names(router)],
        "fallback_rules": {source: list(dict.fromkeys(targets)) for source, targets in rules.items()},
        "default_fallbacks": list(
            dict.fromkeys([*items(getattr(router, "default_fallbacks", None)), *defaults])
        ),
    }


def _target(given: object) -> str:
    """The name of a group that may stand among fields of its own."""
    return str(mapping(given).get("model", given))


def _names(router: Theirs) -> list[str]:
    if router is None:
        return []
    aliases = mapping(router.model_group_alias)
    return list(dict.fromkeys([*(deployment["model_name"] for deployment in router.model_list), *aliases]))


def _hidden(router: Theirs, name: str) -> bool:
    return mapping(mapping(router.model_group_alias).get(name)).get("hidden") is True


def _group(router: Theirs, name: str, fallbacks: list[str]) -> Json:
    target = _target(mapping(router.model_group_alias).get(name, name))
    deployments = [_deployment(one) for one in router.model_list if one["model_name"] == target]
    mode = next((one.pop("mode") for one in [dict(d) for d in deployments] if one.get("mode")), None)
    for one in deployments:
        one.pop("mode", None)
    return {
        "name": name,
        "alias_of": target if target != name else None,
        "hidden": _hidden(router, name),
        "mode": mode or "chat",
        "wildcard": "*" in name,
        "fallbacks": list(dict.fromkeys(fallbacks)),
        "deployments": deployments,
    }


def _deployment(entry: Json) -> Json:
    params, info = mapping(entry["litellm_params"]), mapping(entry.get("model_info"))
    published = prices.listed(str(params["model"]))
    known: Json = {
        **published,
        **_stated(info),
        **_stated({name: params.get(name) for name in prices.PRICES}),
    }
    physical, wire = _split(params)
    return {
        "id": info.get("id"),
        "provider": info.get(OWN_WORD) or wire,
        "wire": wire,
        "physical": physical,
        "mode": known.get("mode"),
        "created": _created(info),
        **{name: known.get(name) for name in LIMITS},
        **{name: _decimal(known.get(name)) for name in prices.PRICES},
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


def _stated(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _split(params: Json) -> tuple[str, str | None]:
    model = str(params["model"])
    try:
        physical, provider, *_ = seams.library().get_llm_provider(
            model=model,
            custom_llm_provider=params.get("custom_llm_provider"),
            api_base=params.get("api_base"),
        )
    except Exception:  # noqa: BLE001 -- it raises for a name it does not know
        provider, _, physical = model.rpartition("/")
    return str(physical), str(provider) if provider else None


def _decimal(value: object) -> str | None:
    return None if value is None else format(Decimal(str(value)).normalize(), "f")
