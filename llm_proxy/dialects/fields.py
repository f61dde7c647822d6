"""The published fields of each door, in the order they travel, each with the check of its value.

Invariants: a field stands here because OpenAI's specification names it; words a newer model may add to
(`reasoning_effort`, `service_tier`, ...) are checked for their type alone; null means absent.
Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings).
"""

from typing import Any

from llm_proxy.dialects.checks import (
    Check,
    array_of,
    as_it_is,
    boolean,
    either,
    integer,
    map_of,
    number,
    object_with,
    one_of,
    string,
    tagged,
    texts_or_tokens,
)
from llm_proxy.endpoints import Endpoint
from llm_proxy.identity import tags_from
from llm_proxy.json_access import is_object

_text = string()
_named = string(shortest=1)
_string_or_object = "a string or an object"
_function = object_with(name_required=_named, description=_text, parameters=object_with())
_tool = tagged(
    object_with(
        type_required=_named, function=_function, custom=object_with(name_required=_named, description=_text)
    ),
    "function",
    "custom",
)
_choice = tagged(
    object_with(
        type_required=_named,
        function=object_with(name_required=_named),
        custom=object_with(name_required=_named),
        allowed_tools=object_with(),
    ),
    "function",
    "custom",
    "allowed_tools",
)
_stop = either("a string or an array of strings", string=as_it_is, array=array_of(_text))
_stream_options = object_with(include_usage=boolean, include_obfuscation=boolean)
_bias = map_of(number(-100, 100))
_name = string(longest=256, shortest=1)
_pairs = map_of(string(longest=512), most=16, longest_name=64)


def _metadata(value: Any, path: str) -> Any:  # noqa: ANN401 -- unchecked JSON
    """OpenAI's map of strings, whose `tags` may also be a list: it is read as its text with commas."""
    if is_object(value) and isinstance(value.get("tags"), list):
        value = {**value, "tags": ",".join(tags_from(value["tags"], f"{path}.tags"))}
    return _pairs(value, path)


METADATA: Check = _metadata

# `messages` are checked in their own file.
_CHAT: dict[str, Check] = {
    "model": _name,
    "messages": as_it_is,
    "audio": object_with(format=_text),
    "frequency_penalty": number(-2, 2),
    "function_call": either(_string_or_object, string=as_it_is, object=object_with(name_required=_named)),
    "functions": array_of(_function, shortest=1, longest=128),
    "logit_bias": _bias,
    "logprobs": boolean,
    "max_completion_tokens": integer(0),
    "max_tokens": integer(1),
    "metadata": METADATA,
    "modalities": array_of(_text),
    "moderation": object_with(),
    "n": integer(1, 128),
    "parallel_tool_calls": boolean,
    "prediction": object_with(type_required=_named),
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": _text,
    "prompt_cache_options": object_with(),
    "prompt_cache_retention": _text,
    "reasoning_effort": _text,
    "response_format": tagged(
        object_with(
            type_required=_named, json_schema=object_with(name_required=_named, schema=object_with())
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
    "tool_choice": either(_string_or_object, string=as_it_is, object=_choice),
    "tools": array_of(_tool, longest=1024),
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": _text,
    "verbosity": _text,
    "web_search_options": object_with(search_context_size=_text, user_location=object_with()),
}
_COMPLETIONS: dict[str, Check] = {
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
_EMBEDDINGS: dict[str, Check] = {
    "model": _name,
    "input": texts_or_tokens(shortest=1, longest=2048),
    "dimensions": integer(1),
    "encoding_format": one_of("float", "base64"),
    "user": _text,
}

FIELDS: dict[Endpoint, dict[str, Check]] = {
    "chat.completions": _CHAT,
    "completions": _COMPLETIONS,
    "embeddings": _EMBEDDINGS,
}
RANK = {door: {name: at for at, name in enumerate(fields)} for door, fields in FIELDS.items()}
