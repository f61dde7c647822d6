"""Checks a configuration file: settings without effect, weak keys, prompts that could leave local servers.

Invariants: imports no LiteLLM and makes no request: known keys come from the generated `known_keys.json`. A
fault is a key or name that does not do what it says; any other finding is a note. A deployment is local if
its address is loopback, private or a private name, or if it has none and its provider is self-hosted.
"""

import difflib
import ipaddress
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.config import FALLBACKS, Broken, Diverted, effective, served, unset
from llm_proxy.sidecar.environment import REFERENCE, WITH_V1, WITHOUT_V1
from llm_proxy.sidecar.model_substitution import INSTEAD_OF_THE_BODYS, diversions

SELF_HOSTED = frozenset(
    {
        *("ollama", "ollama_chat", "hosted_vllm", "vllm", "lm_studio", "llamafile", "lemonade", "infinity"),
        *("docker_model_runner", "xinference", "oobabooga", "triton", "local", "tei", "llama_cpp"),
    }
)
LOCAL_ADDRESSES = WITH_V1 | WITHOUT_V1 | {"LOCAL_CHAT_BASE", "LOCAL_EMBED_BASE"}
"""Names of addresses that are one's own, set or not."""
PRIVATE_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc", ".cluster.local")


def crossings(config: Json, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where a call to a local group may be answered by a remote one: the key's path, and what is wrong."""
    kinds = _kinds(config, env)
    aliases = as_object(as_object(config.get("router_settings")).get("model_group_alias"))
    local = [name for name, found in kinds.items() if True in found]
    for name in local:
        if False in kinds[name]:
            yield (
                f"model_list.{name}",
                "some of its deployments are local and some remote: either gets a prompt",
            )
    for where, source, target in _rules(config):
        sources = local if source == "*" else [_group(source, aliases, kinds)]
        crossing = [name for name in sources if name in local and name != target]
        if crossing and False in kinds.get(_group(target, aliases, kinds), set()):
            named = ", ".join(crossing)
            yield where, f"leaves the machine: prompts for {named} (local) go to {target} (remote)"


def _kinds(config: Json, env: Mapping[str, str]) -> dict[str, set[bool]]:
    """Each group, and whether its deployments are local."""
    kinds: dict[str, set[bool]] = {}
    for deployment in map(as_object, as_list(config.get("model_list"))):
        kinds.setdefault(str(deployment["model_name"]), set()).add(is_local(deployment, env))
    return kinds


def _group(name: str, aliases: Json, kinds: Mapping[str, set[bool]]) -> str:
    """The group behind a name: an alias's, itself, or the wildcard that covers it."""
    target = str(as_object(aliases.get(name)).get("model", aliases.get(name, name)))
    return target if target in kinds else next((one for one in kinds if served(target, [one])), target)


def _rules(config: Json) -> Iterator[tuple[str, str, str]]:
    """Every fallback: the key's path, the group it is for (`*`: any), and where it leads."""
    for section in ("router_settings", "litellm_settings"):
        given = as_object(config.get(section))
        for key in FALLBACKS:
            for rule in as_list(given.get(key)):
                for source, targets in as_object(rule).items():
                    for target in as_list(targets):
                        yield f"{section}.{key}.{source}", source, str(as_object(target).get("model", target))
        for target in as_list(given.get("default_fallbacks")):
            yield f"{section}.default_fallbacks", "*", str(target)


def is_local(deployment: Json, env: Mapping[str, str]) -> bool:
    """Whether a deployment's server is one's own."""
    params, info = as_object(deployment.get("litellm_params")), as_object(deployment.get("model_info"))
    address = str(params.get("api_base") or params.get("base_url") or "")
    named = REFERENCE.fullmatch(address)
    if named is not None:
        address = env.get(named[1], "")
        if not address:
            return named[1] in LOCAL_ADDRESSES
    host = urlsplit(address).hostname or ""
    if host:
        return _private(host)
    return str(info.get("provider") or str(params.get("model")).partition("/")[0]) in SELF_HOSTED


def _private(host: str) -> bool:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_SUFFIXES)
    return found.is_private


