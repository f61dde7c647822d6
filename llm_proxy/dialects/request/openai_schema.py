"""OpenAI's request fields and messages, each with its validator, in the order they are sent.

Invariants: a field stands here because OpenAI's specification names it; enumerations that new models extend
are checked for their type alone; null means absent; a message's content is never changed, and keys that no
specification names are sent with it.
Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings, images).
"""

from operator import itemgetter
from typing import Any

from llm_proxy.dialects.request.file_bytes import file_bytes
from llm_proxy.dialects.request.rerank_schema import MODERATION_FIELDS, RERANK_FIELDS
from llm_proxy.dialects.request.speech_schema import SPEECH_FIELDS
from llm_proxy.dialects.request.validators import (
    Validator,
    anything,
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
    tagged,
    texts_or_tokens,
    wrong_type,
    wrong_value,
)
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import parse_tags
from llm_proxy.json_access import Json, is_array, is_object

_text = string()
_non_empty = string(min_length=1)
_string_or_object = "a string or an object"
_function_definition = object_with(name_required=_non_empty, description=_text, parameters=object_with())
_any_tool = tagged(
    object_with(
        type_required=_non_empty,
        function=_function_definition,
        custom=object_with(name_required=_non_empty, description=_text),
    ),
    "function",
    "custom",
)
_TEXT_OR_NONE, _OBJECT_OR_NONE = frozenset[type]({str, type(None)}), frozenset[type]({dict, type(None)})


def _is_function(tool: Any) -> bool:  # noqa: ANN401 -- unchecked JSON
    """The common case: a valid function and no other kind of tool."""
    if tool.__class__ is not dict or tool.get("type") != "function" or "custom" in tool:
        return False
    function = tool.get("function")
    return (
        is_object(function)
        and type(name := function.get("name")) is str
        and name != ""
        and type(function.get("description")) in _TEXT_OR_NONE
        and type(function.get("parameters")) in _OBJECT_OR_NONE
    )


