"""Content blocks of Anthropic's messages, translated into chat messages.

Pure; the blocks have passed `schema`. Invariants: outputs of tools stand right behind the calls, other
content of a user after them; a block without a place in chat is rejected with its path; no text is added but
`Error: ` before a failed tool's output, a document's title, and the marks around a system message in between.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from llm_proxy.dialects.messages.tool_ids import sent_tool_id
from llm_proxy.dialects.translation.carried import Carried, carried_reasoning, not_carried
from llm_proxy.dialects.translation.chat_request import (
    ToolNames,
    ToolOutput,
    data_url,
    file_part,
    function_call,
    image_part,
    joined_texts,
    reminder,
    text_part,
    tool_output_messages,
)
from llm_proxy.json_access import Json, as_object, is_array

ERROR_PREFIX = "Error: "
DEFAULT_FILENAME = "document.pdf"
_BETWEEN_TEXTS = "\n\n"


class ContentTranslator:
    """Translates the messages of one request.

    Attributes:
        names: The tool names of the request.
    """

    __slots__ = ("_carried", "names")

    def __init__(self, carried: Carried, names: ToolNames) -> None:
        self._carried = carried
        self.names = names

    def system(self, system: Any, path: str = "system") -> list[Json]:  # noqa: ANN401 -- a string or blocks
        """Returns the system prompt as a message; none for an empty one."""
        if not is_array(system):
            return [{"role": "system", "content": system}] if system else []
        parts = [self._text(block, f"{path}.{at}") for at, block in enumerate(system)]
        return [{"role": "system", "content": self._joined(parts)}] if parts else []

    def messages(self, messages: list[Json]) -> list[Json]:
        """Returns the chat messages of a conversation; raises `BadRequest` for what they cannot hold."""
        translated: list[Json] = []
        for at, message in enumerate(messages):
            path, content = f"messages.{at}.content", message["content"]
            blocks = content if is_array(content) else [text_part(content)]
            if message["role"] == "assistant":
                for one in self._assistant(blocks, path):
                    _append_answer(translated, one)
                continue
            turn = self._reminder(blocks, path) if message["role"] == "system" else self._user(blocks, path)
            for one in turn:
                _append(translated, one)
        if messages[-1]["role"] == "assistant" and not self._carried.continues:
            raise not_carried(f"messages.{len(messages) - 1}", "A beginning of the answer (prefill)")
        return translated

    def _reminder(self, blocks: list[Json], path: str) -> list[Json]:
        """A system message in between: as it is for Claude; many templates take one at the start alone."""
        for at, block in enumerate(blocks):
            if block["type"] != "text":
                kind = str(block["type"])[:64]
                raise not_carried(f"{path}.{at}", f"A block of type '{kind}' of the system")
        if self._carried.continues:
            return self.system(blocks, path)
        said = _BETWEEN_TEXTS.join(block["text"] for block in blocks)
        return [{"role": "user", "content": reminder(said)}] if said else []

    def _user(self, blocks: list[Json], path: str) -> Iterator[Json]:
        outputs: list[ToolOutput] = []
        parts: list[Json] = []
        for at, block in enumerate(blocks):
            if block["type"] == "tool_result":
                outputs.append(self._output(block, f"{path}.{at}"))
            else:
                parts += self._part(block, f"{path}.{at}")
        said = tool_output_messages(outputs, images_inside=self._carried.tool_images)
        if parts and said and said[-1]["role"] == "user":
            parts = [*said.pop()["content"], *parts]
        yield from said
        if parts:
            yield {"role": "user", "content": joined_texts(parts)}

    def _output(self, block: Json, path: str) -> ToolOutput:
        content = block.get("content")
        inside = content if is_array(content) else [text_part(content)] if content else []
        parts = [part for at, one in enumerate(inside) for part in self._part(one, f"{path}.content.{at}")]
        if block.get("is_error"):
            first = parts[0] if parts and parts[0]["type"] == "text" else None
            said = text_part(ERROR_PREFIX + (first["text"] if first else ""))
            parts = [{**(first or {}), **said}, *parts[1 if first else 0 :]]
        return ToolOutput(sent_tool_id(block["tool_use_id"]), parts, self._mark(block))

    def _assistant(self, blocks: list[Json], path: str) -> Iterator[Json]:
        texts: list[Json] = []
        calls: list[Json] = []
        thoughts: list[Json] = []
        for at, block in enumerate(blocks):
            kind = block["type"]
            if kind == "text":
                texts.append(self._text(block, f"{path}.{at}"))
            elif kind == "tool_use":
                calls.append(self._call(block, f"{path}.{at}"))
            elif kind in {"thinking", "redacted_thinking"}:
                thoughts.append(block)
            else:
                raise not_carried(f"{path}.{at}", f"A block of type '{kind}' of the assistant")
        message: Json = {"role": "assistant", "content": self._joined(texts) if texts else None}
        message |= carried_reasoning(thoughts, self._carried)
        if calls:
            message["tool_calls"] = calls
        if texts or calls or len(message) > 2:
            yield message

    def _call(self, block: Json, path: str) -> Json:
        if as_object(block.get("caller")).get("type", "direct") != "direct":
            raise not_carried(f"{path}.caller", "A tool called by another tool")
        if block.get("toolset_name"):
            raise not_carried(f"{path}.toolset_name", "A tool of a toolset")
        arguments = orjson.dumps(block["input"]).decode()
        call = function_call(sent_tool_id(block["id"]), self.names.sent(block["name"]), arguments)
        return {**call, **self._mark(block)}

    def _part(self, block: Json, path: str) -> list[Json]:
        """The parts of a block of a user's message, or of a tool's result."""
        match block["type"]:
            case "text":
                return [self._text(block, path)]
            case "image":
                return [{**_image(block, path), **self._mark(block)}]
            case "document":
                return self._document(block, path)
            case "search_result":
                return [self._search_result(block, path)]
            case "tool_reference":
                return [text_part(self.names.sent(block["tool_name"]))]
            case kind:
                raise not_carried(path, f"A block of type '{str(kind)[:64]}'")

    def _text(self, block: Json, path: str) -> Json:
        del path  # citations of an earlier answer belong to its text, which says the same without them
        return {**text_part(block["text"]), **self._mark(block)}

    def _document(self, block: Json, path: str) -> list[Json]:
        _refuse_citations(block, path)
        source, mark = block["source"], self._mark(block)
        headings = [block[name] for name in ("title", "context") if block.get(name)]
        match source["type"]:
            case "text":
                said = text_part(_BETWEEN_TEXTS.join([*headings, source["data"]]))
                return [{**said, **mark}]
            case "content":
                content = source["content"]
                inside = content if is_array(content) else [text_part(content)]
                parts = [
                    part
                    for at, one in enumerate(inside)
                    for part in self._part(one, f"{path}.source.content.{at}")
                ]
                parts = [*map(text_part, headings), *parts]
                return [*parts[:-1], {**parts[-1], **mark}] if parts else []
            case "file":
                raise not_carried(f"{path}.source", "A file kept at Anthropic")
            case _:
                named = 1 if source["type"] == "base64" and block.get("title") else 0  # by its filename
                return [*map(text_part, headings[named:]), {**_pdf(block), **mark}]

    def _search_result(self, block: Json, path: str) -> Json:
        _refuse_citations(block, path)
        texts = [block["title"], block["source"], *(one["text"] for one in block["content"])]
        return {**text_part(_BETWEEN_TEXTS.join(texts)), **self._mark(block)}

    def _mark(self, block: Json) -> Json:
        mark = block.get("cache_control")
        return {"cache_control": mark} if mark and self._carried.cache_marks else {}

    def _joined(self, parts: list[Json]) -> str | list[Json]:
        """Texts of the system or the assistant: parts, which fewer servers read, only where one is marked."""
        if any(len(part) > 2 for part in parts):
            return parts
        return _BETWEEN_TEXTS.join(part["text"] for part in parts)


def _append(messages: list[Json], message: Json) -> None:
    """Adds a message; a user's after a user's is one with it, as many models' templates want it."""
    if message["role"] != "user" or not messages or messages[-1]["role"] != "user":
        messages.append(message)
        return
    parts = [*_parts_of(messages[-1]["content"]), *_parts_of(message["content"])]
    messages[-1] = {"role": "user", "content": parts}


