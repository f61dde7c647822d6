"""The tools of a Responses request as functions of a chat, and a called function as the caller's tool.

Pure. Invariants: every tool sent has a name of its own, valid in a chat; tools the client runs are functions
with one schema a type; a namespace's tools are `namespace__name`; tools the provider would run are rejected
by name, but a web search beside other tools is left out, for the model may do without it.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

from llm_proxy.dialects.request.validators import invalid
from llm_proxy.dialects.responses.client_tools import CLIENT_TOOLS, FREEFORM_PARAMETERS
from llm_proxy.dialects.translation.carried import not_carried
from llm_proxy.dialects.translation.chat_request import ToolNames, function_choice, function_tool
from llm_proxy.json_access import Json, as_object, as_objects, is_object

ToolKind = Literal["function", "custom", "tool_search", "local_shell", "shell", "apply_patch"]
DISPENSABLE = frozenset(
    {
        "image_generation",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Tools of OpenAI's own that clients offer whatever the model; it may do without them."""
_DIGEST_CHARS, _KEPT_CHARS = 8, 55


class CallerTool(NamedTuple):
    """A tool as the caller named it."""

    kind: ToolKind
    name: str
    namespace: str | None = None


class SentTools:
    """The tools of one request.

    Attributes:
        functions: What is sent, by name, in the caller's order.
        callers: The caller's tool of each name that was ever sent or called.
        left_out: The paths and types of tools the model does without.
    """

    __slots__ = ("_names", "_sent", "callers", "functions", "left_out")

    def __init__(self) -> None:
        self.functions: dict[str, Json] = {}
        self.callers: dict[str, CallerTool] = {}
        self.left_out: list[tuple[str, str]] = []
        self._names = ToolNames()
        self._sent: dict[CallerTool, str] = {}

    def sent_name(self, tool: CallerTool) -> str:
        """Returns the name of a tool in the chat, the same each time."""
        if (known := self._sent.get(tool)) is not None:
            return known
        full = f"{tool.namespace}__{tool.name}" if tool.namespace else tool.name
        name = self._names.sent(full)
        if name in self.callers:  # another tool's, such as a plain `a__b` beside `b` of the namespace `a`
            digest = hashlib.sha256(repr(tool).encode()).hexdigest()[:_DIGEST_CHARS]
            name = f"{name[:_KEPT_CHARS]}_{digest}"
        self._sent[tool] = name
        self.callers[name] = tool
        return name

    def add_all(self, tools: list[Json], path: str, *, again: bool = False) -> None:
        """Adds tools; raises `BadRequest` for one that is not carried, or is there twice, unless `again`."""
        for at, tool in enumerate(tools):
            self._add(tool, f"{path}[{at}]", again=again)

    def _add(self, tool: Json, path: str, *, again: bool) -> None:
        kind = tool["type"]
        if kind == "namespace":
            about = tool.get("description")
            for at, inner in enumerate(tool["tools"]):
                inner_path = f"{path}.tools[{at}]"
                if inner["type"] not in {"function", "custom"}:
                    raise not_carried(f"{inner_path}.type", f"The tool '{inner['type'][:64]}'")
                self._add_named(inner, inner_path, tool["name"], about if at == 0 else None, again=again)
        elif kind in {"function", "custom"}:
            self._add_named(tool, path, None, None, again=again)
        elif kind in DISPENSABLE or (kind == "tool_search" and tool.get("execution") != "client"):
            self.left_out.append(
                (f"{path}.type", kind)
            )  # deferred tools are sent at once, so none is searched
        elif kind in CLIENT_TOOLS and as_object(tool.get("environment")).get("type", "local") == "local":
            if as_object(tool.get("environment")).get("skills"):
                raise not_carried(f"{path}.environment.skills", "A skill")
            described = CLIENT_TOOLS[kind].sent(tool)
            self._put(CallerTool(kind, kind), described, path, again=again)
        else:
            raise not_carried(f"{path}.type", f"The tool '{kind[:64]}'")

    def _add_named(
        self, tool: Json, path: str, namespace: str | None, about: str | None, *, again: bool
    ) -> None:
        if "direct" not in (tool.get("allowed_callers") or ["direct"]):
            raise not_carried(f"{path}.allowed_callers", "A tool that programs alone may call")
        if tool.get("async"):
            raise not_carried(f"{path}.async", "A tool whose output comes when the model has gone on")
        texts = [text for text in (about, tool.get("description")) if text]
        if tool["type"] == "custom":
            called = CallerTool("custom", tool["name"], namespace)
            texts += _grammar(tool)
            parameters: Json | None = FREEFORM_PARAMETERS
            strict = None
        else:
            called = CallerTool("function", tool["name"], namespace)
            parameters, strict = tool.get("parameters"), tool.get("strict")
        self._put(called, function_tool("", "\n\n".join(texts), parameters, strict=strict), path, again=again)

    def _put(self, tool: CallerTool, function: Json, path: str, *, again: bool) -> None:
        name = self.sent_name(tool)
        if name in self.functions:
            if again:
                return
            raise invalid(f"{path}.name", f"the tool '{tool.name[:64]}' is given twice.")
        function["function"]["name"] = name
        self.functions[name] = function

    def require_some(self) -> None:
        """Raises `BadRequest` for a tool that was left out where nothing else is offered."""
        if self.left_out and not self.functions:
            path, kind = self.left_out[0]
            raise not_carried(path, f"The tool '{kind}'")


