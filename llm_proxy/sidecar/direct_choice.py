"""The deployment of a direct call, chosen without LiteLLM's router where only cooldowns and strategy decide.

Invariants: LiteLLM's own code reads cooldowns, weights and turns for each call. The router chooses where
anything else decides (affinity, an account, tags, order, checks), and where all deployments cool down.
"""

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import direct_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import attempts
from llm_proxy.sidecar.patches.patch import installed

DECIDING_INFO = (
    *("access_groups", "access_windows", "blocked", "enable_tag_filtering", "ptu_shares"),
    *("supports_web_search", "team_id", "team_public_model_name"),
)
"""Members of `model_info` by which LiteLLM excludes a deployment."""


def is_plain_group(deployments: list[Json], router: Untyped) -> bool:
    """Whether nothing but cooldowns and the strategy decides among deployments that may serve direct calls.

    Args:
        deployments: Each may serve direct calls, as far as its parameters go.
        router: LiteLLM's.
    """
    infos = [as_object(one.get("model_info")) for one in deployments]
    is_named = any(name in info for info in infos for name in DECIDING_INFO)
    is_ordered = any(as_object(one["litellm_params"]).get("order") is not None for one in deployments)
    return not (is_named or is_ordered or router.enable_pre_call_checks or router.routing_groups)


async def choose(group: str, outcome: CallOutcome) -> Untyped:
    """Return the deployment for a call of a plain group, and record it; None if LiteLLM must choose."""
    if outcome.affinity or outcome.account is not None or "attempts" not in installed:
        return None
    chosen = await direct_internals.choose_healthy(group)
    if chosen is not None:
        attempts.record_choice(chosen, group)
    return chosen
