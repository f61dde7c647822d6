"""No text reaches a provider that the caller did not write; what each family sees of a conversation."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from all_providers import ALL, AllProviders

from llm_proxy.endpoints import Endpoint

Json = dict[str, Any]
CHAT: Endpoint = "chat.completions"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
HELLO = {"role": "user", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
NO_FIELDS: Json = {"type": "object", "properties": {}}
TOOLS: list[Json] = [{"type": "function", "function": {"name": "look", "parameters": NO_FIELDS}}]
CALLS = [
    {"type": "function", "id": f"call_{number}", "function": {"name": "look", "arguments": "{}"}}
    for number in (1, 2)
]


def asked(content: object, calls: int = 1) -> Json:
    """An assistant's message that calls the tool."""
    return {"role": "assistant", "content": content, "tool_calls": CALLS[:calls]}


def told(content: object) -> Json:
    """What the tool answered."""
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


EMPTY = [{"type": "text", "text": ""}]
CONVERSATIONS: dict[str, list[Json]] = {
    "an empty text beside a call": [HELLO, asked(""), told("A tree.")],
    "an empty part beside a call": [HELLO, asked(EMPTY), told("A tree.")],
    "space beside a call": [HELLO, asked(" \n"), told("A tree.")],
    "a text beside a call": [HELLO, asked("Let me see."), told("A tree.")],
    "an empty answer": [HELLO, {"role": "assistant", "content": ""}, HELLO],
    "an answer that is null": [HELLO, {"role": "assistant", "content": None}, HELLO],
    "a user who says nothing": [{"role": "user", "content": ""}],
    "a user who says space": [{"role": "user", "content": " "}],
    "a user's empty part": [{"role": "user", "content": [*EMPTY, {"type": "text", "text": "Hello."}]}],
    "an empty system prompt": [{"role": "system", "content": ""}, HELLO],
    "a tool that says nothing": [HELLO, asked(None), told("")],
    "an image of a tool": [HELLO, asked(None), told([{"type": "text", "text": "A tree."}, IMAGE])],
    "nothing but an image of a tool": [HELLO, asked(None), told([IMAGE])],
    "images of tools, then the user": [HELLO, asked(None), told([IMAGE]), HELLO],
    "a call without a result": [HELLO, asked(None, 2), told("A tree."), HELLO],
    "the assistant first": [{"role": "assistant", "content": "Welcome."}, HELLO],
    "the assistant last": [HELLO, {"role": "assistant", "content": "So"}],
    "system messages alone": [SYSTEM],
    "several system messages alone": [SYSTEM, {"role": "system", "content": "Be kind."}],
    "a system message later": [HELLO, {"role": "assistant", "content": "Hi."}, SYSTEM, HELLO],
    "a system message last": [HELLO, {"role": "assistant", "content": "Hi."}, SYSTEM],
    "a developer": [{"role": "developer", "content": "Be brief."}, HELLO],
    "one speaker twice": [
        HELLO,
        HELLO,
        {"role": "assistant", "content": "Hi."},
        asked("Hm."),
        told("A tree."),
    ],
    "a refusal": [HELLO, {"role": "assistant", "content": None, "refusal": "No."}, HELLO],
    "a name": [{**HELLO, "name": "bob"}],
}
FAMILIES = [name for name in ALL if "embeddings" not in name and name not in {"completions", "falls"}]
WORDS = frozenset(
    """
    user assistant system model tool function text image image_url tool_use tool_result base64 image/png png
    object custom none auto call_1 call_2 look
    """.split()  # noqa: SIM905 -- words of the wires, and names the caller gave
)


