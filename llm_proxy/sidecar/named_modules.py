"""Finds the Python modules that a configuration names, and whether anything supplies them.

Invariants: imports none of them. LiteLLM looks beside the configuration file first and among the installed
packages second; a module that is in neither ends the sidecar's start.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_proxy.json_access import Json, as_list, as_object

CALLBACK_KEYS = (
    "callbacks",
    "success_callback",
    "failure_callback",
    "audit_log_callbacks",
    "post_call_rules",
)
NEEDED_PACKAGES = {"mlflow": "mlflow", "arize": "grpc"}
"""LiteLLM's own callbacks that end its start unless a package is installed that it does not bring."""
REMOTE_PREFIXES = ("s3://", "gcs://")


def find_missing_modules(config: Json, folder: Path, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each named module that nothing supplies: the path in the file, and the module.

    Args:
        config: The parsed file.
        folder: The file's folder.
        env: The sidecar's environment; `PYTHONPATH` is searched too.
    """
    searched = [folder, *(Path(one) for one in env.get("PYTHONPATH", "").split(":") if one)]
    searched += Path.cwd().glob(".venv-sidecar/lib/python3*/site-packages")
    for path, name in _named(config):
        module, _, _ = name.rpartition(".")
        if module and not name.startswith(REMOTE_PREFIXES) and not _is_supplied(module, searched):
            yield path, module


def _named(config: Json) -> Iterator[tuple[str, str]]:
    settings = as_object(config.get("litellm_settings"))
    for key in CALLBACK_KEYS:
        given = settings.get(key)
        for name in [given] if isinstance(given, str) else as_list(given):
            if isinstance(name, str) and ("." in name or name in NEEDED_PACKAGES):
                yield (
                    f"litellm_settings.{key}",
                    f"{NEEDED_PACKAGES[name]}.{name}" if "." not in name else name,
                )
    for item in map(as_object, as_list(settings.get("custom_provider_map"))):
        yield "litellm_settings.custom_provider_map", str(item.get("custom_handler") or "")
    for where, guardrails in (
        ("guardrails", config.get("guardrails")),
        ("litellm_settings.guardrails", settings.get("guardrails")),
    ):
        for item in map(as_object, as_list(guardrails)):
            name = str(as_object(item.get("litellm_params")).get("guardrail") or "")
            if "." in name:
                yield where, name


def _is_supplied(module: str, folders: list[Path]) -> bool:
    beside = Path(*module.split("."))
    if any(
        (folder / beside).with_suffix(".py").is_file() or (folder / beside).is_dir() for folder in folders
    ):
        return True
    top = module.partition(".")[0]
    return top == "litellm" or importlib.util.find_spec(top) is not None
