"""Native calls reach their provider, and their answers the gateway, as they were sent.

Invariants: of Claude's fields thinking (but a caller's budget), effort and temperature keep LiteLLM's value,
fitted to the model; with a guardrail LiteLLM sees every answer itself; a stream ends with its provider's last
event, or in one error event; what it cost follows in a comment. `google_wire` has Google's format.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json, as_object, read_object
from llm_proxy.quantities import COST_COMMENT
from llm_proxy.sidecar import call_outcome, litellm_internals
from llm_proxy.sidecar.event_stream import BROKEN_EVENT
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import google_wire
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sse import FrameGate

RESPONSES = "litellm.llms.openai.responses.transformation"
RESPONSE_EVENTS = "litellm.responses.streaming_iterator"
MESSAGES = "litellm.llms.anthropic.pass_through.messages"
OTHER_MESSAGES = "litellm.llms.openai_like.messages.transformation"
MESSAGE_CHUNKS = "litellm.proxy.pass_through_endpoints.streaming_handler"
FITTED_TO_CLAUDE = frozenset({"model", "thinking", "output_config", "temperature"})
"""Fields of a message that keep LiteLLM's value."""
LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
LAST_EVENT_MARKS = (
    *(name.encode() for name in LAST_EVENTS),
    b"event: error",
    b'"type":"error"',
    b'"type": "error"',
)
NO_LAST_EVENT = "the provider's stream ended without its last event"
USAGE_MARKS = (b"message_start", b"message_delta", b"message_stop")


def install() -> None:
    """Patch LiteLLM's requests, its streams and what it does with their events; before LiteLLM's start."""
    litellm_internals.forget_hook(litellm_internals.RESPONSE_IDS_HOOK)
    _send_responses_as_sent()
    _send_messages_as_sent()
    _read_responses_by_frame()
    _relay_streams()
    google_wire.install(_relays)


