"""Canned answers of mock mode: texts, tool calls, vectors, and faults on request.

Deterministic: the same call gets the same answer.
"""

import struct
from base64 import b64encode
from dataclasses import dataclass, replace
from hashlib import sha256, shake_256
from math import sqrt
from typing import Any

import orjson

from llm_proxy import sse
from llm_proxy.dialects import Call
from llm_proxy.endpoints import IMAGES, TRANSCRIPTS
from llm_proxy.json_access import Json, as_object, is_array, is_object
from llm_proxy.quantities import USAGE_HEADER, encode_usage
from llm_proxy.upstream.mock.images import image_answer, image_frames
from llm_proxy.upstream.mock.other_answers import other_answer
from llm_proxy.upstream.mock.speech import speech_frames, speech_pieces, speech_type
from llm_proxy.upstream.mock.transcripts import transcript_body, transcript_frames, transcript_usage

_BY_TYPE: Json = {"string": "mock", "integer": 0, "number": 0, "boolean": True, "array": [], "object": {}}


def example_of_schema(schema: object) -> Json:
    """An object with a value for each property of a schema: its first `enum`, else one of its `type`.

    Nested values are not filled: a test that needs more brings its own answer.
    """
    found: Json = {}
    for name, one in as_object(as_object(schema).get("properties")).items():
        words = as_object(one).get("enum")
        kind = as_object(one).get("type")
        found[name] = words[0] if is_array(words) and words else _BY_TYPE.get(str(kind))
    return found


DIMENSIONS = 1536
ECHO_LENGTH = 400
MAX_DIMENSIONS = 16_384
_TOKEN_LENGTH = 4


@dataclass(frozen=True, slots=True)
class CannedAnswer:
    """One choice of an answer."""

    text: str = ""
    tool_calls: tuple[Json, ...] = ()
    finish_reason: str = "stop"

    @property
    def pieces(self) -> list[str]:
        """The text in chunks for a stream: words with the space before them."""
        words = self.text.split(" ")
        return [word if at == 0 else " " + word for at, word in enumerate(words)] if self.text else []

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        called = sum(len(call["function"]["arguments"]) for call in self.tool_calls)
        return _tokens(len(self.text) + called)


def canned_answers(call: Call) -> list[CannedAnswer]:
    """The choices of the answer, as many as requested."""
    body = call.body
    if call.endpoint == "completions":
        prompts: list[Any] = [body["prompt"]] if _is_one(body["prompt"]) else body["prompt"]
        texts = [f"Mock completion of: {_text(prompt)}" for prompt in prompts]
        return [_truncate(text, call) for text in texts for _ in range(body.get("n", 1))]
    if tool := _tool(body, call.group):
        answer = CannedAnswer(tool_calls=(_tool_call(tool),), finish_reason="tool_calls")
    else:
        answer = _truncate(_chat_text(body), call)
    return [answer] * call.choices


def prompt_tokens(call: Call) -> int:
    """Prompt tokens, by one measure for every endpoint."""
    body = call.body
    prompt = body.get("messages") or body.get("prompt") or body.get("input")
    return _tokens(len(orjson.dumps(prompt)))


def vectors(body: Json) -> list[list[float] | str]:
    """One vector of length 1 for each input, in the requested encoding."""
    given = body["input"]
    inputs: list[Any] = [given] if _is_one(given) else given
    size = min(body.get("dimensions", DIMENSIONS), MAX_DIMENSIONS)
    return [_encoded(_vector(orjson.dumps(item), size), body.get("encoding_format")) for item in inputs]


def _chat_text(body: Json) -> str:
    response_format: Json = body.get("response_format", {})
    last = _last_user_text(body["messages"])
    if response_format.get("type") == "json_schema":
        return orjson.dumps(example_of_schema(response_format.get("json_schema", {}).get("schema"))).decode()
    if response_format.get("type") == "json_object":
        return orjson.dumps({"mock": last[:ECHO_LENGTH]}).decode()
    return f"Mock answer to: {last[:ECHO_LENGTH]}"


def _last_user_text(messages: list[Json]) -> str:
    texts = [message.get("content") for message in messages if message["role"] == "user"]
    return _text(texts[-1] if texts else messages[-1].get("content"))


