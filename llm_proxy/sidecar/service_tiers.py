"""The service tier that a provider states is kept as stated, and prices the call.

Invariant: nothing is changed on classes that answers of several providers share.
"""

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs


def apply() -> None:
    """Patch LiteLLM's reader of Groq's answers and the price of a stream's usage frame."""
    _keep_groq_tiers(seams.groq_config())
    _price_streams_by_tier(seams.request_processing())


def _keep_groq_tiers(config: Theirs) -> None:
    """LiteLLM's reader fails where no tier is stated, and replaces one it does not know with `auto`."""
    inherited = config.__base__.transform_response

    def read(self: Theirs, **options: Theirs) -> Theirs:
        response = inherited(self, **options)
        self._add_web_search_usage(model_response=response)
        return response

    config.transform_response = read


def _price_streams_by_tier(processing: Theirs) -> None:
    """LiteLLM forgets the tier where it prices with the deployment's own prices."""
    price = processing._streamed_usage_cost  # noqa: SLF001 -- where every usage frame is priced

    def price_by_tier(response: Theirs, model: str, tier: str | None, logging: Theirs) -> float | None:
        if tier:
            response.service_tier = tier
        cost: float | None = price(response, model, tier, logging)
        return cost

    processing._streamed_usage_cost = staticmethod(price_by_tier)  # noqa: SLF001 -- the same


PATCH = Patch(
    name="service_tiers",
    install=apply,
    reason=(
        "A whole answer of Groq's without a service tier fails, and another of its tiers is replaced with "
        "`auto`; the cost in a stream's usage frame is that of the default tier, whatever tier served it."
    ),
    since="1.108.6",
    report=(
        "To file: `Groq transform_response requires service_tier; _streamed_usage_cost drops service_tier "
        "when a logging object is given`."
    ),
    until="Groq's tier is optional and kept, and a stream's frame is priced by its tier.",
    tests=("tests/stages/test_sidecar_service_tiers.py",),
)
