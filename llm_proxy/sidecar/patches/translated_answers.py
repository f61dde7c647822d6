"""Answers that LiteLLM translates into OpenAI's format: what the translation loses or breaks is repaired.

Invariants for streams: a finish reason that states a failure breaks the stream; tool calls of one choice have
distinct indices; no surrogate half is sent. For complete answers: only an unknown finish reason is replaced;
text and tool calls are never put back, and with a guardrail nothing is; usage not stated or counted
is left out.
"""

import json
from collections.abc import ItemsView
from dataclasses import dataclass
from threading import Event

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals, openai_repair
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import truncated_streams
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.provider_errors import is_failure_reason

REPAIR_ATTRIBUTE = "_llmp_repair"
"""Of LiteLLM's stream: its `StreamRepair`."""
TRANSLATED_FIELDS = frozenset({"content", "function_call", "role", "tool_calls"})
"""Fields of a message that keep LiteLLM's value."""
TRANSLATED_TOP_FIELDS = frozenset({"choices", "error", "model", "usage"})
"""Fields of an answer that keep LiteLLM's value."""
VERTEX_PREFIX = "vertex_ai_"
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_completing = Event()
"""Set once the patch `whole_answers` is installed; without it complete answers stay as LiteLLM made them."""


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
            if call.function is not None:
                call.function.arguments = repaired["function"]["arguments"]


def _list_attribute(owner: Untyped, name: str) -> list[Untyped]:
    return list(getattr(owner, name, None) or ())


def _tool_call_json(call: Untyped) -> Json:
    function = call.function
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
    _completing.set()
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


def render_completion(result: Untyped, outcome: CallOutcome) -> bytes:
    """Return the body of a complete answer that LiteLLM's endpoint function returned."""
    if outcome.native_answer is not None and not litellm_internals.has_guardrail():
        return outcome.native_answer
    if hasattr(result, "model_dump_json"):
        raw: str = result.model_dump_json()
        needs_nothing = outcome.original is None and (
            outcome.states_tokens or _has_token_counts(getattr(result, "usage", None))
        )
        if needs_nothing or not _completing.is_set():
            return raw.encode()
        result = json.loads(raw)
    if _completing.is_set():
        _complete(as_object(result), outcome)
    return encode(result)


def _has_token_counts(usage: Untyped) -> bool:
    return any(getattr(usage, name, None) for name in TOKEN_COUNTS)


def _complete(answer: Json, outcome: CallOutcome) -> None:
    """Add the provider's fields that LiteLLM dropped; remove fields that LiteLLM invented."""
    _restore_refusals(answer)
    stated = outcome.states_tokens or any(as_object(answer.get("usage")).get(name) for name in TOKEN_COUNTS)
    if not stated:
        answer.pop("usage", None)
    _drop_empty(answer)
    original = outcome.original
    if (
        original is None
        or original.get("id") not in (None, "", answer.get("id"))
        or litellm_internals.has_guardrail()
    ):
        return
    _add_missing(answer, original, TRANSLATED_TOP_FIELDS)
    if isinstance(answer.get("usage"), dict):
        usage = as_object(original.get("usage"))
        _add_missing(answer["usage"], usage, frozenset())
        if "cost" in usage:
            answer["usage"][openai_repair.STATED_COST_FIELD] = usage["cost"]
    for pair in zip(as_list(answer.get("choices")), as_list(original.get("choices")), strict=False):
        _complete_choice(*map(as_object, pair))


def _complete_choice(choice: Json, original: Json) -> None:
    _add_missing(choice, original, frozenset({"message"}))
    if isinstance(choice.get("message"), dict):
        _add_missing(choice["message"], as_object(original.get("message")), TRANSLATED_FIELDS)
    reason = openai_repair.nearest_finish_reason(original.get("finish_reason"))
    if reason is not None and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = reason


def _drop_empty(answer: Json) -> None:
    """Remove LiteLLM's own fields that are empty."""
    for name in [name for name, value in answer.items() if name.startswith(VERTEX_PREFIX) and not value]:
        del answer[name]
    for message in (as_object(as_object(one).get("message")) for one in as_list(answer.get("choices"))):
        for name in ("images", "thinking_blocks"):
            if message.get(name) == []:
                del message[name]


def _restore_refusals(answer: Json) -> None:
    """Move a message's refusal back from LiteLLM's own fields."""
    for choice in map(as_object, as_list(answer.get("choices"))):
        message = as_object(choice.get("message"))
        own = as_object(message.get("provider_specific_fields"))
        if "refusal" in own:
            message["refusal"] = own.pop("refusal")


def _add_missing(target: Json, source: Json, without: frozenset[str]) -> None:
    for name, value in source.items():
        if target.get(name) is None and name not in without:
            target[name] = value


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