WEAK = frozenset(
    {"sk-1234", "sk-master", "sk-test", "change-me", "changeme", "password", "secret", "master-key"}
)
SHORTEST_KEY = 16
NO_SECRET = frozenset({"none", "no-key", "not-needed", "dummy", "empty", "ollama", "sk-no-key-required"})
SECTIONS = ("router_settings", "litellm_settings", "general_settings")
NESTED = (
    ("router_settings", "retry_policy"),
    ("router_settings", "allowed_fails_policy"),
    ("litellm_settings", "cache_params"),
)

OURS = frozenset({"provider", "custom_tokenizer"})
"""Keys of `model_info` that this project reads, or names below."""
NAMED_BELOW = frozenset(INSTEAD_OF_THE_BODYS)
"""Keys of which the generated table lacks some, and that are refused for what they do."""
LEFT_OUT = "left out: "
ONCE = frozenset({"BadRequestErrorRetries", "NotFoundErrorRetries", "ContentPolicyViolationErrorRetries"})
"""Grants of a retry policy for what is never tried again."""


@cache
def known(section: str) -> frozenset[str]:
    """The keys LiteLLM reads in a section."""
    table: dict[str, str] = json.loads(
        files("llm_proxy.sidecar").joinpath("known_keys.json").read_text("utf-8")
    )
    return frozenset(table[section].split())


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        where: The key's path in the file, or the deployment.
        fault: Whether the file should not be served as it is.
    """

    where: str
    message: str
    fault: bool = True


def check(raw: object, env: Mapping[str, str]) -> list[Finding]:
    """Everything found in a configuration, in the order of the file's sections."""
    try:
        effective(raw, env)
    except Diverted:
        pass  # each is a finding below
    except Broken as problem:
        return [Finding("", str(problem))]
    config = as_object(raw)
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _unknown("", config, known("top")),
        lambda: _deployments(config, env),
        lambda: _sections(config),
        lambda: (Finding(where, what) for where, what in diversions(config)),
        lambda: _dangling(config),
        lambda: _crossing(config, env),
        lambda: _unset(config, env),
        lambda: _secrets(config, env),
        lambda: _database(config),
    )
    return [found for part in parts for found in part()]


def _unknown(where: str, given: Json, names: Collection[str], *, fault: bool = True) -> Iterator[Finding]:
    for key in given:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, 1, 0.75)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield Finding(f"{where}.{key}".lstrip("."), f"LiteLLM ignores this key{meant}", fault)


def _sections(config: Json) -> Iterator[Finding]:
    for section in SECTIONS:
        yield from _unknown(section, as_object(config.get(section)), known(section) | NAMED_BELOW)
    for section, key in NESTED:
        yield from _unknown(
            f"{section}.{key}", as_object(as_object(config.get(section)).get(key)), known(key)
        )
    router = as_object(config.get("router_settings"))
    policies = {"retry_policy": router.get("retry_policy")}
    for group, policy in as_object(router.get("model_group_retry_policy")).items():
        where = f"model_group_retry_policy.{group}"
        yield from _unknown(f"router_settings.{where}", as_object(policy), known("retry_policy"))
        policies[where] = policy
    for where, policy in policies.items():
        for name in sorted(as_object(policy).keys() & ONCE):
            yield Finding(
                f"router_settings.{where}.{name}", "a caller's own fault is tried once", fault=False
            )
    strategy = as_object(config.get("router_settings")).get("routing_strategy")
    if strategy is not None and strategy not in known("strategies"):
        named = ", ".join(sorted(known("strategies")))
        yield Finding("router_settings.routing_strategy", f"{strategy} is none of {named}")


def _deployments(config: Json, env: Mapping[str, str]) -> Iterator[Finding]:
    mapped = as_list(as_object(config.get("litellm_settings")).get("custom_provider_map"))
    own = {str(as_object(one).get("provider")) for one in mapped}
    seen: set[str] = set()
    for deployment in map(as_object, as_list(config.get("model_list"))):
        params, info = as_object(deployment.get("litellm_params")), as_object(deployment.get("model_info"))
        where = f"model_list.{deployment['model_name']}"
        yield from _unknown(where, deployment, {"model_name", "litellm_params", "model_info", "model_id"})
        for key in params.keys() - known("litellm_params") - known("prices"):
            yield Finding(
                f"{where}.{key}", "no setting of LiteLLM's: it is sent to the provider", fault=False
            )
        yield from _unknown(
            f"{where}.model_info", info, known("model_info") | known("prices") | OURS, fault=False
        )
        provider, slash, _ = str(params["model"]).partition("/")
        if slash and provider not in known("providers") | own and not params.get("custom_llm_provider"):
            yield Finding(where, f"there is no provider {provider}")
        if info.get("custom_tokenizer"):
            yield Finding(
                f"{where}.model_info.custom_tokenizer", "never loaded: the sidecar asks no hub", fault=False
            )
        missing = ", ".join(dict.fromkeys(unset(params, env)))
        if missing:
            yield Finding(where, f"{LEFT_OUT}{missing} not set", fault=False)
        if info.get("id") in seen:
            yield Finding(f"{where}.model_info.id", f"{info['id']} is another deployment's id too")
        seen |= {str(info["id"])} if info.get("id") else set()