def _text(content: Any) -> str:  # noqa: ANN401 -- a text, parts or tokens
    if is_array(content):
        return " ".join(str(part.get("text", "")) if is_object(part) else str(part) for part in content)
    return content if type(content) is str else ""


def _truncate(text: str, call: Call) -> CannedAnswer:
    if call.max_tokens is not None and _tokens(len(text)) > call.max_tokens:
        return CannedAnswer(text[: call.max_tokens * _TOKEN_LENGTH], finish_reason="length")
    return CannedAnswer(text)


def _tool(body: Json, group: str) -> Json | None:
    """The tool the caller forces, if it forces one."""
    tools: list[Json] = body.get("tools") or []
    functions: list[Json] = [tool["function"] for tool in tools if tool.get("function")]
    choice: Any = body.get("tool_choice", "auto")
    if is_object(choice):
        name = as_object(choice.get("function")).get("name")
        return next((one for one in functions if one["name"] == name), None)
    eager = choice == "auto" and group.endswith("mock-tools") and body["messages"][-1]["role"] != "tool"
    return functions[0] if functions and (eager or choice == "required") else None


def _tool_call(function: Json) -> Json:
    filled = example_of_schema(function.get("parameters"))
    called = {"name": function["name"], "arguments": orjson.dumps(filled).decode()}
    number = shake_256(orjson.dumps(called)).hexdigest(12)
    return {"id": f"call_{number}", "type": "function", "function": called}


def _is_one(given: Any) -> bool:  # noqa: ANN401 -- a text, tokens, or several of them
    return type(given) is str or type(given[0]) is int


def _vector(text: bytes, size: int) -> list[float]:
    drawn = struct.unpack(f"<{size}h", shake_256(text).digest(size * 2))
    length = sqrt(sum(value * value for value in drawn)) or 1.0
    return [value / length for value in drawn]


def _encoded(vector: list[float], encoding: str | None) -> list[float] | str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector


