"""Retries, fallbacks and cooldowns by whose fault an error is; round robin among deployments.

Invariants: an error of the caller (`CALLER_ERROR_STATUSES`, content policy) is tried once, whatever
`retry_policy` says, never falls back (but for its kind) and never cools a deployment down. A group
without the endpoint is no fallback. A call that has passed events is not made again. No wait follows the
last attempt. Round robin is per process, skips deployments that cool down and ignores weights.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals, provider_errors
from llm_proxy.sidecar.catalog import group_name, serves
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

CALLER_ERROR_STATUSES = frozenset({400, 404, 413, 415, 422})
# Some providers report an operator's error as a bad request: Anthropic the balance, Google and xAI the key.
INVALID_KEY_TEXTS = ("api key not valid", "api_key_invalid", "api key expired", "incorrect api key provided")
OPERATOR_ERROR_TEXTS = ("credit balance", "insufficient balance", "insufficient credits", *INVALID_KEY_TEXTS)
CREDENTIAL_STATUSES = frozenset({401, 403})
MAX_RETRY_AFTER_S = 10.0


def _install_router_rules() -> None:
    """Patch the router; before LiteLLM's start."""
    router = litellm_internals.router_class()
    _patch_fallbacks(router)
    _patch_retries(router)
    _patch_cooldowns()


def is_caller_error(error: BaseException) -> bool:
    """Whether the request itself is wrong, so that another deployment would reject it too."""
    if type(error).__name__ == "ContentPolicyViolationError" or provider_errors.is_content_rejection(error):
        return True
    if call_outcome.rejected_by_group_guardrail():  # another group may have no such guardrail
        return True
    if provider_errors.is_misreported(error):
        return True
    if getattr(error, "status_code", None) not in CALLER_ERROR_STATUSES:
        return call_outcome.failed_in_translation(error)
    message = str(error).lower()
    is_operator_error = any(text in message for text in OPERATOR_ERROR_TEXTS)
    return not is_operator_error and not provider_errors.is_unreadable_response(error)


def rejects_credentials(error: BaseException) -> bool:
    """Whether a provider rejected the deployment's credentials, which only an operator can correct."""
    message = str(error).lower()
    if getattr(error, "status_code", None) in CREDENTIAL_STATUSES:
        return not provider_errors.is_content_rejection(error)
    return any(text in message for text in INVALID_KEY_TEXTS)


def _has_own_fallback(error: BaseException, lists: dict[str, Any], group: object) -> bool:
    """Whether the operator configured a fallback for this kind of error, for the group or for all."""
    name = {"ContextWindowExceededError": "context_window", "ContentPolicyViolationError": "content_policy"}
    rules = as_list(lists.get(name.get(type(error).__name__, "")))
    return any(source in (group, "*") for rule in rules for source in as_object(rule))


def _serving(router: Untyped, rules: list[Json] | None) -> list[Json] | None:
    """Return fallbacks without the groups that do not serve the running call's endpoint.

    LiteLLM would call them there, and answer with their error in place of the first one.
    """
    outcome = call_outcome.running()
    endpoint = outcome.endpoint if outcome is not None else None
    if rules is None or endpoint is None:
        return rules
    return [
        {
            source: [one for one in as_list(targets) if serves(router, group_name(one), endpoint)]
            for source, targets in rule.items()
        }
        for rule in rules
    ]


def _patch_fallbacks(router: Untyped) -> None:
    async def unless_caller_error(
        self: Untyped,
        e: Exception,
        disable_fallbacks: Untyped,
        fallbacks: Untyped,
        context_window_fallbacks: Untyped,
        content_policy_fallbacks: Untyped,
        model_group: str | None,
        *args: Untyped,
        **options: Untyped,
    ) -> Untyped:
        lists = {"context_window": context_window_fallbacks, "content_policy": content_policy_fallbacks}
        if call_outcome.has_passed_events() or (
            is_caller_error(e) and not _has_own_fallback(e, lists, model_group)
        ):
            raise e
        return await fall_back(
            self,
            e,
            disable_fallbacks,
            _serving(self, fallbacks),
            context_window_fallbacks,
            content_policy_fallbacks,
            model_group,
            *args,
            **options,
        )

    fall_back = replace(router, "async_function_with_fallbacks_common_utils", unless_caller_error)


