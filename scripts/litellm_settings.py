"""Prints `docs/litellm/settings.md`, made from the rules and the known keys; run it with its output there."""

from llm_proxy.sidecar.known_keys import known_keys
from llm_proxy.sidecar.setting_outcomes import Outcome, SettingRule
from llm_proxy.sidecar.setting_rules import find_rule

HEAD = """\
# What becomes of each of LiteLLM's settings

Generated from `llm_proxy/sidecar/proxy_settings.py`, `call_settings.py` and the keys that the pinned release
reads. *Honoured*: passed on as written, and where that is seen, or why no test here can. Any other setting
of a file is a note of `llm-proxy config check` and of the sidecar's start; one that protects (**yes**) is a
fault of the check, and in production ends the start and rejects a `reload`, unless `--accept PATH` (of
`config check`, `up` and `sidecar`) or the variable `LLM_PROXY_SIDECAR_ACCEPT=PATH,PATH` names it (`*`: starts
with any). Settings that would let another model answer (`model_substitution.py`) end the start.
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
    """The keys with a line each, but the honoured ones: a line for those that one test sees."""
    rules = {key: find_rule(section, key) for key in sorted(known_keys(section))}
    lines = [
        f"| `{key}` | {rule.outcome} | {rule.instead} | {'**yes**' if rule.protects else ''} |"
        for key, rule in rules.items()
        if rule is not None and rule.outcome is not Outcome.HONOURED
    ]
    table = ["| setting | outcome | instead | protects |", "|---|---|---|---|", *lines, ""] if lines else []
    by_rule: dict[SettingRule, list[str]] = {}
    for key, rule in rules.items():
        if rule is not None and rule.outcome is Outcome.HONOURED:
            by_rule.setdefault(rule, []).append(f"`{key}`")
    honoured = [f"| {', '.join(keys)} | {_shown(rule.instead)} |" for rule, keys in by_rule.items()]
    seen = ["| honoured | seen in |", "|---|---|", *honoured] if honoured else []
    return "\n".join([f"\n## {section}\n", *table, *seen])


def _shown(seen: str) -> str:
    return f"`{seen}`" if "::" in seen else seen


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(section_table(section) for section in SECTIONS) + "\n"


if __name__ == "__main__":
    print(page(), end="")
