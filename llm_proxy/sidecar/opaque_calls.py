"""Calls whose answers the gateway does not parse: what their provider gets, and what is sent of its answer.

Invariants: a field that the gateway passes for the provider reaches it, whatever LiteLLM drops; what an
answer used and cost is stated beside it where it is known; one that does not answer the request is a failure.
"""

import json

from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_object, read_object
from llm_proxy.sidecar import answer_usage, speech
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.moderation import moderation_answer
from llm_proxy.sidecar.rerank import rerank_answer

EXTRA_FIELDS = "extra_body"


class UnreadableAnswerError(Exception):
    """The provider's answer does not answer the request."""


async def prepare_call(name: Endpoint, request: Untyped, outcome: CallOutcome) -> Json:
    """Record the fields that only the provider reads; return the request's body, an empty one for no JSON.

    Args:
        name: The operation; a form is left to what reads its files.
        request: A starlette request.
        outcome: The call's record.
    """
    if ENDPOINTS[name].files:
        return {}
    body = read_object(await request.body())
    outcome.added_fields = as_object(body.get(EXTRA_FIELDS))
    if name == answer_usage.SPEECH:
        speech.prepare(request, body, outcome)
    return body


async def answer_to_send(name: Endpoint, result: Untyped, request: Json, outcome: CallOutcome) -> Untyped:
    """Return the bytes or the response to send for LiteLLM's result, or the result; state what it used.

    Raises:
        UnreadableAnswerError: It does not answer the request; `NoAudioError` where it is no audio.
    """
    if name == answer_usage.SPEECH:
        return await speech.answer(result, request, outcome)
    if isinstance(result, bytes) or hasattr(result, "render"):
        return result
    if name == "rerank":
        model = outcome.attempts[-1].group if outcome.attempts else str(request.get("model"))
        parsed = as_object(result.model_dump(exclude_none=True))
        answer = rerank_answer(parsed, outcome.provider_answer, request, model)
        if answer is None:
            raise UnreadableAnswerError
        cost = as_object(getattr(result, answer_usage.HIDDEN, None)).get("response_cost")
        answer_usage.state(outcome, name, answer, cost_usd=cost)
        return json.dumps(answer, ensure_ascii=False).encode()
    answer_usage.state(outcome, name, result)
    if name == "moderations":
        raw = moderation_answer(outcome.provider_answer or result.model_dump_json().encode(), request)
        if raw is None:
            raise UnreadableAnswerError
        return raw
    return result
