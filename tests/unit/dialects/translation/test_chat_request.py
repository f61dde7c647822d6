"""Parts of chat requests that translated dialects share."""

import pytest

from llm_proxy.dialects.translation.carried import Carried, carried_by, not_carried
from llm_proxy.dialects.translation.chat_request import (
    ToolNames,
    ToolOutput,
    effort_of_budget,
    file_part,
    function_tool,
    image_part,
    is_strict_schema,
    joined_texts,
    restored_name,
    short_user,
    text_part,
    tool_output_messages,
)
from llm_proxy.json_access import Json

CLOSED: Json = {"type": "object", "required": ["a"], "additionalProperties": False}
IMAGE = image_part("data:image/png;base64,AA==")


def test_an_image_of_a_tool_follows_all_outputs_where_a_tool_message_holds_only_text() -> None:
    outputs = [ToolOutput("a", [text_part("seen"), IMAGE]), ToolOutput("b", [text_part("4")])]
    assert tool_output_messages(outputs, images_inside=False) == [
        {"role": "tool", "tool_call_id": "a", "content": "seen"},
        {"role": "tool", "tool_call_id": "b", "content": "4"},
        {"role": "user", "content": [text_part("Attached to the output of the tool call a:"), IMAGE]},
    ]


def test_an_image_of_a_tool_stays_inside_where_the_provider_has_it() -> None:
    (message,) = tool_output_messages([ToolOutput("a", [text_part("seen"), IMAGE])], images_inside=True)
    assert message["content"] == [text_part("seen"), IMAGE]


def test_an_output_of_an_image_alone_is_an_empty_text_and_the_image() -> None:
    first, second = tool_output_messages([ToolOutput("a", [IMAGE])], images_inside=False)
    assert (first["content"], second["content"][1]) == ("", IMAGE)


def test_a_lone_text_is_a_string_and_a_marked_one_stays_a_part() -> None:
    marked = {**text_part("x"), "cache_control": {"type": "ephemeral"}}
    assert joined_texts([text_part("x")]) == "x"
    assert joined_texts([marked]) == [marked]
    assert joined_texts([text_part("x"), text_part("y")]) == [text_part("x"), text_part("y")]


@pytest.mark.parametrize("name", ["x" * 65, "mcp__server__" + "tool" * 20, "with.dots", "ünïcode"])
def test_a_long_or_odd_name_is_sent_as_openai_accepts_it_and_restored(name: str) -> None:
    names = ToolNames()
    sent = names.sent(name)
    assert len(sent) <= 64
    assert sent.isascii()
    assert sent == ToolNames().sent(name)
    assert restored_name(names.originals, sent) == name


def test_a_valid_name_is_sent_as_it_is() -> None:
    names = ToolNames()
    assert names.sent("get_weather-2") == "get_weather-2"
    assert restored_name(names.originals, "get_weather-2") == "get_weather-2"
    assert names.originals == {}


def test_names_that_differ_late_stay_different() -> None:
    names = ToolNames()
    assert names.sent("x" * 70 + "a") != names.sent("x" * 70 + "b")


@pytest.mark.parametrize(
    ("budget_tokens", "effort"), [(1024, "low"), (2048, "low"), (8192, "medium"), (31999, "high")]
)
def test_a_budget_is_an_effort(budget_tokens: int, effort: str) -> None:
    assert effort_of_budget(budget_tokens) == effort


def test_a_long_user_is_its_digest() -> None:
    assert short_user("ann") == "ann"
    assert len(short_user("u" * 65)) == 64
    assert short_user("u" * 65) != short_user("v" * 65)


SCHEMAS: list[tuple[Json, bool]] = [
    (CLOSED | {"properties": {"a": {"type": "string"}}}, True),
    ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, False),
    (CLOSED | {"properties": {"a": {}, "b": {}}}, False),
    (
        CLOSED | {"properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}},
        False,
    ),
    ({"anyOf": [{"type": "string"}, {"type": "object", "properties": {"x": {}}}]}, False),
    ({"type": "string", "enum": ["a", "b"]}, True),
]


@pytest.mark.parametrize(("schema", "strict"), SCHEMAS)
def test_a_schema_is_strict_when_every_object_is_closed_and_complete(schema: Json, *, strict: bool) -> None:
    assert is_strict_schema(schema) is strict


def test_a_tool_has_only_what_was_given() -> None:
    assert function_tool("f", None, None) == {"type": "function", "function": {"name": "f"}}
    assert function_tool("f", "d", {"type": "object"}, strict=True)["function"] == {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert file_part(file_id="https://example.com/a.pdf")["file"] == {"file_id": "https://example.com/a.pdf"}


def test_a_group_carries_what_all_its_providers_carry() -> None:
    claude = carried_by({"anthropic", "bedrock"})
    assert (claude.cache_marks, claude.thinking_blocks, claude.tool_images) == (True, True, True)
    mixed = Carried(cache_marks=True, thinking_blocks=True, openai=True)
    assert carried_by({"anthropic", "openai"}) == mixed
    assert carried_by(()) == Carried()
    assert carried_by({"unknown"}) == Carried()


def test_what_is_not_carried_is_refused_by_its_path() -> None:
    error = not_carried("tools.0", "The server tool 'web_search'")
    assert (error.status, error.param, error.code) == (400, "tools.0", "unsupported_parameter")
    assert "web_search" in error.message
