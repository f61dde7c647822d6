"""Streams in OpenAI's format pass frame by frame as sent; only the model's name and the cost change.

Invariants: an unreadable frame, an error in a frame, or an end without a finish reason for each choice breaks
the stream; LiteLLM logs, prices and caches the complete answer as before, from chunks kept for it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, guardrails, litellm_internals, openai_repair
from llm_proxy.sidecar.event_stream import DONE
from llm_proxy.sidecar.json_repair import encode
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_http, truncated_streams
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.provider_errors import find_failure
from llm_proxy.sidecar.stream_end import DRAIN_TIMEOUT_S
from llm_proxy.token_details import service_tier

PASSTHROUGH_ATTRIBUTE = "_llmp_passthrough"
"""Of LiteLLM's stream: its `PassthroughStream`; None if LiteLLM translates the stream."""
SDK_STREAM = "AsyncStream"
OPENAI_ITERATORS = frozenset(
    {
        "GroqChatCompletionStreamingHandler",
        "MistralChatResponseIterator",
        "OpenAIChatCompletionStreamingHandler",
        "OpenRouterChatCompletionStreamingHandler",
        "XAIChatCompletionStreamingHandler",
    }
)
"""LiteLLM's parsers of OpenAI's frames; `openai_repair` makes the same changes to frames."""
XAI_ITERATOR = "XAIChatCompletionStreamingHandler"
TEXT_DELTA_FIELDS = frozenset({"content", "role", "refusal"})


class PassthroughFrame(bytes):
    """An encoded frame; a class, because LiteLLM sets attributes on what it passes along."""


def install() -> None:
    """Patch the stream wrapper; before LiteLLM's start."""
    litellm_internals.forget_hook(litellm_internals.RESPONSE_IDS_HOOK)
    wrapper = litellm_internals.stream_wrapper_class()

    async def pass_or_translate(self: Untyped) -> Untyped:
        stream = self.__dict__.get(PASSTHROUGH_ATTRIBUTE, self)
        if stream is self:
            stream = self.__dict__[PASSTHROUGH_ATTRIBUTE] = _passthrough(self)
        return await (translate(self) if stream is None else stream.next_frame())

    translate = replace(wrapper, "__anext__", pass_or_translate)
    texts = litellm_internals.text_stream_wrapper_class()

    def pass_frame(self: Untyped, chunk: Untyped) -> Untyped:
        return chunk if isinstance(chunk, PassthroughFrame) else convert(self, chunk)

    convert = replace(texts, "convert_to_text_completion_object", pass_frame)


def _passthrough(stream: Untyped) -> "PassthroughStream | None":
    """Return what passes LiteLLM's stream on; None if LiteLLM translates it."""
    lines = _openai_lines(stream) if _may_pass_through(stream) else None
    if lines is None:
        return None
    options = _stream_options(stream)
    stream.logging_obj.client_facing_stream_model = options["name"] or None  # its log's name after the price
    return STREAM_TYPES[stream.logging_obj.call_type](stream, lines, **options)


def _may_pass_through(stream: Untyped) -> bool:
    """Whether no callback reads this stream frame by frame."""
    if stream.logging_obj.call_type not in STREAM_TYPES or stream.merge_reasoning_content_in_choices:
        return False
    hooks = litellm_internals.proxy_module().proxy_logging_obj
    if not hooks.needs_iterator_wrap() and not hooks.needs_per_chunk_streaming_hook():
        return True
    only_guardrails = guardrails.only_guardrails_read_streams()
    return only_guardrails and not guardrails.may_check_running_call(*_call_of(stream))


def _call_of(stream: Untyped) -> tuple[Json, Json]:
    """Return LiteLLM's metadata of the stream's call, and the request's body."""
    params = as_object(as_object(stream.logging_obj.model_call_details).get("litellm_params"))
    request = as_object(params.get("proxy_server_request"))
    return as_object(params.get("metadata")), as_object(request.get("body"))


def _stream_options(stream: Untyped) -> dict[str, Any]:
    """Return the model's name for the answer, and whether the caller gets the usage."""
    metadata, request = _call_of(stream)
    included = as_object(request.get("stream_options")).get("include_usage")
    wants_usage = bool(included) and not request.get("_litellm_strip_stream_usage")
    return {"name": _name(metadata, request), "wants_usage": wants_usage}


def _openai_lines(stream: Untyped) -> AsyncIterator[str] | None:
    """Return the lines of a provider's stream in OpenAI's format; None if LiteLLM must translate it."""
    source = stream.completion_stream
    lines: AsyncIterator[str] | None = None
    if type(source).__name__ == SDK_STREAM:
        lines = source.response.aiter_lines()
    elif type(source).__name__ in OPENAI_ITERATORS and not source.json_mode:
        lines = source.streaming_response
    elif getattr(source, "__name__", "") == truncated_streams.MOCK_STREAM:
        as_text = stream.logging_obj.call_type == "atext_completion"
        lines = truncated_streams.mock_lines(source, as_text=as_text)
    return lines


