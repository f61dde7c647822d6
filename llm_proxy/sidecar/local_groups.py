"""Which model groups are served on one's own machines, and where their prompts could leave them.

Pure. Invariants: a deployment with an address is local if that is loopback, private, or a name only private
networks have; one without is local if only self-hosted servers speak its protocol; any other is remote.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from llm_proxy.json_access import Json
from llm_proxy.sidecar.effective import FALLBACKS, served
from llm_proxy.sidecar.environment import REFERENCE, WITH_V1, WITHOUT_V1
from llm_proxy.sidecar.shapes import items, mapping

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
    aliases = mapping(mapping(config.get("router_settings")).get("model_group_alias"))
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
    for deployment in map(mapping, items(config.get("model_list"))):
        kinds.setdefault(str(deployment["model_name"]), set()).add(is_local(deployment, env))
    return kinds


def _group(name: str, aliases: Json, kinds: Mapping[str, set[bool]]) -> str:
    """The group behind a name: an alias's, itself, or the wildcard that covers it."""
    target = str(mapping(aliases.get(name)).get("model", aliases.get(name, name)))
    return target if target in kinds else next((one for one in kinds if served(target, [one])), target)


def _rules(config: Json) -> Iterator[tuple[str, str, str]]:
    """Every fallback: the key's path, the group it is for (`*`: any), and where it leads."""
    for section in ("router_settings", "litellm_settings"):
        given = mapping(config.get(section))
        for key in FALLBACKS:
            for rule in items(given.get(key)):
                for source, targets in mapping(rule).items():
                    for target in items(targets):
                        yield f"{section}.{key}.{source}", source, str(mapping(target).get("model", target))
        for target in items(given.get("default_fallbacks")):
            yield f"{section}.default_fallbacks", "*", str(target)


def is_local(deployment: Json, env: Mapping[str, str]) -> bool:
    """Whether a deployment's server is one's own."""
    params, info = mapping(deployment.get("litellm_params")), mapping(deployment.get("model_info"))
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
