"""The names LiteLLM reads in a configuration, by section, and what to write in place of one it does not read.

Invariants: imports no LiteLLM; the names are those of the pinned release, in the generated `known_keys.json`.
"""

import difflib
import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files

from llm_proxy.endpoints import MODES

HINT_SIMILARITY, MISSPELT_SIMILARITY = 0.8, 0.85
SECTIONS = ("litellm_settings", "router_settings", "general_settings")
RETRIES = "write num_retries, or a number for each kind of error, such as RateLimitErrorRetries"
MENDS = {
    "router_settings.rate_limit": "write rpm and tpm into litellm_params, or limit callers (docs/limits.md)",
    "max_retries": RETRIES,
    "retry_count": RETRIES,
    "router_settings.retry_policy.delay": "write router_settings.retry_after",
    "litellm_settings.default_model": "set LLM_PROXY__DEFAULT_MODEL",
    "proxy_config": "these are a Helm chart's values: write what stands below it into a file of its own",
    "general_settings.enable_cors": "set LLM_PROXY__CORS_ORIGINS",
    "general_settings.cors_allow_origins": "set LLM_PROXY__CORS_ORIGINS",
    "general_settings.cors_origins": "set LLM_PROXY__CORS_ORIGINS",
    "general_settings.max_requests_per_minute": "limit callers (docs/limits.md)",
    "general_settings.port": "set LLM_PROXY__PORT",
    "general_settings.host": "set LLM_PROXY__HOST",
    "general_settings.log_level": "set LLM_PROXY__LOG_LEVEL",
}
"""Keys that documents and files have and LiteLLM never read; by path, or by name in any section."""


@cache
def known_keys(section: str) -> frozenset[str]:
    """Return the keys LiteLLM reads in a section of `known_keys.json`."""
    table: dict[str, str] = json.loads(
        files("llm_proxy.sidecar").joinpath("known_keys.json").read_text("utf-8")
    )
    return frozenset(table[section].split())


def find_wrong_mode(mode: object) -> str | None:
    """Return what is wrong with a `model_info.mode`; None for one of LiteLLM's, or none at all."""
    if mode is None or (isinstance(mode, str) and mode in MODES):
        return None
    served = ", ".join(name for name, endpoints in MODES.items() if endpoints)
    return f"{mode} is not a mode: write one of {served}; the model is listed as a chat model"


def find_mend(path: str, names: Collection[str]) -> tuple[str, bool]:
    """Return what to write in place of a key that LiteLLM ignores, and whether the key is misspelt.

    Args:
        path: The key's path.
        names: The keys LiteLLM reads there.
    """
    key = path.rpartition(".")[2]
    if mend := MENDS.get(path) or MENDS.get(key):
        return mend, False
    section = path.partition(".")[0]
    others = ("litellm_params",) if section == "model_list" else SECTIONS
    for other in others:
        if other != section and key in known_keys(other):
            return f"it belongs in {other}", False
    for close in difflib.get_close_matches(key, names, 1, HINT_SIMILARITY):
        is_misspelt = bool(difflib.get_close_matches(key, [close], 1, MISSPELT_SIMILARITY))
        return f"did you mean {close}?", is_misspelt and not _is_opposite(key, close)
    return "", False


def _is_opposite(one: str, other: str) -> bool:
    prefixes = {one.partition("_")[0], other.partition("_")[0]}
    return prefixes == {"enable", "disable"}
