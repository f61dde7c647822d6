"""Transcriptions and translations of audio: what the provider answered passes as it was sent, in any format.

Invariants: a stream ends with its provider's last event, then what it used in a comment, or in one error
event. Where LiteLLM translates the answer of another provider, it is JSON, or its text alone. A text that a
guardrail changed is sent without its parts (segments, words, log probabilities), which hold the old one.
"""

import json
from collections.abc import AsyncIterator, Iterable
from importlib import import_module

from llm_proxy.endpoints import ENDPOINTS, Endpoint
from llm_proxy.json_access import Json, as_object, read_object
from llm_proxy.quantities import usage_comment
from llm_proxy.sidecar import answer_usage, litellm_internals
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.event_stream import BROKEN_EVENT, EVENT_STREAM, EventDecoder, ServerSentEvent
from llm_proxy.sidecar.forms import FormFile, SentForm, read_form
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sse import FrameGate

DELTA_EVENT, LAST_EVENT = "transcript.text.delta", "transcript.text.done"
PLAIN_TYPE = "text/plain; charset=utf-8"
PARTS = frozenset({"segments", "words", "logprobs"})
"""Of a transcript in JSON."""


class HeldEvents:
    """The events of a stream that guardrails see before it is sent; read as a provider's response is.

    Attributes:
        last: The last event.
    """

    def __init__(self, events: bytes, last: Json) -> None:
        self.last = last
        self._events = events

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Yield the events."""
        yield self._events

    async def aclose(self) -> None:
        """Do nothing: all has been read."""

    def masked(self, text: str) -> "HeldEvents":
        """Return the events with this text."""
        last = {**_without_parts(self.last), "text": text}
        events = ({"type": DELTA_EVENT, "delta": text}, last)
        return HeldEvents(b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in events), last)


async def transcribe(name: Endpoint, request: Untyped, head: Untyped, outcome: CallOutcome) -> Untyped:
    """Return the response to a call with a form; raises what LiteLLM's function raises.

    Args:
        name: The operation.
        request: A starlette request.
        head: Takes LiteLLM's headers.
        outcome: The call's record.
    """
    endpoint = ENDPOINTS[name]
    async with read_form(request, endpoint.path.removeprefix("/v1")) as form:
        outcome.form = form
        file = next((FormFile(one, form.operation) for one in form.files if one.name == "file"), None)
        answer = await litellm_internals.call_endpoint(endpoint, request, head, file=file)
    hidden = as_object(getattr(answer, answer_usage.HIDDEN, None))
    if form.masked is not None:
        answer = _mask(form, answer, form.masked)
    if form.stream is not None:
        outcome.states_cost = True
        return _response("StreamingResponse", _events(form, name, outcome), EVENT_STREAM, head)
    if form.answer is not None:
        answer_usage.state(outcome, name, form.document | {answer_usage.HIDDEN: hidden})
        return _response("Response", form.answer, form.content_type or PLAIN_TYPE, head)
    if form.fields.get("response_format") == "text":
        answer_usage.state(outcome, name, answer)
        return _response("Response", f"{answer.text}\n", PLAIN_TYPE, head)
    return answer


def _mask(form: SentForm, answer: Untyped, text: str) -> Untyped:
    """Put a changed text into what is to be sent; return LiteLLM's answer with it alone."""
    if form.stream is not None:
        form.stream = form.stream.masked(text)
    elif form.answer is not None:
        masked = json.dumps({**_without_parts(form.document), "text": text}) if form.document else text
        form.answer = masked.encode()
    made = type(answer)(text=text)
    setattr(made, answer_usage.HIDDEN, getattr(answer, answer_usage.HIDDEN, None))
    return made


def _without_parts(document: Json) -> Json:
    return {name: value for name, value in document.items() if name not in PARTS}


def _response(kind: str, content: Untyped, content_type: str, head: Untyped) -> Untyped:
    """Return a response with LiteLLM's headers."""
    response = getattr(import_module("starlette.responses"), kind)(content, media_type=content_type)
    replaced = {"content-type", "content-length"}
    for name, value in head.headers.items():
        if name.lower() not in replaced:
            response.headers[name] = value
    return response


def last_event(events: Iterable[ServerSentEvent]) -> Json | None:
    """Return the last event of a transcription among these, parsed; None if it is not there."""
    documents = (read_object(event.data) for event in events)
    return next((one for one in documents if one.get("type") == LAST_EVENT), None)


async def _events(form: SentForm, name: Endpoint, outcome: CallOutcome) -> AsyncIterator[bytes]:
    """Yield a provider's events as they come, then what they used; or the mark of an error event."""
    decoder, gate, last = EventDecoder(), FrameGate(), None
    try:
        async for chunk in form.stream.aiter_bytes():
            last = last_event(decoder.feed(chunk)) or last
            if frames := gate.feed(chunk):
                yield frames
        last = last_event(decoder.flush()) or last
        if last is not None and (rest := gate.close()):
            yield rest + b"\n\n"
    except Exception:  # noqa: BLE001 -- whatever broke the stream
        yield BROKEN_EVENT
        return
    finally:
        await form.stream.aclose()
    if last is None:
        yield BROKEN_EVENT
        return
    answer_usage.state(outcome, name, last)
    yield usage_comment(outcome.stated_usage)
