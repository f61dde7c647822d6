"""What the tests of the dialects share: the documents' requests, and answers as the sidecar sends them."""

import json
from typing import Any

import orjson
import pytest

from llm_proxy import sse
from llm_proxy.dialects import Call, Dialect
from llm_proxy.dialects.dialect import BodyLimits, ModelIndex, ResponseMeta
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.errors import BadRequest

MODELS = ModelIndex(
    "gpt-3.5-turbo",
    {name: frozenset({"openai"}) for name in ("gpt-4.1-mini", "gpt-4", "gpt-3.5-turbo", "dagi-local-8b")},
    ("anthropic/*",),
)
ANSWERED = ResponseMeta("openai", "gpt-4-1106-preview", 1234.5)
CALL = Call("chat.completions", "openai", "gpt-4", "gpt-4", {})
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}

INTERNAL_ASKED: dict[str, Any] = {
    "model": "gpt-4.1-mini",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "Hello!"},
    ],
    "max_tokens": 100,
    "temperature": 0.7,
    "metadata": {"agent_id": "agent:sofia", "microdao_id": "microdao:7", "channel_id": "channel-uuid"},
}
GENERATE_ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "provider": "openai",
    "model": "gpt-4",
    "maxTokens": 2048,
    "userId": "user-123",
}


def read(dialect: Dialect, body: Any, options: RequestOptions | None = None) -> Call:
    """The call of a client's body."""
    return dialect.parse(
        "chat.completions", json.dumps(body).encode(), options or RequestOptions(), MODELS, BodyLimits()
    )


def error_of(dialect: Dialect, body: Any, options: RequestOptions | None = None) -> BadRequest:
    """The error of a client's body."""
    with pytest.raises(BadRequest) as refused:
        read(dialect, body, options)
    return refused.value


def openai_answer(content: str | None = "Hello! How can I help you today?", **message: Any) -> bytes:
    """An answer from the sidecar."""
    usage = {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35, "prompt_tokens_details": None}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": "stop",
    }
    return orjson.dumps(
        {"id": "x", "object": "chat.completion", "model": "openai/m", "choices": [choice], "usage": usage}
    )


def openai_frames(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    """A stream from the sidecar, without its end mark."""
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append(
        {"choices": [], "usage": {"prompt_tokens": 25, "completion_tokens": 10, "total_tokens": 35}}
    )
    return b"".join(
        sse.encode_event(orjson.dumps({"id": "x", "object": "chat.completion.chunk", **one}))
        for one in chunks
    )


def rendered(dialect: Dialect, stream: bytes, step: int = 10**9) -> bytes:
    """The stream as the dialect's client gets it."""
    writer = dialect.open_stream(read(dialect, {"messages": [{"role": "user", "content": "x"}]}))
    assert writer is not None
    pieces = [writer.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    return b"".join(pieces) + writer.end(ANSWERED)
