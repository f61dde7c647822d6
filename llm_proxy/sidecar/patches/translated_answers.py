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
from llm_proxy.sidecar.call_outcome import Outcome
from llm_proxy.sidecar.json_repair import encoded
from llm_proxy.sidecar.litellm_internals import Theirs
from llm_proxy.sidecar.patches import truncated_streams
from llm_proxy.sidecar.patches.patch import Patch
from llm_proxy.sidecar.provider_errors import is_failed

REPAIR = "_llmp_repair"


def _install_translated_streams() -> None:
    """Patch the stream wrapper, after the lane of OpenAI's frames; before the first call."""
    wrapper = litellm_internals.stream_wrapper()
    step = wrapper.__anext__

    async def step_and_repair(self: Theirs) -> Theirs:
        chunk = await step(self)
        if not isinstance(chunk, bytes):
            if is_failed(self.received_finish_reason):
                self._log_stream_failure_and_raise(truncated_streams.truncated_error(self))
            _repair_chunk(self.__dict__, chunk)
        return chunk

    wrapper.__anext__ = step_and_repair


def _repair_chunk(state: Json, chunk: Theirs) -> None:
    for choice in _listed(chunk, "choices"):
        delta: Theirs = getattr(choice, "delta", None)
        if delta is None:
            continue
        repair = state.get(REPAIR) or state.setdefault(REPAIR, openai_repair.StreamRepair())
        calls = _listed(delta, "tool_calls")
        texts: Json = {name: getattr(delta, name, None) for name in openai_repair.TEXTS}
        plain = texts | {"tool_calls": [_plain(call) for call in calls]}
        repair.delta(choice.index or 0, plain, last=bool(choice.finish_reason))
        for name, text in texts.items():
            if plain[name] != text:
                setattr(delta, name, plain[name])
        for call, repaired in zip(calls, plain["tool_calls"], strict=True):
            call.index, call.id, call.type = repaired["index"], repaired["id"], repaired["type"]
            if call.function is not None:
                call.function.arguments = repaired["function"]["arguments"]


def _listed(owner: Theirs, name: str) -> list[Theirs]:
    return list(getattr(owner, name, None) or ())


def _plain(call: Theirs) -> Json:
    function = call.function
    words = {"name": function.name, "arguments": function.arguments} if function is not None else {}
    return {"index": call.index, "id": call.id, "type": call.type, "function": words}


TRANSLATED_STREAMS = Patch(
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

LITELLM_S = frozenset({"content", "function_call", "role", "tool_calls"})
OURS = frozenset({"choices", "error", "model", "usage"})
GOOGLE_S = "vertex_ai_"
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


_completing = Event()
"""Whether answers are completed: this patch may be off."""


def _install_whole_answers() -> None:
    """Teach LiteLLM finish reasons it does not know; complete answers from now on."""
    _completing.set()
    core = litellm_internals.core()
    core._FINISH_REASON_MAP = Reasons(core._FINISH_REASON_MAP | openai_repair.REASONS)  # noqa: SLF001 -- no setting


@dataclass(frozen=True, slots=True)
class Reasons:
    """Finish reasons of all providers, and the nearest of OpenAI's; who says more is noted for the log."""

    nearest: dict[str, str]

    def get(self, said: str) -> str | None:
        """As LiteLLM looks one up."""
        call_outcome.finished(openai_repair.telling_reason(said))
        return self.nearest.get(said)

    def items(self) -> ItemsView[str, str]:
        """As its reader for Google does."""
        return self.nearest.items()


def rendered(result: Theirs, known: Outcome) -> bytes:
    """The body of an answer that an endpoint of LiteLLM returned."""
    if hasattr(result, "model_dump_json"):
        raw: str = result.model_dump_json()
        as_it_is = known.said is None and (known.counted or _counts(getattr(result, "usage", None)))
        if as_it_is or not _completing.is_set():
            return raw.encode()
        result = json.loads(raw)
    if _completing.is_set():
        _complete(as_object(result), known)
    return encoded(result)


def _counts(usage: Theirs) -> bool:
    return any(getattr(usage, name, None) for name in COUNTS)


def _complete(answer: Json, known: Outcome) -> None:
    """Put back what the provider said."""
    _restore_refusals(answer)
    if not known.counted and not any(as_object(answer.get("usage")).get(name) for name in COUNTS):
        answer.pop("usage", None)
    _drop_empty(answer)
    said = known.said
    if said is None or said.get("id") not in (None, "", answer.get("id")) or _is_guarded():
        return
    _add(answer, said, OURS)
    if isinstance(answer.get("usage"), dict):
        stated = as_object(said.get("usage"))
        _add(answer["usage"], stated, frozenset())
        if "cost" in stated:
            answer["usage"][openai_repair.STATED_COST] = stated["cost"]
    for choice, stated in zip(as_list(answer.get("choices")), as_list(said.get("choices")), strict=False):
        _complete_choice(as_object(choice), as_object(stated))


def _complete_choice(choice: Json, said: Json) -> None:
    _add(choice, said, frozenset({"message"}))
    if isinstance(choice.get("message"), dict):
        _add(choice["message"], as_object(said.get("message")), LITELLM_S)
    reason = openai_repair.finish_reason(said.get("finish_reason"))
    if reason is not None and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = reason


def _drop_empty(answer: Json) -> None:
    """LiteLLM's own fields, where they say nothing."""
    for name in [name for name, value in answer.items() if name.startswith(GOOGLE_S) and not value]:
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
    library = litellm_internals.library()
    guardrail = litellm_internals.guardrail()
    return any(isinstance(one, guardrail) for one in library.callbacks)


WHOLE_ANSWERS = Patch(
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