def _tokens(length: int) -> int:
    return max(-(-length // _TOKEN_LENGTH), 1)


SLOW_FIRST_MS = 2_000
SLOW_GAP_MS = 100
RETRY_AFTER_S = 2
CREATED = 1_700_000_000
MODELS = (
    "mock",
    "mock-embedding",
    "mock-image",
    "mock-speech",
    "mock-transcribe",
    "mock-rerank",
    "mock-moderation",
    "mock-tools",
    "mock-429",
    "mock-500",
    "mock-slow",
    "mock-cut",
)
"""What mock mode lists; every other name is answered too."""

Headers = tuple[tuple[str, str], ...]
_EVENTS = ("content-type", "text/event-stream")


@dataclass(frozen=True, slots=True)
class CannedReply:
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


def reply_to(call: Call) -> CannedReply:
    """The reply to a call, always the same one."""
    play = call.group.rpartition("/")[2]
    if play in _FAILURES:
        return _FAILURES[play]
    other = other_answer(call)
    if other is not None:
        document, usage = other
        headers = (*_headers(call), (USAGE_HEADER, usage))
        reply = CannedReply(headers=headers, body=orjson.dumps(document))
    elif call.endpoint in IMAGES:
        reply = _images(call)
    elif call.endpoint == "audio.speech":
        reply = _speech(call)
    elif call.endpoint in TRANSCRIPTS:
        reply = _transcript(call)
    elif call.endpoint == "embeddings":
        reply = CannedReply(headers=_headers(call), body=orjson.dumps(_embeddings(call)))
    elif call.streaming:
        reply = CannedReply(headers=_headers(call), frames=_frames(call))
    else:
        reply = CannedReply(headers=_headers(call), body=orjson.dumps(_whole(call)))
    if play == "mock-slow":
        return replace(reply, first_ms=SLOW_FIRST_MS, gap_ms=SLOW_GAP_MS)
    if play == "mock-cut":
        half = reply.frames[: max(1, len(reply.frames) // 2)]
        return replace(reply, frames=(*half, CUT_FRAME)) if half else _FAILURES["mock-500"]
    return reply


def _images(call: Call) -> CannedReply:
    if call.streaming:
        return CannedReply(headers=_headers(call), frames=image_frames(call, prompt_tokens(call)))
    document, usage = image_answer(call, prompt_tokens(call))
    return CannedReply(headers=(*_headers(call), (USAGE_HEADER, usage)), body=orjson.dumps(document))


def _speech(call: Call) -> CannedReply:
    if call.body.get("stream_format") == "sse":
        return CannedReply(headers=(*_headers(call), _EVENTS), frames=speech_frames(call))
    stated = (USAGE_HEADER, encode_usage({}, call.quantities, 0))
    headers = (*_headers(call), ("content-type", speech_type(call)), stated)
    return CannedReply(headers=headers, frames=speech_pieces(call))


def _transcript(call: Call) -> CannedReply:
    if call.streaming:
        return CannedReply(headers=_headers(call), frames=transcript_frames(call))
    return CannedReply(
        headers=(*_headers(call), (USAGE_HEADER, transcript_usage(call))), body=transcript_body(call)
    )


def _failure(status: int, *, headers: Headers = ()) -> CannedReply:
    error = {"message": "Mock failure.", "type": None, "param": None, "code": str(status)}
    all_headers: Headers = (("x-llmp-provider-status", str(status)), *headers)
    return CannedReply(status, all_headers, orjson.dumps({"error": error}))


_FAILURES = {
    "mock-429": _failure(429, headers=(("x-llmp-retry-after", str(RETRY_AFTER_S)),)),
    "mock-500": _failure(500),
}
CUT_FRAME = sse.encode_event(
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
    return sha256(orjson.dumps([call.endpoint, call.body], option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]


def _head(call: Call, kind: str) -> Json:
    prefix = "chatcmpl" if call.endpoint == "chat.completions" else "cmpl"
    head: Json = {"id": f"{prefix}-{_id(call)}", "object": kind, "created": CREATED, "model": call.group}
    return {**head, "system_fingerprint": "fp_mock"} if prefix == "chatcmpl" else head


def _usage(call: Call, answers: list[CannedAnswer]) -> Json:
    prompt = prompt_tokens(call)
    completion = sum(one.tokens for one in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _whole(call: Call) -> Json:
    answers = canned_answers(call)
    if call.endpoint == "completions":
        choices: list[Json] = [
            {"index": at, "text": one.text, "logprobs": None, "finish_reason": one.finish_reason}
            for at, one in enumerate(answers)
        ]
        return {**_head(call, "text_completion"), "choices": choices, "usage": _usage(call, answers)}
    choices = [
        {"index": at, "message": _message(one), "logprobs": None, "finish_reason": one.finish_reason}
        for at, one in enumerate(answers)
    ]
    return {**_head(call, "chat.completion"), "choices": choices, "usage": _usage(call, answers)}


def _message(answer: CannedAnswer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message |= {"content": None, "tool_calls": list(answer.tool_calls)}
    return message


def _frames(call: Call) -> tuple[bytes, ...]:
    answers = canned_answers(call)
    chat = call.endpoint == "chat.completions"
    head = _head(call, "chat.completion.chunk" if chat else "text_completion")
    frames: list[bytes] = []
    for at, one in enumerate(answers):
        pieces = _chat_deltas(one) if chat else [{"text": piece} for piece in one.pieces]
        frames += [_frame(head, at, piece, None) for piece in pieces]
        frames.append(_frame(head, at, {"delta": {}} if chat else {"text": ""}, one.finish_reason))
    frames.append(sse.encode_event(orjson.dumps({**head, "choices": [], "usage": _usage(call, answers)})))
    return (*frames, sse.DONE_EVENT)


def _frame(head: Json, index: int, piece: Json, finish_reason: str | None) -> bytes:
    choice = {"index": index, **piece, "logprobs": None, "finish_reason": finish_reason}
    return sse.encode_event(orjson.dumps({**head, "choices": [choice]}))


def _chat_deltas(answer: CannedAnswer) -> list[Json]:
    first: Json = {"role": "assistant", "content": None if answer.tool_calls else ""}
    pieces: list[Json] = [{"delta": first}]
    for at, call in enumerate(answer.tool_calls):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        start: Json = {"index": at, **call, "function": {"name": name, "arguments": ""}}
        pieces.append({"delta": {"tool_calls": [start]}})
        pieces.append({"delta": {"tool_calls": [{"index": at, "function": {"arguments": arguments}}]}})
    return pieces + [{"delta": {"content": piece}} for piece in answer.pieces]


def _embeddings(call: Call) -> Json:
    found = vectors(call.body)
    tokens = prompt_tokens(call)
    return {
        "object": "list",
        "model": call.group,
        "data": [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(found)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
