"""Calls of one name stay at one deployment: LiteLLM's `session_affinity` by the name that the gateway sends.

Invariants: the name is the gateway's digest, never a caller's; a call without one is pinned to nothing by us.
A pin is LiteLLM's own (its cache, its Redis, its lifetime, renewed with each call); one whose deployment is
not healthy is replaced by the deployment that serves. A call that failed at its deployment may go anywhere.
New names get equal deployments in turn, so that they are spread evenly; chance would not.
"""

from importlib import import_module

from llm_proxy.json_access import as_object
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.patches.routing import RoundRobin

SIMPLE_STRATEGY = "simple-shuffle"
PREFERENCES = ("weight", "rpm", "tpm", "order", "tags")
"""By these LiteLLM prefers some deployments to others, or excludes some later."""


def install() -> None:
    """Patch the check, before LiteLLM's start."""
    check = litellm_internals.affinity_check_class()
    in_turn = RoundRobin()
    claim: Untyped = import_module("litellm.caching.affinity_cache").claim_affinity_pin

    def session_id(request_kwargs: Untyped) -> str | None:
        pinned_by = call_outcome.affinity()
        return by_metadata(request_kwargs=request_kwargs) if pinned_by is None else pinned_by or None

    async def among_healthy(
        self: Untyped, *, model: str, healthy_deployments: list[Untyped], **given: Untyped
    ) -> Untyped:
        call_outcome.note_healthy(str(one["model_info"]["id"]) for one in healthy_deployments)
        found = await filter_deployments(self, model=model, healthy_deployments=healthy_deployments, **given)
        if call_outcome.affinity() and len(found) > 1 and _may_be_any(found):
            return [in_turn(healthy_deployments=found, model=model)]
        return found

    async def claim_pin(self: Untyped, cache_key: str, pin_value: Untyped, ttl_seconds: int) -> str | None:
        healthy = call_outcome.healthy_deployments()
        eligible = tuple({"model_id": one} for one in healthy) or None
        winner = await claim(self.cache, cache_key, pin_value, ttl_seconds, eligible_values=eligible)
        found: str | None = self._pinned_model_id(winner)
        return found

    by_metadata = replace(check, "_get_session_id_from_request_kwargs", session_id)
    filter_deployments = replace(check, "async_filter_deployments", among_healthy)
    check._claim_pin = claim_pin  # noqa: SLF001 -- the same


def _may_be_any(deployments: list[Untyped]) -> bool:
    """Whether LiteLLM would choose among these by chance, and nothing after that choice may forbid one."""
    router = litellm_internals.router()
    by_chance = str(router.routing_strategy) == SIMPLE_STRATEGY and not router.enable_pre_call_checks
    params = (as_object(one.get("litellm_params")) for one in deployments)
    return by_chance and not any(one.get(name) is not None for one in params for name in PREFERENCES)


PATCH = LiteLLMPatch(
    name="session_affinity",
    install=install,
    reason=(
        "Session affinity reads `metadata.session_id`, which Langfuse shows and which would be a caller's "
        "name; all calls share one key. A pin whose deployment cools down stays: until it is back, each call "
        "goes anywhere. Retries go to the deployment that has just failed."
    ),
    until="Affinity can be asked for by a header of its own, and pins follow health.",
    tests=(
        "tests/stages/sidecar/test_session_affinity.py::test_calls_of_a_name_stay_at_one_deployment",
        "tests/stages/sidecar/test_session_affinity.py::test_a_pin_moves_when_its_deployment_cools_down",
        "tests/stages/sidecar/test_session_affinity.py::test_a_retry_is_free_to_go_elsewhere",
    ),
)
