"""The catalog of an unmodified LiteLLM, read from its `/v1/model/info`.

Invariants: a wildcard's expansions are one group; what LiteLLM does not state is unknown.
"""

from itertools import takewhile

from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.money import usd_to_pico
from llm_proxy.token_details import token_count
from llm_proxy.upstream.catalog import Catalog, Deployment, ModelGroup, catalog_of
from llm_proxy.upstream.group_facts import stated_endpoints
from llm_proxy.upstream.unit_prices import NO_PRICES, read_unit_prices


def parse_model_info(document: Json) -> Catalog:
    """Returns the catalog of an unmodified LiteLLM, from its `/v1/model/info`.

    LiteLLM writes a wildcard out as every name it knows; all of them have the wildcard's deployment id, by
    which they are distinguished from configured groups.
    """
    names: dict[str, set[str]] = {}
    for entry in as_objects(document.get("data")):
        names.setdefault(_id(entry), set()).add(str(entry.get("model_name")))
    found: dict[str, dict[str, Deployment]] = {}
    infos: dict[str, Json] = {}
    for entry in as_objects(document.get("data")):
        shared = names[_id(entry)]
        name = str(entry.get("model_name")) if len(shared) == 1 else _wildcard(shared)
        found.setdefault(name, {})[_id(entry)] = _deployment(entry, wildcard=len(shared) > 1)
        infos.setdefault(name, as_object(entry.get("model_info")))
    groups = {
        name: ModelGroup(
            name,
            str(infos[name].get("mode") or "chat"),
            "*" in name,
            deployments=tuple(behind.values()),
            endpoints=None if "*" in name else stated_endpoints(infos[name]),
        )
        for name, behind in found.items()
    }
    return catalog_of(groups)


def _id(entry: Json) -> str:
    return str(as_object(entry.get("model_info")).get("id") or entry.get("model_name"))


def _wildcard(names: set[str]) -> str:
    parts = zip(*(name.split("/") for name in names), strict=False)
    shared = takewhile(lambda part: len(set(part)) == 1, parts)
    return "/".join([*(part[0] for part in shared), "*"])


def _deployment(entry: Json, *, wildcard: bool) -> Deployment:
    params, info = as_object(entry.get("litellm_params")), as_object(entry.get("model_info"))
    provider, _, physical = str(params.get("model") or "").partition("/")
    if not physical:
        provider, physical = str(info.get("litellm_provider") or "unknown"), provider
    priced = "input_cost_per_token" in params or (info.get("key") is not None and not wildcard)
    return Deployment(
        _id(entry),
        str(params.get("custom_llm_provider") or provider),
        "" if wildcard else physical,
        token_count(info.get("max_tokens")),
        token_count(info.get("max_output_tokens")),
        usd_to_pico(info.get("input_cost_per_token")) if priced else None,
        usd_to_pico(info.get("output_cost_per_token")) if priced else None,
        max_input_tokens=token_count(info.get("max_input_tokens")),
        features=tuple(name for name, has in info.items() if name.startswith("supports_") and has is True),
        units=NO_PRICES if wildcard else read_unit_prices(info),
    )
