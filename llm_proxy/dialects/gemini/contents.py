"""Google's contents as chat messages.

Pure; the contents were read by `schema`. Invariants: contents of one role in a row are one turn (clients keep
a stream chunk by chunk), whose texts of the model are one text; outputs of functions stand right behind the
calls, other parts of the user after them; a call without an id gets one; a part without a place in chat is
rejected with its path.
"""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from llm_proxy.dialects.gemini.fields import invalid
from llm_proxy.dialects.gemini.schema import DATA_KINDS
from llm_proxy.dialects.gemini.signatures import join_call_id, open_blocks
from llm_proxy.dialects.translation.carried import Carried, carried_reasoning, not_carried
from llm_proxy.dialects.translation.chat_request import (
    ToolNames,
    ToolOutput,
    audio_part,
    data_url,
    file_part,
    function_call,
    image_part,
    joined_texts,
    text_part,
    tool_output_messages,
)
from llm_proxy.json_access import Json

ERROR_PREFIX = "Error: "
_BETWEEN_TEXTS = "\n\n"
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav", "x-m4a": "m4a"}
_DETAILS = {
    "MEDIA_RESOLUTION_LOW": "low",
    "MEDIA_RESOLUTION_HIGH": "high",
    "MEDIA_RESOLUTION_ULTRA_HIGH": "high",
}
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".heic", ".heif", ".bmp")
_NOT_HERE = {
    "executableCode": "Code that Google ran",
    "codeExecutionResult": "The result of code that Google ran",
    "toolCall": "A call of a tool that Google ran",
    "toolResponse": "The result of a tool that Google ran",
}


class _Part(NamedTuple):
    """A part, and where it stood."""

    value: Json
    path: str


@dataclass(slots=True)
class _KnownCall:
    """A call of a function in the conversation, as the chat names it.

    Attributes:
        answer: The response to it; None before.
    """

    shown_id: str
    name: str
    sent_id: str
    answer: Json | None = None


class ContentsTranslator:
    """Translates the contents of one request.

    Attributes:
        names: The names of the request's functions.
    """

    __slots__ = ("_calls", "_carried", "_detail", "names")

    def __init__(self, carried: Carried, names: ToolNames, resolution: str = "") -> None:
        """Begins a conversation; `resolution` is that of all media that state none."""
        self._carried = carried
        self._detail = _DETAILS.get(resolution)
        self._calls: list[_KnownCall] = []
        self.names = names

    def system(self, instruction: Json) -> list[Json]:
        """Returns the system instruction as a message; none for an empty one."""
        texts: list[str] = []
        for at, part in enumerate(instruction.get("parts", ())):
            if "text" not in part:
                kind = next(name for name in part if name in DATA_KINDS)
                raise not_carried(f"systemInstruction.parts[{at}].{kind}", "A system instruction but text")
            texts.append(part["text"])
        text = _BETWEEN_TEXTS.join(texts)
        return [{"role": "system", "content": text}] if text else []

    def messages(self, contents: list[Json]) -> list[Json]:
        """Returns the chat messages of a conversation; raises `BadRequest` for what they cannot hold."""
        translated: list[Json] = []
        for is_models, parts in _turns(contents):
            translated += self._models(parts) if is_models else self._users(parts)
        if not translated:
            raise invalid("contents", "must have at least one part.", "empty_array")
        if translated[-1]["role"] == "assistant" and not self._carried.continues:
            raise not_carried(f"contents[{len(contents) - 1}]", "A beginning of the answer (prefill)")
        return translated

    def _users(self, parts: list[_Part]) -> Iterator[Json]:
        outputs: list[ToolOutput] = []
        content: list[Json] = []
        for part in parts:
            if "functionResponse" in part.value:
                outputs += self._output(part.value["functionResponse"], f"{part.path}.functionResponse")
            else:
                content.append(self._chat_part(part))
        messages = tool_output_messages(outputs, images_inside=self._carried.tool_images)
        if content and messages and messages[-1]["role"] == "user":
            content = [*messages.pop()["content"], *content]
        yield from messages
        if content:
            yield {"role": "user", "content": joined_texts(content)}

    def _models(self, parts: list[_Part]) -> Iterator[Json]:
        text, calls, kept = "", list[Json](), list[Json]()
        thoughts: list[Json] = []
        for value, path in parts:
            signature = value.get("thoughtSignature", "")
            blocks = open_blocks(signature) if signature else None
            kept += blocks or ()
            if "functionCall" in value:
                own = signature if blocks is None else ""
                calls.append(self._call(value["functionCall"], f"{path}.functionCall", own))
            elif "text" not in value:
                raise _refused(_Part(value, path), "of the model")
            elif value.get("thought"):
                thoughts.append({"type": "thinking", "thinking": value["text"], "signature": ""})
            else:
                text += value["text"]
        message: Json = {"role": "assistant", "content": text or None}
        message |= carried_reasoning(kept or thoughts, self._carried)
        if calls:
            message["tool_calls"] = calls
        if text or calls or len(message) > 2:
            yield message

    def _call(self, call: Json, path: str, signature: str) -> Json:
        if call.get("willContinue") or call.get("partialArgs"):
            raise not_carried(path, "A part of a call")
        shown_id = call.get("id", "")
        sent_id = shown_id or self._new_id()
        if self._carried.thought_signatures:
            sent_id = join_call_id(sent_id, signature)
        self._calls.append(_KnownCall(shown_id, call["name"], sent_id))
        arguments = orjson.dumps(call.get("args", {})).decode()
        return function_call(sent_id, self.names.sent(call["name"]), arguments)

    def _new_id(self) -> str:
        """An id of the form that the strictest provider takes: nine letters and digits."""
        return f"call{len(self._calls):05d}"

    def _output(self, output: Json, path: str) -> Iterator[ToolOutput]:
        """Yields what a function returned; nothing where a response is repeated, as Gemini CLI does."""
        if output.get("willContinue") or output.get("scheduling") not in {None, "SCHEDULING_UNSPECIFIED"}:
            raise not_carried(path, "A part of a response")
        text = _response_text(output.get("response", {}))
        parts = [text_part(text)] if text else []
        for at, one in enumerate(output.get("parts", ())):
            parts.append(self._chat_part(_Part(one, f"{path}.parts[{at}]")))
        if (call := self._answered(output, path)) is not None:
            yield ToolOutput(call.sent_id, parts)

    def _answered(self, output: Json, path: str) -> _KnownCall | None:
        """The call that an output answers: by its id, else the first of its name; None if it is answered."""
        call_id, name = output.get("id"), output["name"]
        named = [call for call in self._calls if call_id and call.shown_id == call_id]
        if any(call.answer == output for call in named):
            return None
        waiting = [call for call in [*named, *self._calls] if call.answer is None]
        found = next((call for call in waiting if call in named or call.name == name), None)
        if found is None:
            raise invalid(path, "no function call before it waits for this response.")
        found.answer = output
        return found

    def _chat_part(self, part: _Part) -> Json:
        value, path = part
        if "text" in value:
            if value.get("thought"):
                raise not_carried(path, "A thought of a user")
            return text_part(value["text"])
        if value.get("videoMetadata"):
            raise not_carried(f"{path}.videoMetadata", "A part of a video")
        detail = _DETAILS.get(value.get("mediaResolution", {}).get("level", "")) or self._detail
        if "inlineData" in value:
            return _inline(value["inlineData"], detail, f"{path}.inlineData")
        if "fileData" in value:
            return _linked(value["fileData"], detail)
        raise _refused(part, "of a user")


