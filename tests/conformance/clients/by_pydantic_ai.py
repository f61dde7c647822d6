"""Pydantic AI, by its OpenAI provider."""

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import API_KEY, BASE_URL, CITY, araises, expect, left_by_the_caller, once, play, tell


class Place(BaseModel):
    """What is asked for."""

    city: str


def model(name: str = "p/ok", key: str = API_KEY) -> OpenAIChatModel:
    """A model of Pydantic AI's."""
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=BASE_URL, api_key=key))


async def chat() -> None:
    """Text and usage."""
    answer = await Agent(model()).run(play())
    expect(answer.output, "no text")


async def stream() -> None:
    """Several pieces."""
    async with Agent(model()).run_stream(play()) as going:
        pieces = [piece async for piece in going.stream_text(delta=True, debounce_by=None)]
    expect(len("".join(pieces).split()) == 8, f"other pieces: {pieces}")
    expect(len(pieces) > 1, "one piece")


async def tools() -> None:
    """Tools run by the agent, their results sent back, then text."""
    agent, seen = Agent(model("p/tools")), list[str]()

    @agent.tool_plain
    def look_up(city: str) -> str:
        seen.append(city)
        return "rainy"

    answer = await agent.run(play(do="tools"))
    expect(sorted(seen) == ["Oslo", "Turku"], f"other calls: {seen}")
    expect(answer.output, "no text after the tools")


async def structured() -> None:
    """By a function, the default, and by schema."""
    by_call = await Agent(model("p/tools"), output_type=Place).run(play(do="tools"))
    expect(by_call.output == Place(city="Oslo"), "not parsed from a call")
    by_schema = await Agent(model(), output_type=NativeOutput(Place)).run(play(text=CITY))
    expect(by_schema.output == Place(city="Oslo"), "not parsed")


async def embeddings() -> None:
    """Vectors of texts."""
    from pydantic_ai.embeddings import Embedder  # noqa: PLC0415 -- newer versions alone
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel  # noqa: PLC0415 -- the same

    made = OpenAIEmbeddingModel("p/ok", provider=OpenAIProvider(base_url=BASE_URL, api_key=API_KEY))
    answer = await Embedder(made).embed_documents(["a", "b"])
    expect(len(answer.embeddings) == 2, "other count")


async def cancel() -> None:
    """A stream left early."""
    async with Agent(model()).run_stream(play(do="slow", frames=80)) as going:
        async for _ in going.stream_text(delta=True, debounce_by=None):
            break
    expect(left_by_the_caller(), "the provider went on")


async def fails(do: str, status: int, name: str = "p/ok", key: str = API_KEY) -> None:
    """`ModelHTTPError` with the status."""
    error = await araises(ModelHTTPError, lambda: Agent(model(name, key)).run(play(do=do)))
    expect(getattr(error, "status_code", None) == status, f"other status: {error}")


tell(
    "Pydantic AI",
    "pydantic-ai-slim",
    {
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "structured": structured,
        "embeddings": embeddings,
        "cancel": cancel,
        "400": lambda: fails("status-400", 400),
        "401": lambda: fails("ok", 401, key="not-ours-0123456789"),
        "404": lambda: fails("ok", 404, "nobody-has-this"),
        "429": lambda: fails("status-429", 429),
        "5xx": lambda: fails("status-500", 502),
        "once": once(lambda: fails("status-500", 502)),
    },
)
