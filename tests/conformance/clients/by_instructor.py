"""Instructor, on top of the OpenAI SDK."""

import asyncio
from collections.abc import Iterable
from typing import Any

import instructor
import openai
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, expect, left_by_the_caller, once, play, raises, tell


class Place(BaseModel):
    """What is asked for."""

    city: str


def client(mode: instructor.Mode, key: str = API_KEY) -> Any:
    """A client of Instructor's."""
    return instructor.from_openai(openai.OpenAI(base_url=BASE_URL, api_key=key), mode=mode)


def say(**directive: Any) -> Any:
    """A conversation of one message."""
    return [{"role": "user", "content": play(**directive)}]


def chat() -> None:
    """A model out of plain JSON text."""
    made = client(instructor.Mode.JSON).create(model="p/ok", messages=say(text=CITY), response_model=Place)
    expect(made.city == "Oslo", f"not parsed: {made}")


def stream() -> None:
    """A model that fills up while it is streamed."""
    parts = client(instructor.Mode.JSON).create_partial(
        model="p/ok", messages=say(text=CITY), response_model=Place
    )
    expect([part.city for part in parts][-1] == "Oslo", "not parsed")


def tools() -> None:
    """Several models out of several function calls."""
    made = client(instructor.Mode.PARALLEL_TOOLS).create(
        model="p/tools", messages=say(do="tools"), response_model=Iterable[Place]
    )
    expect([place.city for place in made] == ["Oslo", "Turku"], "other calls")


def structured() -> None:
    """A model by its schema."""
    made = client(instructor.Mode.JSON_SCHEMA).create(
        model="p/ok", messages=say(text=CITY), response_model=Place
    )
    expect(made.city == "Oslo", f"not parsed: {made}")


async def cancel() -> None:
    """A task that reads a stream is cancelled; the synchronous client reads the whole stream first."""
    made = instructor.from_openai(
        openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY), mode=instructor.Mode.JSON
    )
    long = CITY[:-2] + "o" * 400 + '"}'

    async def read() -> None:
        going: Any = made.create_partial(
            model="p/ok", messages=say(do="slow", text=long), response_model=Place
        )
        async for _ in going:
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(1.5)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    expect(left_by_the_caller(), "the provider went on")


def fails(do: str, kind: type[Exception], name: str = "p/ok", key: str = API_KEY) -> None:
    """The SDK's exception, in whatever Instructor wraps it."""
    one = client(instructor.Mode.JSON, key)
    raises(kind, lambda: one.create(model=name, messages=say(do=do), response_model=Place, max_retries=0))


tell(
    "Instructor",
    "instructor",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "cancel": cancel,
        "400": lambda: fails("status-400", openai.BadRequestError),
        "401": lambda: fails("ok", openai.AuthenticationError, key="not-ours-0123456789"),
        "404": lambda: fails("ok", openai.NotFoundError, "nobody-has-this"),
        "429": lambda: fails("status-429", openai.RateLimitError),
        "5xx": lambda: fails("status-500", openai.InternalServerError),
        "once": once(lambda: fails("status-500", openai.InternalServerError)),
    },
)
