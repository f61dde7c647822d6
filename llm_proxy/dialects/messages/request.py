"""A checked Messages body translated into the body of a chat completion.

Pure. Invariants: each field is carried, rejected with its path, or listed in `docs/messages.md` as having
no effect here; what the answer needs to know of the request is its `MessagesContext`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import orjson

from llm_proxy.dialects.messages.checks import invalid
from llm_proxy.dialects.messages.content import ContentTranslator, mark_last
from llm_proxy.dialects.messages.schema import refuse
from llm_proxy.dialects.request.validators import shown_name
from llm_proxy.dialects.translation.carried import Carried, not_carried
from llm_proxy.dialects.translation.chat_request import (
    ToolNames,
    effort_of_budget,
    function_choice,
    function_tool,
    is_strict_schema,
    json_schema_format,
    short_user,
)
from llm_proxy.json_access import Json, as_object

OUTPUT_NAME = "output"
"""The name of a structured output, which OpenAI requires and Anthropic does not have."""
_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts above what every model that reasons knows."""
_SAME = ("max_tokens", "temperature", "top_p", "top_k", "stream")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EXAMPLES = "\n\nExamples of input:\n"


class MessagesContext(NamedTuple):
    """What an answer needs of its request.

    Attributes:
        native: The provider speaks this API, so that its answer passes.
        tool_names: The caller's name of each tool that was sent under another.
        wants_thinking: The request enables thinking.
        omits_thinking: It wants the signatures of thinking alone, without its text.
        stop_sequences: Where the caller wanted the answer to stop.
        has_edits: The request has edits of the context, of which none is applied here.
        input_tokens: The estimated size of the prompt, for the start of a stream.
    """

    native: bool = False
    tool_names: Mapping[str, str] = MappingProxyType({})
    wants_thinking: bool = False
    omits_thinking: bool = False
    stop_sequences: tuple[str, ...] = ()
    has_edits: bool = False
    input_tokens: int = 0


def translate_request(
    parsed: Json, extra: Json, carried: Carried, input_tokens: int = 0
) -> tuple[Json, MessagesContext]:
    """Returns the chat body, and what its answer needs.

    Args:
        parsed: A body that `schema.check_body` accepted; it is not changed.
        extra: Its fields that are not published.
        carried: What the model's providers carry.
        input_tokens: The estimated size of the prompt.

    Raises:
        BadRequest: Naming what chat completions have no place for.
    """
    refuse(extra)
    _refuse_fields(parsed)
    translator = ContentTranslator(carried, ToolNames())
    tools = [
        _tool(tool, f"tools.{at}", carried, translator.names)
        for at, tool in enumerate(parsed.get("tools") or ())
    ]
    body: Json = {name: parsed[name] for name in ("model", *_SAME) if parsed.get(name) is not None}
    conversation = translator.messages(parsed["messages"])
    body["messages"] = [*translator.system(parsed.get("system")), *conversation]
    if not conversation:
        raise invalid("messages", "at least one message must have content", "empty_array")
    if (mark := parsed.get("cache_control")) and carried.cache_marks:
        mark_last(body["messages"], mark)
    _require_chosen(parsed)
    if tools:
        body |= {"tools": tools, **_tool_choice(as_object(parsed.get("tool_choice")), translator.names)}
    body |= _thinking(parsed, carried) | _output_format(parsed) | _others(parsed, carried)
    thinking = as_object(parsed.get("thinking"))
    context = MessagesContext(
        tool_names=translator.names.originals,
        wants_thinking=thinking.get("type") in {"enabled", "adaptive"},
        omits_thinking=thinking.get("display") == "omitted",
        stop_sequences=tuple(parsed.get("stop_sequences") or ()),
        has_edits=bool(parsed.get("context_management")),
        input_tokens=input_tokens,
    )
    return body, context


