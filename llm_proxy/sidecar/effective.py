"""The configuration LiteLLM really gets: the file, less what cannot work here, plus what must hold.

Invariants: pure; the file's own words win over our defaults, except where they would open a database, a
known key or the network. Nothing is left out silently: each omission is a note.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_proxy.json_access import Json
from llm_proxy.sidecar.diversions import diversions
from llm_proxy.sidecar.environment import REFERENCE
from llm_proxy.sidecar.requirements import ANSWERS, DEFAULTS, FORCED, cache_in, observed, strategy
from llm_proxy.sidecar.shapes import items, mapping
from llm_proxy.wildcards import covers

ALIASES = "model_group_alias"
FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
MAX_STARS = 3
"""In a group's name: LiteLLM matches names by backtracking, for seconds with four, for ever with more."""
SECTIONS = ("litellm_settings", "router_settings", "general_settings")


class Broken(Exception):  # noqa: N818 -- errors are named for the state they report
    """The configuration cannot be served; the message says why in one line."""


class Diverted(Broken):
    """Something in it lets another model answer than the one a call was judged by; see `diversions`."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What LiteLLM is given.

    Attributes:
        notes: One line for each thing left out.
        cached: LiteLLM's call types that are answered from the response cache.
    """

    config: Json
    notes: tuple[str, ...]
    cached: tuple[str, ...] = ()


def effective(raw: object, env: Mapping[str, str]) -> Effective:
    """The configuration for LiteLLM; raises `Broken` when the file is not one."""
    config = copy.deepcopy(_checked(raw))
    diverted = [f"{where}: {what}" for where, what in diversions(config)]
    if diverted:
        raise Diverted("; ".join(diverted))
    notes: list[str] = []
    config["model_list"] = _with_keys(config.get("model_list") or [], env, notes)
    for name in SECTIONS:
        config[name] = config.get(name) or {}
    _tell_every_alias(config)
    groups = {deployment["model_name"] for deployment in config["model_list"]}
    _prune_names(config, groups, notes)
    _remove_database(config["general_settings"], notes)
    _require(config, env)
    cached = _cached(config["litellm_settings"], mapping(raw), env, notes)
    return Effective(config, tuple(notes), cached)


def _checked(raw: object) -> Json:
    config = mapping(raw)
    if not config:
        raise Broken("it is not a mapping of sections")
    if not isinstance(config.get("model_list") or [], list):
        raise Broken("model_list is not a list")
    for at, deployment in enumerate(items(config.get("model_list")), 1):
        name = mapping(deployment).get("model_name")
        if not isinstance(name, str):
            raise Broken(f"model_list, entry {at}: model_name is missing")
        if name.count("*") > MAX_STARS:
            raise Broken(f"model_list, entry {at} ({name}): more than {MAX_STARS} `*` in model_name")
        if not isinstance(mapping(mapping(deployment).get("litellm_params")).get("model"), str):
            raise Broken(f"model_list, entry {at} ({name}): litellm_params.model is missing")
    for section in SECTIONS:
        if not isinstance(config.get(section) or {}, dict):
            raise Broken(f"{section} is not a mapping")
    return config


def unset(value: object, env: Mapping[str, str]) -> list[str]:
    """The names a value reads from the environment that are not there, in order."""
    if isinstance(value, str):
        return [name for name in REFERENCE.findall(value) if not env.get(name)]
    return [name for part in (*mapping(value).values(), *items(value)) for name in unset(part, env)]


def _with_keys(deployments: list[Json], env: Mapping[str, str], notes: list[str]) -> list[Json]:
    kept: list[Json] = []
    for deployment in deployments:
        missing = unset(deployment["litellm_params"], env)
        if missing:
            named = f"{deployment['model_name']} ({deployment['litellm_params']['model']})"
            notes.append(f"left out {named}: {', '.join(dict.fromkeys(missing))} not set")
        else:
            kept.append(deployment)
    return kept


def _target(alias: object) -> str:
    return str(mapping(alias).get("model", alias))


def served(name: str, groups: Iterable[str]) -> bool:
    """Whether a group of that name, or a wildcard that covers it, is there."""
    return any(covers(group, name) for group in groups)


def _tell_every_alias(config: Json) -> None:
    """An alias of `litellm_settings` is looked up behind the router's back; as the router's it is told."""
    given = mapping(config["litellm_settings"].pop("model_alias_map", None))
    if given:
        router = config["router_settings"]
        router[ALIASES] = {**given, **mapping(router.get(ALIASES))}


def _prune_names(config: Json, groups: set[str], notes: list[str]) -> None:
    aliases: Json = config["router_settings"].get(ALIASES) or {}
    kept = {name: alias for name, alias in aliases.items() if served(_target(alias), groups)}
    notes += [
        f"left out alias {name}: {_target(a)} is not served"
        for name, a in aliases.items()
        if name not in kept
    ]
    known = groups | set(kept)
    if aliases:
        config["router_settings"][ALIASES] = kept
    for section in ("router_settings", "litellm_settings"):
        for key in FALLBACKS:
            if config[section].get(key):
                config[section][key] = _prune_fallbacks(config[section][key], known)
        if config[section].get("default_fallbacks"):
            config[section]["default_fallbacks"] = [
                n for n in config[section]["default_fallbacks"] if served(n, known)
            ]


def _prune_fallbacks(rules: list[Json], known: set[str]) -> list[Json]:
    kept = [
        {source: [name for name in targets if not isinstance(name, str) or served(name, known)]}
        for rule in rules
        for source, targets in rule.items()
        if source == "*" or served(source, known)
    ]
    return [rule for rule in kept if all(rule.values())]


def _remove_database(general: Json, notes: list[str]) -> None:
    for name in ("database_url", "database_type", "store_model_in_db"):
        if general.pop(name, None):
            notes += [f"ignored general_settings.{name}: the sidecar keeps no database"]


def _require(config: Json, env: Mapping[str, str]) -> None:
    for section in SECTIONS:
        config[section] = {**copy.deepcopy(DEFAULTS[section]), **config[section], **FORCED[section]}
    litellm, router = config["litellm_settings"], config["router_settings"]
    litellm |= observed(litellm, env)
    router["routing_strategy"] = strategy(env.get("LLM_PROXY_LOAD_BALANCE", "")) or router["routing_strategy"]
    url = env.get("CACHE_REDIS_URL")
    if url and litellm.get("cache") is not False:
        litellm["cache"] = True
        litellm["cache_params"] = cache_in(url, litellm.get("cache_params") or {}, env)


def _cached(litellm: Json, raw: Json, env: Mapping[str, str], notes: list[str]) -> tuple[str, ...]:
    """The call types our own cache answers; what LiteLLM's cache is left with stays in its settings."""
    if litellm.get("cache") is not True:
        return ()
    params = litellm["cache_params"] = mapping(litellm.get("cache_params"))
    given = mapping(mapping(raw.get("litellm_settings")).get("cache_params")).get("type", "redis")
    if params.get("mode") == "default_off":
        notes.append("cache_params.mode default_off: nothing is cached, because no caller can ask for it")
    if given != "redis" and env.get("CACHE_REDIS_URL"):
        notes.append(f"ignored cache_params.type {given}: answers are cached in CACHE_REDIS_URL's Redis")
    elif given != "redis":
        notes.append(
            f"cache_params.type {given} is LiteLLM's own cache: it keeps no streams and cannot be purged"
        )
        return ()
    types = items(params.get("supported_call_types", [*ANSWERS, "aembedding"]))
    params["supported_call_types"] = [name for name in types if name not in ANSWERS]
    return tuple(name for name in types if name in ANSWERS)
