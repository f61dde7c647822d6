"""What LiteLLM knows of a deployment: its limits and prices, the deployment's own before the published ones.

Invariants: a price nobody stated is absent, never 0; a price stated as 0 is 0 for every kind of token that
it is the base of (cached, long, of a service tier, audio), unless that kind's own price is stated too.
"""

from collections.abc import Mapping
from typing import Any

from llm_proxy.json_access import Json
from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.shapes import mapping

PRICES = ("input_cost_per_token", "output_cost_per_token")
KINDS_OF = {
    "input_cost_per_token": ("input_cost_per_", "cache_read_input_", "cache_creation_input_"),
    "output_cost_per_token": ("output_cost_per_",),
}
"""A base price -> how the names of the prices begin that are 0 where it is."""
STATED = "llm_provider-x-litellm-response-cost"
"""Where LiteLLM keeps the cost that a provider stated itself."""


def listed(model: str) -> Mapping[str, Any]:
    """LiteLLM's published entry for a model named `provider/model`, or nothing."""
    entries: Mapping[str, Mapping[str, Any]] = seams.library().model_cost
    provider, _, name = model.partition("/")
    bare = entries.get(name) or {}
    return entries.get(model) or (bare if bare.get("litellm_provider") == provider else {})


def full_name(provider: str, model: str) -> str:
    """A model's name with its provider before it, as LiteLLM writes it now and then."""
    return model if model.startswith(f"{provider}/") else f"{provider}/{model}"


def priced(deployment: str, model: str) -> bool:
    """Whether a price is known, be it 0."""
    own: Mapping[str, Any] = seams.library().model_cost.get(deployment) or {}
    return any(entry.get(name) is not None for entry in (own, listed(model)) for name in PRICES)


def is_known(cost: object, headers: object, deployment: str, model: str) -> bool:
    """Whether what LiteLLM calculated is a cost: it says 0 where it knows no price.

    Args:
        cost: What it calculated.
        headers: The provider's, as LiteLLM keeps them; a cost the provider stated is among them.
        deployment: Its id.
        model: The model's name, with the provider before it.
    """
    stated = mapping(headers).get(STATED) is not None
    return cost is not None and (bool(cost) or stated or priced(deployment, model))


def stated_of(entry: Json) -> Json:
    """The prices that an entry of the model list states itself."""
    params, info = mapping(entry.get("litellm_params")), mapping(entry.get("model_info"))
    given = [*info.items(), *params.items()]
    return {name: value for name, value in given if "cost" in name and value is not None}


def apply() -> None:
    """Make the prices 0 that follow from one stated as 0; once LiteLLM has read the model list."""
    router = seams.router()
    for entry in router.model_list if router is not None else ():
        own = stated_of(entry)
        starts = tuple(
            start
            for base, kinds in KINDS_OF.items()
            if base in own and not float(own[base])
            for start in kinds
        )
        if starts:
            identity = str(mapping(entry.get("model_info")).get("id"))
            kept = mapping(seams.library().model_cost.get(identity))
            implied = {name: 0.0 for name in kept if name.startswith(starts) and name not in own}
            seams.library().register_model({identity: implied})


PATCH = Patch(
    name="free_deployments",
    install=apply,
    reason=(
        "A deployment priced at 0 is billed the published price for cached tokens and for service tiers, "
        "where its model's name is a listed one."
    ),
    since="1.108.6",
    report="To file: `custom pricing of 0 inherits cache and service-tier prices of the public model`.",
    until="A custom price of 0 is 0 for all tokens of its kind.",
    tests=("tests/flow/test_token_prices.py::test_free_is_free_for_every_kind_of_token",),
    after_start=True,
)
