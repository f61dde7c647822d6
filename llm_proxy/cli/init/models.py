"""The shipped `litellm-config.yaml`, which may have been edited, cut down to some providers.

Pure; raises a `ValueError`, `TypeError` or the like for a file in another style. Invariants: a provider
serves deployments, and needs the variables that they refer to. Settings of the router stay as they are
written; no fallback and no alias leads to a model that was left out.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from llm_proxy.settings import TEST_PROVIDER
from llm_proxy.stack.operator_env import CONFIG_REFERENCE

_RENAMED = {"ollama_chat": "ollama", "hosted_vllm": "vllm", "vertex_ai": "vertex"}
"""LiteLLM's name of a provider -> the one that people use."""
_REFERRING = ("fallbacks", "context_window_fallbacks", "model_group_alias")
"""Settings of the router that name models, a line each."""
_WIDTH = 110
_HEADER = """\
# The models that are served. `llm-proxy config check` checks this file, `llm-proxy reload` applies a change.
#
# Keys are named as os.environ/NAME and never written here. A deployment whose key or address is not set is
# left out at the start. Two deployments under one name share its calls.

model_list:
"""


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that serves some deployments of the shipped configuration.

    Attributes:
        variables: What the deployments refer to, in the order of the file.
        chat_models: The chat models with a name of their own.
    """

    name: str
    variables: tuple[str, ...] = ()
    chat_models: tuple[str, ...] = ()
    deployments: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def read_providers(shipped: str) -> dict[str, Provider]:
    """Returns the providers of a configuration by name, in the order of the file."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for deployment in yaml.safe_load(shipped)["model_list"]:
        by_name.setdefault(_provider_of(deployment), []).append(deployment)
    return {name: _provider(name, deployments) for name, deployments in by_name.items()}


def cut_config(shipped: str, kept: Collection[str]) -> str:
    """Returns the configuration with the deployments of these providers only."""
    providers = [one for one in read_providers(shipped).values() if one.name in kept]
    models = {str(one["model_name"]) for provider in providers for one in provider.deployments}
    models |= _aliases_of(shipped, models)
    settings = shipped[shipped.index("\nrouter_settings:") :]
    sections = "\n".join(_section(one) for one in providers)
    return f"{_HEADER}{sections}{_without_left_out(settings, models)}"


def default_model(shipped: str, default: str, kept: Collection[str]) -> str | None:
    """Returns what stands in for the gateway's default model where its provider is not kept.

    That is its first fallback that is kept, else the first chat model; None if it is kept, or without any.
    """
    providers = [one for one in read_providers(shipped).values() if one.name in kept]
    models = [model for one in providers for model in one.chat_models]
    router = _router_of(shipped)
    meant = _aliases(router).get(default, default)
    fallbacks = [model for entry in router.get("fallbacks") or () for model in entry.get(meant, ())]
    known = [model for model in (*fallbacks, *models) if model in models]
    return None if meant in models or not known else known[0]


def _provider_of(deployment: dict[str, Any]) -> str:
    litellm_name = str(deployment["litellm_params"]["model"]).partition("/")[0]
    name = str(_info_of(deployment).get("provider", litellm_name))
    return _RENAMED.get(name, name)


def _info_of(deployment: dict[str, Any]) -> dict[str, Any]:
    info: dict[str, Any] | None = deployment.get("model_info")
    return info or {}


def _provider(name: str, deployments: Sequence[dict[str, Any]]) -> Provider:
    references = (
        CONFIG_REFERENCE.findall(yaml.safe_dump(one["litellm_params"], sort_keys=False))
        for one in deployments
    )
    chats = [
        one["model_name"]
        for one in deployments
        if _info_of(one).get("mode", "chat") == "chat" and "*" not in one["model_name"]
    ]
    variables = dict.fromkeys(variable for found in references for variable in found)
    return Provider(name, tuple(variables), tuple(dict.fromkeys(chats)), tuple(deployments))


def _section(provider: Provider) -> str:
    title = "the test models of this machine, by `llm-proxy up`"
    if provider.name != TEST_PROVIDER:
        title = f"{provider.name}: {', '.join(provider.variables)}"
    text = "".join(
        yaml.safe_dump([one], sort_keys=False, default_flow_style=None, width=_WIDTH)
        for one in provider.deployments
    )
    return "".join(f"  {line}\n" for line in (f"# {title}", *text.splitlines()))


def _router_of(shipped: str) -> dict[str, Any]:
    router: dict[str, Any] | None = yaml.safe_load(shipped).get("router_settings")
    return router or {}


def _aliases_of(shipped: str, models: Collection[str]) -> set[str]:
    return {alias for alias, model in _aliases(_router_of(shipped)).items() if model in models}


def _aliases(router: dict[str, Any]) -> dict[str, str]:
    aliases: dict[str, str] | None = router.get("model_group_alias")
    return aliases or {}


def _without_left_out(settings: str, models: Collection[str]) -> str:
    """Returns these settings without what leads to other models, and without settings that are then empty."""
    lines: list[str] = []
    header: list[str] = []
    is_referring = False
    for line in settings.splitlines():
        setting = re.fullmatch(r"  (\w+):.*", line)
        is_referring = setting[1] in _REFERRING if setting else is_referring and line.startswith("    ")
        if setting and is_referring:
            header = [*_comments_above(lines), line]
        elif not is_referring:
            lines.append(line)
        elif kept := _kept_line(line, models):
            lines += [*header, kept]
            header = []
    return "\n".join(lines) + "\n"


def _comments_above(lines: list[str]) -> Iterator[str]:
    """Takes the comments at the end of `lines` out of it; they belong to the setting that follows."""
    taken: list[str] = []
    while lines and lines[-1].startswith("  #"):
        taken.append(lines.pop())
    return reversed(taken)


def _kept_line(line: str, models: Collection[str]) -> str:
    """Returns a line of such a setting with the known models only; empty if none is left."""
    if not line.lstrip().startswith("- "):
        alias: dict[str, str] = yaml.safe_load(line)
        return line if set(alias.values()) <= set(models) else ""
    fallbacks: list[dict[str, list[str]]] = yaml.safe_load(line)
    [(name, others)] = fallbacks[0].items()
    kept = [one for one in others if one in models]
    return f"    - {name}: [{', '.join(kept)}]" if name in models and kept else ""
