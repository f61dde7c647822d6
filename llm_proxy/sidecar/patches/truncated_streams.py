"""A stream that ended early is an error, not an answer.

Invariants: a stream without a finish reason, from any provider, or with a frame that cannot be parsed ends as
a failure: logged, not cached, one error event. Anthropic's and Gemini's parsers record the provider's own
reasons. The stream of a `mock_response` states its reasons.
"""

import json
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.sidecar import call_outcome, litellm_internals, openai_repair, provider_answers
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_http
from llm_proxy.sidecar.patches.patch import LiteLLMPatch, replace
from llm_proxy.sidecar.provider_errors import is_failure_reason

CACHED_PROVIDER = "cached_response"
"""LiteLLM's provider of a replayed stream."""
ANTHROPIC_REASON_STATED = "_llmp_reason_stated"
GEMINI_MODULE = "litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini"
GEMINI_NO_REASON = (None, "", "FINISH_REASON_UNSPECIFIED")
GEMINI_FINISHED = "_llmp_finished"
MOCK_STREAM = "finished_mock_stream"
"""The name of the async generator of a `mock_response`."""


def install() -> None:
    """Patch the HTTP client, the stream wrapper and the frame parsers; before the first call."""
    provider_http.install()
    _patch_stream_end()
    _patch_frame_parser()
    _record_gemini_finish(import_module(GEMINI_MODULE).ModelResponseIterator)
    _patch_anthropic_parser()
    _patch_mock_stream()


def _patch_stream_end() -> None:
    wrapper = litellm_internals.stream_wrapper_class()

    async def finish_if_finished(self: Untyped, *, cache_hit: bool) -> Untyped:
        if not self.sent_last_chunk and not _is_finished(self):
            self._log_stream_failure_and_raise(truncated_error(self))
        call_outcome.record_stream_end()
        return await finish(self, cache_hit=cache_hit)

    finish = replace(wrapper, "_finalize_completed_stream", finish_if_finished)


def _is_finished(stream: Untyped) -> bool:
    if stream.custom_llm_provider == CACHED_PROVIDER:
        return True
    finished = _gemini_finished(stream)
    if finished is not None:
        return finished
    reason = stream.received_finish_reason or stream.intermittent_finish_reason
    return bool(reason) and not is_failure_reason(reason)


def truncated_error(stream: Untyped) -> Exception:
    """Return the exception for a stream that ended early."""
    message = "the provider's stream ended without a finish reason"
    return litellm_internals.bad_gateway(message, model=stream.model, provider=stream.custom_llm_provider)


def _patch_frame_parser() -> None:
    frames = import_module("litellm.llms.base_llm.base_model_iterator").BaseModelResponseIterator

    def parse_or_fail(str_line: str) -> Untyped:
        found = parse(str_line)
        if found is None and str_line[:5] != "data:" and not str_line.startswith("{"):
            return found
        if found is None and not _is_json(str_line.removeprefix("data:").strip()):
            raise ValueError("a frame that is not JSON")
        if "choices" in (frame := as_object(found)):
            openai_repair.repair_chunk(frame)
        elif "done" in frame:
            provider_answers.repair_ollama(frame)
        return found

    parse = replace(frames, "_string_to_dict_parser", parse_or_fail)


def _is_json(payload: str) -> bool:
    if not payload or "[DONE]" in payload:
        return True
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


def _patch_anthropic_parser() -> None:
    """End a stream only by a stop reason in a `message_delta`, or by `message_stop`.

    LiteLLM parses a missing stop reason as "stop".
    """
    iterator = import_module("litellm.llms.anthropic.chat.handler").ModelResponseIterator

    def read_delta_as_stated(self: Untyped, chunk: Json) -> Untyped:
        reason, *rest = read_delta(self, chunk)
        if not as_object(chunk.get("delta")).get("stop_reason"):
            return ("", *rest)
        setattr(self, ANTHROPIC_REASON_STATED, True)
        return (reason, *rest)

    def parse_to_the_end(self: Untyped, chunk: Json) -> Untyped:
        parsed = parse(self, chunk)
        if chunk.get("type") == "message_stop" and not getattr(self, ANTHROPIC_REASON_STATED, False):
            parsed.choices[0].finish_reason = "stop"
        return parsed

    read_delta = replace(iterator, "_handle_message_delta", read_delta_as_stated)
    parse = replace(iterator, "chunk_parser", parse_to_the_end)


