"""A Responses request as a chat completion request, and what its answer repeats of it.

Pure. Invariants: a field that a chat has no place for is rejected with its path, or listed as left out in
`docs/responses.md`; nothing is stored, and the answer says so; a fault in a field of the chat is named by the
caller's. Source: https://platform.openai.com/docs/api-reference/responses/create.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llm_proxy.dialects.request.openai_schema import FIELDS as CHAT_FIELDS
from llm_proxy.dialects.request.validators import invalid, missing, shown_name
from llm_proxy.dialects.request_options import History
from llm_proxy.dialects.responses.items import InputReader
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.schema import FIELDS
from llm_proxy.dialects.responses.tools import CallerTool, SentTools, choose_tools
from llm_proxy.dialects.translation.carried import Carried, not_carried
from llm_proxy.dialects.translation.chat_request import json_schema_format
from llm_proxy.errors import APIError, BadRequest
from llm_proxy.json_access import Json, as_object, is_array, is_object

_SAME_IN_A_CHAT = ("metadata", "service_tier", "stream", "temperature", "top_p", "user")
_OF_OPENAI = ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier")
"""Hints that other providers have no field for; left out there."""
_NATIVE_ONLY = {
    "conversation": "A conversation",
    "prompt": "A prompt template",
    "context_management": "Context management",
    "moderation": "Moderation of the answer",
    "access_programs": "An access program",
    "image": "An option for images",
}
_LOGPROBS = "message.output_text.logprobs"
_PATHS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "logprobs": "top_logprobs",
}


class ChatFieldGiven(BadRequest):
    """A chat's field that Responses do not have; it is named as it was sent."""


class ResponseContext(NamedTuple):
    """What the answer to a translated request needs to know of it.

    Attributes:
        token: Random; the ids of the response and its items are made of it.
        created_at: In seconds since 1970.
        echo: The fields of a response that repeat the request, with OpenAI's defaults.
        callers: The caller's tool of each function that was sent.
        is_signed: The model's providers sign its reasoning, and verify it when it comes back.
        items: What it was made from: the history's, and its own.
        history: What it goes on from.
        wants_store: The caller would have it stored.
        response_id: The id of the response, where it is stored.
    """

    token: str
    created_at: int
    echo: Json
    callers: Mapping[str, CallerTool]
    is_signed: bool = False
    items: tuple[Json, ...] = ()
    history: History | None = None
    wants_store: bool = False
    response_id: str = ""


class ChatTranslation(NamedTuple):
    """A request translated."""

    body: Json
    tools: SentTools


def translate(body: Json, carried: Carried, seal: ReasoningSeal | None) -> ChatTranslation:
    """Returns the chat of a checked body.

    Args:
        body: As `check_body` returns it.
        carried: What the group's providers carry over a chat.
        seal: Opens earlier reasoning; None without a key.

    Raises:
        BadRequest: Naming what a chat has no place for.
    """
    _refuse_state(body)
    if "input" not in body:
        raise missing("input")
    chat = _fields(body, carried)
    tools = SentTools()
    tools.add_all(body.get("tools") or [], "tools")
    reader = InputReader(carried, tools, seal)
    chat["messages"] = reader.read(body["input"], body.get("instructions"))
    if not chat["messages"]:
        raise invalid("input", "empty array. Expected an array with minimum length 1.", "empty_array")
    tools.require_some()
    chosen = choose_tools(body.get("tool_choice"), tools)
    if chosen.functions:
        chat["tools"] = chosen.functions
        if chosen.choice is not None:
            chat["tool_choice"] = chosen.choice
        if "parallel_tool_calls" in body:
            chat["parallel_tool_calls"] = body["parallel_tool_calls"]
    return ChatTranslation(chat, tools)


def countable_chat(body: Json, seal: ReasoningSeal | None) -> Json:
    """Returns a native body as a chat of about as many tokens; what only its provider has counts as text."""
    tools = [one for one in body.get("tools") or () if one["type"] in {"function", "custom", "namespace"}]
    plain = {name: body[name] for name in ("input", "instructions") if name in body} | {"tools": tools}
    try:
        return translate(plain, Carried(), seal).body
    except BadRequest:
        text = " ".join(_texts([body.get("instructions"), body.get("input"), body.get("tools")]))
        return {"messages": [{"role": "user", "content": text}]}


_NO_TEXTS = frozenset(
    {"call_id", "data", "encrypted_content", "file_data", "id", "image_url", "role", "type"}
)


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 -- a checked body's JSON
    if is_object(value):
        for name, inner in value.items():
            if name not in _NO_TEXTS:
                yield from _texts(inner)
    elif is_array(value):
        for inner in value:
            yield from _texts(inner)
    elif type(value) is str:
        yield value


