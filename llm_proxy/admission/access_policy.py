"""Whether a caller may make a call at all: kill switches and allowed models, before anything is counted.

Invariant: judged on the model group that serves the call, whatever name led there.
"""

from llm_proxy.admission.fallback import RETRY_S
from llm_proxy.admission.limit_planner import Prices
from llm_proxy.admission.policy_watcher import Watch
from llm_proxy.dialects import Call
from llm_proxy.dialects.request.model_resolution import not_found
from llm_proxy.errors import Forbidden, StoreUnavailable
from llm_proxy.identity import Caller, allowed, killed_by, usable


class Permit:
    """Lets a call pass, or says why not."""

    def __init__(self, watch: Watch, prices: Prices | None, default_models: tuple[str, ...]) -> None:
        self._watch = watch
        self._prices = prices
        self._default_models = default_models

    def check(self, caller: Caller, call: Call) -> None:
        """Says whether a call may be made.

        Raises:
            ModelNotFound: The caller may not use the model; the same as for one that does not exist.
            Forbidden: A kill switch stops it.
            StoreUnavailable: The models to judge by are not known.
        """
        kill = killed_by(self._watch.policies.book.kills, caller, call.group)
        prices = self._prices
        models = usable(caller, self._default_models, prices.names if prices is not None else ())
        known = models is not None and allowed(models, call.group, prices.resolved if prices else None)
        if kill is not None and (known or models is None or kill.kind != "model"):
            raise Forbidden(f"This {kill.kind} is switched off.", code=f"{kill.kind}_disabled")
        if models is None:
            raise StoreUnavailable("The models are not known yet; please try again.", retry_after_s=RETRY_S)
        if not known:
            raise not_found(call.model)

    def stopped(self, caller: Caller, group: str) -> bool:
        """Whether a kill switch stops a caller at a model group."""
        return killed_by(self._watch.policies.book.kills, caller, group) is not None
