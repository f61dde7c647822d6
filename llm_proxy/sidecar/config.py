"""The configuration LiteLLM gets: the operator's file, minus what cannot work here, plus required settings.

Invariants: pure; the file's values win over our defaults, except where they would open a database, a
published key or the network (`REQUIRED`). Each omission is a note.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object
from llm_proxy.redis_urls import RedisAddress, redis_address
from llm_proxy.sidecar.bare_models import provider_of_family
from llm_proxy.sidecar.environment import ENV_REFERENCE, NEVER_FROM_THE_FILE, SHELL_REFERENCE
from llm_proxy.sidecar.model_substitution import FALLBACK_KEYS, find_substitutions
from llm_proxy.sidecar.setting_rules import PROMETHEUS, PROMETHEUS_NAMES, prometheus_lists, remove_unhonoured
from llm_proxy.wildcards import wildcard_matches

DEFAULTS: dict[str, Json] = {
    "general_settings": {},
    "litellm_settings": {
        "request_timeout": 120,  # LiteLLM's own default is 6000 s
        "drop_params": False,  # a field the model does not know is an error, never lost
        "disable_stop_sequence_limit": True,  # else all stops but four are dropped silently
        "json_logs": True,
        "disable_add_user_agent_to_request_tags": True,  # the user agent is always the gateway
    },
    "router_settings": {
        "routing_strategy": "simple-shuffle",
        "num_retries": 2,
        "timeout": 120,
        "stream_timeout": 60,
        "cooldown_time": 10,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],  # else rpm and tpm are only weights
    },
}
REQUIRED: dict[str, Json] = {
    "general_settings": {
        "master_key": "os.environ/LITELLM_MASTER_KEY",  # random, made at each start
        "cancel_on_disconnect": True,
        "disable_model_info_refresh": True,  # else every provider's models are requested, every 300 s
        "background_health_checks": False,  # they would call paid models
    },
    "litellm_settings": {
        "include_cost_in_streaming_usage": True,
        "enable_caching_on_provider_specific_optional_params": True,  # else the cache's keys lack them
        "expose_router_debug_in_errors": False,
        "disable_hf_tokenizer_download": True,  # else calls wait for downloads (see `provider_only`)
    },
    "router_settings": {},
}
SESSION_AFFINITY = "session_affinity"
"""A check that every sidecar has beside those of the file; calls that name no run pass it by."""
ROUTING_STRATEGIES = {
    "ROUND_ROBIN": "simple-shuffle",
    "WEIGHTED": "simple-shuffle",
    "LEAST_LOADED": "least-busy",
    "FASTEST_RESPONSE": "latency-based-routing",
    "COST_OPTIMIZED": "cost-based-routing",
}
"""Values of `LLM_PROXY_LOAD_BALANCE`; ROUND_ROBIN replaces simple-shuffle by a patch (`routing`)."""
CACHE_NAMESPACE = "litellm_caching"
CACHED_ENDPOINTS: tuple[Endpoint, ...] = (
    "chat.completions",
    "completions",
    "responses",
    "messages",
    "generate_content",
)
CACHED_PATHS = {ENDPOINTS[name].litellm_call_type: ENDPOINTS[name].path for name in CACHED_ENDPOINTS}
"""LiteLLM's call types that the response cache serves -> their paths."""
LANGFUSE = "langfuse"
ALIASES_KEY = "model_group_alias"
SEVERAL = 2
CA_VARIABLE = "LLM_PROXY__CA_FILE"
REDIS_TARGET = frozenset(
    {
        *("url", "host", "port", "db", "username", "password", "ssl", "redis_startup_nodes", "startup_nodes"),
        *("sentinel_nodes", "sentinel_password", "service_name"),
        *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"),
    }
)
"""The settings of `cache_params` that say which Redis it is."""
REDIS_ADDRESSES = ("url", "host", "redis_startup_nodes", "startup_nodes", "sentinel_nodes")
MASKING_SERVICES = frozenset({"generic_guardrail_api", "prompt_security"})
"""Guardrails that leave streamed answers unmasked by LiteLLM's default, where the file has no setting."""
TIMEOUT_KEYS = (
    *("request_timeout", "timeout", "stream_timeout"),
    *("timeout_by_service_tier", "stream_timeout_by_service_tier"),
)
MAX_WILDCARDS = 3
"""`*` in a group's name: LiteLLM matches by backtracking, which takes seconds with four."""
SECTIONS = ("litellm_settings", "router_settings", "general_settings")
OPTIONAL_PARAMETERS = frozenset(
    {
        *("organization", "api_version", "region_name", "vertex_location", "vertex_ai_location"),
        *("aws_region_name", "aws_session_token", "aws_session_name", "aws_profile_name", "aws_sts_endpoint"),
        *("timeout", "stream_timeout", "num_retries", "max_retries", "rpm", "tpm", "weight", "order"),
        *("max_tokens", "temperature", "drop_params", "ssl_verify", "tags"),
    }
)
"""Parameters of a deployment that is called without them where they refer to a variable that is not set."""


