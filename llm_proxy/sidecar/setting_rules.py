"""What becomes of each LiteLLM setting: honoured, or why not and what this project has in its place.

Invariants: imports no LiteLLM; the first rule that matches a key decides; a key without a rule is passed on
and honoured by LiteLLM. Only keys of `known_keys.json` are matched. A rule of a setting that protects is a
fault of `config check` unless the operator accepts it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from llm_proxy.json_access import Json, as_list, as_object

PROMETHEUS = "prometheus"
CALLBACK_LISTS = ("callbacks", "success_callback", "failure_callback", "service_callback")


class Outcome(StrEnum):
    """What becomes of a setting."""

    HONOURED = "honoured"
    RENAMED = "honoured under our name"
    REPLACED = "replaced by ours"
    UNAVAILABLE = "not to be had"


@dataclass(frozen=True, slots=True)
class SettingRule:
    """What becomes of some settings of a section.

    Attributes:
        section: The section of the file; `top` for the file itself.
        names: A regular expression for the whole key.
        outcome: What becomes of them.
        instead: What to use instead, or why there is nothing.
        protects: Whether the setting restricts callers or spending.
    """

    section: str
    names: str
    outcome: Outcome
    instead: str
    protects: bool = False


GENERAL, LITELLM, TOP = "general_settings", "litellm_settings", "top"
NO_DATABASE = "the sidecar keeps no database"
OUR_KEYS = "callers have the gateway's keys (`llm-proxy keys`)"
OUR_BUDGETS = "the gateway's budgets (docs/limits.md)"
OUR_LIMITS = "the gateway's limits (docs/limits.md)"
NO_ADMIN = "there is no admin interface of LiteLLM's; the gateway has its own (docs/admin.md)"
SETTING_RULES = (
    SettingRule(
        GENERAL,
        "master_key",
        Outcome.RENAMED,
        "`LITELLM_MASTER_KEY`, a caller's credential and no admin's; `up` reads it from the file, too",
    ),
    SettingRule(GENERAL, "database_url", Outcome.RENAMED, f"{NO_DATABASE}; the gateway's is `DATABASE_URL`"),
    SettingRule(GENERAL, "store_model_in_db", Outcome.UNAVAILABLE, f"{NO_DATABASE}: models are the file's"),
    SettingRule(
        GENERAL,
        r"database_.*|use_redis_transaction_buffer|proxy_batch_write_at|proxy_budget_rescheduler_.*"
        r"|allow_requests_on_db_unavailable|disable_prisma_schema_update|supported_db_objects"
        r"|disable_reset_budget|proxy_config_reload_interval_seconds",
        Outcome.UNAVAILABLE,
        NO_DATABASE,
    ),
    SettingRule(
        GENERAL,
        r".*spend_logs.*|disable_spend_updates|disable_error_logs|spend_report_frequency",
        Outcome.REPLACED,
        "the usage ledger (docs/usage.md)",
    ),
    SettingRule(
        GENERAL,
        r"custom_auth|custom_auth_run_common_checks|enable_jwt_auth|litellm_jwtauth|enable_oauth2_auth"
        r"|enable_oauth2_proxy_auth|oauth2_config_mappings|enforce_rbac|role_permissions"
        r"|service_account_settings|custom_key_.*|litellm_key_header_name",
        Outcome.REPLACED,
        OUR_KEYS,
        protects=True,
    ),
    SettingRule(
        GENERAL,
        r"allowed_ips|allowed_routes|admin_only_routes|public_routes|enforce_user_param|enforced_params"
        r"|reject_clientside_metadata_tags",
        Outcome.UNAVAILABLE,
        "the sidecar answers the gateway alone, and the gateway has no such rule",
        protects=True,
    ),
    SettingRule(
        GENERAL,
        "max_request_size_mb",
        Outcome.RENAMED,
        "`LLM_PROXY__MAX_BODY_BYTES`",
        protects=True,
    ),
    SettingRule(
        GENERAL,
        "max_response_size_mb",
        Outcome.UNAVAILABLE,
        "answers have no such limit",
        protects=True,
    ),
    SettingRule(
        GENERAL,
        r"max_parallel_requests|global_max_parallel_requests|max_in_flight_requests_per_worker"
        r"|max_queued_requests_per_worker",
        Outcome.REPLACED,
        OUR_LIMITS,
        protects=True,
    ),
    SettingRule(
        GENERAL,
        r"alerting|alerting_.*|alert_.*",
        Outcome.REPLACED,
        "the gateway's notifications (docs/notifications.md)",
    ),
    SettingRule(
        GENERAL,
        "pass_through_endpoints",
        Outcome.UNAVAILABLE,
        "the gateway serves the paths of docs/http.md",
    ),
    SettingRule(
        GENERAL,
        r"ui_.*|custom_sso|custom_ui_.*|.*_ui_.*|.*sso.*|password_policy_.*|failed_login_.*|.*_login.*",
        Outcome.UNAVAILABLE,
        NO_ADMIN,
    ),
    SettingRule(GENERAL, r"mcp_.*|require_.*_mcp_.*|user_mcp_.*", Outcome.UNAVAILABLE, "no MCP is served"),
    SettingRule(
        GENERAL,
        r"cancel_on_disconnect|disable_model_info_refresh|background_health_checks",
        Outcome.REPLACED,
        "always set by the sidecar",
    ),
    SettingRule(
        LITELLM,
        r"max_budget|budget_duration|max_(end_)?user_budget(_id)?|max_internal_user_budget"
        r"|internal_user_budget_duration|default_max_internal_user_budget",
        Outcome.REPLACED,
        OUR_BUDGETS,
        protects=True,
    ),
    SettingRule(
        LITELLM,
        r"upperbound_key_generate_params|default_key_generate_params|key_generation_settings"
        r"|default_internal_user_params|default_team_params|default_team_settings",
        Outcome.REPLACED,
        OUR_KEYS,
    ),
    SettingRule(
        LITELLM,
        r".*prometheus.*",
        Outcome.REPLACED,
        "the gateway's `/metrics`",
    ),
    SettingRule(
        LITELLM,
        r"store_audit_logs|audit_log_callbacks",
        Outcome.REPLACED,
        "the gateway's audit log (docs/admin.md)",
    ),
    SettingRule(LITELLM, "model_alias_map", Outcome.RENAMED, "`router_settings.model_group_alias`"),
    SettingRule(
        TOP,
        r"mcp_servers|mcp_tools|agent_list|agents|assistant_settings|files_settings|finetune_settings"
        r"|vector_store_registry|search_tools|sandbox_tools|worker_registry",
        Outcome.UNAVAILABLE,
        "the gateway serves the paths of docs/http.md",
    ),
)
"""All rules; `scripts/litellm_settings.py` prints them as docs/litellm/settings.md."""
SILENT = re.compile(
    r"master_key|cancel_on_disconnect|disable_model_info_refresh|background_health_checks|model_alias_map"
)
"""Keys whose owner loses nothing: no finding names them."""


@dataclass(frozen=True, slots=True)
class UnhonouredSetting:
    """A setting of a file that LiteLLM does not get.

    Attributes:
        section: The section, or `top`.
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
    """Return the rule for a key; None if it is passed on and honoured."""
    return next(
        (one for one in SETTING_RULES if one.section == section and re.fullmatch(one.names, key)), None
    )


