"""Messages and tools in the form that clients send most are judged and sent as any other form of them."""

import json
from itertools import product
from typing import Any

import pytest
from unit.dialects.parsing import HELLO, parse

from llm_proxy.errors import BadRequest

VALUES: tuple[Any, ...] = ("x", "", None, 1, [], {}, ["x"], {"name": "x"})
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "seen", "tool_call_id": "call_1"}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True},
}


def _outcome(**body: Any) -> str:
    """The body that is sent, byte for byte, or the error."""
    try:
        return json.dumps(parse(**body).body)
    except BadRequest as error:
        return f"{error.code} {error.param} {error.message}"


def _changed(message: dict[str, Any], path: tuple[str | int, ...], to: object) -> dict[str, Any]:
    """A copy with another value at a path."""
    copy: Any = json.loads(json.dumps(message))
    *above, last = path
    holder = copy
    for step in above:
        holder = holder[step]
    holder[last] = to
    changed: dict[str, Any] = copy
    return changed


FIELDS_OF_MESSAGES: list[tuple[dict[str, Any], tuple[str | int, ...]]] = [
    (CALLING, ("role",)),
    (CALLING, ("content",)),
    (CALLING, ("tool_calls",)),
    (CALLING, ("tool_calls", 0)),
    *((CALLING, ("tool_calls", 0, name)) for name in CALL),
    (CALLING, ("tool_calls", 0, "function", "name")),
    (CALLING, ("tool_calls", 0, "function", "arguments")),
    *((RESULT, (name,)) for name in RESULT),
]


@pytest.mark.parametrize(("message", "path"), FIELDS_OF_MESSAGES)
def test_turns_of_tools_are_those_of_any_form(message: dict[str, Any], path: tuple[str | int, ...]) -> None:
    """A `name` that is null takes them the general way, and is not sent."""
    for value in ("function", "tool", "assistant", *VALUES):
        changed = _changed(message, path, value)
        for one in (changed, dict(reversed(changed.items()))):
            common, general = (_outcome(messages=[*HELLO, m]) for m in (one, {**one, "name": None}))
            assert common == general


def test_functions_are_those_of_any_form() -> None:
    """A `custom` that is null takes them the general way, and is sent."""
    paths: list[tuple[str | int, ...]] = [("type",), ("function",)]
    paths += [("function", name) for name in ("name", "description", "parameters", "strict")]
    for path, value in product(paths, ("function", "custom", *VALUES)):
        tool = _changed(TOOL, path, value)
        common, general = (_outcome(tools=[t]) for t in (tool, {**tool, "custom": None}))
        assert common == general.replace(', "custom": null', "")