class InvalidConfig(Exception):  # noqa: N818 -- errors are named for the state they report
    """The configuration cannot be served; the message is one line."""


class ModelSubstituted(InvalidConfig):
    """A setting would let another model answer than the authorized one; see `model_substitution`."""


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """The configuration LiteLLM gets.

    Attributes:
        config: The sections.
        notes: One line for each omission.
        cached_call_types: LiteLLM's call types that the response cache serves.
        variables: Environment variables that the file itself sets.
        states_timeouts: Whether the file states a timeout of calls.
    """

    config: Json
    notes: tuple[str, ...]
    cached_call_types: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    states_timeouts: bool = False


def build_effective_config(raw: object, env: Mapping[str, str]) -> EffectiveConfig:
    """Return the configuration for LiteLLM; raises `InvalidConfig` or `ModelSubstituted`.

    Args:
        raw: The parsed file.
        env: The environment; deployments whose keys are not in it are left out.
    """
    config = copy.deepcopy(_validate(raw))
    substitutions = [f"{path}: {effect}" for path, effect in find_substitutions(config)]
    if substitutions:
        raise ModelSubstituted("; ".join(substitutions))
    notes = [f"ignored {found.path}: {found.message}" for found in remove_unhonoured(config)]
    variables = _take_file_variables(config, notes)
    env = {**env, **variables}
    expand_shell_references(config, env)
    config["model_list"] = _drop_deployments_without_keys(config.get("model_list") or [], env, notes)
    for name in SECTIONS:
        config[name] = config.get(name) or {}
    _move_aliases_to_router(config)
    groups = {deployment["model_name"] for deployment in config["model_list"]}
    _prune_names(config, groups, notes)
    _drop_prometheus(config["litellm_settings"], notes)
    _apply_required(config, env, notes)
    for guardrail in map(as_object, as_list(config.get("guardrails"))):
        params = as_object(guardrail.get("litellm_params"))
        if params.get("guardrail") in MASKING_SERVICES:
            params.setdefault("streaming_transform_mode", "incremental_diff")
    cached = _take_cached_call_types(config["litellm_settings"], as_object(raw), env, notes)
    stated = states_timeouts(as_object(raw)) or bool(env.get("REQUEST_TIMEOUT"))
    return EffectiveConfig(config, tuple(notes), cached, variables, stated)


def _validate(raw: object) -> Json:
    config = as_object(raw)
    if not config:
        raise InvalidConfig("it is not a mapping of sections")
    if "model_list" not in config:
        for key in difflib.get_close_matches("model_list", config, 1, 0.75):
            raise InvalidConfig(f"{key}: LiteLLM ignores this key; did you mean model_list?")
    if not isinstance(config.get("model_list") or [], list):
        raise InvalidConfig("model_list is not a list")
    _validate_deployments(config)
    for section in SECTIONS:
        if not isinstance(config.get(section) or {}, dict):
            raise InvalidConfig(f"{section} is not a mapping")
    return config


def _validate_deployments(config: Json) -> None:
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


