"""OpenAI's tools that the client runs, and that have no schema there, as functions with one.

Pure. Invariants: a call's arguments hold all that its item has; arguments that do not fit the item's type are
a plain function call, never a broken item; what a tool returned is text.
Source: https://platform.openai.com/docs/guides/tools (local shell, shell, apply patch, tool search).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from llm_proxy.dialects.translation.chat_request import function_tool
from llm_proxy.json_access import Json, as_list, as_object, is_array, is_object

FREEFORM_PARAMETERS: Json = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The input of the tool, as plain text."}},
    "required": ["input"],
    "additionalProperties": False,
}
"""Of a custom tool, whose input is text."""
_TEXTS: Json = {"type": "array", "items": {"type": "string"}}
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer"}


class ClientTool(NamedTuple):
    """One type of tool.

    Attributes:
        description: For the model.
        parameters: The schema of its function.
        call_item: The fields that arguments give to the item of a call; None where they do not fit.
        arguments: The arguments of an item of a call.
        output: The text of an item of an output.
    """

    name: str
    description: str
    parameters: Json
    call_item: Callable[[Json], Json | None]
    arguments: Callable[[Json], Json]
    output: Callable[[Json], str]

    def sent(self, tool: Json) -> Json:
        """Returns its function; a search has the caller's own description and parameters."""
        parameters = tool.get("parameters") or self.parameters
        return function_tool(self.name, tool.get("description") or self.description, parameters)


def _schema(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _is_texts(value: Any) -> bool:  # noqa: ANN401 -- a model's JSON
    return is_array(value) and all(type(one) is str for one in value)


def _local_shell(arguments: Json) -> Json | None:
    if not _is_texts(arguments.get("command")):
        return None
    kept = {
        name: arguments[name] for name in ("timeout_ms", "user", "working_directory") if name in arguments
    }
    return {
        "action": {"type": "exec", "command": arguments["command"], "env": as_object(arguments.get("env"))}
        | kept
    }


def _shell(arguments: Json) -> Json | None:
    if not _is_texts(arguments.get("commands")):
        return None
    limits = {name: arguments.get(name) for name in ("timeout_ms", "max_output_length")}
    return {"action": {"commands": arguments["commands"], **limits}}


def _apply_patch(arguments: Json) -> Json | None:
    operation = as_object(arguments.get("operation"))
    kind, path = operation.get("type"), operation.get("path")
    if kind not in {"create_file", "update_file", "delete_file"} or type(path) is not str:
        return None
    if kind != "delete_file" and type(operation.get("diff")) is not str:
        return None
    return {"operation": operation}


def _tool_search(arguments: Json) -> Json | None:
    return {"execution": "client", "arguments": arguments}


def _action(item: Json) -> Json:
    return {name: value for name, value in item["action"].items() if name != "type" and value is not None}


def _operation(item: Json) -> Json:
    return {"operation": item["operation"]}


def _output(item: Json) -> str:
    return str(item.get("output") or item.get("status") or "")


def _encoded_output(item: Json) -> str:
    return orjson.dumps(item["output"]).decode()


def _searched(item: Json) -> Json:
    found = item.get("arguments")
    if is_object(found):
        return found
    try:
        return as_object(orjson.loads(found)) if type(found) is str else {}
    except orjson.JSONDecodeError:
        return {}


def _found_tools(item: Json) -> str:
    names = [as_object(tool).get("name") for tool in as_list(item.get("tools"))]
    return orjson.dumps({"loaded_tools": [name for name in names if name]}).decode()


CLIENT_TOOLS: dict[str, ClientTool] = {
    "local_shell": ClientTool(
        "local_shell",
        "Runs a command in a shell on the user's machine.",
        _schema(
            ("command",),
            command=_TEXTS,
            working_directory=_TEXT,
            timeout_ms=_COUNT,
            user=_TEXT,
            env={"type": "object", "additionalProperties": _TEXT},
        ),
        _local_shell,
        _action,
        _output,
    ),
    "shell": ClientTool(
        "shell",
        "Runs commands in a shell, each of them on its own.",
        _schema(("commands",), commands=_TEXTS, timeout_ms=_COUNT, max_output_length=_COUNT),
        _shell,
        _action,
        _encoded_output,
    ),
    "apply_patch": ClientTool(
        "apply_patch",
        "Creates, updates or deletes a file. Diffs are in the V4A format.",
        _schema(
            ("operation",),
            operation=_schema(
                ("type", "path"),
                type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                path=_TEXT,
                diff=_TEXT,
            ),
        ),
        _apply_patch,
        _operation,
        _output,
    ),
    "tool_search": ClientTool(
        "tool_search",
        "Searches for further tools and loads them.",
        _schema(("query",), query=_TEXT),
        _tool_search,
        _searched,
        _found_tools,
    ),
}
"""By the type of the tool; items of its calls are `<type>_call`, of its outputs `<type>_call_output`."""
