"""The OpenAI SDK for Python, any major version."""

import json
from typing import Any

import openai
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, calls, expect, left_by_the_caller, once, play, raises, tell

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY)
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}


class Place(BaseModel):
    """What is asked for."""

    city: str


def say(**directive: Any) -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": play(**directive)}]


def chat() -> None:
    """Text, finish reason and usage."""
    answer = client.chat.completions.create(model="p/ok", messages=say(), temperature=0.5, user="u")
    expect(answer.choices[0].message.content, "no text")
    expect(answer.choices[0].finish_reason == "stop", "no finish reason")
    expect(answer.usage and answer.usage.total_tokens == 40, "other usage")


def stream() -> None:
    """Several pieces, and usage for who asks."""
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="p/ok", messages=say(), stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    expect(len(text.split()) == 8, f"other text: {text}")
    expect(chunks[-1].usage and chunks[-1].usage.total_tokens == 40, "no usage at the end")


def tools() -> None:
    """Calls with names and arguments, whole and streamed."""
    asked: Any = {"model": "p/tools", "messages": say(do="tools"), "tools": [TOOL]}
    whole = client.chat.completions.create(**asked).choices[0].message.tool_calls or []
    expect([json.loads(one.function.arguments)["city"] for one in whole] == ["Oslo", "Turku"], "other calls")
    pieces: dict[int, str] = {}
    for chunk in client.chat.completions.create(**asked, stream=True):
        for one in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            pieces[one.index] = pieces.get(one.index, "") + (one.function.arguments or "")
    expect([json.loads(text)["city"] for text in pieces.values()] == ["Oslo", "Turku"], "other deltas")


def structured() -> None:
    """A pydantic model as the response's format."""
    completions: Any = client.chat.completions
    parse = completions.parse if hasattr(completions, "parse") else client.beta.chat.completions.parse
    answer = parse(model="p/ok", messages=say(text=CITY), response_format=Place)
    expect(answer.choices[0].message.parsed == Place(city="Oslo"), "not parsed")
    expect(calls()[0]["body"]["response_format"]["type"] == "json_schema", "the schema did not arrive")


def embeddings() -> None:
    """Vectors of several texts, with the SDK's own choice of encoding and with floats."""
    expect(len(client.embeddings.create(model="p/ok", input=["a", "b"]).data) == 2, "other count")
    short = "p/text-embedding-3-small"
    plain = client.embeddings.create(model=short, input="a", encoding_format="float", dimensions=4)
    expect(len(plain.data[0].embedding) == 4, "other dimensions")


def cancel() -> None:
    """A stream left early is left at the provider too."""
    going = client.chat.completions.create(model="p/ok", messages=say(do="slow", frames=80), stream=True)
    next(iter(going))
    going.close()
    expect(left_by_the_caller(), "the provider went on")


def models() -> None:
    """The list, and one of it."""
    expect("plain" in {model.id for model in client.models.list()}, "not listed")
    expect(client.models.retrieve("plain").id == "plain", "not found")


def fails(do: str, kind: type[Exception], model: str = "p/ok") -> None:
    """The exception's class."""
    raises(kind, lambda: client.chat.completions.create(model=model, messages=say(do=do)))


def stranger() -> None:
    """A key that is not ours."""
    other = client.with_options(api_key="not-ours-0123456789")
    raises(openai.AuthenticationError, lambda: other.chat.completions.create(model="p/ok", messages=say()))


tell(
    "openai",
    "openai",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "models": models,
        "cancel": cancel,
        "400": lambda: fails("status-400", openai.BadRequestError),
        "401": stranger,
        "404": lambda: fails("ok", openai.NotFoundError, model="nobody-has-this"),
        "429": lambda: fails("status-429", openai.RateLimitError),
        "5xx": lambda: fails("status-500", openai.InternalServerError),
        "once": once(lambda: fails("status-500", openai.InternalServerError)),
    },
)