def _drop_deployments_without_keys(
    deployments: list[Json], env: Mapping[str, str], notes: list[str]
) -> list[Json]:
    kept: list[Json] = []
    for deployment in deployments:
        params: Json = deployment["litellm_params"]
        for name in [one for one in OPTIONAL_PARAMETERS & params.keys() if unset_variables(params[one], env)]:
            del params[name]
        missing = unset_variables(params, env)
        if missing:
            named = f"{deployment['model_name']} ({deployment['litellm_params']['model']})"
            notes.append(f"left out {named}: {', '.join(dict.fromkeys(missing))} not set")
        else:
            model = resolve_reference(params["model"], env)
            if provider := provider_of_family({**params, "model": model}):
                params["model"] = f"{provider}/{model}"
            kept.append(deployment)
    return kept


def resolve_reference(text: str, env: Mapping[str, str]) -> str:
    """Return a value, or that of the variable it refers to; an unset variable's is empty."""
    referred = ENV_REFERENCE.fullmatch(text)
    return env.get(referred[1], "") if referred else text


def unset_variables(value: object, env: Mapping[str, str]) -> list[str]:
    """Return the environment variables that a value refers to and that are not set, in order."""
    if isinstance(value, str):
        required = [one[1] for one in SHELL_REFERENCE.finditer(value) if one[2] is None]
        return [name for name in (*ENV_REFERENCE.findall(value), *required) if not env.get(name)]
    return [
        name for part in (*as_object(value).values(), *as_list(value)) for name in unset_variables(part, env)
    ]


def expand_shell_references(config: Json, env: Mapping[str, str]) -> None:
    """Replace `${NAME}` in models, credentials, the router's settings and the cache's, as envsubst would.

    A value that is nothing else becomes `os.environ/NAME`; an unset name without a default stays.
    """
    for section in ("model_list", "credential_list", "router_settings"):
        if section in config:
            config[section] = _expand(config[section], env)
    litellm = as_object(config.get("litellm_settings"))
    if "cache_params" in litellm:
        litellm["cache_params"] = _expand(litellm["cache_params"], env)