def _turns(contents: list[Json]) -> Iterator[tuple[bool, list[_Part]]]:
    """Yields the turns of a conversation: whether it is the model's, and its parts."""
    is_models, parts = False, list[_Part]()
    for at, content in enumerate(contents):
        own = [_Part(part, f"contents[{at}].parts[{n}]") for n, part in enumerate(content.get("parts", ()))]
        is_same = (content.get("role") == "model") == is_models
        if parts and not is_same:
            yield is_models, parts
            parts = []
        is_models = content.get("role") == "model"
        parts = [*parts, *own]
    if parts:
        yield is_models, parts


def _refused(part: _Part, whose: str) -> Exception:
    kind = next((name for name in part.value if name in DATA_KINDS), "")
    what = _NOT_HERE.get(kind) or f"A part '{kind}' {whose}"
    return not_carried(f"{part.path}.{kind}", what)


def _response_text(response: Json) -> str:
    """What a function returned, as text: its `output` or `error` where it has that alone."""
    if response.keys() == {"output"}:
        output = response["output"]
        return output if isinstance(output, str) else orjson.dumps(output).decode()
    if response.keys() == {"error"}:
        error = response["error"]
        return ERROR_PREFIX + (error if isinstance(error, str) else orjson.dumps(error).decode())
    return orjson.dumps(response).decode() if response else ""


def _inline(blob: Json, detail: str | None, path: str) -> Json:
    """An image, a sound, a text or a file, by its type."""
    media_type = blob["mimeType"].partition(";")[0].strip().lower()
    kind, _, subtype = media_type.partition("/")
    if kind == "image":
        return image_part(data_url(media_type, blob["data"]), detail)
    if kind == "audio":
        return audio_part(blob["data"], _AUDIO_FORMATS.get(subtype) or subtype)
    if kind == "text":
        try:
            return text_part(b64decode(blob["data"]).decode())
        except ValueError:
            raise invalid(f"{path}.data", "is no text in UTF-8.") from None
    filename = blob.get("displayName") or f"file.{subtype or 'bin'}"
    return file_part(file_data=data_url(media_type, blob["data"]), filename=filename)


def _linked(file: Json, detail: str | None) -> Json:
    """An image or a file by its address."""
    media_type, link = file.get("mimeType", "").lower(), file["fileUri"]
    by_name = not media_type and link.partition("?")[0].lower().endswith(_IMAGE_ENDINGS)
    if media_type.startswith("image/") or by_name:
        return image_part(link, detail)
    return file_part(file_id=link, filename=file.get("displayName"))