def _refuse_fields(parsed: Json) -> None:
    if parsed.get("max_tokens") == 0:
        raise not_carried("max_tokens", "A request that only fills the cache")
    for name, what in (("container", "A container"), ("mcp_servers", "An MCP server")):
        if parsed.get(name):
            raise not_carried(name, what)
    if parsed.get("speed") == "fast":
        raise not_carried("speed", "Fast mode")
    if parsed.get("inference_geo") not in {None, "global"}:
        raise not_carried("inference_geo", "A place of inference")
    if as_object(parsed.get("output_config")).get("task_budget"):
        raise not_carried("output_config.task_budget", "A budget of a task")


def _tool(tool: Json, path: str, carried: Carried, names: ToolNames) -> Json:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise not_carried(path, f"The tool '{str(tool.get('name') or kind)[:64]}' of type '{kind[:64]}'")
    if "direct" not in (tool.get("allowed_callers") or ["direct"]):
        raise not_carried(f"{path}.allowed_callers", "A tool for other tools")
    schema, description = tool["input_schema"], tool.get("description") or ""
    if examples := tool.get("input_examples"):
        description += _EXAMPLES + "\n".join(orjson.dumps(one).decode() for one in examples)
    strict = True if tool.get("strict") and is_strict_schema(schema) else None
    translated = function_tool(names.sent(tool["name"]), description, schema, strict=strict)
    if (mark := tool.get("cache_control")) and carried.cache_marks:
        translated["cache_control"] = mark
    return translated


def _require_chosen(parsed: Json) -> None:
    """Rejects the choice of a tool that is not offered, as Anthropic does: a chat would answer without it."""
    choice = as_object(parsed.get("tool_choice"))
    offered = [one.get("name") for one in parsed.get("tools") or ()]
    if choice.get("type") in {"any", "tool"} and not offered:
        raise invalid("tool_choice", "may only be specified while providing tools")
    if choice.get("type") == "tool" and choice["name"] not in offered:
        shown = shown_name(choice["name"])
        raise invalid("tool_choice.name", f"Tool '{shown}' not found in provided tools")


def _tool_choice(choice: Json, names: ToolNames) -> Json:
    if not choice:
        return {}
    kind = choice["type"]
    chosen: Json = {"tool_choice": _CHOICES.get(kind) or function_choice(names.sent(choice["name"]))}
    if choice.get("disable_parallel_tool_use"):
        chosen["parallel_tool_calls"] = False
    return chosen


def _thinking(parsed: Json, carried: Carried) -> Json:
    """Thinking as Claude's own field where that is carried, else as an effort."""
    thinking, effort = as_object(parsed.get("thinking")), as_object(parsed.get("output_config")).get("effort")
    kind = thinking.get("type")
    if carried.thinking_field:
        config = {"output_config": {"effort": effort}} if effort else {}
        return ({"thinking": thinking} if kind else {}) | config
    if kind in {None, "disabled", "between_tools"} and not effort:
        return {}
    if kind == "disabled":
        return {}
    if effort is None:
        effort = effort_of_budget(thinking["budget_tokens"]) if kind == "enabled" else "medium"
    return {"reasoning_effort": _EFFORTS.get(effort, effort)}


def _output_format(parsed: Json) -> Json:
    wanted = as_object(parsed.get("output_config")).get("format") or parsed.get("output_format")
    if not wanted:
        return {}
    schema = wanted["schema"]
    name = wanted.get("name") or OUTPUT_NAME
    return {"response_format": json_schema_format(name, schema, strict=is_strict_schema(schema))}


def _others(parsed: Json, carried: Carried) -> Json:
    found: Json = {}
    if stops := parsed.get("stop_sequences"):
        found["stop"] = stops
    if user := as_object(parsed.get("metadata")).get("user_id"):
        found["user"] = short_user(user)
    if parsed.get("service_tier") == "standard_only" and carried.openai:
        found["service_tier"] = "default"
    return found