def _expand(value: Any, env: Mapping[str, str]) -> Any:  # noqa: ANN401 -- of YAML
    if is_object(value):
        return {name: _expand(part, env) for name, part in value.items()}
    if is_array(value):
        return [_expand(part, env) for part in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = SHELL_REFERENCE.fullmatch(value)
    if whole is not None and (whole[2] is None or env.get(whole[1])):
        return f"os.environ/{whole[1]}"
    return SHELL_REFERENCE.sub(lambda one: env.get(one[1]) or (one[0] if one[2] is None else one[2]), value)


def _move_aliases_to_router(config: Json) -> None:
    """Move aliases of `litellm_settings`, which the catalog would not show, to the router's."""
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


def _alias_target(alias: object) -> str:
    return str(as_object(alias).get("model", alias))


def is_served(name: str, groups: Iterable[str]) -> bool:
    """Whether a group has that name or is a wildcard that covers it."""
    return any(wildcard_matches(group, name) for group in groups)


def _take_file_variables(config: Json, notes: list[str]) -> dict[str, str]:
    """Return the variables the file itself sets; those it may not set are removed from it."""
    given = as_object(config.get("environment_variables"))
    for name in sorted(NEVER_FROM_THE_FILE & given.keys()):
        del given[name]
        notes.append(f"ignored environment_variables.{name}: the sidecar sets it, or keeps it from LiteLLM")
    return {
        name: str(value)
        for name, value in given.items()
        if value is not None and not ENV_REFERENCE.match(str(value))
    }


def _drop_prometheus(litellm: Json, notes: list[str]) -> None:
    for key in tuple(prometheus_lists(litellm)):
        litellm[key] = [name for name in as_list(litellm[key]) if name not in PROMETHEUS_NAMES]
        notes.append(f"ignored litellm_settings.{key} {PROMETHEUS}: the gateway has its own /metrics")


def _apply_required(config: Json, env: Mapping[str, str], notes: list[str]) -> None:
    defaults = _defaults_beside(config, env)
    for section in SECTIONS:
        notes += [
            f"ignored {section}.{key} {config[section][key]}: always {value} here"
            for key, value in REQUIRED[section].items()
            if key != "master_key" and config[section].get(key, value) != value
        ]
        config[section] = {**defaults[section], **config[section], **REQUIRED[section]}
    litellm, router = config["litellm_settings"], config["router_settings"]
    checks = [one for one in as_list(router["optional_pre_call_checks"]) if one != SESSION_AFFINITY]
    router["optional_pre_call_checks"] = [*checks, SESSION_AFFINITY]
    litellm |= observer_settings(litellm, env)
    _choose_strategy(router, env.get("LLM_PROXY_LOAD_BALANCE", ""), notes)
    if (retries := env.get("LLM_PROXY_MAX_RETRIES", "")).isdecimal():
        router["num_retries"] = int(retries)
    elif retries:
        notes.append("ignored LLM_PROXY_MAX_RETRIES: it is not a whole number")
    url = env.get("CACHE_REDIS_URL")
    if url and litellm.get("cache") is not False:
        litellm["cache"] = True
        if lost := sorted(REDIS_TARGET & as_object(litellm.get("cache_params")).keys()):
            notes.append(f"ignored cache_params.{', '.join(lost)}: CACHE_REDIS_URL names the Redis")
        litellm["cache_params"] = redis_cache_params(url, litellm.get("cache_params") or {}, env)
    elif litellm.get("cache") is True and not _names_its_cache(as_object(litellm.get("cache_params")), env):
        litellm["cache"] = False  # LiteLLM would not start
        notes.append("ignored litellm_settings.cache: neither CACHE_REDIS_URL nor cache_params names a Redis")


def _choose_strategy(router: Json, balance: str, notes: list[str]) -> None:
    chosen, given = routing_strategy(balance), router["routing_strategy"]
    if chosen is None:
        return
    if given not in (chosen, DEFAULTS["router_settings"]["routing_strategy"]):
        notes.append(f"ignored router_settings.routing_strategy {given}: LLM_PROXY_LOAD_BALANCE is {balance}")
    router["routing_strategy"] = chosen


def _names_its_cache(params: Json, env: Mapping[str, str]) -> bool:
    if not str(params.get("type", "redis")).startswith("redis"):
        return True
    return any(params.get(name) and not unset_variables(params[name], env) for name in REDIS_ADDRESSES)


def _defaults_beside(config: Json, env: Mapping[str, str]) -> dict[str, Json]:
    """Return our defaults without those that would hide what the file, or `REQUEST_TIMEOUT`, says.

    LiteLLM prefers `request_timeout` to the router's `timeout`, the router's `stream_timeout` to a
    deployment's `timeout`, and the router's `num_retries` to `litellm_settings.num_retries`.
    """
    found = copy.deepcopy(DEFAULTS)
    litellm, router = config["litellm_settings"], config["router_settings"]
    if litellm.get("num_retries") is not None:
        found["router_settings"]["num_retries"] = litellm["num_retries"]
    if router.get("timeout") or litellm.get("request_timeout") or env.get("REQUEST_TIMEOUT"):
        del found["litellm_settings"]["request_timeout"], found["router_settings"]["timeout"]
        del found["router_settings"]["stream_timeout"]
    elif as_object(router.get("default_litellm_params")).get("stream_timeout"):
        del found["router_settings"]["stream_timeout"]
    elif not router.get("stream_timeout"):
        for params in (deployment["litellm_params"] for deployment in config["model_list"]):
            own = params.get("timeout") or params.get("request_timeout")
            if own:
                params.setdefault("stream_timeout", own)
    return found


def states_timeouts(config: Json) -> bool:
    """Whether a file states a timeout of calls anywhere."""
    params = (as_object(one).get("litellm_params") for one in as_list(config.get("model_list")))
    settings = (config.get("litellm_settings"), config.get("router_settings"))
    router = as_object(config.get("router_settings"))
    others = (router.get("default_litellm_params"),)
    return any(as_object(one).get(name) for one in (*settings, *others, *params) for name in TIMEOUT_KEYS)


def observer_settings(litellm_settings: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """Return the settings for observers: Langfuse if its keys are set; prompts if the gateway permits."""
    added: Json = {}
    if env.get("LANGFUSE_PUBLIC_KEY") and env.get("LANGFUSE_SECRET_KEY"):
        for name in ("success_callback", "failure_callback"):
            given = as_list(litellm_settings.get(name))
            added[name] = given if LANGFUSE in given else [*given, LANGFUSE]
    # Redaction costs a fifth of a call's CPU, so it is on only if an observer would get the text.
    if "turn_off_message_logging" not in litellm_settings:
        added["turn_off_message_logging"] = has_observers({**litellm_settings, **added})
    return added


def has_observers(litellm_settings: Mapping[str, Any]) -> bool:
    """Whether a callback other than ours receives the calls; ours reads no text."""
    names = ("callbacks", "success_callback", "failure_callback", "audit_log_callbacks")
    return any(litellm_settings.get(name) for name in names)


def routing_strategy(load_balance: str) -> str | None:
    """Return LiteLLM's routing strategy for a value of `LLM_PROXY_LOAD_BALANCE`; None if unknown."""
    return ROUTING_STRATEGIES.get(load_balance.upper())


def redis_cache_params(url: str, given: Mapping[str, Any], env: Mapping[str, str]) -> Json:
    """Return `cache_params` for the Redis at `url`; the file's values win, except for the address."""
    ours: Json = {
        "namespace": CACHE_NAMESPACE,
        "ttl": float(env.get("LLM_PROXY_SIDECAR_CACHE_TTL_S") or 600),
        "supported_call_types": [*CACHED_PATHS, "aembedding"],
        "max_messages": None,  # else conversations of more than four messages are not cached
        "socket_timeout": 0.25,  # the cost of a frozen Redis, once (see `redis_breaker`)
        "socket_connect_timeout": 0.25,
    }
    kept = {name: value for name, value in given.items() if name not in REDIS_TARGET}
    return ours | kept | {"type": "redis"} | _redis_target(redis_address(url), url, env.get(CA_VARIABLE))


def _redis_target(found: RedisAddress, url: str, ca_file: str | None) -> Json:
    """Return LiteLLM's settings of an address: of one server the address, else each part by its name.

    LiteLLM neither finds out that a server belongs to a cluster, nor reads several hosts in an address.
    """
    trusted = {"ssl_ca_certs": ca_file} if ca_file and found.is_tls else {}
    if found.kind == "server" and len(found.hosts) < SEVERAL:
        missing = trusted if "ssl_ca_certs" not in found.parameters else {}
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in missing.items())
        return {"url": f"{url}{'&' if '?' in url else '?'}{query}" if query else url}
    user, password = found.credentials
    options = {"username": user, "password": password, **trusted, **found.parameters}
    target: Json = {name: value for name, value in options.items() if name in REDIS_TARGET and value}
    if found.is_tls:
        target["ssl"] = True
    if found.kind == "sentinel":
        nodes = [[host, port] for host, port in found.hosts]
        more = {"sentinel_nodes": nodes, "service_name": found.service, "db": int(target.get("db", 0))}
        return target | more
    target.pop("db", None)  # a cluster has one
    return target | {"redis_startup_nodes": [{"host": host, "port": port} for host, port in found.hosts]}


def _take_cached_call_types(
    litellm: Json, raw: Json, env: Mapping[str, str], notes: list[str]
) -> tuple[str, ...]:
    """Take the call types of the response cache out of LiteLLM's cache settings and return them."""
    if litellm.get("cache") is not True:
        return ()
    params = litellm["cache_params"] = as_object(litellm.get("cache_params"))
    given = as_object(as_object(raw.get("litellm_settings")).get("cache_params")).get("type", "redis")
    if params.get("mode") == "default_off":
        notes.append("cache_params.mode default_off: nothing is cached, because no caller can request it")
    if given != "redis" and env.get("CACHE_REDIS_URL"):
        notes.append(f"ignored cache_params.type {given}: answers are cached in CACHE_REDIS_URL's Redis")
    elif given != "redis":
        notes.append(
            f"cache_params.type {given} is LiteLLM's own cache: it keeps no streams and cannot be purged"
        )
        return ()
    types = as_list(params.get("supported_call_types", [*CACHED_PATHS, "aembedding"]))
    params["supported_call_types"] = [name for name in types if name not in CACHED_PATHS]
    return tuple(name for name in types if name in CACHED_PATHS)