class ChosenTools(NamedTuple):
    """What of the tools is sent, and how the model is to choose; None where a chat's default is meant."""

    functions: list[Json]
    choice: str | Json | None


def choose_tools(choice: str | Json | None, tools: SentTools) -> ChosenTools:
    """Returns the tools to send by the caller's `tool_choice`; raises `BadRequest` for one not offered."""
    functions = list(tools.functions.values())
    if choice is None or type(choice) is str:
        if choice == "required" and not functions:
            raise invalid("tool_choice", "'required' needs 'tools'.")
        return ChosenTools(functions, choice if functions else None)
    choice = as_object(choice)
    if choice["type"] != "allowed_tools":
        return ChosenTools(functions, function_choice(_chosen(choice, tools, "tool_choice")))
    allowed = {
        _chosen(one, tools, f"tool_choice.tools[{at}]")
        for at, one in enumerate(as_objects(choice["tools"]))
        if one.get("type") not in DISPENSABLE
    }
    kept = [one for name, one in tools.functions.items() if name in allowed]
    if choice["mode"] == "required" and not kept:
        raise invalid("tool_choice.tools", "none of them can be called.")
    return ChosenTools(kept, choice["mode"] if kept else None)


def _chosen(choice: Json, tools: SentTools, path: str) -> str:
    """The sent name of a chosen tool."""
    kind = choice["type"]
    if kind not in {"function", "custom"} and kind not in CLIENT_TOOLS:
        raise not_carried(path, f"The tool '{kind[:64]}'")
    name = choice["name"] if kind in {"function", "custom"} else kind
    wanted = CallerTool(kind, name, choice.get("namespace"))
    sent = tools.sent_name(wanted)
    if sent not in tools.functions:
        raise invalid(path, f"the tool '{name[:64]}' is not among 'tools'.")
    return sent


def _grammar(tool: Json) -> list[str]:
    wanted = tool.get("format")
    if not is_object(wanted) or wanted["type"] != "grammar":
        return []
    return [f"The input must match this {wanted['syntax']} grammar:\n{wanted['definition']}"]


def restored_tool(callers: Mapping[str, CallerTool], name: str) -> CallerTool:
    """Returns the caller's tool of a called function; one that was not offered is a function of that name."""
    return callers.get(name) or CallerTool("function", name)
