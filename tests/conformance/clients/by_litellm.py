"""LiteLLM's SDK as a caller of ours: `openai/` and our address."""

import json
from typing import Any

import litellm
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, expect, left_by_the_caller, once, play, raises, tell

TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}


class Place(BaseModel):
    """What is asked for."""

    city: str


def ask(model: str = "p/ok", key: str = API_KEY, *, said: str | None = None, **more: Any) -> Any:
    """A chat completion."""
    messages = [{"role": "user", "content": said or play()}]
    return litellm.completion("openai/" + model, messages, api_base=BASE_URL, api_key=key, **more)


def chat() -> None:
    """Text and usage."""
    answer = ask()
    expect(answer.choices[0].message.content, "no text")
    expect(answer.usage.total_tokens == 40, "other usage")


def stream() -> None:
    """Several pieces."""
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]
    expect(len("".join(pieces).split()) == 8, f"other pieces: {pieces}")


def tools() -> None:
    """Calls with their arguments."""
    found = ask("p/tools", said=play(do="tools"), tools=[TOOL]).choices[0].message.tool_calls
    expect([json.loads(one.function.arguments)["city"] for one in found] == ["Oslo", "Turku"], "other calls")


def structured() -> None:
    """JSON by a schema."""
    answer = ask(said=play(text=CITY), response_format=Place)
    expect(json.loads(answer.choices[0].message.content) == {"city": "Oslo"}, "not parsed")


def embeddings() -> None:
    """Vectors of texts."""
    made = litellm.embedding("openai/p/ok", ["a", "b"], api_base=BASE_URL, api_key=API_KEY)
    expect(len(made.data) == 2, "other count")


def cancel() -> None:
    """A stream left early; LiteLLM closes the SDK's stream beneath its own."""
    going = ask(said=play(do="slow", frames=80), stream=True)
    next(going)
    going.completion_stream.close()
    expect(left_by_the_caller(), "the provider went on")


def fails(do: str, kind: type[Exception], model: str = "p/ok", key: str = API_KEY) -> None:
    """LiteLLM's exception of that class."""
    raises(kind, lambda: ask(model, key, said=play(do=do)))


tell(
    "litellm SDK",
    "litellm",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "cancel": cancel,
        "400": lambda: fails("status-400", litellm.BadRequestError),
        "401": lambda: fails("ok", litellm.AuthenticationError, key="not-ours-0123456789"),
        "404": lambda: fails("ok", litellm.NotFoundError, "nobody-has-this"),
        "429": lambda: fails("status-429", litellm.RateLimitError),
        "5xx": lambda: fails("status-500", (litellm.InternalServerError, litellm.BadGatewayError)),
        "once": once(lambda: fails("status-500", (litellm.InternalServerError, litellm.BadGatewayError))),
    },
)
