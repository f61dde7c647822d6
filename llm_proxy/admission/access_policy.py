"""Whether a caller may make a call at all: kill switches and allowed models, before anything is counted.

Invariant: judged on the model group that serves the call, whatever name led there.
"""

from llm_proxy.admission.fallback import RETRY_AFTER_S
from llm_proxy.admission.limit_planner import PriceSource
from llm_proxy.admission.policy_watcher import PolicyWatcher
from llm_proxy.dialects import Call
from llm_proxy.dialects.request.model_resolution import model_not_found
from llm_proxy.errors import Forbidden, StoreUnavailable
from llm_proxy.identity import Caller, active_kill_switch, allowed_models, is_model_allowed


class AccessPolicy:
    """Checks kill switches and allowed models."""

    def __init__(
        self, watcher: PolicyWatcher, prices: PriceSource | None, default_models: tuple[str, ...]
    ) -> None:
        self._watcher = watcher
        self._prices = prices
        self._default_models = default_models

    def check(self, caller: Caller, call: Call) -> None:
        """Checks whether a call may be made.

        Raises:
            ModelNotFound: The caller may not use the model; the same as for one that does not exist.
            Forbidden: A kill switch stops the call.
            StoreUnavailable: The models to judge by are not known.
        """
        kill = active_kill_switch(self._watcher.policies.snapshot.kill_switches, caller, call.group)
        prices = self._prices
        models = allowed_models(caller, self._default_models, prices.names if prices is not None else ())
        known = models is not None and is_model_allowed(
            models, call.group, prices.resolved if prices else None
        )
        if kill is not None and (known or models is None or kill.kind != "model"):
            raise Forbidden(f"This {kill.kind} is switched off.", code=f"{kill.kind}_disabled")
        if models is None:
            raise StoreUnavailable(
                "The models are not known yet; please try again.", retry_after_s=RETRY_AFTER_S
            )
        if not known:
            raise model_not_found(call.model)

    def is_disabled(self, caller: Caller, group: str) -> bool:
        """Whether a kill switch stops a caller at a model group."""
        return active_kill_switch(self._watcher.policies.snapshot.kill_switches, caller, group) is not None
