"""Writes `llm_proxy/sidecar/known_keys.json`: each key of a configuration that LiteLLM reads, by section.

Run it in the sidecar's environment after an upgrade: `.venv-sidecar/bin/python scripts/litellm_keys.py`
(`--check` only compares, exit 1 when the file is out of date).
"""

import argparse
import ast
import inspect
import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.caching.caching import Cache
from litellm.proxy._types import ConfigGeneralSettings
from litellm.proxy.guardrails.guardrail_registry import guardrail_initializer_registry
from litellm.types.management_endpoints.cache_settings_endpoints import CACHE_SETTINGS_FIELDS
from litellm.types.router import (
    AllowedFailsPolicy,
    CredentialLiteLLMParams,
    GenericLiteLLMParams,
    LiteLLM_Params,
    ModelInfo,
    RetryPolicy,
    RouterConfig,
    UpdateRouterConfig,
)
from litellm.types.utils import (
    CustomPricingLiteLLMParams,
    DynamicPromptManagementParamLiteral,
    all_litellm_params,
)

litellm.suppress_debug_info = True
TARGET = Path(__file__).parent.parent / "llm_proxy" / "sidecar" / "known_keys.json"
PACKAGE = Path(inspect.getfile(litellm)).parent
LATE_SETTING = re.compile(r'getattr\(litellm, "([a-z][a-z0-9_]*)"')
"""Settings of the package that have no default: they are looked for by name."""
PROXY = (PACKAGE / "proxy" / "proxy_server.py").read_text(encoding="utf-8")


def parameters(*functions: object) -> set[str]:
    """Names of the parameters of functions and constructors."""
    found = {name for one in functions for name in inspect.signature(one).parameters}  # type: ignore[arg-type] -- given as objects
    return found - {"self", "args", "kwargs"}


SOURCES = tuple(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
CALLS = tuple((PACKAGE / path).read_text("utf-8") for path in ("main.py", "utils.py", "realtime_api/main.py"))
"""Where a deployment's parameters are read."""
CONSTANTS = dict(
    found
    for text in SOURCES
    for found in re.findall(r'(?m)^([A-Z][A-Z_0-9]+)\b[^=\n]*= "([a-z_0-9]+)"$', text)
)
"""Names of keys that LiteLLM keeps in constants."""


def read(variable: str, sources: tuple[str, ...] = SOURCES) -> set[str]:
    """Names read out of a mapping of that name, anywhere in the package or in these sources."""
    name = r'("[a-z_0-9]+"|[A-Z][A-Z_0-9]+)'
    pattern = re.compile(rf"\b{variable}\b(?:\.get\(|\.pop\(|\[)\s*{name}|{name} (?:not )?in {variable}\b")
    texts = [text for text in sources if variable in text]  # most do not, and the pattern is slow
    written = {one or other for text in texts for one, other in pattern.findall(text)}
    return {CONSTANTS.get(one, one).strip('"') for one in written if one in CONSTANTS or one.startswith('"')}


def module_settings() -> set[str]:
    """Settings of the package: the variables at the top of `litellm/__init__.py`."""
    found: set[str] = set()
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    found = {name for name in found if not name.endswith("_models")}  # tables of names
    found |= {name for name, value in vars(litellm).items() if isinstance(value, bool | int | float | str)}
    found |= {name for text in SOURCES for name in LATE_SETTING.findall(text)}
    return {name for name in found if re.fullmatch(r"[a-z][a-z0-9_]*", name)}


def handled_by_name() -> set[str]:
    """Settings `load_config` treats one by one."""
    return set(re.findall(r'\bkey == "([a-z_0-9]+)"', PROXY))


def cost_map() -> set[str]:
    """Keys of the published price list, which `model_info` may override."""
    return {key for entry in litellm.model_cost.values() for key in entry}


def redis_options() -> set[str]:
    """What a cache may hand to redis-py."""
    import redis  # noqa: PLC0415 -- only here

    named = {field.field_name for field in CACHE_SETTINGS_FIELDS}
    read_by_litellm = set(
        re.findall(r'redis_kwargs\.(?:get|pop)\(\s*"([a-z_]+)"', (PACKAGE / "_redis.py").read_text("utf-8"))
    )
    own = {"url", "startup_nodes", "socket_timeout"}
    return parameters(redis.Redis.__init__, redis.ConnectionPool.__init__) | named | read_by_litellm | own


def sections() -> dict[str, set[str]]:
    """Section -> known keys."""
    model = (
        set(LiteLLM_Params.model_fields)
        | set(GenericLiteLLMParams.model_fields)
        | set(CredentialLiteLLMParams.model_fields)
        | {one.value for one in DynamicPromptManagementParamLiteral}
        | set(all_litellm_params)
        | parameters(litellm.completion, litellm.embedding)
        | read("kwargs", CALLS)
    )
    prices = {
        name for name in (*model, *cost_map(), *CustomPricingLiteLLMParams.model_fields) if "cost" in name
    }
    model = {name for name in model if not name.startswith("_")} - prices
    return {
        "top": set(re.findall(r'\bconfig\.get\("([a-z_]+)"', PROXY)) | {"include", "model_list"},
        "prices": prices,
        "litellm_params": model
        | {"weight", "order", "tags", "extra_body", "vertex_project", "vertex_location"},
        "model_info": (set(ModelInfo.model_fields) | cost_map()) - prices,
        "router_settings": (
            parameters(litellm.Router.__init__)
            | set(RouterConfig.model_fields)
            | set(UpdateRouterConfig.model_fields)
        )
        - {"model_list"},
        "litellm_settings": module_settings() | handled_by_name() | read("litellm_settings"),
        "general_settings": set(ConfigGeneralSettings.model_fields) | read("general_settings"),
        "retry_policy": set(RetryPolicy.model_fields),
        "allowed_fails_policy": set(AllowedFailsPolicy.model_fields),
        "cache_params": parameters(Cache.__init__) | redis_options(),
    }


def bare_models() -> set[str]:
    """Models whose provider LiteLLM finds by the name alone."""
    listed = {
        str(model)
        for name, models in vars(litellm).items()
        if name.endswith("_models") and isinstance(models, set | list)
        for model in models
    }
    return {model for model in listed | set(litellm.model_cost) if "/" not in model and is_placed(model)}


def is_placed(model: str) -> bool:
    """Whether LiteLLM finds a model's provider."""
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError:
        return False
    return True


def strategies() -> set[str]:
    """Values of `router_settings.routing_strategy`."""
    annotation = str(inspect.signature(litellm.Router.__init__).parameters["routing_strategy"].annotation)
    return set(re.findall(r"'([a-z0-9-]+)'", annotation)) | {"simple-shuffle"}


def table() -> str:
    """The generated file's text."""
    providers = {str(getattr(one, "value", one)) for one in litellm.provider_list}
    made = {**sections(), "strategies": strategies(), "providers": providers, "models": bare_models()}
    made["guardrails"] = set(guardrail_initializer_registry)
    made["endpoints"] = {str(one) for one in litellm.openai_compatible_endpoints}
    lines = {name: " ".join(sorted(words)) for name, words in made.items()}
    return json.dumps({"litellm": version("litellm")} | lines, indent=1) + "\n"


def main() -> int:
    """Write the table, or compare it."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--check", action="store_true")
    text = table()
    if flags.parse_args().check:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    print({section: len(names) for section, names in sections().items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
