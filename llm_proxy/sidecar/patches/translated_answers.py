"""Answers that LiteLLM translates into OpenAI's format: what the translation loses or breaks is repaired.

Invariants for streams: a finish reason that states a failure breaks the stream; tool calls of one choice have
distinct indices; no surrogate half is sent. `answer_bodies` completes whole answers.
"""

from collections.abc import ItemsView
from dataclasses import dataclass

from llm_proxy.json_access import Json
from llm_proxy.sidecar import call_outcome, litellm_internals, openai_repair
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import truncated_streams
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.provider_errors import is_failure_reason

REPAIR_ATTRIBUTE = "_llmp_repair"
"""Of LiteLLM's stream: its `StreamRepair`."""


def _install_translated_streams() -> None:
    """Patch the stream wrapper, after `openai_passthrough`; before the first call."""
    wrapper = litellm_internals.stream_wrapper_class()

    async def step_and_repair(self: Untyped) -> Untyped:
        chunk = await step(self)
        if not isinstance(chunk, bytes):
            if is_failure_reason(self.received_finish_reason):
                self._log_stream_failure_and_raise(truncated_streams.truncated_error(self))
            _repair_chunk(self.__dict__, chunk)
        return chunk

    step = replace(wrapper, "__anext__", step_and_repair)


def _repair_chunk(state: Json, chunk: Untyped) -> None:
    for choice in _list_attribute(chunk, "choices"):
        delta: Untyped = getattr(choice, "delta", None)
        if delta is None:
            continue
        repair = state.get(REPAIR_ATTRIBUTE) or state.setdefault(
            REPAIR_ATTRIBUTE, openai_repair.StreamRepair()
        )
        calls = _list_attribute(delta, "tool_calls")
        texts: Json = {name: getattr(delta, name, None) for name in openai_repair.TEXT_FIELDS}
        plain = texts | {"tool_calls": [_tool_call_json(call) for call in calls]}
        repair.repair_delta(choice.index or 0, plain, last=bool(choice.finish_reason))
        for name, text in texts.items():
            if plain[name] != text:
                setattr(delta, name, plain[name])
        for call, repaired in zip(calls, plain["tool_calls"], strict=True):
            call.index, call.id, call.type = repaired["index"], repaired["id"], repaired["type"]
            if getattr(call, "function", None) is not None:
                call.function.arguments = repaired["function"]["arguments"]


def _list_attribute(owner: Untyped, name: str) -> list[Untyped]:
    return list(getattr(owner, name, None) or ())


def _tool_call_json(call: Untyped) -> Json:
    function = getattr(call, "function", None)  # a custom tool's call has none
    fields = {"name": function.name, "arguments": function.arguments} if function is not None else {}
    return {"index": call.index, "id": call.id, "type": call.type, "function": fields}


TRANSLATED_STREAMS = LiteLLMPatch(
    name="translated_streams",
    install=_install_translated_streams,
    reason=(
        "LiteLLM's translation of other providers' streams passes failures as finish reasons, gives two "
        "tool calls one index and splits surrogate pairs."
    ),
    until="Tool calls of one choice have indices of their own, and failures end a stream as errors.",
    tests=(
        "tests/stages/sidecar/test_stream_repair.py::test_two_tool_calls_of_ollama_have_two_indices",
        "tests/stages/sidecar/test_stream_repair.py::test_split_surrogate_pairs_are_joined",
    ),
)


def _install_whole_answers() -> None:
    """Extend LiteLLM's map of finish reasons; complete answers from now on."""
    core = litellm_internals.core_helpers_module()
    core._FINISH_REASON_MAP = FinishReasonMap(core._FINISH_REASON_MAP | openai_repair.FINISH_REASONS)  # noqa: SLF001 -- no setting


@dataclass(frozen=True, slots=True)
class FinishReasonMap:
    """Providers' finish reasons -> the nearest of OpenAI's; one that says more is recorded for the log."""

    nearest: dict[str, str]

    def get(self, reason: str) -> str | None:
        """Return OpenAI's reason, and record the provider's; LiteLLM calls this."""
        call_outcome.record_finish_reason(openai_repair.informative_finish_reason(reason))
        return self.nearest.get(reason)

    def items(self) -> ItemsView[str, str]:
        """Return all pairs; LiteLLM's parser for Gemini calls this."""
        return self.nearest.items()


WHOLE_ANSWERS = LiteLLMPatch(
    name="whole_answers",
    install=_install_whole_answers,
    reason=(
        "Complete answers lose a provider's fields beyond OpenAI's schema, which streams keep, and state a "
        "usage of zero where the provider stated none."
    ),
    until="Both modes carry the same fields, and unknown usage is absent.",
    tests=(
        "tests/stages/sidecar/test_answer_repair.py::test_fields_beyond_openai_s_are_kept_in_both_modes",
        "tests/stages/sidecar/test_answer_repair.py::test_finish_reasons_are_the_same_in_both_modes",
    ),
)