def refuse_uncountable(body: Json, *, refers: bool) -> None:
    """Rejects the count of what a native provider keeps; `refers`: an item of the input stands for such."""
    for name in ("previous_response_id", "conversation", "input"):
        if body.get(name) and (refers or name != "input"):
            message = f"'{name}': only the tokens of what the request holds can be counted."
            raise BadRequest(message, param=name, code="unsupported_parameter")


def _refuse_state(body: Json) -> None:
    if "previous_response_id" in body:
        raise BadRequest(
            "'previous_response_id': no response of this id is stored for this model. "
            "Send the conversation so far in 'input', with 'store' set to false.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if body.get("background"):
        raise not_carried("background", "A call in the background")
    if not _NATIVE_ONLY.keys().isdisjoint(body):
        name = next(name for name in _NATIVE_ONLY if name in body)
        raise not_carried(name, _NATIVE_ONLY[name])
    if as_object(body.get("reasoning")).get("mode") not in {None, "standard"}:
        raise not_carried("reasoning.mode", "Another mode of reasoning than 'standard'")


def _fields(body: Json, carried: Carried) -> Json:
    """The chat's fields but for messages and tools; the model's own fields unchanged."""
    chat: Json = {}
    for name, value in body.items():
        if name in FIELDS:
            continue
        if name in CHAT_FIELDS["chat.completions"]:
            shown = shown_name(name)
            raise ChatFieldGiven(f"Unknown parameter: '{shown}'.", param=shown, code="unknown_parameter")
        chat[name] = value
    same = (*_SAME_IN_A_CHAT, "model", *(_OF_OPENAI if carried.openai else ()))
    chat.update({name: body[name] for name in same if name in body})
    if chat.get("service_tier") == "default" and not carried.openai:
        del chat["service_tier"]  # which is what there is elsewhere
    if "max_output_tokens" in body:
        chat["max_tokens"] = body["max_output_tokens"]
    if (effort := as_object(body.get("reasoning")).get("effort")) is not None:
        chat["reasoning_effort"] = effort
    if body.get("top_logprobs") or _LOGPROBS in body.get("include", ()):
        chat["logprobs"] = True
        if body.get("top_logprobs"):
            chat["top_logprobs"] = body["top_logprobs"]
    _add_text(chat, as_object(body.get("text")))
    return chat


def _add_text(chat: Json, text: Json) -> None:
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    wanted = as_object(text.get("format"))
    kind = wanted.get("type", "text")
    if kind == "json_schema":
        chat["response_format"] = json_schema_format(
            wanted["name"],
            wanted["schema"],
            strict=wanted.get("strict") is True,
            description=wanted.get("description"),
        )
    elif kind == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif kind != "text":
        raise not_carried("text.format.type", f"The format '{shown_name(kind)}'")


def echo(body: Json, tools: SentTools) -> Json:
    """Returns the fields of a response that repeat its request, without tools that were left out."""
    left_out = {path for path, _ in tools.left_out}
    reasoning, text = as_object(body.get("reasoning")), as_object(body.get("text"))
    echoed = _ECHOED | {name: body[name] for name in body if name in _REPEATED}
    echoed["metadata"] = body.get("metadata", {})
    echoed["reasoning"] = {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")}
    echoed["text"] = {
        "format": text.get("format") or {"type": "text"},
        "verbosity": text.get("verbosity") or "medium",
    }
    echoed["tools"] = [
        _echoed_tool(tool)
        for at, tool in enumerate(body.get("tools") or ())
        if f"tools[{at}].type" not in left_out
    ]
    return echoed


_ECHOED: Json = {
    "model": None,
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "auto",  # until the answer says what is billed
    "store": False,
    "temperature": 1.0,
    "text": None,
    "tool_choice": "auto",
    "tools": None,
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of a request that states none of it."""
_REPEATED = _ECHOED.keys() - {
    *("background", "frequency_penalty", "presence_penalty", "previous_response_id"),
    *("metadata", "reasoning", "store", "text", "tools", "truncation"),
}
"""Fields that are repeated as they are."""


def _echoed_tool(tool: Json) -> Json:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def in_the_callers_terms(error: APIError) -> tuple[str | None, str]:
    """Returns the field at fault and the message of an error, a chat's field named as Responses name it."""
    param: Any = error.param
    name = (param or "").partition("[")[0].partition(".")[0]
    if name not in _PATHS or isinstance(error, ChatFieldGiven):
        return param, error.message
    return _PATHS[name], error.message.replace(f"'{param}'", f"'{_PATHS[name]}'")