def _gemini_finished(stream: Untyped) -> bool | None:
    """Whether Gemini stated a finish reason or a blocked prompt; None for another provider's stream."""
    frames = stream.completion_stream
    if type(frames).__module__ != GEMINI_MODULE:
        return None
    return bool(getattr(frames, GEMINI_FINISHED, False))


def _record_gemini_finish(frames: Untyped) -> None:
    """Record Gemini's own end: LiteLLM parses a missing finish reason as "stop", in every frame."""

    def parse_and_record(self: Untyped, chunk: dict[str, Any]) -> Untyped:
        provider_answers.repair_gemini(chunk)
        blocked = as_object(chunk.get("promptFeedback")).get("blockReason")
        if blocked or any(
            as_object(one).get("finishReason") not in GEMINI_NO_REASON
            for one in as_list(chunk.get("candidates"))
        ):
            setattr(self, GEMINI_FINISHED, True)
        return parse(self, chunk)

    parse = replace(frames, "chunk_parser", parse_and_record)


def _patch_mock_stream() -> None:
    """State a finish reason for each choice; LiteLLM's stream of a `mock_response` has none."""
    main: Untyped = import_module("litellm.main")

    async def finished_mock_stream(model_response: Untyped, **call: Untyped) -> AsyncIterator[Untyped]:
        is_finished = False
        async for chunk in stream_text(model_response, **call):
            if not chunk.choices and not is_finished:
                is_finished = True
                yield _finish_choices(model_response)
            yield chunk
        if not is_finished:
            yield _finish_choices(model_response)

    stream_text = replace(main, "async_mock_completion_streaming_obj", finished_mock_stream)


def _finish_choices(chunk: Untyped) -> Untyped:
    for choice in chunk.choices:
        choice.delta = type(choice.delta)()
        choice.finish_reason = "stop"
    return chunk


async def mock_lines(chunks: AsyncIterator[Untyped], *, as_text: bool) -> AsyncIterator[str]:
    """Yield the chunks of a `mock_response` as lines of a provider, of a text completion or of a chat."""
    is_first = True
    async for chunk in chunks:
        frame = chunk.model_dump(exclude_none=True)
        for choice in frame["choices"]:
            text = choice.pop("delta").get("content")
            choice.setdefault("finish_reason", None)
            if as_text:
                choice["text"] = text or ""
            else:
                role = {"role": "assistant"} if is_first else {}
                choice["delta"] = role | ({"content": text} if text else {})
        if as_text:
            frame["object"] = "text_completion"
        is_first = False
        yield f"data: {json.dumps(frame)}"
        yield ""
    yield "data: [DONE]"


PATCH = LiteLLMPatch(
    name="broken_streams",
    install=install,
    reason=(
        "A provider's stream that ends early becomes a complete answer: an invented finish reason, "
        "[DONE], a success, a cache entry. What came shortly before a break is lost. A stream that "
        "HTTP's rules do not allow never ends, and an answer that was not asked for is the next call's."
    ),
    report="https://github.com/BerriAI/litellm/pull/42140 (opt-in strict completion, not merged)",
    until="LiteLLM raises on a stream without a terminal finish reason, for every provider.",
    tests=(
        "tests/stages/sidecar/test_truncated_streams.py::test_a_truncated_stream_is_an_error",
        "tests/stages/sidecar/test_truncated_streams.py::test_a_truncated_text_completion_is_an_error",
        "tests/stages/sidecar/test_truncated_streams.py::test_the_stream_of_a_mock_is_complete",
    ),
)
