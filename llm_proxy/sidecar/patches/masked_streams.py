"""Guardrails on streamed answers: what they mask is masked, and text completions are judged at all.

Invariants: a chat's text is sent once the guardrail has seen `HELD_CHARS` beyond it, or the end; its own
figures win over ours; a text completion is held until it is judged.
"""

from collections.abc import AsyncGenerator

from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.sidecar import litellm_internals
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace

TRANSFORM_MODE = "streaming_transform_mode"
MASKING_MODE = "incremental_diff"
HELD_CHARS = 64
"""Held back of a streamed text: what a guardrail will mask may not be complete yet."""


def install() -> None:
    """Patch the classes that run guardrails on streams; before the first call."""
    _mask_chats()
    _judge_text_completions(litellm_internals.proxy_logging_class())


def _mask_chats() -> None:
    runner = litellm_internals.unified_guardrails_class()

    def resolve_or_mask(self: Untyped, guardrail_to_apply: Untyped, name: str, default: Untyped) -> Untyped:
        chosen = MASKING_MODE if name == TRANSFORM_MODE else default
        return resolve(self, guardrail_to_apply, name, chosen)

    def build_held_chunk(
        self: Untyped, *, mutated_text_per_choice: Untyped, holdback_per_choice: Untyped, **options: Untyped
    ) -> Untyped:
        held = dict.fromkeys(mutated_text_per_choice, HELD_CHARS) | holdback_per_choice
        return build(
            self, mutated_text_per_choice=mutated_text_per_choice, holdback_per_choice=held, **options
        )

    resolve = replace(runner, "resolve_streaming_flag", resolve_or_mask)
    build = replace(runner, "_build_transform_chunk", build_held_chunk)


def _judge_text_completions(runner: Untyped) -> None:
    def check_or_hold(
        self: Untyped, *, response: Untyped, user_api_key_dict: Untyped, request_data: Untyped
    ) -> Untyped:
        call = {"user_api_key_dict": user_api_key_dict, "request_data": request_data}
        is_text = user_api_key_dict.request_route == ENDPOINTS["completions"].path
        if is_text and litellm_internals.has_guardrail_after(request_data):
            return _held_until_judged(self, response, **call)
        return check(self, response=response, **call)

    check = replace(runner, "async_post_call_streaming_iterator_hook", check_or_hold)


async def _held_until_judged(
    runner: Untyped, response: Untyped, *, user_api_key_dict: Untyped, request_data: Untyped
) -> AsyncGenerator[Untyped]:
    """Yield the chunks of a text completion once its guardrails have passed it, as they have changed it."""
    chunks = [chunk async for chunk in response]
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + (choice.text or "")
    whole = litellm_internals.litellm_module().TextCompletionResponse(
        choices=[{"index": at, "text": text, "finish_reason": "stop"} for at, text in texts.items()]
    )
    judged = await runner.post_call_success_hook(
        data=request_data, response=whole, user_api_key_dict=user_api_key_dict
    )
    unsent = {choice.index: choice.text for choice in judged.choices}
    changed = {at for at, text in unsent.items() if text != texts.get(at)}
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index in changed:
                choice.text = unsent.pop(choice.index, "")
        yield chunk


PATCH = LiteLLMPatch(
    name="masked_streams",
    install=install,
    reason=(
        "LiteLLM sends a streamed chat as the model wrote it where a guardrail masks it, unless each "
        "guardrail sets `streaming_transform_mode` and says how much text it holds back; a streamed text "
        "completion passes every guardrail by."
    ),
    until="A guardrail's changes reach streamed answers by default, those of text completions too.",
    tests=(
        "tests/stages/sidecar/test_guardrails.py::test_a_masked_answer_is_masked",
        "tests/stages/sidecar/test_guardrails.py::test_a_text_completion_is_judged_and_masked",
    ),
)
