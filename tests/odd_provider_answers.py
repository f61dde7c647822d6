"""Frames and answers of providers in odd forms, and calls that make the provider send them."""

import json
from typing import Any
from uuid import uuid4

from sidecars import Answer, Json, Sidecar

OPENAI_S = ("openai", "azure", "hosted_vllm", "deepseek", "openrouter", "groq", "mistral")
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ODD = "a\u2028b\u2029c\u0085d\u000be\u000cf"
DONE = "data: [DONE]\n\n"


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    """A frame with one choice; `choice` is put into it, the rest beside it."""
    choice: Json = {"index": 0, "delta": delta, "finish_reason": finish} | more.pop("choice", {})
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | more


def event(said: Json, *, escaped: bool = True) -> str:
    """A frame on the wire."""
    return f"data: {json.dumps(said, ensure_ascii=escaped)}\n\n"


HELLO, STOP = chunk({"role": "assistant", "content": "Hello"}), chunk({}, "stop")


def stream(*said: Json | str, done: bool = True) -> list[str]:
    """The writes of a stream; text goes as it is."""
    writes = [one if isinstance(one, str) else event(one) for one in said]
    return [*writes, DONE] if done else writes


def whole(message: Json, finish: str | None = "stop", **more: Any) -> Json:
    """A whole answer; `choice` is put into its choice, the rest beside it."""
    choice = {"index": 0, "message": message, "finish_reason": finish} | more.pop("choice", {})
    made: Json = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return made | {"usage": USAGE} | more


def wire(text: str) -> str:
    """Its bytes, as the script takes them."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


async def played(sidecar: Sidecar, family: str, *writes: str) -> Answer:
    """A stream that the provider answers with these bytes."""
    return await sidecar.stream(family, str(uuid4()), do="raw", raw=[wire(one) for one in writes])


async def answered(sidecar: Sidecar, family: str, body: Json | str) -> Answer:
    """A whole answer of this body."""
    text = body if isinstance(body, str) else json.dumps(body)
    return await sidecar.chat(family, str(uuid4()), do="raw", raw=[wire(text)])


def message_of(body: Json | str) -> Json:
    """The message of a whole answer."""
    message: Json = {} if isinstance(body, str) else body["choices"][0]["message"]
    return message


def frames(answer: Answer) -> list[Json]:
    """A stream's frames; the stream is whole."""
    assert answer.status == 200, answer.text
    assert answer.events[-1] == "[DONE]"
    found = [one for one in answer.events if isinstance(one, dict)]
    assert not any("error" in one for one in found)
    return found


def deltas(answer: Answer) -> list[Json]:
    """What a stream's frames add."""
    return [choice["delta"] for one in frames(answer) for choice in one["choices"]]
