"""What LiteLLM knows of a deployment: its limits and prices, the deployment's own before the published ones.

Invariant: a price nobody stated is absent, never 0.
"""

from collections.abc import Mapping
from typing import Any

from llm_proxy.sidecar import seams

PRICES = ("input_cost_per_token", "output_cost_per_token")


def listed(model: str) -> Mapping[str, Any]:
    """LiteLLM's published entry for a model named `provider/model`, or nothing."""
    entries: Mapping[str, Mapping[str, Any]] = seams.library().model_cost
    provider, _, name = model.partition("/")
    bare = entries.get(name) or {}
    return entries.get(model) or (bare if bare.get("litellm_provider") == provider else {})


def priced(deployment: str, model: str) -> bool:
    """Whether a price is known, be it 0."""
    own: Mapping[str, Any] = seams.library().model_cost.get(deployment) or {}
    return any(entry.get(name) is not None for entry in (own, listed(model)) for name in PRICES)