def _dangling(config: Json) -> Iterator[Finding]:
    """Names that lead nowhere in the file itself, whatever keys are set."""
    groups = {str(as_object(one)["model_name"]) for one in as_list(config.get("model_list"))}
    for section, key in (("router_settings", "model_group_alias"), ("litellm_settings", "model_alias_map")):
        for name, alias in as_object(as_object(config.get(section)).get(key)).items():
            target = str(as_object(alias).get("model", alias))
            if not served(target, groups):
                yield Finding(f"{section}.{key}.{name}", f"no group is called {target}")
            groups = groups | {name}
    for section in ("router_settings", "litellm_settings"):
        given = as_object(config.get(section))
        for key in FALLBACKS:
            for rule in map(as_object, as_list(given.get(key))):
                yield from _rule(f"{section}.{key}", rule, groups)
        for target in as_list(given.get("default_fallbacks")):
            if not served(str(target), groups):
                yield Finding(f"{section}.default_fallbacks", f"no group is called {target}")


def _crossing(config: Json, env: Mapping[str, str]) -> Iterator[Finding]:
    """An operator may want it; nobody should have it unaware."""
    for where, message in crossings(config, env):
        yield Finding(where, message, fault=False)


def _unset(config: Json, env: Mapping[str, str]) -> Iterator[Finding]:
    """Names the sections refer to; what only a deployment refers to is left out with it."""
    for section in SECTIONS:
        for key, value in as_object(config.get(section)).items():
            for name in dict.fromkeys(unset(value, env)):
                if key != "master_key":  # ours, whatever stands there
                    yield Finding(f"{section}.{key}", f"{name} is not set: nothing is read", fault=False)


def _rule(where: str, rule: Json, groups: set[str]) -> Iterator[Finding]:
    for source, targets in rule.items():
        for name in (source, *as_list(targets)):
            if isinstance(name, str) and name != "*" and not served(name, groups):
                yield Finding(f"{where}.{source}", f"no group is called {name}")


def weak(key: str) -> bool:
    """Whether a key is one everybody tries first, or too short."""
    return key.lower() in WEAK or len(key) < SHORTEST_KEY


def _secrets(config: Json, env: Mapping[str, str]) -> Iterator[Finding]:
    master = as_object(config.get("general_settings")).get("master_key")
    if isinstance(master, str) and not master.startswith("os.environ/"):
        yield Finding(
            "general_settings.master_key", "a key stands in the file: write os.environ/LITELLM_MASTER_KEY"
        )
    if env.get("LITELLM_MASTER_KEY") and weak(env["LITELLM_MASTER_KEY"]):
        yield Finding(
            "LITELLM_MASTER_KEY", f"weak: known to everybody or shorter than {SHORTEST_KEY} characters"
        )
    for deployment in map(as_object, as_list(config.get("model_list"))):
        key = as_object(deployment.get("litellm_params")).get("api_key")
        if isinstance(key, str) and not key.startswith("os.environ/") and key.lower() not in NO_SECRET:
            where = f"model_list.{deployment['model_name']}.litellm_params.api_key"
            yield Finding(where, "a key stands in the file: name it as os.environ/NAME")


def _database(config: Json) -> Iterator[Finding]:
    url = as_object(config.get("general_settings")).get("database_url")
    if isinstance(url, str) and url.startswith("sqlite"):
        yield Finding(
            "general_settings.database_url", "LiteLLM has no sqlite; the sidecar keeps no database at all"
        )
    elif url:
        yield Finding("general_settings.database_url", "ignored: the sidecar keeps no database", fault=False)
