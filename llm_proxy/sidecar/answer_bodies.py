"""The body of a complete answer that LiteLLM's endpoint function returned.

Invariants: the provider's fields that LiteLLM dropped are added, those that it invented are removed; only an
unknown finish reason is replaced; text and tool calls are never put back, and with a guardrail nothing is;
usage not stated or counted is left out. Without the patch `whole_answers` a body stays as LiteLLM made it.
"""

import json

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import litellm_internals, openai_repair
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import installed

TRANSLATED_FIELDS = frozenset({"content", "function_call", "role", "tool_calls"})
"""Fields of a message that keep LiteLLM's value."""
TRANSLATED_TOP_FIELDS = frozenset({"choices", "error", "model", "usage"})
"""Fields of an answer that keep LiteLLM's value."""
VERTEX_PREFIX = "vertex_ai_"
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def render_completion(result: Untyped, outcome: CallOutcome) -> bytes:
    """Return the body of a complete answer that LiteLLM's endpoint function returned."""
    if outcome.native_answer is not None and not litellm_internals.has_guardrail():
        return outcome.native_answer
    if hasattr(result, "model_dump_json"):
        raw: str = result.model_dump_json()
        needs_nothing = outcome.original is None and (
            outcome.states_tokens or _has_token_counts(getattr(result, "usage", None))
        )
        if needs_nothing or "whole_answers" not in installed:
            return raw.encode()
        result = json.loads(raw)
    if "whole_answers" in installed:
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
