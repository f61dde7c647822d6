"""Counts of prompts without a call: by the model's tokenizer, or at a provider that counts itself."""

import asyncio
from typing import Any

import pytest
from sidecars import Json, Sidecar

TRANSLATES = "translates corporate jargon into plain English"
WHAT = "opportunities for increased leverage"
ABOUT = "that can answer to questions about the weather"
JARGON = [
    ("system", f"You are a helpful, pattern-following assistant that {TRANSLATES}."),
    ("system", "New synergies will help drive top-line growth."),
    ("system", "Things working well together will increase revenue."),
    ("system", f"Let's circle back when we have more bandwidth to touch base on {WHAT}."),
    ("system", "Let's talk later when we're less busy about how to do better."),
    ("user", "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]
NAMES = [None, "example_user", "example_assistant", "example_user", "example_assistant", None]
WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}
ASKED = [
    {"role": "system", "content": f"You are a helpful assistant {ABOUT}."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]


async def counted(sidecar: Sidecar, group: str, **body: Any) -> int:
    """The count of a prompt."""
    answer = await sidecar.post("/llmp/count_tokens", {"model": group, **body})
    assert answer.status == 200, answer.text
    assert answer.json.keys() == {"input_tokens"}
    tokens: int = answer.json["input_tokens"]
    return tokens


async def test_a_prompt_counts_what_openai_counted(sidecar: Sidecar) -> None:
    """OpenAI's cookbook has the usage its API stated for these prompts to gpt-4o-mini: 124 and 101."""
    messages = [
        {"role": role, "content": text, **({"name": name} if name else {})}
        for (role, text), name in zip(JARGON, NAMES, strict=True)
    ]
    assert abs(await counted(sidecar, "openai", messages=messages) - 124) <= 12
    assert abs(await counted(sidecar, "openai", messages=ASKED, tools=[WEATHER]) - 101) <= 10


@pytest.mark.parametrize("group", ["openai", "anthropic", "gemini", "hosted_vllm"])
async def test_counting_calls_no_provider(sidecar: Sidecar, group: str) -> None:
    """Also with links, files and sounds in the prompt."""
    before = await sidecar.provider.requests()
    parts = [
        {"type": "text", "text": "word " * 100},
        {"type": "image_url", "image_url": {"url": f"{sidecar.provider.url}/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 10_000}},
        {"type": "input_audio", "input_audio": {"data": "A" * 10_000, "format": "wav"}},
    ]
    assert 100 <= await counted(sidecar, group, messages=[{"role": "user", "content": parts}]) < 2000
    assert await sidecar.provider.requests() == before


async def test_many_counts_at_once(sidecar: Sidecar) -> None:
    """As Claude Code asks when it opens `/context`."""
    found = await asyncio.gather(*(counted(sidecar, "openai", messages=ASKED) for _ in range(34)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("body", [{}, {"model": "openai"}, {"model": "openai", "messages": [5]}])
async def test_what_cannot_be_counted_is_an_answer(sidecar: Sidecar, body: Json) -> None:
    """Never an exception."""
    answer = await sidecar.post("/llmp/count_tokens", body)
    assert answer.status in {200, 422}


async def test_anthropic_counts_its_own(sidecar: Sidecar) -> None:
    """The scripted count is 17 and one a message; where it fails, the texts of every block are counted."""
    blocks: list[Json] = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "word " * 50}},
        {"type": "new_block", "parts": [{"text": "word " * 50}], "data": "A" * 10_000},
    ]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": blocks}]
    assert await counted(sidecar, "anthropic", native=True, messages=messages, system="x") == 19
    assert 100 <= await counted(sidecar, "openai", native=True, messages=messages, system="x") < 300
