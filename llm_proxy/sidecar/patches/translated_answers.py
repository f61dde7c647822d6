"""Answers that LiteLLM translates into OpenAI's format: what the translation loses or breaks is repaired.

Invariants for streams: a finish reason that states a failure breaks the stream; tool calls of one choice have
distinct indices; no surrogate half is sent. For complete answers: only an unknown finish reason is replaced;
text and tool calls are never put back, and with a guardrail nothing is; usage that nobody stated or counted
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
from llm_proxy.sidecar.patches.patch import LiteLLMPatch
from llm_proxy.sidecar.provider_errors import is_failure_reason

REPAIR_ATTRIBUTE = "_llmp_repair"


def _install_translated_streams() -> None:
    """Patch the stream wrapper, after the lane of OpenAI's frames; before the first call."""
    wrapper = litellm_internals.stream_wrapper_class()
    step = wrapper.__anext__

    async def step_and_repair(self: Untyped) -> Untyped:
        chunk = await step(self)
        if not isinstance(chunk, bytes):
            if is_failure_reason(self.received_finish_reason):
                self._log_stream_failure_and_raise(truncated_streams.truncated_error(self))
            _repair_chunk(self.__dict__, chunk)
        return chunk

    wrapper.__anext__ = step_and_repair


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
        repair.delta(choice.index or 0, plain, last=bool(choice.finish_reason))
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
    words = {"name": function.name, "arguments": function.arguments} if function is not None else {}
    return {"index": call.index, "id": call.id, "type": call.type, "function": words}


TRANSLATED_STREAMS = LiteLLMPatch(
    name="translated_streams",
    install=_install_translated_streams,
    reason=(
        "LiteLLM's translation of other providers' streams passes failures as finish reasons, gives two "
        "tool calls one index and cuts surrogate pairs in two."
    ),
    since="1.106.2",
    report=(
        "To file: `ollama_chat: parallel tool calls in separate frames share index 0`; `finish_reason "
        "error is passed on as stop`."
    ),
    until="Tool calls of one choice have indices of their own, and failures end a stream as errors.",
    tests=(
        "tests/stages/test_sidecar_odd_streams.py::test_two_tools_of_ollama_are_two",
        "tests/stages/test_sidecar_odd_streams.py::test_torn_characters_are_joined_or_replaced",
    ),
)

TRANSLATED_FIELDS = frozenset({"content", "function_call", "role", "tool_calls"})
TRANSLATED_TOP_FIELDS = frozenset({"choices", "error", "model", "usage"})
VERTEX_PREFIX = "vertex_ai_"
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


_completing = Event()
"""Whether answers are completed: this patch may be off."""


def _install_whole_answers() -> None:
    """Teach LiteLLM finish reasons it does not know; complete answers from now on."""
    _completing.set()
    core = litellm_internals.core_helpers_module()
    core._FINISH_REASON_MAP = FinishReasonMap(core._FINISH_REASON_MAP | openai_repair.FINISH_REASONS)  # noqa: SLF001 -- no setting


@dataclass(frozen=True, slots=True)
class FinishReasonMap:
    """Finish reasons of all providers, and the nearest of OpenAI's; who says more is noted for the log."""

    nearest: dict[str, str]

    def get(self, said: str) -> str | None:
        """As LiteLLM looks one up."""
        call_outcome.record_finish_reason(openai_repair.informative_finish_reason(said))
        return self.nearest.get(said)

    def items(self) -> ItemsView[str, str]:
        """As its reader for Google does."""
        return self.nearest.items()


def render_completion(result: Untyped, known: CallOutcome) -> bytes:
    """The body of an answer that an endpoint of LiteLLM returned."""
    if hasattr(result, "model_dump_json"):
        raw: str = result.model_dump_json()
        as_it_is = known.original is None and (
            known.states_tokens or _has_token_counts(getattr(result, "usage", None))
        )
        if as_it_is or not _completing.is_set():
            return raw.encode()
        result = json.loads(raw)
    if _completing.is_set():
        _complete(as_object(result), known)
    return encode(result)


def _has_token_counts(usage: Untyped) -> bool:
    return any(getattr(usage, name, None) for name in TOKEN_COUNTS)


def _complete(answer: Json, known: CallOutcome) -> None:
    """Put back what the provider said."""
    _restore_refusals(answer)
    if not known.states_tokens and not any(as_object(answer.get("usage")).get(name) for name in TOKEN_COUNTS):
        answer.pop("usage", None)
    _drop_empty(answer)
    said = known.original
    if said is None or said.get("id") not in (None, "", answer.get("id")) or _is_guarded():
        return
    _add(answer, said, TRANSLATED_TOP_FIELDS)
    if isinstance(answer.get("usage"), dict):
        stated = as_object(said.get("usage"))
        _add(answer["usage"], stated, frozenset())
        if "cost" in stated:
            answer["usage"][openai_repair.STATED_COST_FIELD] = stated["cost"]
    for choice, stated in zip(as_list(answer.get("choices")), as_list(said.get("choices")), strict=False):
        _complete_choice(as_object(choice), as_object(stated))


def _complete_choice(choice: Json, said: Json) -> None:
    _add(choice, said, frozenset({"message"}))
    if isinstance(choice.get("message"), dict):
        _add(choice["message"], as_object(said.get("message")), TRANSLATED_FIELDS)
    reason = openai_repair.nearest_finish_reason(said.get("finish_reason"))
    if reason is not None and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = reason


def _drop_empty(answer: Json) -> None:
    """LiteLLM's own fields, where they say nothing."""
    for name in [name for name, value in answer.items() if name.startswith(VERTEX_PREFIX) and not value]:
        del answer[name]
    for message in (as_object(as_object(one).get("message")) for one in as_list(answer.get("choices"))):
        for name in ("images", "thinking_blocks"):
            if message.get(name) == []:
                del message[name]


def _restore_refusals(answer: Json) -> None:
    """LiteLLM moves a message's refusal among fields of its own."""
    for choice in map(as_object, as_list(answer.get("choices"))):
        message = as_object(choice.get("message"))
        own = as_object(message.get("provider_specific_fields"))
        if "refusal" in own:
            message["refusal"] = own.pop("refusal")


def _add(kept: Json, said: Json, without: frozenset[str]) -> None:
    for name, value in said.items():
        if kept.get(name) is None and name not in without:
            kept[name] = value


def _is_guarded() -> bool:
    library = litellm_internals.litellm_module()
    guardrail = litellm_internals.guardrail_class()
    return any(isinstance(one, guardrail) for one in library.callbacks)


WHOLE_ANSWERS = LiteLLMPatch(
    name="whole_answers",
    install=_install_whole_answers,
    reason=(
        "Whole answers lose what a provider said beside OpenAI's schema, though streams keep it, and "
        "state a usage of zero that nobody stated."
    ),
    since="1.106.2",
    report=(
        "To file: `non-streaming ModelResponse drops reasoning_details, content_filter_results and other "
        "fields; usage 0/0/0 where the provider stated none`."
    ),
    until="Both modes carry the same fields, and unknown usage is absent.",
    tests=(
        "tests/stages/test_sidecar_odd_answers.py::test_what_a_provider_adds_arrives_in_both_modes",
        "tests/stages/test_sidecar_odd_answers.py::test_finish_reasons_are_the_same_in_both_modes",
    ),
)
