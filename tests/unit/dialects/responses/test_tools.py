"""The tools of a Responses request in a chat: flattened, restored, left out, refused; how they are chosen."""

from typing import Any

import orjson
import pytest
from unit.dialects.responses.request_bodies import WEATHER, call, chat_call, output, sent

from llm_proxy.dialects.responses.tools import CallerTool
from llm_proxy.errors import BadRequest

Json = dict[str, Any]


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    tool = {
        "type": "custom",
        "name": "patch",
        "description": "Patches.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
    }
    custom_call = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'x "y"'}
    custom_output = {"type": "custom_tool_call_output", "call_id": "a", "output": "done"}
    found = sent(input=[custom_call, custom_output], tools=[tool])
    function = found.body["tools"][0]["function"]
    assert function["name"] == "patch"
    assert function["description"] == "Patches.\n\nThe input must match this lark grammar:\nstart: /.+/"
    assert function["parameters"]["required"] == ["input"]
    assert found.tools.callers == {"patch": CallerTool("custom", "patch")}
    arguments = found.body["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert orjson.loads(arguments) == {"input": 'x "y"'}
    assert found.body["messages"][1] == {"role": "tool", "tool_call_id": "a", "content": "done"}


def test_a_namespace_is_flattened_and_its_calls_too() -> None:
    inner: list[Json] = [WEATHER, {"type": "custom", "name": "free"}]
    tools = [{"type": "namespace", "name": "ns", "description": "About.", "tools": inner}, WEATHER]
    found = sent(input=[call("a", namespace="ns"), output("a")], tools=tools)
    assert [tool["function"]["name"] for tool in found.body["tools"]] == [
        "ns__weather",
        "ns__free",
        "weather",
    ]
    assert found.body["tools"][0]["function"]["description"] == "About."
    assert found.body["messages"][0]["tool_calls"] == [chat_call("a", "ns__weather")]
    assert found.tools.callers["ns__weather"] == CallerTool("function", "weather", "ns")


def test_names_that_meet_or_are_too_long_are_told_apart() -> None:
    plain = {"type": "function", "name": "ns__weather"}
    long = {"type": "function", "name": "x" * 80}
    namespace = {"type": "namespace", "name": "ns", "description": "", "tools": [WEATHER]}
    found = sent(tools=[plain, namespace, long])
    names = [tool["function"]["name"] for tool in found.body["tools"]]
    assert len(set(names)) == 3
    assert all(len(name) <= 64 for name in names)
    assert {tool.name for tool in found.tools.callers.values()} == {"ns__weather", "weather", "x" * 80}


def test_an_image_generation_beside_other_tools_is_left_out_and_alone_refused() -> None:
    """Cline offers it to every model of its provider for OpenAI."""
    found = sent(tools=[{"type": "image_generation", "output_format": "png"}, WEATHER])
    assert [tool["function"]["name"] for tool in found.body["tools"]] == ["weather"]
    assert found.tools.left_out == [("tools[0].type", "image_generation")]
    with pytest.raises(BadRequest, match="image_generation"):
        sent(tools=[{"type": "image_generation"}])
    with pytest.raises(BadRequest, match="image_generation"):
        sent(tools=[WEATHER], tool_choice={"type": "image_generation"})


def test_a_web_search_beside_other_tools_is_left_out_and_alone_refused() -> None:
    search = {"type": "web_search", "external_web_access": True}
    found = sent(tools=[WEATHER, search])
    assert [tool["function"]["name"] for tool in found.body["tools"]] == ["weather"]
    assert found.tools.left_out == [("tools[1].type", "web_search")]
    with pytest.raises(BadRequest, match="web_search") as raised:
        sent(tools=[search])
    assert raised.value.param == "tools[0].type"
    with pytest.raises(BadRequest, match="web_search_preview"):
        sent(tools=[WEATHER], tool_choice={"type": "web_search_preview"})


@pytest.mark.parametrize("kind", ["file_search", "code_interpreter", "computer_use_preview", "mcp", "alien"])
def test_a_tool_that_a_provider_runs_is_refused_by_name(kind: str) -> None:
    tool = {"type": kind, "server_label": "s", "name": "n"}
    with pytest.raises(BadRequest, match=kind) as raised:
        sent(tools=[WEATHER, tool])
    assert (raised.value.param, raised.value.code) == ("tools[1].type", "unsupported_parameter")


CLIENT_ITEMS: list[tuple[Json, Json, Json, str]] = [
    (
        {"type": "local_shell"},
        {
            "type": "local_shell_call",
            "call_id": "a",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        {"type": "local_shell_call_output", "id": "a", "output": "files"},
        "files",
    ),
    (
        {"type": "shell"},
        {"type": "shell_call", "call_id": "a", "action": {"commands": ["ls"], "timeout_ms": None}},
        {"type": "shell_call_output", "call_id": "a", "output": [{"stdout": "files"}]},
        '[{"stdout":"files"}]',
    ),
    (
        {"type": "apply_patch"},
        {"type": "apply_patch_call", "call_id": "a", "operation": {"type": "delete_file", "path": "x"}},
        {"type": "apply_patch_call_output", "call_id": "a", "status": "completed"},
        "completed",
    ),
    (
        {
            "type": "tool_search",
            "execution": "client",
            "description": "Finds.",
            "parameters": {"type": "object"},
        },
        {"type": "tool_search_call", "call_id": "a", "arguments": {"query": "q"}},
        {"type": "tool_search_output", "call_id": "a", "tools": [WEATHER]},
        '{"loaded_tools":["weather"]}',
    ),
]


@pytest.mark.parametrize(
    ("tool", "path"),
    [
        ({"type": "function", "name": "f", "async": True}, "tools[0].async"),
        ({"type": "custom", "name": "f", "async": True}, "tools[0].async"),
        (
            {"type": "shell", "environment": {"type": "local", "skills": [{"name": "x"}]}},
            "tools[0].environment.skills",
        ),
    ],
)
def test_what_a_chat_s_tools_cannot_be_is_refused_by_its_path(tool: Json, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(tools=[tool])
    assert caught.value.param == path


@pytest.mark.parametrize(("tool", "called", "returned", "text"), CLIENT_ITEMS)
def test_tools_the_client_runs_are_functions(tool: Json, called: Json, returned: Json, text: str) -> None:
    found = sent(input=[called, returned], tools=[tool])
    kind = tool["type"]
    names = [one["function"]["name"] for one in found.body["tools"]]
    assert names == ([kind, "weather"] if kind == "tool_search" else [kind])
    function = found.body["messages"][0]["tool_calls"][0]["function"]
    assert function["name"] == kind
    assert orjson.loads(function["arguments"])
    assert found.body["messages"][1] == {"role": "tool", "tool_call_id": "a", "content": text}


def test_a_search_that_the_provider_would_run_is_left_out_for_all_tools_are_sent() -> None:
    deferred = WEATHER | {"defer_loading": True}
    found = sent(tools=[deferred, {"type": "tool_search"}])
    assert [tool["function"]["name"] for tool in found.body["tools"]] == ["weather"]


@pytest.mark.parametrize(
    ("choice", "names", "chosen"),
    [
        ("auto", ["weather", "other"], "auto"),
        ("none", ["weather", "other"], "none"),
        ("required", ["weather", "other"], "required"),
        (
            {"type": "function", "name": "other"},
            ["weather", "other"],
            {"type": "function", "function": {"name": "other"}},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]},
            ["other"],
            "required",
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, None, None),
    ],
)
def test_each_choice_of_tools(choice: Any, names: list[str] | None, chosen: Any) -> None:
    body = sent(tools=[WEATHER, {"type": "function", "name": "other"}], tool_choice=choice).body
    assert body.get("tool_choice") == chosen
    assert ([tool["function"]["name"] for tool in body["tools"]] if "tools" in body else None) == names


@pytest.mark.parametrize(
    ("choice", "path"),
    [
        ({"type": "function", "name": "no"}, "tool_choice"),
        ({"type": "file_search"}, "tool_choice"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "no"}]},
         "tool_choice.tools[0]"),
    ],
)  # fmt: skip
def test_a_choice_of_no_offered_tool_is_refused(choice: Json, path: str) -> None:
    with pytest.raises(BadRequest) as raised:
        sent(tools=[WEATHER], tool_choice=choice)
    assert raised.value.param == path
