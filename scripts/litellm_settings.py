"""Prints `docs/litellm/settings.md`, made from the rules and the known keys; run it with its output there."""

from llm_proxy.sidecar.known_keys import known_keys
from llm_proxy.sidecar.setting_rules import Outcome, find_rule

HEAD = """\
# What becomes of each of LiteLLM's settings

Generated from `llm_proxy/sidecar/setting_rules.py` and the keys that the pinned release reads. *Honoured*:
passed on as written. Any other setting of a file is a note of `llm-proxy config check` and of the sidecar's
start; one that protects (**yes**) is a fault of the check, and in production ends the start and rejects a
`reload`, unless `--accept PATH` (of `config check`, `up` and `sidecar`) or the variable
`LLM_PROXY_SIDECAR_ACCEPT=PATH,PATH` names it (`*`: starts with any). Settings that would let another model
answer (`llm_proxy/sidecar/model_substitution.py`) end the start.
"""
SECTIONS = (
    "top",
    "general_settings",
    "litellm_settings",
    "router_settings",
    "cache_params",
    "litellm_params",
    "model_info",
    "prices",
)


def section_table(section: str) -> str:
    """The keys with a rule, a line each, and the honoured ones in one paragraph."""
    rules = {key: find_rule(section, key) for key in sorted(known_keys(section))}
    lines = [
        f"| `{key}` | {rule.outcome} | {rule.instead} | {'**yes**' if rule.protects else ''} |"
        for key, rule in rules.items()
        if rule is not None
    ]
    table = ["| setting | outcome | instead | protects |", "|---|---|---|---|", *lines, ""] if lines else []
    honoured = ", ".join(f"`{key}`" for key, rule in rules.items() if rule is None)
    return "\n".join([f"\n## {section}\n", *table, f"{Outcome.HONOURED.capitalize()}: {honoured}."])


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(section_table(section) for section in SECTIONS) + "\n"


if __name__ == "__main__":
    print(page(), end="")
