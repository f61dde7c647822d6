"""The service tier that a provider states is kept as stated.

Invariant: nothing is changed on classes that answers of several providers share.
"""

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs


def apply() -> None:
    """Patch LiteLLM's reader of Groq's answers."""
    config = seams.groq_config()
    inherited = config.__base__.transform_response

    def read(self: Theirs, **options: Theirs) -> Theirs:
        response = inherited(self, **options)
        self._add_web_search_usage(model_response=response)
        return response

    config.transform_response = read


PATCH = Patch(
    name="service_tiers",
    install=apply,
    reason=(
        "A whole answer of Groq's without a service tier fails, and another of its tiers is replaced with "
        "`auto`."
    ),
    since="1.108.6",
    report="To file: `Groq transform_response requires service_tier`.",
    until="Groq's tier is optional and kept.",
    tests=("tests/stages/test_sidecar_service_tiers.py::test_groq_s_tier_is_its_own",),
)