class PassthroughStream:
    """One stream in OpenAI's format: passes its frames on, and keeps chunks for LiteLLM's log and cache."""

    def __init__(self, stream: Untyped, lines: AsyncIterator[str], name: str, *, wants_usage: bool) -> None:
        """Create it.

        Args:
            stream: LiteLLM's object for the stream.
            lines: The provider's events.
            name: The model's name for the answer.
            wants_usage: Whether the caller gets the usage.
        """
        self._stream = stream
        self._lines = lines
        self._name, self._wants_usage = name, wants_usage
        self._texts: dict[int, Untyped] = {}
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._repair = openai_repair.StreamRepair()
        self._tier: str | None = None
        self._ended = False

    async def next_frame(self) -> Untyped:
        """Return the next frame; raise `StopAsyncIteration` after the last, or LiteLLM's exception."""
        stream = self._stream
        while not self._ended:
            was_open = self.is_open
            try:
                frame = await self.read_frame()
            except Exception as error:  # noqa: BLE001 -- LiteLLM logs and maps any exception
                if was_open or self.is_open or hasattr(error, provider_http.STATED_FAILURE_MARK):
                    stream._log_stream_failure_and_raise(error)  # noqa: SLF001 -- as its own loop does
                frame = None
            if frame is not None:
                return frame
            if self.is_open:
                stream._log_stream_failure_and_raise(truncated_streams.truncated_error(stream))  # noqa: SLF001 -- the same
            self._ended = stream.sent_last_chunk = True
        return await stream._finalize_completed_stream(cache_hit=False)  # noqa: SLF001 -- logs and caches

    @property
    def is_open(self) -> bool:
        """Whether a choice has no finish reason yet, so that the end of the stream would be an error."""
        return not self._finished or bool(self._begun - self._finished)

    @property
    def holds_text(self) -> bool:
        """Whether a text of the frames so far is added to that of a later frame."""
        return self._repair.holds_text

    async def read_frame(self) -> PassthroughFrame | None:
        """Return the next frame to send; None at the end."""
        async for line in self._lines:
            payload = line[5:].strip() if line.startswith("data:") else ""
            if payload == DONE:
                await self._drain()
                return None
            chunk = self._convert(payload) if payload else None
            if chunk is not None:
                return PassthroughFrame(b"data: " + encode(chunk) + b"\n\n")
        return None

    async def _drain(self) -> None:
        """Read the rest of the body, so that the connection can be reused."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                async for _ in self._lines:
                    pass

    def _convert(self, payload: str) -> Json | None:
        """Return the frame's data for the caller; None if there is nothing to send."""
        chunk = as_object(json.loads(payload))
        if not chunk:
            raise ValueError("no chunk in a frame")
        failure = find_failure(chunk)
        if failure is not None:
            provider_http.raise_stated_failure(failure)
        chunk.pop("error", None)  # it states none; a frame that begins with it would end the stream
        for choice in map(as_object, as_list(chunk.get("choices"))):
            call_outcome.record_finish_reason(
                openai_repair.informative_finish_reason(choice.get("finish_reason"))
            )
        self._note_tier(chunk)
        self._repair_and_keep(chunk)
        return self._for_caller(chunk)

    def _note_tier(self, chunk: Json) -> None:
        self._tier = service_tier(chunk, as_object(chunk.get("usage"))) or self._tier
        if self._tier and chunk.get("usage"):
            chunk["service_tier"] = self._tier

    def _for_caller(self, chunk: Json) -> Json | None:
        """Return a frame that is repaired as the caller gets it; None if there is nothing to send."""
        usage = self._complete_usage(chunk.pop("usage", None))
        if usage:
            self._stream.sent_stream_usage = True
            if self._wants_usage:
                chunk["usage"] = self._with_cost(chunk | {"usage": usage})
            elif not chunk.get("choices"):
                return None
        return chunk | {"model": self._name}

    def _repair_and_keep(self, chunk: Json) -> None:
        """Repair a frame, and keep a chunk of it for LiteLLM."""
        self._repair.repair_chunk(chunk)
        self._keep(chunk)

    def _complete_usage(self, usage: Json | None) -> Json | None:
        """Return a frame's usage; LiteLLM's parser for xAI adds reasoning to the completion tokens."""
        source = self._stream.completion_stream
        if not usage or type(source).__name__ != XAI_ITERATOR:
            return usage
        frame: Json = {"id": "", "created": 0, "model": "", "choices": [], "usage": dict(usage)}
        return usage | as_object(source.chunk_parser(frame).usage.model_dump(exclude_none=True))

    def _with_cost(self, chunk: Json) -> Json:
        rate = litellm_internals.request_processing_class()._inject_cost_into_usage_dict  # noqa: SLF001 -- as for any other stream
        priced = as_object(as_object(rate(chunk, self._name, self._stream.logging_obj)).get("usage"))
        stated: Json = chunk["usage"]
        usage = stated | ({openai_repair.STATED_COST_FIELD: stated["cost"]} if "cost" in stated else {})
        usage.pop("cost", None)
        return usage | ({"cost": priced["cost"]} if priced else {})

    def _keep(self, chunk: Json) -> None:
        """Note which choices have ended, and keep a frame."""
        choices: list[Json] = chunk["choices"]
        for choice in choices:
            at = choice["index"]
            self._begun.add(at)
            if at in self._finished:
                choice["finish_reason"] = None
            elif choice.get("finish_reason") is not None:
                self._finished.add(at)
                self._stream.received_finish_reason = choice["finish_reason"]
        self._keep_for_log(chunk)

    def _keep_for_log(self, chunk: Json) -> None:
        """Keep a frame for LiteLLM: text is appended to the last chunk, anything else is a new chunk."""
        choices: list[Json] = chunk["choices"]
        if len(choices) == 1 and not chunk.get("usage") and self._append_text(choices[0]):
            return
        self._texts.clear()
        kept = self._litellm_chunk(chunk)
        self._stream.chunks.append(kept)
        if len(choices) == 1 and not choices[0].get("finish_reason"):
            self._texts[choices[0]["index"]] = kept.choices[0].delta
        if len(self._stream.chunks) == 1:
            self._stream.sent_first_chunk = True
            self._stream.logging_obj.update_completion_start_time(completion_start_time=datetime.now())  # noqa: DTZ005 -- LiteLLM's clock

    def _litellm_chunk(self, chunk: Json) -> Untyped:
        """Return LiteLLM's chunk of a frame; if LiteLLM cannot parse it, one with text and ends only."""
        create = self._stream.model_response_creator
        try:
            return create(chunk=chunk | {"model": self._stream.model})
        except Exception:  # noqa: BLE001 -- a field that only the caller reads must not break the stream
            plain = [
                {
                    "index": choice["index"],
                    "finish_reason": choice.get("finish_reason"),
                    "delta": {
                        "content": text if isinstance(text := choice["delta"].get("content"), str) else ""
                    },
                }
                for choice in chunk["choices"]
            ]
            return create(
                chunk={"id": str(chunk.get("id") or ""), "model": self._stream.model, "choices": plain}
            )

    def _append_text(self, choice: Json) -> bool:
        """Append a choice that is text only to the delta kept for it; return whether that was possible."""
        delta, kept = as_object(choice.get("delta")), self._texts.get(choice["index"])
        text: object = delta.get("content")
        if kept is None or not isinstance(text, str) or not delta.keys() <= TEXT_DELTA_FIELDS:
            return False
        if delta.get("refusal") or choice.get("finish_reason") or choice.get("logprobs"):
            return False
        self._append(kept, text)
        return True

    def _append(self, kept_delta: Untyped, text: str) -> None:
        kept_delta.content = f"{kept_delta.content or ''}{text}"


