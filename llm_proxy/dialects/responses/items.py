"""The items of a Responses input, read as turns of a conversation.

Pure. Invariants: an item or a part that a chat has no place for is rejected with its path, or listed as left
out in `docs/responses.md`; ids, statuses and phases of items are the caller's own and are not sent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from llm_proxy.dialects.request.validators import invalid, missing, wrong_value
from llm_proxy.dialects.responses.client_tools import CLIENT_TOOLS
from llm_proxy.dialects.responses.conversation import (
    AnsweredCall,
    AssistantCall,
    AssistantText,
    Conversation,
    Instruction,
    Thoughts,
    UserTurn,
)
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.schema import item_type
from llm_proxy.dialects.responses.tools import CallerTool, SentTools
from llm_proxy.dialects.translation.carried import Carried, not_carried
from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.dialects.translation.chat_request import (
    ToolOutput,
    audio_part,
    file_part,
    function_call,
    image_part,
    text_part,
)
from llm_proxy.json_access import Json, as_objects

_LEFT_OUT = frozenset({"web_search_call"})
"""Items that say only that something was done; what came of it stands in the messages."""
_PARTS = ("input_text", "output_text", "input_image", "input_file", "input_audio", "refusal")
_ASSISTANT_PARTS = ("output_text", "refusal", "input_text")
_OUTPUT_PARTS = ("input_text", "input_image", "input_file")


class InputReader(NamedTuple):
    """Reads the items of one request.

    Attributes:
        tools: Gets the tools that items bring along.
        seal: Opens earlier reasoning; None without a key.
    """

    carried: Carried
    tools: SentTools
    seal: ReasoningSeal | None

    def read(self, items: str | list[Json], instructions: str | None) -> list[Json]:
        """Returns the messages of a chat; raises `BadRequest` naming what cannot be carried."""
        conversation = Conversation(self.carried)
        if instructions:
            conversation.add(Instruction("system", [text_part(instructions)]))
        if type(items) is str:
            conversation.add(UserTurn([text_part(items)]))
        else:
            for at, item in enumerate(as_objects(items)):
                self._read_item(conversation, item, f"input[{at}]")
        conversation.close()
        return conversation.messages

    def _read_item(self, conversation: Conversation, item: Json, path: str) -> None:
        kind = item_type(item)
        if kind == "message":
            self._read_message(conversation, item, path)
        elif (read := _READERS.get(kind)) is not None:
            read(self, conversation, item, path)
        elif kind == "item_reference":
            raise invalid(
                f"{path}.id",
                "items are not stored for this model. Send the item itself instead of its id, "
                "with 'store' set to false.",
                "item_not_found",
            )
        elif kind not in _LEFT_OUT:
            raise not_carried(f"{path}.type", f"An item of type '{str(kind)[:64]}'")

    def _read_message(self, conversation: Conversation, item: Json, path: str) -> None:
        role, content = item["role"], item["content"]
        is_text = type(content) is str
        if role == "assistant":
            said = AssistantText(content) if is_text else _assistant_text(content, f"{path}.content")
            conversation.add(said)
            return
        parts = [text_part(content)] if is_text else self._read_parts(content, f"{path}.content", _PARTS)
        conversation.add(UserTurn(parts) if role == "user" else Instruction(role, parts))

    def _read_parts(self, parts: list[Json], path: str, supported: tuple[str, ...]) -> list[Json]:
        return [self._read_part(part, f"{path}[{at}]", supported) for at, part in enumerate(parts)]

    def _read_part(self, part: Json, path: str, supported: tuple[str, ...]) -> Json:
        kind = part["type"]
        if kind not in supported:
            raise wrong_value(f"{path}.type", kind, supported)
        read = _PART_READERS[kind](part, path)
        if self.carried.cache_marks and part.get("prompt_cache_breakpoint"):
            read["cache_control"] = {"type": "ephemeral"}
        return read

    def read_call(self, conversation: Conversation, item: Json, path: str) -> None:  # noqa: ARG002 -- one signature
        """A call of a function or of a custom tool."""
        is_custom = item["type"] == "custom_tool_call"
        called = CallerTool(
            "custom" if is_custom else "function", item["name"], item.get("namespace") or None
        )
        arguments = _encoded({"input": item["input"]}) if is_custom else item["arguments"]
        self._call(conversation, item["call_id"], called, arguments)

    def read_client_call(self, conversation: Conversation, item: Json, path: str) -> None:
        """A call of a tool that has a type of its own."""
        kind = item["type"].removesuffix("_call")
        call_id = _required(item, "call_id", path)
        self._call(
            conversation, call_id, CallerTool(kind, kind), _encoded(CLIENT_TOOLS[kind].arguments(item))
        )

    def _call(self, conversation: Conversation, call_id: str, tool: CallerTool, arguments: str) -> None:
        conversation.add(AssistantCall(function_call(call_id, self.tools.sent_name(tool), arguments)))

    def read_output(self, conversation: Conversation, item: Json, path: str) -> None:
        """What a function or a custom tool returned."""
        output = item["output"]
        if type(output) is str:
            parts = [text_part(output)]
        else:
            parts = self._read_parts(output, f"{path}.output", _OUTPUT_PARTS)
        conversation.add(AnsweredCall(ToolOutput(_required(item, "call_id", path), parts), path))

    def read_client_output(self, conversation: Conversation, item: Json, path: str) -> None:
        """What a tool with a type of its own returned; a search also brings tools."""
        kind = item["type"].removesuffix("_output").removesuffix("_call")
        call_id = item.get("call_id") or (item.get("id") if kind == "local_shell" else None)
        if not call_id:
            raise missing(f"{path}.call_id")
        if kind == "tool_search":
            self.tools.add_all(item["tools"], f"{path}.tools", again=True)
        text = CLIENT_TOOLS[kind].output(item)
        conversation.add(AnsweredCall(ToolOutput(call_id, [text_part(text)]), path))

    def read_reasoning(self, conversation: Conversation, item: Json, path: str) -> None:  # noqa: ARG002 -- one signature
        """What the model reasoned, as this gateway sealed it or as text; what others sealed is left out."""
        sealed = item.get("encrypted_content")
        thoughts = self.seal.open(sealed) if sealed and self.seal is not None else None
        if thoughts is None and not sealed:
            texts = "".join(one["text"] for one in item.get("content") or ())
            thoughts = Thoughts((ThinkingPiece(texts),), is_signed=False) if texts else None
        if thoughts is not None:
            conversation.add(thoughts)

    def read_tools(self, conversation: Conversation, item: Json, path: str) -> None:  # noqa: ARG002 -- one signature
        """Tools that are offered from here on; a chat has one list of them."""
        self.tools.add_all(item["tools"], f"{path}.tools", again=True)


_READERS: dict[str, Callable[[InputReader, Conversation, Json, str], None]] = {
    "function_call": InputReader.read_call,
    "custom_tool_call": InputReader.read_call,
    "function_call_output": InputReader.read_output,
    "custom_tool_call_output": InputReader.read_output,
    "reasoning": InputReader.read_reasoning,
    "additional_tools": InputReader.read_tools,
    "tool_search_call": InputReader.read_client_call,
    "local_shell_call": InputReader.read_client_call,
    "shell_call": InputReader.read_client_call,
    "apply_patch_call": InputReader.read_client_call,
    "tool_search_output": InputReader.read_client_output,
    "local_shell_call_output": InputReader.read_client_output,
    "shell_call_output": InputReader.read_client_output,
    "apply_patch_call_output": InputReader.read_client_output,
}


def _assistant_text(parts: list[Json], path: str) -> AssistantText:
    texts: list[str] = []
    refusals: list[str] = []
    for at, part in enumerate(parts):
        if part["type"] not in _ASSISTANT_PARTS:
            raise wrong_value(f"{path}[{at}].type", part["type"], _ASSISTANT_PARTS)
        if part["type"] == "refusal":
            refusals.append(part["refusal"])
        else:
            texts.append(part["text"])
    return AssistantText("".join(texts), "".join(refusals))


def _image(part: Json, path: str) -> Json:
    url = part.get("image_url")
    if not url:
        raise not_carried(f"{path}.file_id", "An image by the id of a file")
    detail = part.get("detail")
    return image_part(url, "high" if detail == "original" else detail)


def _file(part: Json, path: str) -> Json:
    if part.get("file_data"):
        return file_part(file_data=part["file_data"], filename=part.get("filename"))
    file_id = part.get("file_url") or part.get("file_id")
    if not file_id:
        raise missing(f"{path}.file_data")
    return file_part(file_id=file_id, filename=part.get("filename"))


def _text(part: Json, path: str) -> Json:  # noqa: ARG001 -- one signature
    return text_part(part["text"])


def _refusal(part: Json, path: str) -> Json:  # noqa: ARG001 -- one signature
    return text_part(part["refusal"])


def _audio(part: Json, path: str) -> Json:  # noqa: ARG001 -- one signature
    return audio_part(part["input_audio"]["data"], part["input_audio"]["format"])


_PART_READERS: dict[str, Callable[[Json, str], Json]] = {
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


def _required(item: Json, name: str, path: str) -> str:
    value = item.get(name)
    if not value:
        raise missing(f"{path}.{name}")
    return str(value)


def _encoded(arguments: Any) -> str:  # noqa: ANN401 -- JSON
    return orjson.dumps(arguments).decode()
