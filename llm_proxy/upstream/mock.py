"""Mock mode: a call in, what a sidecar would answer out. Deterministic; no clock, no socket, no model.

Answers echo the prompt; a forced tool is called and a JSON schema filled with the least that fits; vectors
are of length 1 and depend on the text alone. Invariant: streams are whole frames, the usage frame and
`[DONE]` among them, as the sidecar sends them. Models with a meaning: `mock-429`, `mock-500`, `mock-slow`
(2 s to the first byte), `mock-cut` (breaks off after half), `mock-tools` (calls the first tool by itself).
"""

from dataclasses import dataclass, replace
from hashlib import sha256

import orjson

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.json_access import Json
from llm_proxy.upstream import mock_text
from llm_proxy.upstream.mock_text import Said

SLOW_FIRST_MS = 2_000
SLOW_GAP_MS = 100
RETRY_AFTER_S = 2
CREATED = 1_700_000_000
MODELS = ("mock", "mock-embedding", "mock-tools", "mock-429", "mock-500", "mock-slow", "mock-cut")
"""What mock mode lists; every other name is answered too."""

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MockReply:
    """What the sidecar would have answered.

    Attributes:
        body: The JSON answer; empty for a stream.
        frames: The frames of a stream, in order; empty for JSON.
        first_ms: Wait before the status line.
        gap_ms: Wait before every frame but the first.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes = b""
    frames: tuple[bytes, ...] = ()
    first_ms: int = 0
    gap_ms: int = 0


def answer(call: Call) -> MockReply:
    """The reply to a call, always the same one."""
    play = call.group.rpartition("/")[2]
    if play in _FAILURES:
        return _FAILURES[play]
    if call.door == "embeddings":
        reply = MockReply(headers=_headers(call), body=orjson.dumps(_embeddings(call)))
    elif call.streaming:
        reply = MockReply(headers=_headers(call), frames=_frames(call))
    else:
        reply = MockReply(headers=_headers(call), body=orjson.dumps(_whole(call)))
    if play == "mock-slow":
        return replace(reply, first_ms=SLOW_FIRST_MS, gap_ms=SLOW_GAP_MS)
    if play == "mock-cut":
        half = reply.frames[: len(reply.frames) // 2]
        return replace(reply, frames=(*half, _CUT_FRAME)) if half else _FAILURES["mock-500"]
    return reply


def _failure(status: int, *, headers: Headers = ()) -> MockReply:
    error = {"message": "Mock failure.", "type": None, "param": None, "code": str(status)}
    told: Headers = (("x-llmp-provider-status", str(status)), *headers)
    return MockReply(status, told, orjson.dumps({"error": error}))


_FAILURES = {
    "mock-429": _failure(429, headers=(("x-llmp-retry-after", str(RETRY_AFTER_S)),)),
    "mock-500": _failure(500),
}
_CUT_FRAME = sse.frame(
    orjson.dumps(
        {
            "error": {
                "message": "Mock cut.",
                "type": "server_error",
                "param": None,
                "code": "upstream_stream_cut",
            }
        }
    )
)


def _headers(call: Call) -> Headers:
    return (
        ("x-litellm-model-id", "mock"),
        ("x-litellm-model-group", call.group),
        ("x-litellm-model-name", f"mock/{call.group.rpartition('/')[2]}"),
        ("x-litellm-response-cost", "0.0"),
        ("x-litellm-attempted-retries", "0"),
    )


def _id(call: Call) -> str:
    return sha256(orjson.dumps([call.door, call.body], option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]


def _head(call: Call, kind: str) -> Json:
    prefix = "chatcmpl" if call.door == "chat.completions" else "cmpl"
    head: Json = {"id": f"{prefix}-{_id(call)}", "object": kind, "created": CREATED, "model": call.group}
    return {**head, "system_fingerprint": "fp_mock"} if prefix == "chatcmpl" else head


def _usage(call: Call, said: list[Said]) -> Json:
    prompt = mock_text.prompt_tokens(call)
    completion = sum(one.tokens for one in said)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _whole(call: Call) -> Json:
    said = mock_text.answers(call)
    if call.door == "completions":
        choices: list[Json] = [
            {"index": at, "text": one.text, "logprobs": None, "finish_reason": one.finish_reason}
            for at, one in enumerate(said)
        ]
        return {**_head(call, "text_completion"), "choices": choices, "usage": _usage(call, said)}
    choices = [
        {"index": at, "message": _message(one), "logprobs": None, "finish_reason": one.finish_reason}
        for at, one in enumerate(said)
    ]
    return {**_head(call, "chat.completion"), "choices": choices, "usage": _usage(call, said)}


def _message(said: Said) -> Json:
    message: Json = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.function_call is not None:
        message["function_call"] = said.function_call
    elif said.tool_calls:
        message["tool_calls"] = list(said.tool_calls)
    else:
        message["content"] = said.text
    return message


def _frames(call: Call) -> tuple[bytes, ...]:
    said = mock_text.answers(call)
    chat = call.door == "chat.completions"
    head = _head(call, "chat.completion.chunk" if chat else "text_completion")
    frames: list[bytes] = []
    for at, one in enumerate(said):
        pieces = _chat_pieces(one) if chat else [{"text": piece} for piece in one.pieces]
        frames += [_frame(head, at, piece, None) for piece in pieces]
        frames.append(_frame(head, at, {"delta": {}} if chat else {"text": ""}, one.finish_reason))
    frames.append(sse.frame(orjson.dumps({**head, "choices": [], "usage": _usage(call, said)})))
    return (*frames, sse.DONE)


def _frame(head: Json, index: int, piece: Json, finish_reason: str | None) -> bytes:
    choice = {"index": index, **piece, "logprobs": None, "finish_reason": finish_reason}
    return sse.frame(orjson.dumps({**head, "choices": [choice]}))


def _chat_pieces(said: Said) -> list[Json]:
    first: Json = {"role": "assistant", "content": None if said.tool_calls else ""}
    pieces: list[Json] = [{"delta": first}]
    if said.function_call is not None:
        return [*pieces, {"delta": {"function_call": said.function_call}}]
    for at, call in enumerate(said.tool_calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        start: Json = {"index": at, **call, "function": {"name": name, "arguments": ""}}
        pieces.append({"delta": {"tool_calls": [start]}})
        pieces.append({"delta": {"tool_calls": [{"index": at, "function": {"arguments": arguments}}]}})
    return pieces + [{"delta": {"content": piece}} for piece in said.pieces]


def _embeddings(call: Call) -> Json:
    vectors = mock_text.vectors(call.body)
    tokens = mock_text.prompt_tokens(call)
    return {
        "object": "list",
        "model": call.group,
        "data": [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
