"""Finds settings with which LiteLLM would answer with another model than the one the call was authorized for.

A key's allowed models, limits and prices are those of the model group the caller named. The gateway reads
aliases and fallbacks from the catalog and applies the key's rules to them; it cannot see what is found here.
Invariants: pure; a configuration with any finding does not start; each finding names its path in the file.
"""

from collections.abc import Iterator

from llm_proxy.json_access import Json, as_list, as_object

MODEL_OVERRIDES = ("completion_model", "image_generation_model", "moderation_model")
"""Settings that replace the model of each request."""
SUBSTITUTING_PARAMS = {
    "silent_model": "sends every prompt to another model, unseen",
    "prompt_id": "lets a stored prompt choose the model",
    "fallbacks": "falls back beside the router: write it in router_settings",
    "context_window_fallbacks": "falls back beside the router: write it in router_settings",
    "content_policy_fallbacks": "falls back beside the router: write it in router_settings",
    "context_window_fallback_dict": "falls back beside the router: use `context_window_fallbacks`",
    "model_list": "chooses a deployment of its own",
    "caching_groups": "answers a call of one model group with another's",
    "specific_deployment": "lets a caller choose a deployment past its group",
}
SUBSTITUTING_PREFIXES = {
    "auto_router": "chooses another model group for each prompt",
    **dict.fromkeys(
        ("langfuse", "dotprompt", "bitbucket", "gitlab", "humanloop", "arize_phoenix", "litellm_agent"),
        "lets a stored prompt choose the model",
    ),
}
"""Prefixes of `litellm_params.model` that name no provider."""
SUBSTITUTING_ROUTER_SETTINGS = {
    "plugins": "may choose any deployment",
    "caching_groups": "answers a call of one model group with another's",
}
FALLBACK_KEYS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def find_substitutions(config: Json) -> Iterator[tuple[str, str]]:
    """Yield each setting that substitutes models: its path in the file, and its effect."""
    general, router = as_object(config.get("general_settings")), as_object(config.get("router_settings"))
    litellm = as_object(config.get("litellm_settings"))
    for name in MODEL_OVERRIDES:
        if general.get(name):
            yield (
                f"general_settings.{name}",
                f"answers every such call with {general[name]}, whatever it names",
            )
    for name, what in SUBSTITUTING_ROUTER_SETTINGS.items():
        if router.get(name):
            yield f"router_settings.{name}", what
    if as_object(router.get("router_general_settings")).get("pass_through_all_models"):
        yield (
            "router_settings.router_general_settings.pass_through_all_models",
            "serves models no group names",
        )
    if litellm.get("model_fallbacks"):
        yield "litellm_settings.model_fallbacks", SUBSTITUTING_PARAMS["fallbacks"]
    yield from _check_params(
        "router_settings.default_litellm_params", as_object(router.get("default_litellm_params"))
    )
    for deployment in map(as_object, as_list(config.get("model_list"))):
        params = as_object(deployment.get("litellm_params"))
        where = f"model_list.{deployment.get('model_name')}"
        yield from _check_params(f"{where}.litellm_params", params)
        effect = SUBSTITUTING_PREFIXES.get(str(params.get("model")).partition("/")[0])
        if effect is not None:
            yield f"{where}.litellm_params.model", f"{params['model']} {effect}"
    yield from _check_fallbacks(config)
    yield from _check_routing_groups(config, router)
    yield from _check_ids(config, router)
    yield from _check_guardrails(config)


def _check_params(where: str, params: Json) -> Iterator[tuple[str, str]]:
    for name, what in SUBSTITUTING_PARAMS.items():
        if params.get(name):
            yield f"{where}.{name}", what


def _check_fallbacks(config: Json) -> Iterator[tuple[str, str]]:
    """Yield fallbacks in a form the gateway does not read: it needs a group's name and a list of targets."""
    for section in ("router_settings", "litellm_settings"):
        for key in FALLBACK_KEYS:
            rules = as_object(config.get(section)).get(key)
            if rules and not (as_list(rules) and all(map(_is_rule, as_list(rules)))):
                yield f"{section}.{key}", "a rule is a group's name and a list of others: [{name: [other]}]"


def _is_rule(rule: object) -> bool:
    lists = as_object(rule).values()
    return bool(lists) and all(
        one == [] or (as_list(one) and all(map(_is_group_name, as_list(one)))) for one in lists
    )


def _is_group_name(target: object) -> bool:
    return isinstance(target, str) or isinstance(as_object(target).get("model"), str)


def _names(config: Json, router: Json) -> list[str]:
    groups = [str(as_object(one).get("model_name")) for one in as_list(config.get("model_list"))]
    return [*groups, *map(str, as_object(router.get("model_group_alias")))]


def _check_routing_groups(config: Json, router: Json) -> Iterator[tuple[str, str]]:
    """Yield routing groups whose own name LiteLLM would serve by any of their models."""
    names = _names(config, router)
    for group in map(as_object, as_list(router.get("routing_groups"))):
        name = str(group.get("group_name"))
        if name not in names:
            what = f"serves the name {name} by any of its models: give it one of their names"
            yield f"router_settings.routing_groups.{name}", what


def _check_ids(config: Json, router: Json) -> Iterator[tuple[str, str]]:
    """Yield deployment ids that are another group's name: LiteLLM resolves ids before groups and aliases."""
    names = _names(config, router)
    for deployment in map(as_object, as_list(config.get("model_list"))):
        identity, own = as_object(deployment.get("model_info")).get("id"), str(deployment.get("model_name"))
        if identity and str(identity) != own and str(identity) in names:
            yield (
                f"model_list.{own}.model_info.id",
                f"{identity} is another group's name, and would answer for it",
            )


def _check_guardrails(config: Json) -> Iterator[tuple[str, str]]:
    for guardrail in map(as_object, as_list(config.get("guardrails"))):
        params = as_object(guardrail.get("litellm_params"))
        if params.get("on_sensitive_data") == "route":
            target = params.get("sensitive_data_route_to_model")
            what = f"answers by {target}, whatever the key may use: let it block, or serve that model by name"
            yield f"guardrails.{guardrail.get('guardrail_name')}.on_sensitive_data", what
