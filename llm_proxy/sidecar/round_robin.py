"""Deployments of a group in turn, which LiteLLM does not know: its own plain strategy draws lots.

Invariants: only where the operator chose ROUND_ROBIN; deployments that cool down are passed over, not waited
for; each process takes turns of its own. Weights say nothing here: who wants weights chooses WEIGHTED.
"""

import os
from collections.abc import Sequence

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs

CHOSEN = "ROUND_ROBIN"


def apply() -> None:
    """Patch the router where it is wanted; before LiteLLM's start."""
    if os.environ.get("LLM_PROXY_LOAD_BALANCE", "").upper() == CHOSEN:
        seams.router_module().simple_shuffle = Turns()


class Turns:
    """Whose turn it is, group by group."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __call__(self, *, healthy_deployments: Sequence[Theirs], model: str, **_: Theirs) -> Theirs:
        """The next after the last one that was chosen, among those that may be."""
        in_order = sorted(healthy_deployments, key=_id)
        last = self._last.get(model, "")
        chosen = next((one for one in in_order if _id(one) > last), in_order[0])
        self._last[model] = _id(chosen)
        return chosen


def _id(deployment: Theirs) -> str:
    return str(deployment["model_info"]["id"])


PATCH = Patch(
    name="round_robin",
    install=apply,
    reason="There is no plain rotation: the simple strategy draws lots.",
    since="1.106.2",
    report="To file: `routing_strategy: round-robin`.",
    until="LiteLLM has the strategy.",
    tests=("tests/stages/test_sidecar_balance.py::test_each_gets_calls_in_turn",),
)
