"""A model that drives a task: what it calls next follows from the conversation that comes back to it.

A user's message holding `{"do": "agent", "steps": [[["tool", {...}], ...], ...], "text": "..."}` is a plan:
a step is what one turn calls at once; after the last step the model says `text`. Pure; every family's shape.
"""

from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
Call = tuple[str, Json]
ReadPlan = Callable[[str], Json]


def next_calls(body: Json, read_plan: ReadPlan) -> tuple[Json, tuple[Call, ...]]:
    """The plan that was told last, empty for none, and what the model calls now, empty for an answer."""
    plan: Json = {}
    made = 0
    for said, calls in _turns(body):
        told = read_plan(said)
        if told.get("do") == "agent":
            plan, made = told, 0
        made += calls
    ends = 0
    for step in plan.get("steps", ()):
        if made <= ends:
            offered = _offered(body)
            named = [(offered.get(name), arguments) for name, arguments in step]
            return plan, tuple((name, arguments) for name, arguments in named if name)
        ends += len(step)
    return plan, ()


def _turns(body: Json) -> Iterator[tuple[str, int]]:
    """What a user said, or how much the model called, in order."""
    for turn in _objects(body.get("messages") or body.get("contents") or body.get("input")):
        parts = turn.get("content") or turn.get("parts")
        listed = _objects(parts)
        if turn.get("role") == "user":
            yield (
                " ".join([parts] if isinstance(parts, str) else [one.get("text") or "" for one in listed]),
                0,
            )
        else:
            calls = len(turn.get("tool_calls") or ())
            calls += sum(
                one.get("type") == "tool_use" or bool({"functionCall", "function_call"} & one.keys())
                for one in listed
            )
            yield "", calls + str(turn.get("type")).endswith("_call")


def _offered(body: Json) -> dict[str, str]:
    """The names of the tools that a request offers, by their last word: `space__tool` is `tool` too."""
    names: dict[str, str] = {}
    for tool in _objects(body.get("tools")):
        declared = [one for key, many in tool.items() if "eclarations" in key for one in _objects(many)]
        for one in [tool, tool.get("function") or {}, *declared, *_objects(tool.get("tools"))]:
            name = str(one.get("name"))
            names |= {name: name, name.rpartition("__")[2]: name}
    return names


def _objects(given: object) -> list[Json]:
    listed: list[Any] = list(given) if isinstance(given, list) else []  # pyright: ignore[reportUnknownArgumentType] -- JSON
    return [one for one in listed if isinstance(one, dict)]
