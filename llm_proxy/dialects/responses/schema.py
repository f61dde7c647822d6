"""The fields of a Responses request, its items, parts and tools, each with its validator.

Invariants: a fault is named by its path (`input[3].content[0].text`); null means absent; an item, a part or a
tool of a type that is not listed passes here, for a native provider may know it: only translation rejects it.
Source: https://platform.openai.com/docs/api-reference/responses/create.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llm_proxy.dialects.request.openai_schema import VALIDATE_METADATA
from llm_proxy.dialects.request.validators import (
    MAX_INTEGER,
    Validator,
    array_of,
    boolean,
    either,
    integer,
    invalid,
    map_of,
    missing,
    number,
    object_with,
    one_of,
    string,
    wrong_type,
)
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, is_array, is_object

_text = string()
_non_empty = string(min_length=1)
_object = object_with()
_any_number = number(-MAX_INTEGER, MAX_INTEGER)
ROLES = ("assistant", "developer", "system", "user")


def _by_type(kinds: Mapping[str, Validator]) -> Validator:
    """An object that its `type` says how to check."""

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        if not is_object(value):
            raise wrong_type(path, "an object", value)
        kind = value.get("type")
        if kind is None:
            raise missing(f"{path}.type")
        _non_empty(kind, f"{path}.type")
        if (inner := kinds.get(kind)) is not None:
            inner(value, path)
        return value

    return check


def _one_of_fields(*names: str, **others: Validator) -> Validator:
    """An object that has at least one of some fields, each a text."""
    check_types = object_with(**dict.fromkeys(names, _text), **others)

    def check(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
        check_types(value, path)
        if all(value.get(name) is None for name in names):
            raise missing(f"{path}.{names[0]}")
        return value

    return check


_PARTS: dict[str, Validator] = {
    "input_text": object_with(text_required=_text),
    "output_text": object_with(text_required=_text),
    "refusal": object_with(refusal_required=_text),
    "input_image": _one_of_fields("image_url", "file_id", detail=_text),
    "input_file": _one_of_fields("file_data", "file_id", "file_url", filename=_text),
    "input_audio": object_with(
        input_audio_required=object_with(data_required=_non_empty, format_required=_non_empty)
    ),
}
_content = either("a string or an array of objects", string=_text, array=array_of(_by_type(_PARTS)))
_summary = array_of(object_with(text_required=_text))
_with_arguments = object_with(arguments_required=_text)
_with_input = object_with(input_required=_text)
_call = object_with(call_id_required=_non_empty, name_required=_non_empty, namespace=_text)
_tool_output = object_with(call_id=_text, output_required=_content)


def _function_call(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    _call(value, path)
    return _with_arguments(value, path)


def _custom_call(value: Any, path: str) -> Any:  # noqa: ANN401 -- JSON in, JSON out
    _call(value, path)
    return _with_input(value, path)


_FORMATS = {
    "json_schema": object_with(
        name_required=string(max_length=64, min_length=1),
        schema_required=_object,
        strict=boolean,
        description=_text,
    )
}
_GRAMMARS = {"grammar": object_with(definition_required=_text, syntax_required=_non_empty)}
_function_tool = object_with(
    name_required=_non_empty,
    description=_text,
    parameters=_object,
    strict=boolean,
    allowed_callers=array_of(_text),
)
_custom_tool = object_with(
    name_required=_non_empty,
    description=_text,
    format=_by_type(_GRAMMARS),
    allowed_callers=array_of(_text),
)
_PLAIN_TOOLS = {"function": _function_tool, "custom": _custom_tool}
_described = object_with(description=_text, parameters=_object)
_TOOLS: dict[str, Validator] = {
    **_PLAIN_TOOLS,
    "namespace": object_with(
        name_required=_non_empty, description=_text, tools_required=array_of(_by_type(_PLAIN_TOOLS))
    ),
    "mcp": object_with(server_label_required=_non_empty),
    "tool_search": _described,
    "local_shell": _described,
    "apply_patch": _described,
    "shell": object_with(environment=_by_type({})),
}
_tools = array_of(_by_type(_TOOLS), max_length=1024)
_ITEMS: dict[str, Validator] = {
    "message": object_with(role_required=one_of(*ROLES), content_required=_content),
    "function_call": _function_call,
    "function_call_output": _tool_output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _tool_output,
    "reasoning": object_with(summary=_summary, content=_summary, encrypted_content=_text),
    "item_reference": object_with(id_required=_non_empty),
    "compaction": object_with(encrypted_content_required=_text),
    "additional_tools": object_with(tools_required=_tools),
    "tool_search_call": object_with(call_id=_text),
    "tool_search_output": object_with(call_id=_text, tools_required=_tools),
    "local_shell_call": object_with(call_id_required=_non_empty, action_required=_object),
    "local_shell_call_output": object_with(call_id=_text, output_required=_text),
    "shell_call": object_with(call_id_required=_non_empty, action_required=_object),
    "shell_call_output": object_with(call_id_required=_non_empty, output_required=array_of(_object)),
    "apply_patch_call": object_with(call_id_required=_non_empty, operation_required=_object),
    "apply_patch_call_output": object_with(call_id_required=_non_empty, output=_text),
}
_named = _by_type(
    dict.fromkeys(("function", "custom"), object_with(name_required=_non_empty, namespace=_text))
)
_string_or_object = "a string or an object"
_CHOICES: dict[str, Validator] = {
    "function": _named,
    "custom": _named,
    "allowed_tools": object_with(mode_required=one_of("auto", "required"), tools_required=array_of(_named)),
}

FIELDS: dict[str, Validator] = {
    "model": _non_empty,
    "input": either("a string or an array of objects", string=_text, array=array_of(_object)),
    "access_programs": _object,
    "background": boolean,
    "client_metadata": map_of(_text),
    "context_management": array_of(_object),
    "conversation": either(_string_or_object, string=_non_empty, object=object_with(id_required=_non_empty)),
    "image": _object,
    "include": array_of(_text),
    "instructions": _text,
    "max_output_tokens": integer(1),
    "max_tool_calls": integer(1),
    "metadata": VALIDATE_METADATA,
    "moderation": _object,
    "parallel_tool_calls": boolean,
    "previous_response_id": _non_empty,
    "prompt": object_with(id_required=_non_empty),
    "prompt_cache_key": _text,
    "prompt_cache_options": _object,
    "prompt_cache_retention": _text,
    "reasoning": object_with(effort=_text, summary=_text, generate_summary=_text, context=_text, mode=_text),
    "safety_identifier": _text,
    "service_tier": _text,
    "store": boolean,
    "stream": boolean,
    "stream_options": object_with(include_obfuscation=boolean),
    "temperature": _any_number,
    "text": object_with(format=_by_type(_FORMATS), verbosity=_text),
    "tool_choice": either(_string_or_object, string=_non_empty, object=_by_type(_CHOICES)),
    "tools": _tools,
    "top_logprobs": integer(0, 20),
    "top_p": _any_number,
    "truncation": one_of("auto", "disabled"),
    "user": _text,
}
"""In the order of OpenAI's documentation; another name is the model's own field."""


def check_body(parsed: Json, max_items: int) -> Json:
    """Returns the body without what is null; raises `BadRequest` naming the field at fault."""
    body = _checked(parsed, parsed)
    _check_items(body.get("input"), max_items)
    return body


def _checked(parsed: Json, names: Iterable[str]) -> Json:
    """The body without what is null, its fields checked in this order, at fault in the documentation's."""
    body = {name: value for name, value in parsed.items() if value is not None}
    try:
        for name in names:
            if name in body and (check := FIELDS.get(name)) is not None:
                body[name] = check(body[name], name)
    except BadRequest:
        if names is not parsed:
            raise
        return _checked(parsed, FIELDS)
    return body


def _check_items(items: Any, max_items: int) -> None:  # noqa: ANN401 -- unchecked JSON
    if not is_array(items):
        return
    if len(items) > max_items:
        reason = f"array too long. Expected at most {max_items} items, but got {len(items)}."
        raise invalid("input", reason, "array_above_max_length")
    for at, item in enumerate(items):
        path = f"input[{at}]"
        kind = item_type(item)
        _non_empty(kind, f"{path}.type")
        if item.get("id") is not None:
            _text(item["id"], f"{path}.id")
        if (check := _ITEMS.get(kind)) is not None:
            check(item, path)


def item_type(item: Json) -> Any:  # noqa: ANN401 -- unchecked JSON
    """The type of an item of the input, which messages and references may leave out."""
    kind = item.get("type")
    if kind is not None:
        return kind
    return "item_reference" if "id" in item and "role" not in item else "message"
