"""Answers in OpenAI's schemas, read: a whole chat, a chunk of a stream, vectors.

Pure. Invariants: a part that is missing, or of another type than the schema says, counts as not there; what
lacks its message or a vector is no answer.
"""

from dataclasses import dataclass

from llm_proxy_service.errors import ProviderError
from llm_proxy_service.json_reading import NOTHING, Json, as_count, as_numbers, as_object, as_objects, as_text
from llm_proxy_service.response import (
    EmbeddingResponse,
    FunctionCall,
    LLMChunk,
    LLMResponse,
    ToolCall,
    ToolCallDelta,
    Usage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who answered a call, and what is known of it beside the answer; the fields as in `LLMResponse`."""

    provider: str = ""
    model: str | None = None
    request_id: str | None = None
    cost: float | None = None
    cached: bool = False


def read_answer(raw: Json, served: Served, latency: float) -> LLMResponse:
    """A whole chat; `latency` in seconds.

    Raises:
        ProviderError: It has no message.
    """
    choice = next(iter(as_objects(raw.get("choices"))), NOTHING)
    message = as_object(choice.get("message"))
    if not message:
        raise _unreadable("has no message", served)
    calls = [_tool_call(call) for call in as_objects(message.get("tool_calls"))]
    older = as_object(message.get("function_call"))
    called = calls[0]["function"] if calls else _function(older) if older else None
    return LLMResponse(
        content=as_text(message.get("content")) or "",
        model=served.model or as_text(raw.get("model")) or "",
        provider=served.provider,
        usage=read_usage(raw) or Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        function_call=called,
        tool_calls=calls,
        refusal=as_text(message.get("refusal")),
        finish_reason=as_text(choice.get("finish_reason")),
        cost=served.cost,
        cached=served.cached,
        request_id=served.request_id,
        latency=latency,
        raw=raw,
    )


def read_chunk(frame: Json, served: Served) -> LLMChunk | None:
    """A frame of a stream; None where it says nothing, as the one that only opens an answer."""
    choice = next((one for one in as_objects(frame.get("choices")) if not one.get("index")), NOTHING)
    delta = as_object(choice.get("delta"))
    chunk = LLMChunk(
        content=as_text(delta.get("content")) or "",
        tool_calls=[_delta(call) for call in as_objects(delta.get("tool_calls"))],
        finish_reason=as_text(choice.get("finish_reason")),
        usage=read_usage(frame),
        cost=served.cost,
        model=served.model or as_text(frame.get("model")),
        provider=served.provider or None,
        request_id=served.request_id,
    )
    says = chunk.content or chunk.tool_calls or chunk.finish_reason or chunk.usage
    return chunk if says else None


def read_vectors(raw: Json, served: Served, count: int) -> EmbeddingResponse:
    """The vectors of an answer in the order of their inputs.

    Raises:
        ProviderError: It does not have one for each of the `count` inputs.
    """
    rows = sorted(as_objects(raw.get("data")), key=lambda row: as_count(row.get("index")))
    vectors = [vector for row in rows if (vector := as_numbers(row.get("embedding")))]
    if len(vectors) != count:
        raise _unreadable(f"has {len(vectors)} vectors for {count} inputs", served)
    return EmbeddingResponse(
        vectors=vectors,
        model=served.model or as_text(raw.get("model")) or "",
        provider=served.provider,
        usage=read_usage(raw) or Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        cost=served.cost,
        cached=served.cached,
        request_id=served.request_id,
    )


def read_usage(raw: Json) -> Usage | None:
    """The tokens that an answer states; None where it states none."""
    stated = as_object(raw.get("usage"))
    if not stated:
        return None
    prompt, completion = (as_count(stated.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
    total = as_count(stated.get("total_tokens")) or prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _unreadable(reason: str, served: Served) -> ProviderError:
    return ProviderError(
        f"the answer of {served.provider or 'the gateway'} {reason}",
        code="invalid_answer",
        request_id=served.request_id,
        provider=served.provider or None,
    )


def _tool_call(call: Json) -> ToolCall:
    function = _function(as_object(call.get("function")))
    return ToolCall(
        id=as_text(call.get("id")) or "", type=as_text(call.get("type")) or "function", function=function
    )


def _function(stated: Json) -> FunctionCall:
    return FunctionCall(
        name=as_text(stated.get("name")) or "", arguments=as_text(stated.get("arguments")) or ""
    )


def _delta(call: Json) -> ToolCallDelta:
    function = {
        name: value for name, value in as_object(call.get("function")).items() if isinstance(value, str)
    }
    delta = ToolCallDelta(index=as_count(call.get("index")), function=function)
    if call_id := as_text(call.get("id")):
        delta["id"] = call_id
    return delta
