"""The configuration LiteLLM gets: the operator's file, minus what cannot work here, plus required settings.

Invariants: pure; the file's values win over our defaults, except where they would open a database, a
published key or the network (`REQUIRED`). Each omission is a note.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.environment import ENV_REFERENCE
from llm_proxy.sidecar.model_substitution import find_substitutions
from llm_proxy.wildcards import wildcard_matches

DEFAULTS: dict[str, Json] = {
    "general_settings": {},
    "litellm_settings": {
        "request_timeout": 120,  # LiteLLM's own default is 6000 s
        "drop_params": False,  # a field the model does not know is an error, never lost
        "disable_stop_sequence_limit": True,  # else all stops but four are lost without a word
        "json_logs": True,
        "disable_add_user_agent_to_request_tags": True,  # it is always the gateway's
    },
    "router_settings": {
        "routing_strategy": "simple-shuffle",
        "num_retries": 2,
        "timeout": 120,
        "stream_timeout": 60,
        "cooldown_time": 10,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],  # without it rpm and tpm only weigh
    },
}
REQUIRED: dict[str, Json] = {
    "general_settings": {
        "master_key": "os.environ/LITELLM_MASTER_KEY",  # drawn at each start
        "cancel_on_disconnect": True,
        "disable_model_info_refresh": True,  # else it asks every provider for its models, now and every 300 s
        "background_health_checks": False,  # they call paid models
    },
    "litellm_settings": {
        "include_cost_in_streaming_usage": True,
        "enable_caching_on_provider_specific_optional_params": True,  # else wrong hits
        "expose_router_debug_in_errors": False,
        "disable_hf_tokenizer_download": True,  # else each such call waits for a hub (see `provider_only`)
    },
    "router_settings": {},
}
ROUTING_STRATEGIES = {
    "ROUND_ROBIN": "simple-shuffle",
    "WEIGHTED": "simple-shuffle",
    "LEAST_LOADED": "least-busy",
    "FASTEST_RESPONSE": "latency-based-routing",
    "COST_OPTIMIZED": "cost-based-routing",
}
CACHE_NAMESPACE = "litellm_caching"
ANSWERS = {one.litellm_call_type: one.path for name, one in ENDPOINTS.items() if name != "embeddings"}
"""LiteLLM's call types whose answers our own cache keeps, and their paths."""


LANGFUSE = "langfuse"