def find_unhonoured(config: Json) -> Iterator[UnhonouredSetting]:
    """Yield each setting that is given a value and that LiteLLM does not get."""
    for section in (TOP, GENERAL, LITELLM):
        given = config if section == TOP else as_object(config.get(section))
        for key, value in given.items():
            rule = find_rule(section, str(key))
            if rule is not None and value and not SILENT.fullmatch(str(key)):
                yield UnhonouredSetting(section, str(key), rule)


def find_lost_protections(config: Json, accepted: Collection[str]) -> Iterator[UnhonouredSetting]:
    """Yield each setting that protects, has no effect here, and is not accepted by its path."""
    return (one for one in find_unhonoured(config) if one.rule.protects and one.path not in accepted)


def remove_unhonoured(config: Json) -> Iterator[UnhonouredSetting]:
    """Remove from a configuration, and yield, each setting that `find_unhonoured` finds."""
    for found in tuple(find_unhonoured(config)):
        del (config if found.section == TOP else config[found.section])[found.key]
        yield found


def prometheus_lists(litellm_settings: Json) -> Iterator[str]:
    """Yield the callback lists that name Prometheus, whose client the sidecar does not have."""
    for key in CALLBACK_LISTS:
        given = litellm_settings.get(key)
        if given == PROMETHEUS or PROMETHEUS in as_list(given):
            yield key