def _patch_retries(router: Untyped) -> None:
    """Patch both functions that decide on a retry; one of a `retry_policy` passes only the second."""

    def is_useless(error: BaseException, options: dict[str, Any]) -> bool:
        if is_caller_error(error) or type(error).__name__ == "RouterRateLimitError":
            return True
        if call_outcome.has_passed_events():
            return True
        single = len(options.get("all_deployments") or []) <= 1
        return single and provider_errors.retry_after_s(error) > MAX_RETRY_AFTER_S

    def should_retry(self: Untyped, error: Exception, *args: Untyped, **options: Untyped) -> Untyped:
        if is_useless(error, options):
            raise error
        if options.get("healthy_deployments") and provider_errors.is_unreadable_response(error):
            return True
        return allow(self, error, *args, **options)

    def time_to_sleep(
        self: Untyped, e: Exception, remaining_retries: int, *args: Untyped, **options: Untyped
    ) -> Untyped:
        if is_useless(e, options):
            raise e
        # LiteLLM would also wait after the last attempt.
        return pause_s(self, e, remaining_retries, *args, **options) if remaining_retries > 0 else 0

    allow = replace(router, "should_retry_this_error", should_retry)
    pause_s = replace(router, "_time_to_sleep_before_retry", time_to_sleep)


def _patch_cooldowns() -> None:
    cooldown: Untyped = import_module("litellm.router_utils.cooldown_handlers")

    def unless_caller_error(*args: Untyped, original_exception: Exception, **options: Untyped) -> bool:
        return not is_caller_error(original_exception) and run(
            *args, original_exception=original_exception, **options
        )

    run = replace(cooldown, "_should_run_cooldown_logic", unless_caller_error)


ROUTER_RULES = LiteLLMPatch(
    name="router_rules",
    install=_install_router_rules,
    reason="A caller's own error is retried, falls back to other groups and cools deployments down; a call "
    "falls back to groups that do not serve its endpoint, whose error then answers it.",
    report="https://github.com/BerriAI/litellm/issues/8789 (fallbacks by kind of error).",
    until="Retries, fallbacks and cooldowns can be chosen by kind of error.",
    tests=(
        "tests/stages/sidecar/test_routing.py::test_a_caller_s_error_never_falls_back",
        "tests/stages/sidecar/test_routing.py::test_a_caller_s_error_never_cools_a_deployment",
        "tests/stages/sidecar/test_routing.py::test_a_group_of_another_mode_is_no_fallback",
    ),
)

ROUND_ROBIN_STRATEGY = "ROUND_ROBIN"


def _install_round_robin() -> None:
    """Patch the router if `LLM_PROXY_LOAD_BALANCE` is ROUND_ROBIN; before LiteLLM's start."""
    if os.environ.get("LLM_PROXY_LOAD_BALANCE", "").upper() == ROUND_ROBIN_STRATEGY:
        litellm_internals.router_module().simple_shuffle = RoundRobin()


class RoundRobin:
    """Chooses the deployments of each group in turn, ordered by id."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __call__(self, *, healthy_deployments: Sequence[Untyped], model: str, **_: Untyped) -> Untyped:
        """Return the healthy deployment after the last one chosen for the group."""
        by_id = sorted(healthy_deployments, key=_deployment_id)
        last = self._last.get(model, "")
        chosen = next((one for one in by_id if _deployment_id(one) > last), by_id[0])
        self._last[model] = _deployment_id(chosen)
        return chosen


def _deployment_id(deployment: Untyped) -> str:
    return str(deployment["model_info"]["id"])


ROUND_ROBIN = LiteLLMPatch(
    name="round_robin",
    install=_install_round_robin,
    reason="LiteLLM has no round robin: its simple strategy chooses at random.",
    until="LiteLLM has the strategy.",
    tests=("tests/stages/sidecar/test_load_balancing.py::test_round_robin_is_even",),
)
