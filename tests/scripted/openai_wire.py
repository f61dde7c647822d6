"""OpenAI's wire: answers, stream frames and errors of chat, completions and embeddings."""

import json
from typing import Any

from scripted.script import Json, Script

MADE = 1_790_000_000
FINGERPRINT = "fp_scripted"
THOUGHT = "First I look at what is there."
"""What an agent says beside its calls."""


def usage(script: Script) -> Json:
    """The script's tokens as OpenAI states them."""
    total = script.prompt_tokens + script.completion_tokens
    written = {"cache_write_tokens": script.cache_write_tokens} if script.cache_write_tokens else {}
    return {
        "prompt_tokens": script.prompt_tokens,
        "completion_tokens": script.completion_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens, "audio_tokens": 0} | written,
        "completion_tokens_details": {
            "reasoning_tokens": script.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _counted(script: Script, body: Json) -> bool:
    options: Json = body.get("stream_options") or {}
    return script.counted and bool(options.get("include_usage"))


def _logprobs(words: list[str]) -> Json:
    return {
        "content": [
            {
                "token": w,
                "logprob": -0.25,
                "bytes": list(w.encode()),
                "top_logprobs": [{"token": w, "logprob": -0.25, "bytes": None}],
            }
            for w in words
        ],
        "refusal": None,
    }


def _calls(script: Script, body: Json, number: int) -> list[Json]:
    tool = (body.get("tools") or [{"function": {"name": "look_up"}}])[0]["function"]["name"]
    cities = [(tool, {"city": city}) for city in ("Oslo", "Turku")]
    mark = f"{number}_" if script.calls else ""  # an agent's turns have calls of their own
    return [
        {
            "id": f"call_{mark}{at}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for at, (name, arguments) in enumerate(script.calls or cities)
    ]


def _message(script: Script, body: Json, choice: int, number: int) -> tuple[Json, str]:
    if script.do == "tools":
        return {
            "role": "assistant",
            "content": THOUGHT if script.calls else None,
            "tool_calls": _calls(script, body, number),
            "refusal": None,
        }, "tool_calls"
    if script.do == "refusal":
        return {"role": "assistant", "content": None, "refusal": "I will not say that."}, "stop"
    finish = "content_filter" if script.do == "filtered" else script.finish
    return {"role": "assistant", "content": "".join(script.words(choice)), "refusal": None}, finish


def chat(script: Script, body: Json, number: int) -> Json:
    """A chat completion."""
    choices: list[Json] = []
    for at in range(body.get("n") or 1):
        message, finish = _message(script, body, at, number)
        probs = _logprobs(script.words(at)) if body.get("logprobs") else None
        choices.append({"index": at, "message": message, "logprobs": probs, "finish_reason": finish})
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": MADE,
        "model": body["model"],
        "choices": choices,
        **({"usage": usage(script)} if script.counted else {}),
        "service_tier": script.service_tier,
        "system_fingerprint": FINGERPRINT,
    }


def _deltas(script: Script, body: Json, choice: int, number: int) -> list[Json]:
    if script.do == "tools":
        deltas: list[Json] = [{"content": THOUGHT}] if script.calls else []
        for at, call in enumerate(_calls(script, body, number)):
            named = {
                "index": at,
                "id": call["id"],
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": ""},
            }
            deltas.append({"tool_calls": [named]})
            text = call["function"]["arguments"]
            deltas += [
                {"tool_calls": [{"index": at, "function": {"arguments": text[i : i + 6]}}]}
                for i in range(0, len(text), 6)
            ]
        return deltas
    if script.do == "refusal":
        return [{"refusal": "I will "}, {"refusal": "not say that."}]
    return [{"content": word} for word in script.words(choice)]


def _frame(body: Json, number: int, choices: list[Json], **more: Any) -> bytes:
    chunk = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": MADE,
        "model": body["model"],
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }
    return b"data: " + json.dumps(chunk | more).encode() + b"\n\n"


