"""What becomes of the settings of one file: which LiteLLM does not get, and which of them protect.

Invariants: imports no LiteLLM; the lists of `proxy_settings` and `call_settings` decide, by their first rule
that matches; a key without a rule is none of LiteLLM's, and passed on. A setting that protects and has no
effect is a fault of `config check`, and ends a start in production, unless the operator accepts it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar.call_settings import CALL_SETTINGS
from llm_proxy.sidecar.proxy_settings import PROXY_SETTINGS
from llm_proxy.sidecar.setting_outcomes import (
    GENERAL,
    INFO,
    LITELLM,
    PARAMS,
    ROUTER,
    TOP,
    Outcome,
    SettingRule,
)

PROMETHEUS = "prometheus"
PROMETHEUS_NAMES = (PROMETHEUS, "prometheus_system")
CALLBACK_LISTS = ("callbacks", "success_callback", "failure_callback", "service_callback")
SECTIONS = (TOP, GENERAL, LITELLM, ROUTER)
SETTING_RULES = (*PROXY_SETTINGS, *CALL_SETTINGS)
"""All rules; `scripts/litellm_settings.py` prints them as docs/litellm/settings.md."""
SILENT = re.compile(
    r"master_key|cancel_on_disconnect|disable_model_info_refresh|background_health_checks|model_alias_map"
    r"|include_cost_in_streaming_usage|enable_caching_on_provider_specific_optional_params"
    r"|expose_router_debug_in_errors|disable_hf_tokenizer_download"
)
"""Keys that the sidecar reads itself, or sets and notes where the file says otherwise."""


@dataclass(frozen=True, slots=True)
class UnhonouredSetting:
    """A setting of a file that LiteLLM does not get, or that has no effect here.

    Attributes:
        section: The section, or `top`; of a deployment `model_list.NAME.litellm_params`, or its `model_info`.
        key: The key.
        rule: Why.
    """

    section: str
    key: str
    rule: SettingRule

    @property
    def path(self) -> str:
        """The key's path in the file."""
        return self.key if self.section == TOP else f"{self.section}.{self.key}"

    @property
    def message(self) -> str:
        """What becomes of it."""
        return f"{self.rule.outcome}: {self.rule.instead}"


def find_rule(section: str, key: str) -> SettingRule | None:
    """Return the rule for a key; None for one that LiteLLM does not know."""
    return next((one for one in SETTING_RULES if one.section == section and one.matches(key)), None)


def is_passed_on(section: str, key: str) -> bool:
    """Whether LiteLLM knows a key and gets it as the file has it."""
    rule = find_rule(section, key)
    return rule is not None and rule.outcome is Outcome.HONOURED


def find_unhonoured(config: Json) -> Iterator[UnhonouredSetting]:
    """Yield each setting that is given a value and that LiteLLM does not get, or that has no effect here."""
    for section in SECTIONS:
        yield from _unhonoured(section, section, config if section == TOP else as_object(config.get(section)))
    seen: set[str] = set()
    for deployment in map(as_object, as_list(config.get("model_list"))):
        for part in (PARAMS, INFO):
            where = f"model_list.{deployment.get('model_name')}.{part}"
            for found in _unhonoured(part, where, as_object(deployment.get(part))):
                if found.path not in seen:
                    seen.add(found.path)
                    yield found


def _unhonoured(section: str, where: str, given: Json) -> Iterator[UnhonouredSetting]:
    for key, value in given.items():
        rule = find_rule(section, str(key)) if value and not SILENT.fullmatch(str(key)) else None
        if rule is not None and rule.outcome is not Outcome.HONOURED:
            yield UnhonouredSetting(where, str(key), rule)


def find_lost_protections(config: Json, accepted: Collection[str]) -> Iterator[UnhonouredSetting]:
    """Yield each setting that protects, has no effect here, and is not accepted by its path."""
    return (one for one in find_unhonoured(config) if one.rule.protects and one.path not in accepted)


def remove_unhonoured(config: Json) -> Iterator[UnhonouredSetting]:
    """Yield each setting that `find_unhonoured` finds, and remove it unless it is a deployment's."""
    for found in tuple(find_unhonoured(config)):
        if found.section in SECTIONS:
            del (config if found.section == TOP else config[found.section])[found.key]
        yield found


def prometheus_lists(litellm_settings: Json) -> Iterator[str]:
    """Yield the callback lists that name Prometheus, whose client the sidecar does not have."""
    for key in CALLBACK_LISTS:
        given = litellm_settings.get(key)
        if any(name in PROMETHEUS_NAMES for name in ([given] if isinstance(given, str) else as_list(given))):
            yield key
