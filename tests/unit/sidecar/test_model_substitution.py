"""Settings that let another model answer than the authorized one are found, and never served."""

import copy
from typing import Any

import pytest

from llm_proxy.sidecar.config import ModelSubstituted, build_effective_config
from llm_proxy.sidecar.config_check import check_config

Json = dict[str, Any]


def group(name: str, more: Json | None = None, model: str = "openai/m", **info: object) -> Json:
    """A deployment."""
    return {"model_name": name, "litellm_params": {"model": model, **(more or {})}, "model_info": info}


CHEAP, DEAR = group("cheap"), group("dear")
GUARD: Json = {
    "guardrail": "presidio",
    "mode": "pre_call",
    "on_sensitive_data": "route",
    "sensitive_data_route_to_model": "dear",
}
CASES: dict[str, tuple[str, Json]] = {
    "completion model": (
        "general_settings.completion_model",
        {"general_settings": {"completion_model": "dear"}},
    ),
    "moderation model": (
        "general_settings.moderation_model",
        {"general_settings": {"moderation_model": "dear"}},
    ),
    "image model": (
        "general_settings.image_generation_model",
        {"general_settings": {"image_generation_model": "dear"}},
    ),
    "silent model": (
        "model_list.cheap.litellm_params.silent_model",
        {"model_list": [group("cheap", {"silent_model": "dear"}), DEAR]},
    ),
    "prompt": (
        "model_list.cheap.litellm_params.prompt_id",
        {"model_list": [group("cheap", {"prompt_id": "p"}), DEAR]},
    ),
    "prompt's model": (
        "model_list.cheap.litellm_params.model",
        {"model_list": [group("cheap", model="langfuse/cheap"), DEAR]},
    ),
    "auto router": (
        "model_list.cheap.litellm_params.model",
        {"model_list": [group("cheap", model="auto_router/any"), DEAR]},
    ),
    "complexity router": (
        "model_list.cheap.litellm_params.model",
        {"model_list": [group("cheap", model="auto_router/complexity_router"), DEAR]},
    ),
    "fallback of a deployment": (
        "model_list.cheap.litellm_params.fallbacks",
        {"model_list": [group("cheap", {"fallbacks": ["dear"]}), DEAR]},
    ),
    "longer context of a deployment": (
        "model_list.cheap.litellm_params.context_window_fallback_dict",
        {"model_list": [group("cheap", {"context_window_fallback_dict": {"m": "dear"}}), DEAR]},
    ),
    "defaults of every deployment": (
        "router_settings.default_litellm_params.fallbacks",
        {"router_settings": {"default_litellm_params": {"fallbacks": ["dear"]}}},
    ),
    "routing group": (
        "router_settings.routing_groups.mix",
        {
            "router_settings": {
                "routing_groups": [
                    {"group_name": "mix", "models": ["cheap", "dear"], "routing_strategy": "simple-shuffle"}
                ]
            }
        },
    ),
    "caching group": (
        "router_settings.caching_groups",
        {"router_settings": {"caching_groups": [["cheap", "dear"]]}},
    ),
    "plugin": ("router_settings.plugins", {"router_settings": {"plugins": ["x.y"]}}),
    "any model": (
        "router_settings.router_general_settings.pass_through_all_models",
        {"router_settings": {"router_general_settings": {"pass_through_all_models": True}}},
    ),
    "fallback for all, as a list of names": (
        "router_settings.fallbacks",
        {"router_settings": {"fallbacks": ["dear"]}},
    ),
    "fallback for all, as a model": (
        "router_settings.fallbacks",
        {"router_settings": {"fallbacks": [{"model": "dear"}]}},
    ),
    "fallback as a word": (
        "router_settings.context_window_fallbacks",
        {"router_settings": {"context_window_fallbacks": [{"cheap": "dear"}]}},
    ),
    "fallbacks as a mapping": (
        "litellm_settings.fallbacks",
        {"litellm_settings": {"fallbacks": {"cheap": ["dear"]}}},
    ),
    "model fallbacks": (
        "litellm_settings.model_fallbacks",
        {"litellm_settings": {"model_fallbacks": ["dear"]}},
    ),
    "id that is a name": (
        "model_list.dear.model_info.id",
        {"model_list": [CHEAP, group("dear", id="cheap")]},
    ),
    "id that is an alias": (
        "model_list.dear.model_info.id",
        {
            "model_list": [CHEAP, group("dear", id="nick")],
            "router_settings": {"model_group_alias": {"nick": "cheap"}},
        },
    ),
    "guardrail": (
        "guardrails.private.on_sensitive_data",
        {"guardrails": [{"guardrail_name": "private", "litellm_params": GUARD}]},
    ),
}


@pytest.mark.parametrize(("where", "given"), CASES.values(), ids=CASES)
def test_a_substitution_prevents_the_start_and_is_named(where: str, given: Json) -> None:
    """By its path in the file, at the start and by `config check`."""
    config = {"model_list": [CHEAP, DEAR], **given}
    with pytest.raises(ModelSubstituted, match=where.replace(".", r"\.")):
        build_effective_config(config, {})
    faults = [one.path for one in check_config(config, {}) if one.is_fault]
    assert faults.count(where) == 1


ALLOWED: dict[str, Json] = {
    "group of one strategy": {
        "router_settings": {
            "routing_groups": [{"group_name": "cheap", "models": ["cheap"], "routing_strategy": "least-busy"}]
        }
    },
    "fallbacks": {
        "router_settings": {
            "fallbacks": [{"cheap": ["dear", {"model": "dear", "temperature": 0}]}, {"*": ["dear"]}],
            "default_fallbacks": ["dear"],
        }
    },
    "blocking guardrail": {
        "guardrails": [
            {"guardrail_name": "private", "litellm_params": GUARD | {"on_sensitive_data": "block"}}
        ]
    },
    "id of its own group": {"model_list": [group("cheap", id="cheap"), DEAR]},
    "fallbacks to nobody": {"router_settings": {"fallbacks": [{"cheap": []}]}},
    "switched off": {"general_settings": {"completion_model": None}, "router_settings": {"plugins": []}},
}


@pytest.mark.parametrize("given", ALLOWED.values(), ids=ALLOWED)
def test_what_the_gateway_can_authorize_is_served(given: Json) -> None:
    """Fallbacks are in its catalog; settings that substitute nothing are left alone."""
    config = {"model_list": [CHEAP, DEAR], **given}
    before = copy.deepcopy(config)
    build_effective_config(config, {})
    assert config == before


def test_every_alias_is_moved_to_the_router() -> None:
    """So that the catalog has it; the router's own value wins."""
    config: Json = {
        "model_list": [CHEAP, DEAR],
        "litellm_settings": {"model_alias_map": {"cheap": "dear", "nick": "dear"}},
        "router_settings": {"model_group_alias": {"nick": "cheap"}},
    }
    found = build_effective_config(config, {}).config
    assert found["router_settings"]["model_group_alias"] == {"cheap": "dear", "nick": "cheap"}
    assert "model_alias_map" not in found["litellm_settings"]
