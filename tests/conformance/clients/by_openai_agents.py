"""The OpenAI Agents SDK, on its chat completions model."""

import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel
from report import API_KEY, BASE_URL, CITY, araises, expect, left_by_the_caller, once, play, tell

set_tracing_disabled(disabled=True)


class Place(BaseModel):
    """What is asked for."""

    city: str


def model(name: str = "p/ok", key: str = API_KEY) -> OpenAIChatCompletionsModel:
    """A model of the Agents SDK's."""
    return OpenAIChatCompletionsModel(name, openai.AsyncOpenAI(base_url=BASE_URL, api_key=key))


async def chat() -> None:
    """Text."""
    answer = await Runner.run(Agent("one", model=model()), play())
    expect(answer.final_output, "no text")


async def stream() -> None:
    """Several events, then the text."""
    going = Runner.run_streamed(Agent("one", model=model()), play())
    events = [event async for event in going.stream_events() if event.type == "raw_response_event"]
    expect(len(events) > 4, "few events")
    expect(len(str(going.final_output).split()) == 8, "other text")


async def tools() -> None:
    """Tools run by the agent, their results sent back, then text."""
    seen: list[str] = []

    @function_tool
    def look_up(city: str) -> str:
        seen.append(city)
        return "rainy"

    answer = await Runner.run(Agent("one", model=model("p/tools"), tools=[look_up]), play(do="tools"))
    expect(sorted(seen) == ["Oslo", "Turku"], f"other calls: {seen}")
    expect(answer.final_output, "no text after the tools")


async def structured() -> None:
    """A pydantic model by its schema."""
    answer = await Runner.run(Agent("one", model=model(), output_type=Place), play(text=CITY))
    expect(answer.final_output == Place(city="Oslo"), "not parsed")


async def cancel() -> None:
    """A stream left early."""
    going = Runner.run_streamed(Agent("one", model=model()), play(do="slow", frames=80))
    async for event in going.stream_events():
        if event.type == "raw_response_event":
            going.cancel()
    expect(left_by_the_caller(), "the provider went on")


async def fails(do: str, kind: type[Exception], name: str = "p/ok", key: str = API_KEY) -> None:
    """The SDK's exception."""
    await araises(kind, lambda: Runner.run(Agent("one", model=model(name, key)), play(do=do)))


tell(
    "OpenAI Agents SDK",
    "openai-agents",
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
