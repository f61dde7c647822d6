"""Frames of a chat's stream that differ from one before in their texts alone are sent without LiteLLM.

Invariants: only where no callback reads frames, and LiteLLM translates OpenAI's, Anthropic's or Google's
format; LiteLLM's own generator opens, ends, logs and breaks off every stream (`sidecar/alike_frames.py`).
"""

from llm_proxy.json_access import Json, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.alike_frames import send_alike
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace


def install() -> None:
    """Patch the stream wrapper and the proxy's generator of frames; after `native_calls`."""
    wrapper, proxy = litellm_internals.stream_wrapper_class(), litellm_internals.proxy_module()

    async def step_and_note(self: Untyped) -> Untyped:
        outcome = call_outcome.running()
        if outcome is not None:
            outcome.stream = self
        return await step(self)

    def generate_or_send(response: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        frames = generate(response, *args, **options)
        outcome, request = call_outcome.running(), as_object(options.get("request_data"))
        if outcome is None or not request or not _may_send(request, response):
            return frames
        return send_alike(frames, outcome)

    step = replace(wrapper, "__anext__", step_and_note)
    generate = replace(proxy, "select_data_generator", generate_or_send)


def _may_send(request: Json, response: Untyped) -> bool:
    """Whether only the caller reads the frames, and LiteLLM adds none of its own."""
    library, proxy = litellm_internals.litellm_module(), litellm_internals.proxy_module()
    own_frames = request.get("_litellm_raw_sse_stream") or proxy._should_include_fallback_errors(request)  # noqa: SLF001 -- frames beside the provider's
    return not (
        call_outcome.is_native()
        or litellm_internals.are_frames_read()
        or library.post_call_rules
        or own_frames
        or proxy._resolve_keepalive_seconds(request, response)  # noqa: SLF001 -- LiteLLM's own pings
    )


PATCH = LiteLLMPatch(
    name="alike_frames",
    install=install,
    reason=(
        "LiteLLM makes objects of every frame of a stream, at a tenth of a millisecond and more each, though "
        "most frames differ from the one before in their text alone."
    ),
    until="A streamed frame costs LiteLLM no more than a relay.",
    tests=(
        "tests/stages/sidecar/test_alike_frames.py::test_most_frames_are_not_made_by_litellm",
        "tests/stages/sidecar/test_alike_frames.py::test_a_call_that_the_caller_left_is_logged_with_all_texts",
    ),
)