def chat_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content frames and the closing frames of a chat stream."""
    counted = _counted(script, body)
    reported: Json = {"service_tier": script.service_tier} | ({"usage": None} if counted else {})
    content: list[bytes] = []
    closing: list[bytes] = []
    for at in range(body.get("n") or 1):
        start = [
            {
                "index": at,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ]
        content.append(_frame(body, number, start, **reported))
        for delta in _deltas(script, body, at, number):
            probs = _logprobs([delta["content"]]) if body.get("logprobs") and "content" in delta else None
            content.append(
                _frame(
                    body,
                    number,
                    [{"index": at, "delta": delta, "logprobs": probs, "finish_reason": None}],
                    **reported,
                )
            )
        finish = _message(script, body, at, number)[1]
        closing.append(
            _frame(
                body,
                number,
                [{"index": at, "delta": {}, "logprobs": None, "finish_reason": finish}],
                **reported,
            )
        )
    if counted:
        closing.append(_frame(body, number, [], **(reported | {"usage": usage(script)})))
    closing.append(b"data: [DONE]\n\n")
    return content, closing


def text(script: Script, body: Json, number: int) -> Json:
    """A text completion."""
    choices = [
        {"index": at, "text": "".join(script.words(at)), "logprobs": None, "finish_reason": script.finish}
        for at in range(body.get("n") or 1)
    ]
    made = {"id": f"cmpl-{number}", "object": "text_completion", "created": MADE, "model": body["model"]}
    return made | {"choices": choices, "usage": usage(script), "system_fingerprint": FINGERPRINT}


def text_frames(script: Script, body: Json, number: int) -> tuple[list[bytes], list[bytes]]:
    """The content frames and the closing frames of a text completion stream."""
    made = {"id": f"cmpl-{number}", "object": "text_completion", "created": MADE, "model": body["model"]}

    def frame(choices: list[Json], **more: Any) -> bytes:
        return b"data: " + json.dumps(made | {"choices": choices} | more).encode() + b"\n\n"

    content = [
        frame([{"index": 0, "text": word, "logprobs": None, "finish_reason": None}])
        for word in script.words()
    ]
    closing = [frame([{"index": 0, "text": "", "logprobs": None, "finish_reason": script.finish}])]
    if _counted(script, body):
        closing.append(frame([], usage=usage(script)))
    return content, [*closing, b"data: [DONE]\n\n"]


def _vector(seed: str, dimensions: int) -> list[float]:
    return [round(((hash_of(seed) >> at) % 1000) / 1000 - 0.5, 4) for at in range(dimensions)]


def hash_of(seed: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(seed.encode()[-16:].rjust(16, b"x"), "big")


def embeddings(script: Script, body: Json, number: int) -> Json:
    """Vectors, one for each input."""
    several = isinstance(body.get("input"), list) and not isinstance(body["input"][0], int)
    inputs: list[Any] = body["input"] if several else [body.get("input", "")]
    size = body.get("dimensions") or script.dimensions
    data = [
        {"object": "embedding", "index": at, "embedding": _vector(str(item), size)}
        for at, item in enumerate(inputs)
    ]
    counted = {"prompt_tokens": script.prompt_tokens, "total_tokens": script.prompt_tokens}
    return {"object": "list", "data": data, "model": body.get("model", f"m{number}"), "usage": counted}


Wording = tuple[str, str, str | None, str | None]
TOO_LONG = "This model's maximum context length is 8192 tokens. Your messages resulted in 9000 tokens."
NO_MONEY = "You exceeded your current quota, please check your plan and billing details."
UNSAFE = "Your request was rejected as a result of our safety system."
KINDS: dict[str, Wording] = {
    "context": (TOO_LONG, "invalid_request_error", "messages", "context_length_exceeded"),
    "quota": (NO_MONEY, "insufficient_quota", None, "insufficient_quota"),
    "policy": (UNSAFE, "invalid_request_error", None, "content_policy_violation"),
}
PLAIN: dict[int, Wording] = {
    400: ("Invalid value for 'top_logprobs'.", "invalid_request_error", "top_logprobs", "invalid_value"),
    401: (
        "Incorrect API key provided: sk-canary-of-provider.",
        "invalid_request_error",
        None,
        "invalid_api_key",
    ),
    403: ("Your account may not use this model.", "permission_error", None, "forbidden"),
    404: (
        "The model does not exist or you do not have access to it.",
        "invalid_request_error",
        "model",
        "model_not_found",
    ),
    413: ("Request too large.", "invalid_request_error", None, "request_too_large"),
    422: ("Unprocessable.", "invalid_request_error", "tools", "unprocessable"),
    429: ("Rate limit reached for requests.", "requests", None, "rate_limit_exceeded"),
}


def error(status: int, kind: str) -> Json:
    """An error body."""
    message, type_, param, code = (
        KINDS.get(kind)
        or PLAIN.get(status)
        or ("The server had an error.", "server_error", None, "server_error")
    )
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def error_frame() -> bytes:
    """An error where a stream's frame should be."""
    return b"data: " + json.dumps(error(500, "plain")).encode() + b"\n\n"
