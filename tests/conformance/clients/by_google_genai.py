"""google-genai, on a provider that only speaks chat, and natively."""

import asyncio
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from google import genai
from google.genai import errors, types
from pydantic import BaseModel
from report import API_KEY, CITY, Check, araises, calls, expect, left_by_the_caller, once, play, raises, tell

CHAT_ONLY, NATIVE = "p/ok", "gemini-2.5-flash"


class Place(BaseModel):
    """What is asked for."""

    city: str


@cache
def client(key: str = API_KEY) -> genai.Client:
    """The SDK, set to use a gateway; kept, because it closes when it is no longer referenced."""
    return made(key)


def made(key: str = API_KEY) -> genai.Client:
    """A client of its own, for one loop."""
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=os.environ["GATEWAY"]))


def chat(model: str) -> None:
    """Text, usage and why it ended."""
    config = types.GenerateContentConfig(system_instruction="be brief", max_output_tokens=900, top_k=3)
    answer = client().models.generate_content(model=model, contents=play(), config=config)
    expect(answer.text and len(answer.text.split()) == 8, f"other text: {answer.text}")
    expect(answer.usage_metadata and answer.usage_metadata.total_token_count == 40, "other usage")
    expect(answer.candidates and answer.candidates[0].finish_reason == types.FinishReason.STOP, "no end")


def stream(model: str) -> None:
    """Several pieces; usage in the last."""
    pieces = [*client().models.generate_content_stream(model=model, contents=play())]
    expect(len("".join(piece.text or "" for piece in pieces).split()) == 8, "other pieces")
    last = pieces[-1].usage_metadata
    expect(len(pieces) > 5 and last and last.total_token_count == 40, "no pieces, or other usage")


def conversation(model: str) -> None:
    """Streamed answers, kept chunk by chunk, are one turn of the model."""
    talk = client().chats.create(model=model)
    for text in (play(), play(text="second")):
        expect([*talk.send_message_stream(text)], "no answer")
    sent: Any = calls()[-1]["body"]
    turns = sent.get("contents") or [one for one in sent["messages"] if one["role"] != "system"]
    expect(len(turns) >= 3, f"{len(turns)} turns were sent")


def tools(model: str) -> None:
    """Functions are called by the SDK; what they return comes back to the model."""
    cities: list[str] = []

    def look_up(city: str) -> str:
        """Weather of a city."""
        cities.append(city)
        return f"sunny in {city}"

    config = types.GenerateContentConfig(tools=[look_up])
    answer = client().models.generate_content(model=model, contents=play(do="helpful"), config=config)
    expect(cities == ["Oslo", "Turku"], f"other calls: {cities}")
    expect(answer.text and "sunny in Turku" in str(calls()[-1]["body"]), "the results did not come back")


def structured(model: str) -> None:
    """A model by its schema, and a list of them."""
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Place)
    answer = client().models.generate_content(model=model, contents=play(text=CITY), config=config)
    expect(answer.parsed == Place(city="Oslo"), f"not parsed: {answer.text}")


def listed_places(model: str) -> None:
    """A list at the root, which chat completions take inside of an object."""
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=list[Place])
    prompt = play(text=f'{{"value": [{CITY}]}}')
    answer = client().models.generate_content(model=model, contents=prompt, config=config)
    expect(answer.parsed == [Place(city="Oslo")], f"not parsed: {answer.text}")


def image(model: str) -> None:
    """Bytes in base64 of the other alphabet."""
    picture = types.Part.from_bytes(data=b"\xfb\xff\xfe", mime_type="image/png")
    client().models.generate_content(model=model, contents=[picture, play()])
    sent = str(calls()[-1]["body"])
    expect("+//+" in sent or "-__-" in sent, "other bytes were sent")


async def cancel(model: str) -> None:
    """A task that reads a stream is cancelled."""

    async def read() -> None:
        do = play(do="slow", frames=300, gap_ms=100)
        async with made().aio as one:
            async for _ in await one.models.generate_content_stream(model=model, contents=do):
                pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(1.5)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    expect(left_by_the_caller(), "the provider went on")


async def cut(model: str) -> None:
    """A stream that breaks off is an error."""

    async def read() -> None:
        async with made().aio as one:
            do = play(do="cut", after=3)
            async for _ in await one.models.generate_content_stream(model=model, contents=do):
                pass

    await araises(errors.APIError, read)


def fails(do: str, code: int, model: str = CHAT_ONLY, key: str = API_KEY) -> None:
    """The SDK's exception, with the status."""
    one = client(key)
    failed: Any = raises(
        errors.APIError, lambda: one.models.generate_content(model=model, contents=play(do=do))
    )
    expect(failed.code == code and failed.status, f"another status: {failed}")


def models() -> None:
    """Lists, and counts of tokens."""
    one = client()
    names = [model.name for model in one.models.list()]
    expect(f"models/{NATIVE}" in names, f"not listed: {names}")
    expect("generateContent" in (one.models.get(model=NATIVE).supported_actions or ()), "other methods")
    for model in (CHAT_ONLY, NATIVE):
        expect((one.models.count_tokens(model=model, contents="hello").total_tokens or 0) > 0, "no count")


def embeddings() -> None:
    """A batch of texts."""
    config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=8)
    found = client().models.embed_content(model="vectors", contents=["a", "b"], config=config).embeddings
    expect([len(vector.values or ()) for vector in found or ()] == [8, 8], "other vectors")


BOTH: dict[str, Callable[[str], Any]] = {
    "chat": chat,
    "stream": stream,
    "conversation": conversation,
    "tools": tools,
    "structured": structured,
    "image": image,
    "cancel": cancel,
    "cut": cut,
}


def on(check: Callable[[str], Any], model: str) -> Check:
    """The check on a model."""
    return lambda: check(model)


tell(
    "google-genai",
    "google-genai",
    {
        **{name: on(check, CHAT_ONLY) for name, check in BOTH.items()},
        **{f"native {name}": on(check, NATIVE) for name, check in BOTH.items()},
        "a list": lambda: listed_places(CHAT_ONLY),
        "models": models,
        "embeddings": embeddings,
        "400": lambda: fails("status-400", 400),
        "401": lambda: fails("ok", 401, key="not-ours-0123456789"),
        "404": lambda: fails("ok", 404, "nobody-has-this"),
        "429": lambda: fails("status-429", 429),
        "5xx": lambda: fails("status-500", 502),
        "once": once(lambda: fails("status-500", 502)),
    },
)
