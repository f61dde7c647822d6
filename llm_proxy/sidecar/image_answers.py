"""Image calls between the gateway and LiteLLM's function: prepared, run, and answered whole or as a stream.

Invariants: LiteLLM makes every call as a whole one; a stream ends with what it used, or in one error event;
an answer of OpenAI's format leaves as it was sent.
"""

import json
from collections.abc import Coroutine
from functools import partial
from importlib import import_module

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import USAGE_COMMENT
from llm_proxy.sidecar import answer_usage, images
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.event_channel import EventChannel, StreamedCall
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.opaque_calls import EXTRA_FIELDS, UnreadableAnswerError

EVENT_STREAM = "text/event-stream"


async def prepare(request: Untyped, outcome: CallOutcome) -> None:
    """Note whether a request asks for a stream; hide that from LiteLLM, and fields that it need not place.

    Invalid JSON is left to LiteLLM.
    """
    try:
        body = as_object(json.loads(await request.body()))
    except ValueError:
        body = {}
    streams = body.pop("stream", None) is True
    body.pop(EXTRA_FIELDS, None)  # they are added to the provider's request
    outcome.images = images.ImageCall(EventChannel() if streams else None)
    if body:
        request._body = json.dumps(body).encode()  # noqa: SLF001 -- where Starlette keeps it; LiteLLM parses it


async def respond(
    name: Endpoint, call: Coroutine[Untyped, Untyped, Untyped], outcome: CallOutcome
) -> Untyped:
    """Run LiteLLM's function; return its response, the bytes of its answer, or a response with its events.

    Raises what LiteLLM raises, and `UnreadableAnswerError` for an answer without a picture.
    """
    events = outcome.images.events if outcome.images is not None else None
    if events is None:
        return _whole(name, await call, outcome)
    running, streaming = StreamedCall(call, events), import_module("starlette.responses").StreamingResponse
    if await running.begin():
        sent = running.events(partial(_usage, name, outcome), outcome.set_error_if_none)
        return streaming(sent, headers=_routing_headers(outcome), media_type=EVENT_STREAM)
    answer = _whole(name, running.result(), outcome)
    if not isinstance(answer, bytes):
        return answer
    made = [images.events_of(as_object(json.loads(answer)), name), _comment(outcome.stated_usage)]
    return streaming(iter(made), headers=_routing_headers(outcome), media_type=EVENT_STREAM)


def _whole(name: Endpoint, result: Untyped, outcome: CallOutcome) -> Untyped:
    if hasattr(result, "render"):
        return result
    answer_usage.state(outcome, name, result)
    if outcome.images is not None and outcome.images.answer is not None:
        return outcome.images.answer
    answer: Json = result.model_dump()
    if not answer.get("data"):
        raise UnreadableAnswerError
    return encode(images.translated_answer(answer))


def _usage(name: Endpoint, outcome: CallOutcome, result: Untyped) -> str | None:
    answer_usage.state(outcome, name, result)
    return outcome.stated_usage


def _comment(usage: str | None) -> bytes:
    return USAGE_COMMENT + usage.encode() + b"\n\n" if usage is not None else b""


def _routing_headers(outcome: CallOutcome) -> dict[str, str]:
    """Return LiteLLM's headers that name the deployment, which it adds to whole answers alone."""
    if not outcome.attempts:
        return {}
    last = outcome.attempts[-1]
    named = {"x-litellm-model-id": last.deployment, "x-litellm-model-group": last.group}
    return {name: value for name, value in named.items() if value.isascii() and value.isprintable()}