def observer_settings(litellm_settings: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """Langfuse's callback where its keys are set; text only of calls the gateway says it may be shown of."""
    added: Json = {}
    if env.get("LANGFUSE_PUBLIC_KEY") and env.get("LANGFUSE_SECRET_KEY"):
        for name in ("success_callback", "failure_callback"):
            given = as_list(litellm_settings.get(name))
            added[name] = given if LANGFUSE in given else [*given, LANGFUSE]
    # Taking text out costs a fifth of a call's CPU, so only where somebody would see it.
    if "turn_off_message_logging" not in litellm_settings:
        added["turn_off_message_logging"] = has_observers({**litellm_settings, **added})
    return added


def has_observers(litellm_settings: Mapping[str, Any]) -> bool:
    """Whether somebody else's callback sees the calls; ours takes no text."""
    names = ("callbacks", "success_callback", "failure_callback", "audit_log_callbacks")
    return any(litellm_settings.get(name) for name in names)


def routing_strategy(load_balance: str) -> str | None:
    """LiteLLM's routing strategy for one of our names; None for none."""
    return ROUTING_STRATEGIES.get(load_balance.upper())


def redis_cache_params(url: str, given: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """The response cache in the Redis at `url`; the file's own `cache_params` win, but for the address."""
    ours: Json = {
        "namespace": CACHE_NAMESPACE,
        "ttl": float(env.get("LLM_PROXY_SIDECAR_CACHE_TTL_S") or 600),
        "supported_call_types": [*ANSWERS, "aembedding"],
        "max_messages": None,  # LiteLLM leaves conversations of more than four messages out
        "socket_timeout": 0.25,  # what a frozen Redis costs, once (see `cache_gate`)
        "socket_connect_timeout": 0.25,
    }
    address = {"type": "redis", "url": url}
    kept = {name: value for name, value in given.items() if name not in {"host", "port", "password"}}
    return ours | kept | address


ALIASES_KEY = "model_group_alias"
FALLBACK_KEYS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
MAX_WILDCARDS = 3
"""In a group's name: LiteLLM matches names by backtracking, for seconds with four, for ever with more."""
SECTIONS = ("litellm_settings", "router_settings", "general_settings")


class InvalidConfig(Exception):  # noqa: N818 -- errors are named for the state they report
    """The configuration cannot be served; the message says why in one line."""


class ModelSubstituted(InvalidConfig):
    """Something in it lets another model answer than the one a call was judged by; see `diversions`."""


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """What LiteLLM is given.

    Attributes:
        notes: One line for each thing left out.
        cached_call_types: LiteLLM's call types that are answered from the response cache.
    """

    config: Json
    notes: tuple[str, ...]
    cached_call_types: tuple[str, ...] = ()


def build_effective_config(raw: object, env: Mapping[str, str]) -> EffectiveConfig:
    """The configuration for LiteLLM; raises `InvalidConfig` when the file is not one."""
    config = copy.deepcopy(_validate(raw))
    diverted = [f"{where}: {what}" for where, what in find_substitutions(config)]
    if diverted:
        raise ModelSubstituted("; ".join(diverted))
    notes: list[str] = []
    config["model_list"] = _drop_deployments_without_keys(config.get("model_list") or [], env, notes)
    for name in SECTIONS:
        config[name] = config.get(name) or {}
    _move_aliases_to_router(config)
    groups = {deployment["model_name"] for deployment in config["model_list"]}
    _prune_names(config, groups, notes)
    _remove_database(config["general_settings"], notes)
    _apply_required(config, env)
    cached = _take_cached_call_types(config["litellm_settings"], as_object(raw), env, notes)
    return EffectiveConfig(config, tuple(notes), cached)


def _validate(raw: object) -> Json:
    config = as_object(raw)
    if not config:
        raise InvalidConfig("it is not a mapping of sections")
    if not isinstance(config.get("model_list") or [], list):
        raise InvalidConfig("model_list is not a list")
    for at, deployment in enumerate(as_list(config.get("model_list")), 1):
        name = as_object(deployment).get("model_name")
        if not isinstance(name, str):
            raise InvalidConfig(f"model_list, entry {at}: model_name is missing")
        if name.count("*") > MAX_WILDCARDS:
            raise InvalidConfig(
                f"model_list, entry {at} ({name}): more than {MAX_WILDCARDS} `*` in model_name"
            )
        if not isinstance(as_object(as_object(deployment).get("litellm_params")).get("model"), str):
            raise InvalidConfig(f"model_list, entry {at} ({name}): litellm_params.model is missing")
    for section in SECTIONS:
        if not isinstance(config.get(section) or {}, dict):
            raise InvalidConfig(f"{section} is not a mapping")
    return config


def unset_variables(value: object, env: Mapping[str, str]) -> list[str]:
    """The names a value reads from the environment that are not there, in order."""
    if isinstance(value, str):
        return [name for name in ENV_REFERENCE.findall(value) if not env.get(name)]
    return [
        name for part in (*as_object(value).values(), *as_list(value)) for name in unset_variables(part, env)
    ]


def _drop_deployments_without_keys(
    deployments: list[Json], env: Mapping[str, str], notes: list[str]
) -> list[Json]:
    kept: list[Json] = []
    for deployment in deployments:
        missing = unset_variables(deployment["litellm_params"], env)
        if missing:
            named = f"{deployment['model_name']} ({deployment['litellm_params']['model']})"
            notes.append(f"left out {named}: {', '.join(dict.fromkeys(missing))} not set")
        else:
            kept.append(deployment)
    return kept


def _alias_target(alias: object) -> str:
    return str(as_object(alias).get("model", alias))


def is_served(name: str, groups: Iterable[str]) -> bool:
    """Whether a group of that name, or a wildcard that covers it, is there."""
    return any(wildcard_matches(group, name) for group in groups)


def _move_aliases_to_router(config: Json) -> None:
    """An alias of `litellm_settings` is looked up behind the router's back; as the router's it is told."""
    given = as_object(config["litellm_settings"].pop("model_alias_map", None))
    if given:
        router = config["router_settings"]
        router[ALIASES_KEY] = {**given, **as_object(router.get(ALIASES_KEY))}


def _prune_names(config: Json, groups: set[str], notes: list[str]) -> None:
    aliases: Json = config["router_settings"].get(ALIASES_KEY) or {}
    kept = {name: alias for name, alias in aliases.items() if is_served(_alias_target(alias), groups)}
    notes += [
        f"left out alias {name}: {_alias_target(a)} is not served"
        for name, a in aliases.items()
        if name not in kept
    ]
    known = groups | set(kept)
    if aliases:
        config["router_settings"][ALIASES_KEY] = kept
    for section in ("router_settings", "litellm_settings"):
        for key in FALLBACK_KEYS:
            if config[section].get(key):
                config[section][key] = _prune_fallbacks(config[section][key], known)
        if config[section].get("default_fallbacks"):
            config[section]["default_fallbacks"] = [
                n for n in config[section]["default_fallbacks"] if is_served(n, known)
            ]


def _prune_fallbacks(rules: list[Json], known: set[str]) -> list[Json]:
    kept = [
        {source: [name for name in targets if not isinstance(name, str) or is_served(name, known)]}
        for rule in rules
        for source, targets in rule.items()
        if source == "*" or is_served(source, known)
    ]
    return [rule for rule in kept if all(rule.values())]


def _remove_database(general: Json, notes: list[str]) -> None:
    for name in ("database_url", "database_type", "store_model_in_db"):
        if general.pop(name, None):
            notes += [f"ignored general_settings.{name}: the sidecar keeps no database"]


def _apply_required(config: Json, env: Mapping[str, str]) -> None:
    for section in SECTIONS:
        config[section] = {**copy.deepcopy(DEFAULTS[section]), **config[section], **REQUIRED[section]}
    litellm, router = config["litellm_settings"], config["router_settings"]
    litellm |= observer_settings(litellm, env)
    router["routing_strategy"] = (
        routing_strategy(env.get("LLM_PROXY_LOAD_BALANCE", "")) or router["routing_strategy"]
    )
    url = env.get("CACHE_REDIS_URL")
    if url and litellm.get("cache") is not False:
        litellm["cache"] = True
        litellm["cache_params"] = redis_cache_params(url, litellm.get("cache_params") or {}, env)


def _take_cached_call_types(
    litellm: Json, raw: Json, env: Mapping[str, str], notes: list[str]
) -> tuple[str, ...]:
    """The call types our own cache answers; what LiteLLM's cache is left with stays in its settings."""
    if litellm.get("cache") is not True:
        return ()
    params = litellm["cache_params"] = as_object(litellm.get("cache_params"))
    given = as_object(as_object(raw.get("litellm_settings")).get("cache_params")).get("type", "redis")
    if params.get("mode") == "default_off":
        notes.append("cache_params.mode default_off: nothing is cached, because no caller can ask for it")
    if given != "redis" and env.get("CACHE_REDIS_URL"):
        notes.append(f"ignored cache_params.type {given}: answers are cached in CACHE_REDIS_URL's Redis")
    elif given != "redis":
        notes.append(
            f"cache_params.type {given} is LiteLLM's own cache: it keeps no streams and cannot be purged"
        )
        return ()
    types = as_list(params.get("supported_call_types", [*ANSWERS, "aembedding"]))
    params["supported_call_types"] = [name for name in types if name not in ANSWERS]
    return tuple(name for name in types if name in ANSWERS)
