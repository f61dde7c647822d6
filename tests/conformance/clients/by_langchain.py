"""LangChain, by its OpenAI integration."""

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, expect, left_by_the_caller, once, play, raises, tell


class Place(BaseModel):
    """What is asked for."""

    city: str


def model(name: str = "p/ok", key: str = API_KEY) -> ChatOpenAI:
    """A chat model of LangChain's."""
    return ChatOpenAI(model=name, base_url=BASE_URL, api_key=key)


def chat() -> None:
    """Text and usage."""
    answer = model().invoke(play())
    expect(answer.content, "no text")
    expect(answer.usage_metadata and answer.usage_metadata["total_tokens"] == 40, "other usage")


def stream() -> None:
    """Several pieces."""
    pieces = [piece.content for piece in model().stream(play())]
    expect(len("".join(pieces).split()) == 8, f"other pieces: {pieces}")


def look_up(city: str) -> str:
    """What is known of a city."""
    return city


def tools() -> None:
    """Calls with their arguments."""
    answer = model("p/tools").bind_tools([look_up]).invoke(play(do="tools"))
    expect([call["args"]["city"] for call in answer.tool_calls] == ["Oslo", "Turku"], "other calls")


def structured() -> None:
    """By schema, the default, and by a function."""
    by_schema = model().with_structured_output(Place)
    expect(by_schema.invoke(play(text=CITY)) == Place(city="Oslo"), "not parsed")
    by_call = model("p/tools").with_structured_output(Place, method="function_calling")
    expect(by_call.invoke(play(do="tools")) == Place(city="Oslo"), "not parsed from a call")


def embeddings() -> None:
    """Vectors of texts; sent as texts, as LangChain documents it for other servers than OpenAI's."""
    made = OpenAIEmbeddings(
        model="p/ok", base_url=BASE_URL, api_key=API_KEY, check_embedding_ctx_length=False
    )
    expect(len(made.embed_documents(["a", "b"])) == 2, "other count")


def cancel() -> None:
    """A stream left early."""
    going = model().stream(play(do="slow", frames=80))
    next(going)
    going.close()
    expect(left_by_the_caller(), "the provider went on")


def fails(do: str, kind: type[Exception], name: str = "p/ok") -> None:
    """The exception's class."""
    raises(kind, lambda: model(name).invoke(play(do=do)))


tell(
    "LangChain",
    "langchain-openai",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "cancel": cancel,
        "400": lambda: fails("status-400", openai.BadRequestError),
        "401": lambda: raises(
            openai.AuthenticationError, lambda: model(key="not-ours-0123456789").invoke("x")
        ),
        "404": lambda: fails("ok", openai.NotFoundError, "nobody-has-this"),
        "429": lambda: fails("status-429", openai.RateLimitError),
        "5xx": lambda: fails("status-500", openai.InternalServerError),
        "once": once(lambda: fails("status-500", openai.InternalServerError)),
    },
)