def _send_responses_as_sent() -> None:
    config = import_module(RESPONSES).OpenAIResponsesAPIConfig

    def transform_as_sent(
        self: Untyped,
        *,
        input: Untyped,  # noqa: A002 -- LiteLLM's name
        response_api_optional_request_params: Json,
        **options: Untyped,
    ) -> Untyped:
        body = call_outcome.native_body()
        rest = {
            name: value for name, value in response_api_optional_request_params.items() if name not in body
        }
        sent = transform(
            self,
            input="" if body else input,
            response_api_optional_request_params=rest,
            **options,
        )
        return {**sent, **body, "model": sent["model"]} if body else sent

    def map_nothing(self: Untyped, response_api_optional_params: Json, **options: Untyped) -> Untyped:
        if call_outcome.is_native():
            return dict(response_api_optional_params)
        return map_fields(self, response_api_optional_params=response_api_optional_params, **options)

    def fake_stream(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        return not call_outcome.is_native() and fakes_stream(self, *args, **options)

    transform = replace(config, "transform_responses_api_request", transform_as_sent)
    map_fields = replace(config, "map_openai_params", map_nothing)
    fakes_stream = replace(config, "should_fake_stream", fake_stream)


def _send_messages_as_sent() -> None:
    config = import_module(f"{MESSAGES}.transformation").AnthropicMessagesConfig
    relayed = (config, import_module(OTHER_MESSAGES).OpenAILikeAnthropicMessagesConfig)
    fields = import_module(f"{MESSAGES}.utils").AnthropicMessagesRequestUtils

    def transform_as_sent(self: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        sent = transform(self, *args, **options)
        if type(self) not in relayed:
            return sent  # a cloud has fields and rules of its own
        body = call_outcome.native_body()
        kept = {name: value for name, value in body.items() if name not in FITTED_TO_CLAUDE}
        if _thinks_on_a_budget(body) and _thinks_on_a_budget(sent):
            kept["thinking"] = body["thinking"]  # LiteLLM's budget is that of the effort beside it
        return sent | kept

    def read_and_price(self: Untyped, **options: Untyped) -> Untyped:
        answer = read_answer(self, **options)
        if call_outcome.is_native():
            usage = as_object(answer.get("usage"))
            call_outcome.record_native_cost(message_cost(usage, options["logging_obj"]))
        return answer

    def choose_without_model(params: Untyped, *, model: str | None = None, **options: Untyped) -> Untyped:
        return choose(params, model=None if call_outcome.is_native() else model, **options)

    transform = replace(config, "transform_anthropic_messages_request", transform_as_sent)
    read_answer = replace(config, "transform_anthropic_messages_response", read_and_price)
    choose = replace(fields, "get_requested_anthropic_messages_optional_param", choose_without_model)


def _thinks_on_a_budget(body: Json) -> bool:
    return as_object(body.get("thinking")).get("type") == "enabled"


def _events(frames: bytes) -> list[Json]:
    """Return the JSON objects of events; what is none is left out."""
    found: list[Json] = []
    for frame in frames.split(b"\n\n"):
        data = b"\n".join(line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:"))
        if event := read_object(data):
            found.append(event)
    return found


def _read_responses_by_frame() -> None:
    """Yield a Responses stream as bytes; LiteLLM parses its last event alone, for the log and the cost."""
    stream = import_module(RESPONSE_EVENTS).ResponsesAPIStreamingIterator

    async def next_frames(self: Untyped) -> Untyped:
        if not _relays():
            return await step(self)
        try:
            return await _next_frames(self)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.finished = True
            self._handle_failure(error)
            await self._await_pending_logging()
            raise

    step = replace(stream, "__anext__", next_frames)


async def _next_frames(stream: Untyped) -> bytes:
    if not hasattr(stream, "llmp_frames"):
        stream.llmp_frames, stream.llmp_chunks = FrameGate(), google_wire.native_chunks(stream.response)
        stream.llmp_stated_error = None
    if stream.llmp_stated_error is not None:
        raise stream.llmp_stated_error
    async for chunk in stream.llmp_chunks:
        stream._check_max_streaming_duration()  # noqa: SLF001 -- as LiteLLM's own step does
        frames: bytes = stream.llmp_frames.feed(chunk)
        if any(mark in frames for mark in LAST_EVENT_MARKS):
            _note_last_event(stream, frames)
        if frames:
            return frames
    stream.finished = True
    stream._raise_if_ended_without_terminal_event()  # noqa: SLF001 -- the same
    raise StopAsyncIteration


def _note_last_event(stream: Untyped, frames: bytes) -> None:
    for event in _events(frames):
        if event.get("type") in LAST_EVENTS or event.get("type") == "error":
            parsed = stream._process_chunk(json.dumps(event))  # noqa: SLF001 -- logs and prices the response
            call_outcome.record_stream_end()
            try:
                stream._maybe_raise_for_error_event(parsed)  # noqa: SLF001 -- the same
            except Exception as error:  # noqa: BLE001 -- raised at the next step, after the events before it
                stream.llmp_stated_error = error


def _relays() -> bool:
    """Whether a call's events are passed on as bytes: not where a guardrail or a callback reads them."""
    return call_outcome.is_native() and not litellm_internals.are_frames_read()


def _relay_streams() -> None:
    """Pass the bytes of a stream on, without LiteLLM's events, fallbacks within a stream, and buffers."""
    proxy, processing = litellm_internals.proxy_module(), litellm_internals.request_processing_class()
    router = litellm_internals.router_class()
    chunks = import_module(MESSAGE_CHUNKS).PassThroughStreamingHandler
    for name in ("_aresponses_streaming_iterator", "_aanthropic_messages_streaming_iterator"):
        setattr(router, name, _unwrapped(getattr(router, name)))

    def responses_or_relay(response: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        if not _relays():
            return generate(response, *args, **options)
        _name_logged(response, options["request_data"])
        return _relay(response, *args, **options)

    def messages_or_relay(**options: Untyped) -> Untyped:
        return _relay(**options) if _relays() else generate_messages(**options)

    def process_to_end(*, response: Untyped, **options: Untyped) -> Untyped:
        if _relays():
            read = google_wire.native_chunks(response)
            response.aiter_bytes = lambda: read
        return process(response=response, **options)

    def price_no_frame(**options: Untyped) -> Untyped:
        return None if _relays() else model_to_price(**options)

    generate = replace(proxy, "select_data_generator", responses_or_relay)
    generate_messages = replace(processing, "async_sse_data_generator", messages_or_relay)
    process = replace(chunks, "chunk_processor", process_to_end)
    model_to_price = replace(chunks, "_extract_model_for_cost_injection", price_no_frame)


def _name_logged(response: Untyped, request: Json) -> None:
    """Have LiteLLM log a response under the name that the caller knows, once it is priced."""
    proxy, logged = litellm_internals.proxy_module(), request.get("litellm_logging_obj")
    if logged is not None and not isinstance(response, google_wire.stream_class()):
        _, fallback, _ = proxy._get_streaming_fallback_metadata(response)  # noqa: SLF001 -- as its own generator does
        asked = proxy._get_client_requested_model_for_streaming(request)  # noqa: SLF001 -- the same
        logged.client_facing_stream_model = fallback or asked or None


def _unwrapped(wrap: Callable[..., Any]) -> Callable[..., Any]:
    async def unless_relayed(self: Untyped, response: Untyped, *args: Untyped, **options: Untyped) -> Untyped:
        return response if _relays() else await wrap(self, response, *args, **options)

    return unless_relayed


async def _relay(
    response: Untyped, user_api_key_dict: Untyped, request_data: Json, request: Untyped = None, **_: Untyped
) -> AsyncGenerator[bytes]:
    """Yield a stream's complete events, and what it cost; or the mark of an error event."""
    logging, complete, left = litellm_internals.proxy_module().proxy_logging_obj, False, False
    is_google = isinstance(response, google_wire.stream_class())
    marks = google_wire.MARKS if is_google else USAGE_MARKS
    frames, usage = FrameGate(), google_wire.ContentUsage() if is_google else MessageUsage()
    try:
        async for chunk in response:
            ready = frames.feed(chunk)
            if any(mark in ready for mark in marks):
                usage.read(_events(ready))
            if ready:
                yield ready
        if usage.is_truncated():
            raise litellm_internals.bad_gateway(NO_LAST_EVENT, model=request_data.get("model"))  # noqa: TRY301 -- handled as any failure
        complete = True
        logged = request_data.get("litellm_logging_obj")
        cost = usage.cost_usd(logged) if usage.stated else _stated_cost(response)
        if is_google:
            await google_wire.log_success(response, cost)
        if cost is not None:
            yield COST_COMMENT + f"{cost:.12f}\n\n".encode()
    except (asyncio.CancelledError, GeneratorExit):
        left = not complete
        raise
    except Exception as error:  # noqa: BLE001 -- whatever broke the stream
        await logging.post_call_failure_hook(
            user_api_key_dict=user_api_key_dict, original_exception=error, request_data=request_data
        )
        complete = True
        yield BROKEN_EVENT
    finally:
        await litellm_internals.request_processing_class().finalize_streaming_generator_cleanup(
            request=request,
            request_data=request_data,
            response=response,
            stream_completed=complete,
            client_disconnected=left,
            user_api_key_dict=user_api_key_dict,
            proxy_logging_obj=logging,
        )


class MessageUsage:
    """The usage of a streamed message, which its first and its last events state in parts."""

    def __init__(self) -> None:
        self.stated: Json = {}
        self.complete = False

    def read(self, events: Iterable[Json]) -> None:
        """Note what events state; record the end."""
        for event in events:
            usage = as_object(as_object(event.get("message")).get("usage") or event.get("usage"))
            self.stated |= {name: value for name, value in usage.items() if value is not None}
            if event.get("type") == "message_stop":
                self.complete = True
                call_outcome.record_stream_end()

    def is_truncated(self) -> bool:
        """Whether a message began and has no last event."""
        return bool(self.stated) and not self.complete

    def cost_usd(self, logging: Untyped) -> float | None:
        """Return what the stream cost; None if it is not known."""
        return message_cost(self.stated, logging)


def _stated_cost(response: Untyped) -> float | None:
    """Return what a complete stream of Responses cost, USD; None if it is not known."""
    ended: Untyped = getattr(response, "completed_response", None)
    stated: Untyped = getattr(getattr(getattr(ended, "response", None), "usage", None), "cost", None)
    return stated if isinstance(stated, int | float) else None


def message_cost(usage: Json, logging: Untyped) -> float | None:
    """Return what a message with this usage cost, USD, by the prices of the deployment that served it.

    LiteLLM states none for a message after a fallback, and of a stream the cost of the output alone.
    """

    def translated() -> Untyped:
        library = litellm_internals.litellm_module()
        counts = library.AnthropicConfig().calculate_usage(usage_object=usage, reasoning_content=None)
        answer = library.ModelResponse(model=logging.model, usage=counts)
        if isinstance(usage.get("service_tier"), str):
            answer.service_tier = usage["service_tier"]
        return answer

    return google_wire.known_cost(translated, logging) if usage else None


PATCH = LiteLLMPatch(
    name="native_calls",
    install=install,
    reason=(
        "LiteLLM rebuilds Responses, Messages and Google's contents for their own providers: what it does "
        "not know of fields is dropped, values its lists lack are rejected, streams of models its "
        "table lacks are asked for whole, events lose names and nulls, a message's stream states the cost of "
        "its output alone, and one of Google's is priced without the deployment's own prices. A stream whose "
        "connection stays open, or breaks, after the last event fails."
    ),
    until="A native call and its stream pass through LiteLLM unchanged, with their complete cost.",
    tests=("tests/stages/sidecar/test_native_calls.py", "tests/stages/sidecar/test_native_google.py"),
)
