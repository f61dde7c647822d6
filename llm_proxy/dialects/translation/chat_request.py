"""Parts and fields of a chat completion request, built for the dialects that are translated into one.

Pure. Invariants: built in OpenAI's published shapes; an assistant's tool calls are followed at once by the
outputs, images of an output by the next message; a name restored is the name that was sent.
Source: https://platform.openai.com/docs/api-reference/chat/create.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_proxy.json_access import Json, as_list, as_object, is_object

MAX_TOOL_NAME_CHARS = 64
"""Of OpenAI's function names."""
MAX_USER_CHARS = 64
_DIGEST_CHARS = 8
_LOW_BUDGET_TOKENS, _MEDIUM_BUDGET_TOKENS = 2048, 8192
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
ATTACHED = "Attached to the output of the tool call {}:"


def text_part(text: str) -> Json:
    """A text."""
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> Json:
    """An image by its address, or inline as a `data:` URL."""
    image: Json = {"url": url}
    if detail is not None:
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def file_part(
    *, file_data: str | None = None, file_id: str | None = None, filename: str | None = None
) -> Json:
    """A file inline as a `data:` URL, or by its id or address, which the sidecar fetches where it must."""
    fields = {"file_data": file_data, "file_id": file_id, "filename": filename}
    return {"type": "file", "file": {name: value for name, value in fields.items() if value is not None}}


def audio_part(data: str, audio_format: str) -> Json:
    """A sound in base64."""
    return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}


def data_url(media_type: str, data: str) -> str:
    """Base64 as a `data:` URL."""
    return f"data:{media_type};base64,{data}"


def function_call(call_id: str, name: str, arguments: str) -> Json:
    """An assistant's call of a function."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function_tool(
    name: str, description: str | None, parameters: Json | None, *, strict: bool | None = None
) -> Json:
    """A function as a tool."""
    function: Json = {"name": name}
    if description:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def function_choice(name: str) -> Json:
    """The choice of one function."""
    return {"type": "function", "function": {"name": name}}


def json_schema_format(name: str, schema: Json, *, strict: bool, description: str | None = None) -> Json:
    """The `response_format` of structured output."""
    described: Json = {"description": description} if description else {}
    return {
        "type": "json_schema",
        "json_schema": {"name": name, **described, "schema": schema, "strict": strict},
    }


def joined_texts(parts: Iterable[Json]) -> str | list[Json]:
    """The content of a message: one text where it is one unmarked text, else the parts."""
    listed = list(parts)
    if len(listed) == 1 and listed[0].keys() == {"type", "text"}:
        return str(listed[0]["text"])
    return listed


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool returned.

    Attributes:
        parts: Texts, images and files, as parts of a chat message.
    """

    call_id: str
    parts: list[Json]
    marks: Json = field(default_factory=dict[str, Any])


def tool_output_messages(outputs: Iterable[ToolOutput], *, images_inside: bool) -> list[Json]:
    """Returns a `tool` message an output and, unless images may stand inside, a user's for what is no text.

    A tool's message may hold only texts in OpenAI's protocol; what else it returned follows all of them.
    """
    messages: list[Json] = []
    attached: list[Json] = []
    for output in outputs:
        inside = output.parts
        if not images_inside:
            inside = [part for part in output.parts if part["type"] == "text"]
            others = [part for part in output.parts if part["type"] != "text"]
            if others:
                attached += [text_part(ATTACHED.format(output.call_id)), *others]
        content = joined_texts(inside) if inside else ""
        messages.append({"role": "tool", "tool_call_id": output.call_id, "content": content, **output.marks})
    if attached:
        messages.append({"role": "user", "content": attached})
    return messages


def reminder(said: str) -> str:
    """What the system says within a conversation, as a user's text: as Claude Code marks it.

    Many models' templates accept the system at the start alone.
    """
    return f"<system-reminder>\n{said}\n</system-reminder>"


def effort_of_budget(budget_tokens: int) -> str:
    """The `reasoning_effort` of a budget of thinking tokens."""
    if budget_tokens <= _LOW_BUDGET_TOKENS:
        return "low"
    return "medium" if budget_tokens <= _MEDIUM_BUDGET_TOKENS else "high"


def short_user(user: str) -> str:
    """The `user` as OpenAI accepts it: a longer one is its digest, the same in each call."""
    return user if len(user) <= MAX_USER_CHARS else hashlib.sha256(user.encode()).hexdigest()


class ToolNames:
    """The names of a request's tools as OpenAI accepts them, and back.

    Attributes:
        originals: The caller's name of each name that had to be changed.
    """

    __slots__ = ("originals",)

    def __init__(self) -> None:
        self.originals: dict[str, str] = {}

    def sent(self, name: str) -> str:
        """Returns the name to send: the same wherever it is valid there."""
        if len(name) <= MAX_TOOL_NAME_CHARS and not _NOT_IN_NAMES.search(name):
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
        kept = _NOT_IN_NAMES.sub("_", name)[: MAX_TOOL_NAME_CHARS - _DIGEST_CHARS - 1]
        short = f"{kept}_{digest}"
        self.originals[short] = name
        return short


def restored_name(originals: Mapping[str, str], name: str) -> str:
    """Returns the caller's name of a tool that an answer calls."""
    return originals.get(name, name)


def is_strict_schema(schema: object) -> bool:
    """Whether OpenAI's strict mode accepts a schema: each object closed, and each property required."""
    if not is_object(schema):
        return all(is_strict_schema(one) for one in as_list(schema))
    properties = as_object(schema.get("properties"))
    is_of_objects = schema.get("type") == "object" or "properties" in schema
    if is_of_objects and (
        schema.get("additionalProperties") is not False
        or set(as_list(schema.get("required"))) != set(properties)
    ):
        return False
    inner = [
        value for name, value in schema.items() if name not in {"properties", "enum", "const", "default"}
    ]
    return all(is_strict_schema(one) for one in [*inner, *properties.values()])
