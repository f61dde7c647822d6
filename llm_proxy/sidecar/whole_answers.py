"""A whole answer as it leaves: what LiteLLM made of it, and what the provider said and LiteLLM lost.

Invariants: no value of LiteLLM's is replaced but a finish reason it does not know; text and calls are never
put back (a guardrail may have taken them out), and with a guardrail nothing is; a usage that nobody stated
and nobody counted is left out.
"""

import json
from collections.abc import ItemsView
from dataclasses import dataclass
from threading import Event

from llm_proxy.json_access import Json
from llm_proxy.sidecar import openai_wire, outcome, seams
from llm_proxy.sidecar.json_text import encoded
from llm_proxy.sidecar.outcome import Outcome
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import items, mapping

LITELLM_S = frozenset({"content", "function_call", "role", "tool_calls"})
OURS = frozenset({"choices", "error", "model", "usage"})
GOOGLE_S = "vertex_ai_"
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


_completing = Event()
"""Whether answers are completed: this patch may be off."""


def apply() -> None:
    """Teach LiteLLM finish reasons it does not know; complete answers from now on."""
    _completing.set()
    core = seams.core()
    core._FINISH_REASON_MAP = Reasons(core._FINISH_REASON_MAP | openai_wire.REASONS)  # noqa: SLF001 -- no setting


@dataclass(frozen=True, slots=True)
class Reasons:
    """Finish reasons of all providers, and the nearest of OpenAI's; who says more is noted for the log."""

    nearest: dict[str, str]

    def get(self, said: str) -> str | None:
        """As LiteLLM looks one up."""
        outcome.finished(openai_wire.telling_reason(said))
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
        _complete(mapping(result), known)
    return encoded(result)


def _counts(usage: Theirs) -> bool:
    return any(getattr(usage, name, None) for name in COUNTS)


def _complete(answer: Json, known: Outcome) -> None:
    """Put back what the provider said."""
    _restore_refusals(answer)
    if not known.counted and not any(mapping(answer.get("usage")).get(name) for name in COUNTS):
        answer.pop("usage", None)
    _drop_empty(answer)
    said = known.said
    if said is None or said.get("id") not in (None, "", answer.get("id")) or _is_guarded():
        return
    _add(answer, said, OURS)
    if isinstance(answer.get("usage"), dict):
        stated = mapping(said.get("usage"))
        _add(answer["usage"], stated, frozenset())
        if "cost" in stated:
            answer["usage"][openai_wire.STATED_COST] = stated["cost"]
    for choice, stated in zip(items(answer.get("choices")), items(said.get("choices")), strict=False):
        _complete_choice(mapping(choice), mapping(stated))


def _complete_choice(choice: Json, said: Json) -> None:
    _add(choice, said, frozenset({"message"}))
    if isinstance(choice.get("message"), dict):
        _add(choice["message"], mapping(said.get("message")), LITELLM_S)
    reason = openai_wire.finish_reason(said.get("finish_reason"))
    if reason is not None and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = reason


def _drop_empty(answer: Json) -> None:
    """LiteLLM's own fields, where they say nothing."""
    for name in [name for name, value in answer.items() if name.startswith(GOOGLE_S) and not value]:
        del answer[name]
    for message in (mapping(mapping(one).get("message")) for one in items(answer.get("choices"))):
        for name in ("images", "thinking_blocks"):
            if message.get(name) == []:
                del message[name]


def _restore_refusals(answer: Json) -> None:
    """LiteLLM moves a message's refusal among fields of its own."""
    for choice in map(mapping, items(answer.get("choices"))):
        message = mapping(choice.get("message"))
        own = mapping(message.get("provider_specific_fields"))
        if "refusal" in own:
            message["refusal"] = own.pop("refusal")


def _add(kept: Json, said: Json, without: frozenset[str]) -> None:
    for name, value in said.items():
        if kept.get(name) is None and name not in without:
            kept[name] = value


def _is_guarded() -> bool:
    library = seams.library()
    guardrail = seams.guardrail()
    return any(isinstance(one, guardrail) for one in library.callbacks)


PATCH = Patch(
    name="whole_answers",
    install=apply,
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