def _append_answer(messages: list[Json], message: Json) -> None:
    """Adds an assistant's message; one right after another is one with it, as Anthropic reads them."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append(message)
        return
    before = messages[-1]
    for name, value in message.items():
        if name == "content" and isinstance(value, str) and isinstance(before["content"], str):
            before["content"] += _BETWEEN_TEXTS + value
        elif name == "content" and value and before["content"]:
            before["content"] = [*_parts_of(before["content"]), *_parts_of(value)]
        elif name != "role":
            before[name] = before[name] + value if value and before.get(name) else value or before.get(name)


def _parts_of(content: str | list[Json]) -> list[Json]:
    return [text_part(content)] if isinstance(content, str) else content


def mark_last(messages: Iterable[Json], mark: Json) -> None:
    """Marks the last part of the last message that has one, for a request that asks to cache by itself."""
    for message in reversed(list(messages)):
        content = message.get("content")
        if isinstance(content, str) and content:
            message["content"] = [{**text_part(content), "cache_control": mark}]
            return
        if is_array(content) and content:
            content[-1] = {**content[-1], "cache_control": mark}
            return


def _image(block: Json, path: str) -> Json:
    if as_object(block.get("transformations")).get("oversized_image") == "error":
        raise not_carried(f"{path}.transformations", "The refusal of large images")
    source = block["source"]
    match source["type"]:
        case "base64":
            return image_part(data_url(source["media_type"], source["data"]))
        case "url":
            return image_part(source["url"])
        case _:
            raise not_carried(f"{path}.source", "A file kept at Anthropic")


def _pdf(block: Json) -> Json:
    source = block["source"]
    if source["type"] == "url":
        return file_part(file_id=source["url"])
    name = block.get("title") or DEFAULT_FILENAME
    return file_part(file_data=data_url(source["media_type"], source["data"]), filename=name)


def _refuse_citations(block: Json, path: str) -> None:
    if as_object(block.get("citations")).get("enabled"):
        raise not_carried(f"{path}.citations", "The wish for citations")
