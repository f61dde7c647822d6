"""Answers of OpenAI's wire with everything a provider may say in them, whole and as frames, for `do: raw`."""

import json

from scripted.script import Json

USAGE: Json = {
    "prompt_tokens": 5,
    "completion_tokens": 3,
    "total_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
_LOGPROBS: Json = {
    "content": [{"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": []}],
    "refusal": None,
}
_CITATION: Json = {"url": "https://example.org", "title": "t", "start_index": 0, "end_index": 1}
CALL: Json = {"id": "call_9", "type": "function", "function": {"name": "f", "arguments": ""}}
CUSTOM: Json = {"id": "call_1", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}
MESSAGES: dict[str, Json] = {
    "reasoning": {"content": "yes", "reasoning_content": "hm, well"},
    "tool-call": {"content": None, "tool_calls": [CALL]},
    "custom-tool-call": {"content": None, "tool_calls": [CUSTOM]},
    "audio": {"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "hi", "expires_at": 3}},
    "images": {
        "content": None,
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
    },
    "annotations": {
        "content": "see",
        "annotations": [{"type": "url_citation", "url_citation": _CITATION}],
    },
    "refusal": {"content": None, "refusal": "No."},
    "unicode": {"content": "h\u00e9 \U0001f389 \uff46 \u0000 \u200d"},
    "logprobs": {"content": "x"},
    "several": {"content": "a"},
    "long": {"content": "word " * 60_000},
}
"""Kind of answer -> the message of its first choice."""


def whole(kind: str) -> list[str]:
    """The body of an answer that is not streamed, for `raw`."""
    choices = [
        {
            "index": at,
            "message": {"role": "assistant", **message},
            "finish_reason": _finish(message),
            "logprobs": _LOGPROBS if kind == "logprobs" else None,
        }
        for at, message in enumerate(_messages(kind))
    ]
    return [json.dumps({**_head("chat.completion"), "choices": choices, "usage": USAGE})]


def frames(kind: str, *, usage_in_each: bool = False) -> list[str]:
    """The frames of a streamed answer, for `raw`."""
    messages = _messages(kind)
    chunks: list[Json] = []
    for at, message in enumerate(messages):
        probs = _LOGPROBS if kind == "logprobs" else None
        chunks += [_choice(at, delta, logprobs=probs) for delta in _deltas(message)]
    chunks += [_choice(at, {}, finish_reason=_finish(message)) for at, message in enumerate(messages)]
    each = {"usage": USAGE} if usage_in_each else {}
    lines = [{**_head("chat.completion.chunk"), "choices": [choice], **each} for choice in chunks]
    if not usage_in_each:
        lines.append({**_head("chat.completion.chunk"), "choices": [], "usage": USAGE})
    return [*(f"data: {json.dumps(line)}\n\n" for line in lines), "data: [DONE]\n\n"]


def _head(kind: str) -> Json:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_790_000_000, "model": "m"}


def _messages(kind: str) -> list[Json]:
    return [MESSAGES[kind]] + ([{"content": "b"}, {"content": "c"}] if kind == "several" else [])


def _finish(message: Json) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def _choice(index: int, delta: Json, **more: object) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}


def _deltas(message: Json) -> list[Json]:
    """One delta a field, and a long text in pieces."""
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    for name, value in message.items():
        if name == "tool_calls":
            deltas += [{name: [{"index": at, **call}]} for at, call in enumerate(value)]
        elif isinstance(value, str):
            deltas += [{name: value[at : at + 500]} for at in range(0, len(value), 500)]
        elif value is not None:
            deltas.append({name: value})
    return deltas
