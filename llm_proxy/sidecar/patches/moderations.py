"""Moderations are retried, fall back and are recorded as every other call is.

Invariant: nothing else about the call changes.
"""

from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace


def install() -> None:
    """Patch the router; before it is made."""
    router = litellm_internals.router_class()

    async def call_with_fallbacks(
        self: Untyped, original_function: Untyped, custom_llm_provider: str | None = None, **options: Untyped
    ) -> Untyped:
        async def moderate(**attempt: Untyped) -> Untyped:
            return await call_once(self, original_function, custom_llm_provider, **attempt)

        self._update_kwargs_before_fallbacks(model=options.get("model", ""), kwargs=options)
        return await self.async_function_with_fallbacks(original_function=moderate, **options)

    call_once = replace(router, "_pass_through_moderation_endpoint_factory", call_with_fallbacks)


PATCH = LiteLLMPatch(
    name="moderations",
    install=install,
    reason="LiteLLM's router neither retries a moderation nor lets it fall back, and reports no failure.",
    until="A moderation that fails is retried and falls back.",
    tests=("tests/stages/sidecar/test_moderations.py::test_a_moderation_is_retried_and_falls_back",),
)
