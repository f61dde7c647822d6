"""The callback that sees each call's final error before LiteLLM words it anew."""

from typing import Any

from llm_proxy.sidecar import outcome, seams


def witness() -> Any:  # noqa: ANN401 -- a class of LiteLLM's, untyped here
    """A callback for `litellm.callbacks`."""

    class Witness(seams.custom_logger()):  # type: ignore[misc] -- LiteLLM accepts no other kind of object
        async def async_post_call_failure_hook(self, original_exception: BaseException, **_: object) -> None:
            outcome.note(original_exception)

    return Witness()
