"""Which deployments were tried for a call: LiteLLM names none of a failure, and forgets those of a fallback.

Invariant: every attempt, a retry or a fallback, asks the router for a deployment once.
"""

from llm_proxy.sidecar import outcome, seams
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping


def apply() -> None:
    """Patch the router; before LiteLLM's start."""
    router = seams.router_class()
    choose = router.async_get_available_deployment

    async def choose_and_note(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        chosen = await choose(self, *words, **options)
        outcome.tried(str(mapping(mapping(chosen).get("model_info")).get("id") or ""))
        return chosen

    router.async_get_available_deployment = choose_and_note