def leaves(value: object) -> Iterator[str]:
    """Every text in a JSON value, names apart."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():  # pyright: ignore[reportUnknownVariableType] -- JSON
            yield from leaves(item)  # pyright: ignore[reportUnknownArgumentType] -- the same
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType] -- the same
            yield from leaves(item)  # pyright: ignore[reportUnknownArgumentType] -- the same


@pytest.mark.parametrize("tools", [True, False], ids=["with tools", "without"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_that_nobody_wrote_reaches_a_provider(
    all_providers: AllProviders,
    family: str,
    tools: bool,  # noqa: FBT001 -- parametrized
) -> None:
    """Of any conversation; a family that cannot take one may refuse it."""
    heard = 0
    for name, messages in CONVERSATIONS.items():
        fields: Json = {"messages": messages, **({"tools": TOOLS} if tools else {})}
        reply, calls = all_providers.ask(CHAT, family, fields)
        assert calls or 400 <= reply.status_code < 500, (name, reply.text)
        written = {*leaves(messages), *WORDS, PIXEL, ALL[family].partition("/")[2], "{}"}
        for call in calls:
            found = set(leaves(call["body"])) - written - {""}
            assert not found, (name, found)
            heard += 1
    assert heard > len(CONVERSATIONS) - 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_without_arguments_may_be_sent_back(all_providers: AllProviders, family: str) -> None:
    """As many servers write one: no text where an empty object could be."""
    call = {"type": "function", "id": "call_1", "function": {"name": "look", "arguments": ""}}
    messages = [HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, told("A tree.")]
    reply, calls = all_providers.ask(CHAT, family, {"messages": messages, "tools": TOOLS})
    assert reply.status_code == 200, reply.text
    assert "look" in json.dumps(calls[-1]["body"])


def seen(all_providers: AllProviders, family: str, messages: list[Json], **fields: Any) -> Json:
    """What the provider was asked."""
    reply, calls = all_providers.ask(CHAT, family, {"messages": messages, **fields})
    assert reply.status_code == 200, reply.text
    found: Json = calls[-1]["body"]
    return found


@pytest.mark.parametrize("blank", ["", " \n", EMPTY, None], ids=["empty", "space", "an empty part", "null"])
def test_a_call_without_words_is_a_call_to_claude(all_providers: AllProviders, blank: object) -> None:
    """Nothing beside it, whole or streamed."""
    for fields in ({}, {"stream": True}):
        body = seen(all_providers, "Anthropic", [HELLO, asked(blank), told("A tree.")], tools=TOOLS, **fields)
        [_, called, _] = body["messages"]
        assert called["content"] == [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}]


def test_an_image_of_a_tool_stays_with_the_tool(all_providers: AllProviders) -> None:
    """In each family's words for it."""
    messages = [HELLO, asked(None), told([{"type": "text", "text": "A tree."}, IMAGE])]
    for family in ("OpenAI", "OpenAI-compatible", "gpt-5", "groq", "vllm", "openrouter", "azure"):
        last = seen(all_providers, family, messages, tools=TOOLS)["messages"][-1]
        assert (last["role"], last["content"]) == ("tool", messages[2]["content"]), family
    for family in ("Anthropic", "Gemini", "Bedrock", "Ollama"):
        body = seen(all_providers, family, messages, tools=TOOLS)
        last = (body.get("messages") or body["contents"])[-1]
        assert PIXEL in json.dumps(last), family


def test_a_conversation_of_calls_without_tools_names_the_tools_it_called(all_providers: AllProviders) -> None:
    """Anthropic and Bedrock refuse it otherwise; Claude may call none of them."""
    messages = [HELLO, asked(None, 2), told("A tree."), {**told("A bird."), "tool_call_id": "call_2"}]
    claude = seen(all_providers, "Anthropic", messages)
    assert [tool["name"] for tool in claude["tools"]] == ["look"]
    assert claude["tool_choice"] == {"type": "none"}
    bedrock = seen(all_providers, "Bedrock", messages)
    assert [tool["toolSpec"]["name"] for tool in bedrock["toolConfig"]["tools"]] == ["look"]
    assert "toolUse" in json.dumps(bedrock["messages"])
    assert "tools" not in seen(all_providers, "OpenAI", messages)


def test_system_messages_are_where_a_family_has_a_place_for_them(all_providers: AllProviders) -> None:
    """Later ones are the user's turn at Claude; where there are no others, Gemini answers the last."""
    later = [HELLO, {"role": "assistant", "content": "Hi."}, SYSTEM, HELLO]
    turn = seen(all_providers, "Anthropic", later)["messages"][-1]
    assert (turn["role"], [part["text"] for part in turn["content"]]) == ("user", ["Be brief.", "Hello."])
    assert seen(all_providers, "Gemini", [SYSTEM])["contents"] == [
        {"role": "user", "parts": [{"text": "Be brief."}]}
    ]
    assert seen(all_providers, "OpenAI", later)["messages"] == later
