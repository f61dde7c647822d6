"""Prints, as JSON, what a release of LiteLLM offers: the facts that two releases are compared by.

Run it in a sidecar's environment: `.venv-sidecar/bin/python scripts/litellm_facts.py`. Each fact is a mapping
from a name to a value; a value of null says only that the name exists.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import litellm
import yaml
from litellm.litellm_core_utils.get_supported_openai_params import get_supported_openai_params
from litellm.proxy._types import ConfigGeneralSettings
from litellm_keys import PACKAGE, sections, strategies
from litellm_names import owned

Facts = dict[str, dict[str, Any]]
CONFIG = Path(__file__).parents[1] / "litellm-config.yaml"
HEADER = re.compile(r"[\"'](x-litellm-[a-z0-9-]+|llm_provider-)[\"']")
ROUTE = re.compile(r"@\w*(?:router|app)\.(get|post|put|patch|delete|websocket)\(\s*[\"'](/[^\"']*)[\"']")
VARIABLE = re.compile(r"\b\w*(?:env\w*|environ\.get|secret\w*)\(\s*[\"']([A-Z][A-Z0-9_]{3,})[\"']")
PRICED = ("cost", "max_input_tokens", "max_output_tokens", "mode")
LONGEST_VALUE = 200
PLAIN = (bool, int, float, str, type(None))


def names(found: Iterable[str]) -> dict[str, None]:
    """Names without values."""
    return dict.fromkeys(sorted(found))


def plain(value: object) -> object:
    """A value that compares from one process to another; of anything large or of LiteLLM's own, its type."""
    small = isinstance(value, list | dict) and len(json.dumps(value, default=repr)) < LONGEST_VALUE
    simple = isinstance(value, PLAIN) or (small and " at 0x" not in repr(value))
    return value if simple else type(value).__name__


def module_defaults() -> dict[str, Any]:
    """The settings of the package that `litellm_settings` may change, with their defaults."""
    wanted = sections()["litellm_settings"]
    return {name: plain(getattr(litellm, name)) for name in sorted(wanted) if hasattr(litellm, name)}


def router_defaults() -> dict[str, Any]:
    """The router's settings, with their defaults."""
    given = inspect.signature(litellm.Router.__init__).parameters
    return {
        name: plain(one.default) for name, one in sorted(given.items()) if name not in {"self", "model_list"}
    }


def general_defaults() -> dict[str, Any]:
    """The proxy's general settings, with their defaults."""
    fields = sorted(ConfigGeneralSettings.model_fields.items())
    return {name: plain(field.get_default()) for name, field in fields}


def routes() -> dict[str, None]:
    """The routes that its source declares; the application loads most of them on their first use."""
    texts = (path.read_text(encoding="utf-8") for path in (PACKAGE / "proxy").rglob("*.py"))
    return names({f"{verb.upper()} {path}" for text in texts for verb, path in ROUTE.findall(text)})


def in_source(pattern: re.Pattern[str]) -> dict[str, None]:
    """What a pattern finds anywhere in the package's source."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in PACKAGE.rglob("*.py"))
    return names({one for text in texts for one in pattern.findall(text)})


def configured() -> list[str]:
    """The models of the shipped configuration, as LiteLLM names them."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return sorted({one["litellm_params"]["model"] for one in config["model_list"]})


def prices() -> dict[str, Any]:
    """Prices, sizes and mode of the models of the shipped configuration, as far as they are listed."""
    found: dict[str, Any] = {}
    for model in configured():
        entry: Mapping[str, Any] = (
            litellm.model_cost.get(model) or litellm.model_cost.get(model.partition("/")[2]) or {}
        )
        listed = {key: value for key, value in sorted(entry.items()) if any(word in key for word in PRICED)}
        found |= {f"{model} {key}": plain(value) for key, value in listed.items()}
    return found


def parameters() -> dict[str, Any]:
    """The parameters of OpenAI that each model of the shipped configuration takes."""
    found: dict[str, Any] = {}
    for model in configured():
        if "*" not in model:
            provider, _, name = model.partition("/")
            taken = get_supported_openai_params(model=name, custom_llm_provider=provider) or []
            found[model] = " ".join(sorted(taken))
    return found


def facts() -> Facts:
    """Every fact, by topic."""
    keys = {f"{section}.{key}": None for section, keys in sections().items() for key in sorted(keys)}
    return {
        "Request fields LiteLLM reads for itself": names(owned()),
        "Keys of a configuration": keys,
        "litellm_settings: defaults": module_defaults(),
        "router_settings: defaults": router_defaults(),
        "general_settings: defaults": general_defaults(),
        "Routing strategies": names(strategies()),
        "Providers": names(str(getattr(one, "value", one)) for one in litellm.provider_list),
        "Callbacks": names(map(str, litellm._known_custom_logger_compatible_callbacks)),  # noqa: SLF001 -- its only list
        "Routes of the proxy": routes(),
        "Headers": in_source(HEADER),
        "Environment variables": in_source(VARIABLE),
        "Parameters a configured model takes": parameters(),
        "Prices and sizes of configured models": prices(),
        "Packages it requires": names(requires("litellm") or []),
    }


if __name__ == "__main__":
    json.dump({"litellm": version("litellm"), "facts": facts()}, sys.stdout, indent=1, sort_keys=True)
