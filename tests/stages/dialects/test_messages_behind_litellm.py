"""No provider gets text that the caller did not write; what each provider gets of a conversation."""

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


def tool_call_message(content: object, calls: int = 1) -> Json:
    """An assistant's message that calls the tool."""
    return {"role": "assistant", "content": content, "tool_calls": CALLS[:calls]}


def tool_message(content: object) -> Json:
    """The tool's answer."""
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


EMPTY = [{"type": "text", "text": ""}]
CONVERSATIONS: dict[str, list[Json]] = {
    "an empty text beside a call": [HELLO, tool_call_message(""), tool_message("A tree.")],
    "an empty part beside a call": [HELLO, tool_call_message(EMPTY), tool_message("A tree.")],
    "space beside a call": [HELLO, tool_call_message(" \n"), tool_message("A tree.")],
    "a text beside a call": [HELLO, tool_call_message("Let me see."), tool_message("A tree.")],
    "an empty answer": [HELLO, {"role": "assistant", "content": ""}, HELLO],
    "an answer that is null": [HELLO, {"role": "assistant", "content": None}, HELLO],
    "a user who says nothing": [{"role": "user", "content": ""}],
    "a user who says space": [{"role": "user", "content": " "}],
    "a user's empty part": [{"role": "user", "content": [*EMPTY, {"type": "text", "text": "Hello."}]}],
    "an empty system prompt": [{"role": "system", "content": ""}, HELLO],
    "a tool that says nothing": [HELLO, tool_call_message(None), tool_message("")],
    "an image of a tool": [
        HELLO,
        tool_call_message(None),
        tool_message([{"type": "text", "text": "A tree."}, IMAGE]),
    ],
    "nothing but an image of a tool": [HELLO, tool_call_message(None), tool_message([IMAGE])],
    "images of tools, then the user": [HELLO, tool_call_message(None), tool_message([IMAGE]), HELLO],
    "a call without a result": [HELLO, tool_call_message(None, 2), tool_message("A tree."), HELLO],
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
        tool_call_message("Hm."),
        tool_message("A tree."),
    ],
    "a refusal": [HELLO, {"role": "assistant", "content": None, "refusal": "No."}, HELLO],
    "a name": [{**HELLO, "name": "bob"}],
}
FAMILIES = [name for name in ALL if "embeddings" not in name and name not in {"completions", "falls"}]
PROMPTS = "Ollama's prompts"
"""The family whose messages become one text, which names their roles."""
WORDS = frozenset(
    """
    user assistant system model tool function text image image_url tool_use tool_result base64 image/png png
    object custom none auto call_1 call_2 look
    """.split()  # noqa: SIM905 -- words of the wires, and names the caller gave
)


def leaves(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, keys excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():  # pyright: ignore[reportUnknownVariableType] -- JSON
            yield from leaves(item)  # pyright: ignore[reportUnknownArgumentType] -- the same
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType] -- the same
            yield from leaves(item)  # pyright: ignore[reportUnknownArgumentType] -- the same


@pytest.mark.parametrize("tools", [True, False], ids=["with tools", "without"])
@pytest.mark.parametrize("family", [one for one in FAMILIES if one != PROMPTS])
def test_no_added_text_reaches_a_provider(
    all_providers: AllProviders,
    family: str,
    tools: bool,  # noqa: FBT001 -- parametrized
) -> None:
    """Of any conversation; a provider that cannot take one may reject it."""
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
def test_a_tool_call_without_arguments_may_be_sent_back(all_providers: AllProviders, family: str) -> None:
    """As many servers send one: an empty text where `{}` could be."""
    call = {"type": "function", "id": "call_1", "function": {"name": "look", "arguments": ""}}
    messages = [HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, tool_message("A tree.")]
    reply, calls = all_providers.ask(CHAT, family, {"messages": messages, "tools": TOOLS})
    assert reply.status_code == 200, reply.text
    assert "look" in json.dumps(calls[-1]["body"])


def received(all_providers: AllProviders, family: str, messages: list[Json], **fields: Any) -> Json:
    """Return the request the provider got."""
    reply, calls = all_providers.ask(CHAT, family, {"messages": messages, **fields})
    assert reply.status_code == 200, reply.text
    found: Json = calls[-1]["body"]
    return found


@pytest.mark.parametrize("blank", ["", " \n", EMPTY, None], ids=["empty", "space", "an empty part", "null"])
def test_a_tool_call_without_text_is_a_tool_call_for_claude(
    all_providers: AllProviders, blank: object
) -> None:
    """Nothing is added, streamed or not."""
    for fields in ({}, {"stream": True}):
        body = received(
            all_providers,
            "Anthropic",
            [HELLO, tool_call_message(blank), tool_message("A tree.")],
            tools=TOOLS,
            **fields,
        )
        [_, called, _] = body["messages"]
        assert called["content"] == [{"type": "tool_use", "id": "call_1", "name": "look", "input": {}}]


def test_an_image_of_a_tool_stays_with_the_tool(all_providers: AllProviders) -> None:
    """In each provider's format."""
    messages = [HELLO, tool_call_message(None), tool_message([{"type": "text", "text": "A tree."}, IMAGE])]
    for family in ("OpenAI", "OpenAI-compatible", "gpt-5", "groq", "vllm", "openrouter", "azure"):
        last = received(all_providers, family, messages, tools=TOOLS)["messages"][-1]
        assert (last["role"], last["content"]) == ("tool", messages[2]["content"]), family
    for family in ("Anthropic", "Gemini", "Bedrock", "Ollama"):
        body = received(all_providers, family, messages, tools=TOOLS)
        last = (body.get("messages") or body["contents"])[-1]
        assert PIXEL in json.dumps(last), family


def test_called_tools_are_declared_if_a_request_has_no_tools(all_providers: AllProviders) -> None:
    """Anthropic and Bedrock would reject it; Claude may call none of them."""
    messages = [
        HELLO,
        tool_call_message(None, 2),
        tool_message("A tree."),
        {**tool_message("A bird."), "tool_call_id": "call_2"},
    ]
    claude = received(all_providers, "Anthropic", messages)
    assert [tool["name"] for tool in claude["tools"]] == ["look"]
    assert claude["tool_choice"] == {"type": "none"}
    bedrock = received(all_providers, "Bedrock", messages)
    assert [tool["toolSpec"]["name"] for tool in bedrock["toolConfig"]["tools"]] == ["look"]
    assert "toolUse" in json.dumps(bedrock["messages"])
    assert "tools" not in received(all_providers, "OpenAI", messages)


def test_system_messages_are_where_a_provider_has_a_field_for_them(all_providers: AllProviders) -> None:
    """Later ones are a user's message for Claude; if there are no others, Gemini answers the last."""
    later = [HELLO, {"role": "assistant", "content": "Hi."}, SYSTEM, HELLO]
    turn = received(all_providers, "Anthropic", later)["messages"][-1]
    assert (turn["role"], [part["text"] for part in turn["content"]]) == ("user", ["Be brief.", "Hello."])
    assert received(all_providers, "Gemini", [SYSTEM])["contents"] == [
        {"role": "user", "parts": [{"text": "Be brief."}]}
    ]
    assert received(all_providers, "OpenAI", later)["messages"] == later
