"""LlamaIndex, by its integration for servers that speak OpenAI's API."""

import asyncio

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, expect, left_by_the_caller, once, play, raises, tell


class Place(BaseModel):
    """What is asked for."""

    city: str


def model(name: str = "p/ok", key: str = API_KEY) -> OpenAILike:
    """A model of LlamaIndex's."""
    return OpenAILike(
        model=name, api_base=BASE_URL, api_key=key, is_chat_model=True, is_function_calling_model=True
    )


def say(text: str) -> list[ChatMessage]:
    """A conversation of one message."""
    return [ChatMessage(role="user", content=text)]


def chat() -> None:
    """Text, by the chat door and by the completion door."""
    expect(model().chat(say(play())).message.content, "no text")
    plain = OpenAILike(model="p/ok", api_base=BASE_URL, api_key=API_KEY, is_chat_model=False)
    expect(plain.complete(play()).text, "no completion")


def stream() -> None:
    """Several pieces."""
    pieces = [piece.delta or "" for piece in model().stream_chat(say(play()))]
    expect(len("".join(pieces).split()) == 8, f"other pieces: {pieces}")


def tools() -> None:
    """Calls with their arguments."""

    def look_up(city: str) -> str:
        return city

    one = model("p/tools")
    answer = one.chat_with_tools(
        [FunctionTool.from_defaults(look_up)], user_msg=play(do="tools"), allow_parallel_tool_calls=True
    )
    found = one.get_tool_calls_from_response(answer)
    expect([call.tool_kwargs["city"] for call in found] == ["Oslo", "Turku"], "other calls")


def structured() -> None:
    """A pydantic model out of a function call, as LlamaIndex asks for it."""
    wanted = model("p/tools").as_structured_llm(Place, allow_parallel_tool_calls=False)
    answer = wanted.chat(say(play(do="tools"))).raw
    expect(answer == Place(city="Oslo"), f"not parsed: {answer} {CITY}")


def embeddings() -> None:
    """Vectors of texts."""
    made = OpenAILikeEmbedding(model_name="p/ok", api_base=BASE_URL, api_key=API_KEY)
    expect(len(made.get_text_embedding_batch(["a", "b"])) == 2, "other count")


async def cancel() -> None:
    """A task that reads a stream is cancelled; LlamaIndex's generators do not close what they read from."""

    async def read() -> None:
        async for _ in await model().astream_chat(say(play(do="slow", frames=80))):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(1.5)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    expect(left_by_the_caller(), "the provider went on")


def fails(do: str, kind: type[Exception], name: str = "p/ok") -> None:
    """The exception's class."""
    raises(kind, lambda: model(name).chat(say(play(do=do))))


tell(
    "LlamaIndex",
    "llama-index-llms-openai-like",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "cancel": cancel,
        "400": lambda: fails("status-400", openai.BadRequestError),
        "401": lambda: raises(
            openai.AuthenticationError, lambda: model(key="not-ours-0123456789").chat(say("x"))
        ),
        "404": lambda: fails("ok", openai.NotFoundError, "nobody-has-this"),
        "429": lambda: fails("status-429", openai.RateLimitError),
        "5xx": lambda: fails("status-500", openai.InternalServerError),
        "once": once(lambda: fails("status-500", openai.InternalServerError)),
    },
)
