"""Which configurations allow direct calls: those in which nothing but the router acts on a call.

Invariants: a setting that is not known here forbids them, as does a callback or guardrail of the operator's.
"""

from collections.abc import Mapping
from threading import Event

from llm_proxy.endpoints import NATIVE_ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import direct_internals
from llm_proxy.sidecar.call_outcome import relays_native_calls
from llm_proxy.sidecar.direct_templates import CONTENT_FIELDS

_installed = Event()
"""Set once the patch `direct_calls` is installed."""
_FALLBACKS = (
    *("allowed_fails", "content_policy_fallbacks", "context_window_fallbacks", "default_fallbacks"),
    *("fallbacks", "num_retries"),
)
ALLOWED_SETTINGS: Mapping[str, frozenset[str]] = {
    "general_settings": frozenset(
        {"background_health_checks", "cancel_on_disconnect", "disable_model_info_refresh", "master_key"}
    ),
    "litellm_settings": frozenset(
        {
            *("cache", "cache_params", "disable_add_user_agent_to_request_tags"),
            *("disable_hf_tokenizer_download", "disable_stop_sequence_limit", "drop_params"),
            *("enable_caching_on_provider_specific_optional_params", "expose_router_debug_in_errors"),
            *("include_cost_in_streaming_usage", "json_logs", "request_timeout", "set_verbose", "ssl_verify"),
            *("stream_timeout", "telemetry", "turn_off_message_logging", *_FALLBACKS),
        }
    ),
    "router_settings": frozenset(
        {
            *("allowed_fails_policy", "cooldown_time", "disable_cooldowns", "enable_pre_call_checks"),
            *("max_fallbacks", "model_group_alias", "model_group_retry_policy", "optional_pre_call_checks"),
            *("redis_host", "redis_password", "redis_port", "redis_url", "retry_after", "retry_policy"),
            *("routing_strategy", "stream_timeout", "timeout", *_FALLBACKS),
        }
    ),
}
"""Settings that a call of `direct_calls` keeps: it leaves failures, choice and translation to LiteLLM."""
OTHER_SECTIONS = frozenset({"credential_list", "environment_variables", "include", "model_list"})
SIMPLE_STRATEGY = "simple-shuffle"
ALLOWED_CHECKS = frozenset({"enforce_model_rate_limits", "session_affinity"})
"""The router's checks that every sidecar has; the first acts only on limits that a deployment states."""


def enable() -> None:
    """Allow direct calls; the patch does."""
    _installed.set()


def direct_endpoints(config: Json) -> frozenset[Endpoint]:
    """Return the operations whose calls may be direct, after LiteLLM's start.

    Args:
        config: The configuration that LiteLLM got.
    """
    allowed = _installed.is_set() and are_settings_allowed(config) and direct_internals.has_no_listeners()
    if not allowed:
        return frozenset()
    return frozenset(CONTENT_FIELDS).difference(() if relays_native_calls() else NATIVE_ENDPOINTS)


def are_settings_allowed(config: Json) -> bool:
    """Whether a configuration has no setting by which LiteLLM would do more with a call."""
    for section, value in config.items():
        stated = {name for name, one in as_object(value).items() if one}
        if section in ALLOWED_SETTINGS:
            if not stated <= ALLOWED_SETTINGS[section]:
                return False
        elif value and section not in OTHER_SECTIONS:
            return False
    router = as_object(config.get("router_settings"))
    checks = {str(one) for one in as_list(router.get("optional_pre_call_checks"))}
    return router.get("routing_strategy") == SIMPLE_STRATEGY and checks <= ALLOWED_CHECKS
