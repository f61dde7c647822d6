"""Image calls between the gateway and LiteLLM's function: prepared, run, and answered whole or as a stream.

Invariants: LiteLLM makes every call as a whole one; a stream ends with what it used, or in one error event;
an answer of OpenAI's format leaves as it was sent.
"""

import json
from collections.abc import Coroutine
from functools import partial
from importlib import import_module

from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import usage_comment
from llm_proxy.sidecar import answer_usage, images, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.event_channel import EventChannel, StreamedCall
from llm_proxy.sidecar.event_stream import EVENT_STREAM
from llm_proxy.sidecar.image_edits import read_edit
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.opaque_calls import EXTRA_FIELDS, UnreadableAnswerError


async def make_images(
    name: Endpoint, request: Untyped, body: Json, head: Untyped, outcome: CallOutcome
) -> Untyped:
    """Return LiteLLM's response to an image call, the bytes of its answer, or a response with its events.

    Args:
        name: The operation.
        request: A starlette request.
        body: Of a generation.
        head: Takes LiteLLM's headers.
        outcome: The call's record.

    Raises:
        UnreadableAnswerError: The answer has no picture. Beside it what LiteLLM raises.
    """
    call = partial(litellm_internals.call_endpoint, ENDPOINTS[name], request, head)
    if name == "images.generations":
        _hide_stream(request, body, outcome)
        return await _respond(name, call(), outcome)
    async with read_edit(request) as sent:
        outcome.images = images.ImageCall(EventChannel() if sent.streams else None, edit=sent)
        image, mask = sent.upload("image"), sent.upload("mask")
        return await _respond(name, call(image=image, mask=mask, image_array=None, mask_array=None), outcome)


def _hide_stream(request: Untyped, body: Json, outcome: CallOutcome) -> None:
    """Note whether a request asks for a stream, and hide that from LiteLLM."""
    outcome.images = images.ImageCall(EventChannel() if body.get("stream") is True else None)
    hidden = ("stream", EXTRA_FIELDS)  # the latter are added to the provider's request
    litellm_internals.show_body(request, {name: body[name] for name in body if name not in hidden})


async def _respond(
    name: Endpoint, call: Coroutine[Untyped, Untyped, Untyped], outcome: CallOutcome
) -> Untyped:
    """Run LiteLLM's function; see `make_images`."""
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
    made = [images.events_of(as_object(json.loads(answer)), name), usage_comment(outcome.stated_usage)]
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


def _routing_headers(outcome: CallOutcome) -> dict[str, str]:
    """Return LiteLLM's headers that name the deployment, which it adds to whole answers alone."""
    if not outcome.attempts:
        return {}
    last = outcome.attempts[-1]
    named = {"x-litellm-model-id": last.deployment, "x-litellm-model-group": last.group}
    return {name: value for name, value in named.items() if value.isascii() and value.isprintable()}