class TextPassthroughStream(PassthroughStream):
    """A text completion's stream: its choices have a `text` instead of a `delta`, also if a chat is sent."""

    def _repair_and_keep(self, chunk: Json) -> None:
        chunk["object"] = "text_completion"
        for choice in map(as_object, as_list(chunk.get("choices"))):
            if "delta" in choice:
                choice |= {"text": as_object(choice.pop("delta")).get("content"), "logprobs": None}
        self._repair.repair_text_chunk(chunk)
        kept = [
            {
                "index": choice["index"],
                "finish_reason": choice["finish_reason"],
                "delta": {"role": "assistant", "content": choice["text"]},
            }
            for choice in chunk["choices"]
        ]
        self._keep(chunk | {"object": "chat.completion.chunk", "choices": kept})
        for choice, as_chat in zip(chunk["choices"], kept, strict=True):
            choice["finish_reason"] = as_chat["finish_reason"]


STREAM_TYPES = {"acompletion": PassthroughStream, "atext_completion": TextPassthroughStream}
"""LiteLLM's call types -> the class for their streams."""


def _name(metadata: Json, request: Json) -> str:
    """Return the model's name for the answer: the caller's, or the group of a fallback that served."""
    group = str(metadata.get("model_group") or "")
    return group if metadata.get("attempted_fallbacks") and group else str(request.get("model") or group)


PATCH = LiteLLMPatch(
    name="frames",
    install=install,
    reason=(
        "LiteLLM parses and rebuilds frames in OpenAI's format, at half a millisecond each; refusals and the "
        "ends of all choices but the first are lost; a text completion's choices are joined into one."
    ),
    until="LiteLLM passes such frames on unchanged.",
    tests=(
        "tests/stages/sidecar/test_passthrough.py::test_only_the_model_s_name_changes_in_a_frame",
        "tests/stages/sidecar/test_passthrough.py::test_a_refusal_is_streamed",
        "tests/stages/sidecar/test_passthrough.py::test_every_choice_of_a_stream_ends",
        "tests/stages/sidecar/test_stream_repair.py::test_each_choice_of_a_text_completion_is_complete",
        "tests/stages/dialects/test_default_values.py::test_a_chat_model_s_text_completion_is_streamed_as_text",
    ),
)