def _tool(value: Any, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    return value if _is_function(value) else _any_tool(value, path)


_choice = tagged(
    object_with(
        type_required=_non_empty,
        function=object_with(name_required=_non_empty),
        custom=object_with(name_required=_non_empty),
        allowed_tools=object_with(),
    ),
    "function",
    "custom",
    "allowed_tools",
)
_stop = either("a string or an array of strings", string=anything, array=array_of(_text))
_stream_options = object_with(include_usage=boolean, include_obfuscation=boolean)
_bias = map_of(number(-100, 100))
_name = string(max_length=256, min_length=1)
_string_map = map_of(string(max_length=512), max_entries=16, max_name_length=64)


def _metadata(value: Any, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    """OpenAI's map of strings, whose `tags` may also be a list: it is read as its text with commas."""
    if is_object(value) and isinstance(value.get("tags"), list):
        value = {**value, "tags": ",".join(parse_tags(value["tags"], f"{path}.tags"))}
    return _string_map(value, path)


VALIDATE_METADATA: Validator = _metadata

# `messages` are checked in their own file.
_CHAT: dict[str, Validator] = {
    "model": _name,
    "messages": anything,
    "audio": object_with(format=_text),
    "frequency_penalty": number(-2, 2),
    "function_call": either(_string_or_object, string=anything, object=object_with(name_required=_non_empty)),
    "functions": array_of(_function_definition, min_length=1, max_length=128),
    "logit_bias": _bias,
    "logprobs": boolean,
    "max_completion_tokens": integer(0),
    "max_tokens": integer(1),
    "metadata": VALIDATE_METADATA,
    "modalities": array_of(_text),
    "moderation": object_with(),
    "n": integer(1, 128),
    "parallel_tool_calls": boolean,
    "prediction": object_with(type_required=_non_empty),
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": _text,
    "prompt_cache_options": object_with(),
    "prompt_cache_retention": _text,
    "reasoning_effort": _text,
    "response_format": tagged(
        object_with(
            type_required=_non_empty, json_schema=object_with(name_required=_non_empty, schema=object_with())
        ),
        "json_schema",
    ),
    "safety_identifier": _text,
    "seed": integer(-(2**63), 2**63 - 1),
    "service_tier": _text,
    "stop": _stop,
    "store": boolean,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "tool_choice": either(_string_or_object, string=anything, object=_choice),
    "tools": array_of(_tool, max_length=1024),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": _text,
    "verbosity": _text,
    "web_search_options": object_with(search_context_size=_text, user_location=object_with()),
}
_COMPLETIONS: dict[str, Validator] = {
    "model": _name,
    "prompt": texts_or_tokens(),
    "best_of": integer(0, 20),
    "echo": boolean,
    "frequency_penalty": number(-2, 2),
    "logit_bias": _bias,
    "logprobs": integer(0, 5),
    "max_tokens": integer(0),
    "n": integer(1, 128),
    "presence_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**63 - 1),
    "stop": _stop,
    "stream": boolean,
    "stream_options": _stream_options,
    "suffix": _text,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "user": _text,
}
_EMBEDDINGS: dict[str, Validator] = {
    "model": _name,
    "input": texts_or_tokens(min_length=1, max_length=2048),
    "dimensions": integer(1),
    "encoding_format": one_of("float", "base64"),
    "user": _text,
}
_IMAGES: dict[str, Validator] = {
    "model": _name,
    "prompt": _text,
    "background": _text,
    "complexity": _text,
    "frame_count": integer(1),
    "frame_duration_ms": integer(1),
    "moderation": _text,
    "n": integer(1, 10),
    "output_compression": integer(0, 100),
    "output_format": _text,
    "partial_images": integer(0, 3),
    "prompt_rewriter": anything,
    "quality": _text,
    "response_format": one_of("url", "b64_json"),
    "safety_identifier": _text,
    "size": _text,
    "stream": boolean,
    "style": _text,
    "svg": object_with(model_required=_non_empty, reasoning=object_with()),
    "user": _text,
}
_link = object_with(image_url=_non_empty, file_id=_non_empty)
_EDITS: dict[str, Validator] = {
    "model": _name,
    "prompt": _text,
    "images": array_of(_link, min_length=1, max_length=16),
    "input_fidelity": _text,
    "markup": _link,
    "mask": _link,
    **{name: check for name, check in _IMAGES.items() if name not in ("model", "prompt")},
}

_texts = array_of(_text)
_TRANSCRIPTIONS: dict[str, Validator] = {
    "model": _name,
    "chunking_strategy": either(
        _string_or_object, string=anything, object=object_with(type_required=_non_empty)
    ),
    "include": _texts,
    "known_speaker_names": _texts,
    "known_speaker_references": _texts,
    "language": _text,
    "prompt": _text,
    "response_format": _text,
    "stream": boolean,
    "temperature": number(0, 1),
    "timestamp_granularities": _texts,
}
_TRANSLATIONS: dict[str, Validator] = {
    "model": _name,
    "prompt": _text,
    "response_format": _text,
    "temperature": number(0, 1),
}

FIELDS: dict[Endpoint, dict[str, Validator]] = {
    "chat.completions": _CHAT,
    "completions": _COMPLETIONS,
    "embeddings": _EMBEDDINGS,
    "audio.transcriptions": _TRANSCRIPTIONS,
    "audio.translations": _TRANSLATIONS,
    "images.generations": _IMAGES,
    "images.edits": _EDITS,
    "rerank": RERANK_FIELDS,
    "moderations": MODERATION_FIELDS,
    "audio.speech": SPEECH_FIELDS,
}
FIELD_ORDER = {endpoint: {name: at for at, name in enumerate(fields)} for endpoint, fields in FIELDS.items()}

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PLAIN_ROLES = ROLES - {"tool", "function"}
_PLAIN_FIELDS = ("role", "content")
_plain_values = itemgetter(*_PLAIN_FIELDS)
_MESSAGE_FIELDS = (
    "role",
    "content",
    "name",
    "refusal",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "audio",
)
_KNOWN_MESSAGE_FIELDS = frozenset(_MESSAGE_FIELDS)
_RESULT_FIELDS = frozenset({"role", "content", "tool_call_id"})
_CALLING_FIELDS = frozenset({"role", "content", "tool_calls"})
_CALL_FIELDS, _CALLED_FIELDS = frozenset({"id", "type", "function"}), frozenset({"name", "arguments"})
_CONTENT_SUBSTITUTES = (
    *("tool_calls", "function_call", "refusal", "audio"),
    *("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "images"),
)
"""Fields that an answer may have instead of content: OpenAI's, then other models'."""
_CONTENT = "a string or an array of objects"

USER_PARTS = frozenset(
    {
        "text", "image_url", "input_audio", "file",
        "audio_url", "document", "grounding_source", "guarded_text", "query", "video_url",
    }
)  # fmt: skip
"""OpenAI's, then LiteLLM's for other providers; LiteLLM reports any other as a provider's failure."""

FILE_PARTS = {"image_url": "url", "input_audio": "data", "file": "file_data"}
"""Parts with a file as text, and its field; its size says nothing about tokens."""
_REQUIRED_IN_FILE_PART: dict[str, tuple[str, ...]] = {
    "image_url": ("url",),
    "input_audio": ("data", "format"),
    "file": (),
}


def are_plain(messages: Any, max_messages: int) -> bool:  # noqa: ANN401 -- unchecked JSON
    """Whether these are messages of which none needs to be checked further, placed, or counted as a file.

    That is what `_is_plain` says of each, of all at once.
    """
    if not is_array(messages) or not 0 < len(messages) <= max_messages or {*map(type, messages)} != {dict}:
        return False
    if {*map(tuple, messages)} != {_PLAIN_FIELDS}:
        return False
    roles, contents = zip(*map(_plain_values, messages), strict=True)
    return {*map(type, contents)} == {*map(type, roles)} == {str} and _PLAIN_ROLES.issuperset(roles)


def _is_plain(message: Any) -> bool:  # noqa: ANN401 -- unchecked JSON
    """The common case: `role` and a text, in this order."""
    if message.__class__ is not dict or tuple(message) != _PLAIN_FIELDS:
        return False
    role, content = message.values()
    return type(content) is str and type(role) is str and role in _PLAIN_ROLES


def parse_messages(messages: Any, max_messages: int) -> tuple[list[Json], int]:  # noqa: ANN401 -- unchecked JSON
    """Returns the messages as they are sent, and the bytes of files they carry beyond what counts as prompt.

    Raises:
        BadRequest: Naming the message and field at fault, e.g. `messages[1].role`.
    """
    if not is_array(messages):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise invalid("messages", "empty array. Expected an array with minimum length 1.", "empty_array")
    if len(messages) > max_messages:
        reason = f"array too long. Expected at most {max_messages} messages, but got {len(messages)}."
        raise invalid("messages", reason, "array_above_max_length")
    file_bytes = 0
    read: list[Json] = []
    for at, message in enumerate(messages):
        if _is_plain(message):
            read.append(message)
            continue
        if not is_object(message):
            raise wrong_type(f"messages[{at}]", "an object", message)
        if (plain := _tool_turn(message)) is not None:
            read.append(plain)
            continue
        ordered, bulk = _message(message, f"messages[{at}]")
        read.append(ordered)
        file_bytes += bulk
    return read, file_bytes


def _tool_turn(message: Json) -> Json | None:
    """A tool's result, or calls of tools, in the common form and as it is sent; None for any other."""
    fields = message.keys()
    if fields == _RESULT_FIELDS:
        content, of_call = message["content"], message["tool_call_id"]
        if message["role"] == "tool" and type(content) is str and type(of_call) is str and of_call:
            return {"role": "tool", "content": content, "tool_call_id": of_call}
    elif fields == _CALLING_FIELDS and message["role"] == "assistant" and is_array(message["tool_calls"]):
        content = message["content"]
        calls = [*map(_plain_call, message["tool_calls"])]
        if None not in calls and (content is None or type(content) is str):
            return {"role": "assistant", "content": content, "tool_calls": calls}
    return None


def _plain_call(call: Any) -> Json | None:  # noqa: ANN401 -- unchecked JSON
    """A valid call of a function as it is sent; None for any other."""
    if call.__class__ is not dict or call.keys() != _CALL_FIELDS or call["type"] != "function":
        return None
    function = call["function"]
    if function.__class__ is not dict or function.keys() != _CALLED_FIELDS or type(call["id"]) is not str:
        return None
    name, arguments = function["name"], function["arguments"]
    if type(name) is not str or not name or type(arguments) is not str:
        return None
    return {"id": call["id"], "type": "function", "function": {"name": name, "arguments": arguments}}


def _message(message: Json, path: str) -> tuple[Json, int]:
    role = message.get("role")
    if role is None:
        raise missing(f"{path}.role")
    if type(role) is not str:
        raise wrong_type(f"{path}.role", "a string", role)
    if role not in ROLES:
        raise wrong_value(f"{path}.role", role, ROLES)
    content, file_bytes = _content(message, role, path)
    ordered = _order_fields(message)
    if "content" in ordered:
        ordered["content"] = content
    if role == "tool":
        _non_empty(_require(ordered, "tool_call_id", path), f"{path}.tool_call_id")
    if role == "function":
        _non_empty(_require(ordered, "name", path), f"{path}.name")
    if "name" in ordered:
        _text(ordered["name"], f"{path}.name")
    if "tool_calls" in ordered:
        ordered["tool_calls"] = _tool_calls(ordered["tool_calls"], f"{path}.tool_calls")
    if "function_call" in ordered:
        _check_function(ordered["function_call"], f"{path}.function_call")
    return ordered, file_bytes


def _order_fields(message: Json) -> Json:
    """The published fields without those that are null, then the others by name."""
    ordered = {
        name: message[name]
        for name in _MESSAGE_FIELDS
        if name in message and (message[name] is not None or name == "content")
    }
    for name in sorted(message.keys() - _KNOWN_MESSAGE_FIELDS):
        ordered[name] = message[name]
    return ordered


def _content(message: Json, role: str, path: str) -> tuple[Any, int]:
    content = message.get("content")
    if type(content) is str:
        return content, 0
    if content is None:
        may_lack_content = role == "assistant" and (
            "content" in message or any(message.get(name) for name in _CONTENT_SUBSTITUTES)
        )
        if role == "function" or may_lack_content:
            return None, 0
        if "content" in message:
            raise wrong_type(f"{path}.content", _CONTENT, None)
        raise missing(f"{path}.content")
    if not is_array(content):
        raise wrong_type(f"{path}.content", _CONTENT, content)
    if not content:
        raise invalid(
            f"{path}.content", "empty array. Expected an array with minimum length 1.", "empty_array"
        )
    file_bytes = 0
    parts: list[Json] = []
    for at, part in enumerate(content):
        ordered, bulk = _part(part, role, f"{path}.content[{at}]")
        parts.append(ordered)
        file_bytes += bulk
    return parts, file_bytes


def _part(part: Any, role: str, path: str) -> tuple[Json, int]:  # noqa: ANN401 -- unchecked JSON
    if not is_object(part):
        raise wrong_type(path, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise missing(f"{path}.type")
    _non_empty(kind, f"{path}.type")
    if role == "user" and kind not in USER_PARTS:
        raise wrong_value(f"{path}.type", kind, USER_PARTS)
    if kind == "text":
        _text(_require(part, "text", path), f"{path}.text")
    ordered = {"type": kind, **{name: part[name] for name in sorted(part) if name != "type"}}
    if kind not in FILE_PARTS:
        return ordered, 0
    inner = _require(part, kind, path)
    if not is_object(inner):
        raise wrong_type(f"{path}.{kind}", "an object", inner)
    for name in _REQUIRED_IN_FILE_PART[kind]:
        _non_empty(_require(inner, name, f"{path}.{kind}"), f"{path}.{kind}.{name}")
    ordered[kind] = {name: inner[name] for name in sorted(inner)}
    return ordered, file_bytes(inner.get(FILE_PARTS[kind]))


def _tool_calls(calls: Any, path: str) -> list[Json]:  # noqa: ANN401 -- unchecked JSON
    if not is_array(calls):
        raise wrong_type(path, "an array of objects", calls)
    return [_tool_call(call, f"{path}[{at}]") for at, call in enumerate(calls)]


def _tool_call(call: Any, path: str) -> Json:  # noqa: ANN401 -- unchecked JSON
    if not is_object(call):
        raise wrong_type(path, "an object", call)
    _text(_require(call, "id", path), f"{path}.id")
    _non_empty(_require(call, "type", path), f"{path}.type")
    ordered = {"id": call["id"], "type": call["type"]}
    if call["type"] == "function":
        _check_function(_require(call, "function", path), f"{path}.function")
        ordered["function"] = {
            name: call["function"][name] for name in sorted(call["function"], reverse=True)
        }
    if len(call) > len(ordered):
        ordered |= {name: call[name] for name in sorted(call) if name not in ordered}
    return ordered


def _check_function(function: Any, path: str) -> None:  # noqa: ANN401 -- unchecked JSON
    if not is_object(function):
        raise wrong_type(path, "an object", function)
    _non_empty(_require(function, "name", path), f"{path}.name")
    _text(_require(function, "arguments", path), f"{path}.arguments")


def _require(holder: Json, name: str, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    value = holder.get(name)
    if value is None:
        raise missing(f"{path}.{name}")
    return value
