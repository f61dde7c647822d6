"""The items of an answer as they grow, each with OpenAI's events: messages, reasoning, calls, images.

Pure. Invariants: an item's events are added, then its parts', then done; joined deltas are the text of the
done event; a done item is what a whole answer shows.
Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from llm_proxy.dialects.responses.client_tools import CLIENT_TOOLS
from llm_proxy.dialects.responses.freeform import FreeformInput
from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.tools import CallerTool
from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.json_access import Json, as_object, as_objects, is_array, is_object

_TEXT_DELTA = b'%b%b,"logprobs":[],"sequence_number":%d}\n\n'
Event = tuple[str, Json]
"""The type of an event, and its fields but for `type` and `sequence_number`."""


def item_id(prefix: str, token: str, index: int) -> str:
    """The id of an item of the response with this token."""
    return f"{prefix}_{token}{index:02x}"


def _added(index: int, item: Json) -> Event:
    return "response.output_item.added", {"output_index": index, "item": item}


def _done(index: int, item: Json) -> Event:
    return "response.output_item.done", {"output_index": index, "item": item}


class GrowingMessage:
    """A message of the assistant's: texts and refusals, in the order they came.

    Attributes:
        delta_start: How each event of the open text begins, up to the delta; empty while none is open.
    """

    __slots__ = ("_at", "_parts", "_texts", "delta_start", "index", "item_id")

    def __init__(self, item_id: str, index: int) -> None:
        self.item_id = item_id
        self.index = index
        self._at = {"item_id": item_id, "output_index": index}
        self.delta_start: bytes = b""
        self._parts: list[Json] = []
        self._texts: list[str] = []

    def open(self) -> list[Event]:
        """The event of a message without content."""
        return [_added(self.index, self._item([], "in_progress"))]

    def say(self, text: str, logprobs: Sequence[Json]) -> list[Event]:
        """Adds to the text."""
        events = self._part("output_text")
        tokens = [_logprob(one) for one in logprobs]
        self._texts.append(text)
        self._parts[-1]["logprobs"] += tokens
        if text or tokens:
            fields = {**self._at, "content_index": len(self._parts) - 1, "delta": text, "logprobs": tokens}
            events.append(("response.output_text.delta", fields))
        return events

    def add_text(self, text: str, number: int) -> bytes:
        """Adds to the open text; returns the event with this number, most of which is the same in each."""
        self._texts.append(text)
        return _TEXT_DELTA % (self.delta_start, orjson.dumps(text), number)

    def refuse(self, refusal: str) -> list[Event]:
        """Adds to the refusal."""
        events = self._part("refusal")
        self._texts.append(refusal)
        fields = {**self._at, "content_index": len(self._parts) - 1, "delta": refusal}
        events.append(("response.refusal.delta", fields))
        return events

    def cite(self, annotations: Sequence[Json]) -> list[Event]:
        """Adds citations of the text."""
        events = self._part("output_text")
        known = self._parts[-1]["annotations"]
        for annotation in filter(None, map(_citation, annotations)):
            fields = {**self._at, "content_index": len(self._parts) - 1, "annotation_index": len(known)}
            events.append(("response.output_text.annotation.added", fields | {"annotation": annotation}))
            known.append(annotation)
        return events

    def close(self, status: str) -> tuple[list[Event], Json]:
        """Ends the message; returns its last events, and the item."""
        events = self._close_part() if self._parts else []
        item = self._item(self._parts, status)
        return [*events, _done(self.index, item)], item

    def _part(self, kind: str) -> list[Event]:
        """Opens a part unless one of this kind is open."""
        if self._parts and self._parts[-1]["type"] == kind:
            return []
        events = self._close_part() if self._parts else []
        self._parts.append(_empty_part(kind))
        self._texts = []
        at = {**self._at, "content_index": len(self._parts) - 1}
        self.delta_start = _text_delta_start(at) if kind == "output_text" else b""
        fields = {**at, "part": _empty_part(kind)}
        return [*events, ("response.content_part.added", fields)]

    def _close_part(self) -> list[Event]:
        part, text = self._parts[-1], "".join(self._texts)
        at = {**self._at, "content_index": len(self._parts) - 1}
        if part["type"] == "refusal":
            part["refusal"] = text
            ended: Event = ("response.refusal.done", {**at, "refusal": text})
        else:
            part["text"] = text
            ended = ("response.output_text.done", {**at, "text": text, "logprobs": part["logprobs"]})
        return [ended, ("response.content_part.done", {**at, "part": part})]

    def _item(self, content: list[Json], status: str) -> Json:
        return _message(self.item_id, content, status)


def whole_message(item_id: str, text: str, status: str) -> Json:
    """The item of a message that says one text."""
    return _message(item_id, [_empty_part("output_text") | {"text": text}], status)


def _message(item_id: str, content: list[Json], status: str) -> Json:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _text_delta_start(at: Json) -> bytes:
    event = orjson.dumps({"type": "response.output_text.delta", **at})
    return b'event: response.output_text.delta\ndata: %b,"delta":' % event[:-1]


def _empty_part(kind: str) -> Json:
    if kind == "refusal":
        return {"type": kind, "refusal": ""}
    return {"type": kind, "annotations": [], "logprobs": [], "text": ""}


class GrowingReasoning:
    """What the model reasoned: a part of the summary for each of its blocks that has a text."""

    __slots__ = (
        "_at",
        "_blocks",
        "_seal",
        "_signature",
        "_summary",
        "_texts",
        "index",
        "is_signed",
        "item_id",
    )

    def __init__(self, item_id: str, index: int, seal: ReasoningSeal | None, *, is_signed: bool) -> None:
        self.item_id = item_id
        self.index = index
        self.is_signed = is_signed
        self._seal = seal
        self._at = {"item_id": item_id, "output_index": index}
        self._summary: list[Json] = []
        self._blocks: list[ThinkingPiece] = []
        self._texts: list[str] = []

    def open(self) -> list[Event]:
        """The event of an item without a summary."""
        return [_added(self.index, {"id": self.item_id, "type": "reasoning", "summary": []})]

    def think(self, piece: ThinkingPiece) -> list[Event]:
        """Adds a piece; a signature ends its block."""
        events: list[Event] = []
        if piece.redacted:
            events = self._close_block("")
            self._blocks.append(piece)
            return events
        if piece.text:
            at = {**self._at, "summary_index": len(self._summary)}
            if not self._texts:
                part = {"type": "summary_text", "text": ""}
                events.append(("response.reasoning_summary_part.added", {**at, "part": part}))
            self._texts.append(piece.text)
            events.append(("response.reasoning_summary_text.delta", {**at, "delta": piece.text}))
        if piece.signature:
            events += self._close_block(piece.signature)
        return events

    def _close_block(self, signature: str) -> list[Event]:
        text = "".join(self._texts)
        if not text and not signature:
            return []
        self._blocks.append(ThinkingPiece(text, signature))
        self._texts = []
        if not text:
            return []
        at, part = {**self._at, "summary_index": len(self._summary)}, {"type": "summary_text", "text": text}
        self._summary.append(part)
        return [
            ("response.reasoning_summary_text.done", {**at, "text": text}),
            ("response.reasoning_summary_part.done", {**at, "part": part}),
        ]

    def close(self, status: str) -> tuple[list[Event], Json]:
        """Ends the item, which the caller can send back; returns its last events, and the item."""
        events = self._close_block("")
        item: Json = {"id": self.item_id, "type": "reasoning", "summary": self._summary, "status": status}
        if self._seal is not None and self._blocks:
            item["encrypted_content"] = self._seal.seal(self._blocks, is_signed=self.is_signed)
        return [*events, _done(self.index, item)], item


class GrowingCall:
    """A call of one of the caller's tools.

    Attributes:
        is_complete: Its arguments are complete JSON, to which nothing can be added.
        is_done: Its last event was made.
    """

    __slots__ = ("_at", "_call_id", "_freeform", "_texts", "_tool", "index", "is_done", "item_id")

    def __init__(self, call_id: str, tool: CallerTool) -> None:
        self.item_id = ""
        self.index = -1
        self.is_done = False
        self._call_id = call_id
        self._tool = tool
        self._at: Json = {}
        self._texts: list[str] = []
        self._freeform = FreeformInput() if tool.kind == "custom" else None

    @property
    def is_complete(self) -> bool:
        """Whether nothing can be added to the arguments: they are JSON."""
        try:
            return is_object(orjson.loads("".join(self._texts)))
        except orjson.JSONDecodeError:
            return False

    @property
    def opens_at_its_end(self) -> bool:
        """Whether it has an item of its own type, which is known when the arguments are."""
        return self._tool.kind in CLIENT_TOOLS

    def place(self, token: str, index: int) -> None:
        """Gives the item its index and id, before its first event."""
        prefix = "ctc" if self._tool.kind == "custom" else "fc"
        self.index, self.item_id = index, item_id(prefix, token, index)
        self._at = {"item_id": self.item_id, "output_index": index}

    def open(self) -> list[Event]:
        """The event of a call without arguments."""
        return [_added(self.index, self._item("", "in_progress"))]

    def add(self, text: str) -> list[Event]:
        """Adds to the arguments; what a model writes after their end is nothing."""
        if self.is_done:
            return []
        self._texts.append(text)
        if self._freeform is not None:
            text = self._freeform.feed(text)
        if not text or self.opens_at_its_end:
            return []
        return [(self._event("delta"), {**self._at, "delta": text})]

    def close(self, status: str) -> tuple[list[Event], Json]:
        """Ends the call; returns its last events, and the item."""
        self.is_done = True
        arguments = "".join(self._texts)
        if self.opens_at_its_end:
            return self._close_client_call(arguments, status)
        rest = self._freeform.end() if self._freeform is not None else "" if arguments.strip() else "{}"
        if self._freeform is not None:
            arguments = self._freeform.value
        else:
            arguments += rest
        return self._close_with(arguments, rest, status)

    def _close_with(self, arguments: str, rest: str, status: str) -> tuple[list[Event], Json]:
        events: list[Event] = [(self._event("delta"), {**self._at, "delta": rest})] if rest else []
        fields = {"input": arguments} if self._freeform else {"arguments": arguments, "name": self._tool.name}
        events.append((self._event("done"), {**self._at, **fields}))
        item = self._item(arguments, status)
        return [*events, _done(self.index, item)], item

    def _close_client_call(self, arguments: str, status: str) -> tuple[list[Event], Json]:
        kind = self._tool.kind
        try:
            parsed = as_object(orjson.loads(arguments or "{}"))
            fields = CLIENT_TOOLS[kind].call_item(parsed) if status == "completed" else None
        except orjson.JSONDecodeError:
            fields = None
        if fields is None:  # arguments that do not fit: the caller sees what the model wrote
            self._tool = CallerTool("function", self._tool.name)
            opened = self.open()
            events, item = self._close_with(arguments, arguments, status)
            return opened + events, item
        item = {"id": self.item_id, "type": f"{kind}_call", "call_id": self._call_id, **fields}
        return [
            _added(self.index, item | {"status": "in_progress"}),
            _done(self.index, item | {"status": status}),
        ], item | {"status": status}

    def _event(self, kind: str) -> str:
        name = "function_call_arguments" if self._freeform is None else "custom_tool_call_input"
        return f"response.{name}.{kind}"

    def _item(self, text: str, status: str) -> Json:
        kind, field = ("custom_tool_call", "input") if self._freeform else ("function_call", "arguments")
        item: Json = {
            "id": self.item_id,
            "type": kind,
            "status": status,
            "call_id": self._call_id,
            "name": self._tool.name,
            field: text,
        }
        return item | {"namespace": self._tool.namespace} if self._tool.namespace else item


def image_events(item_id: str, index: int, link: str) -> tuple[list[Event], Json]:
    """An image the model made, as a call of OpenAI's tool that makes images; returns the item too."""
    result = link.partition(";base64,")[2] if link.startswith("data:") else link
    item: Json = {"id": item_id, "type": "image_generation_call", "status": "completed", "result": result}
    begun = item | {"status": "in_progress", "result": None}
    completed = {"item_id": item_id, "output_index": index}
    return [
        _added(index, begun),
        ("response.image_generation_call.completed", completed),
        _done(index, item),
    ], item


def _logprob(token: Json) -> Json:
    """A token's log probability with every field that OpenAI's has."""
    top = [_one_logprob(one) for one in as_objects(token.get("top_logprobs"))]
    return _one_logprob(token) | {"top_logprobs": top}


def _one_logprob(token: Json) -> Json:
    text: Any = token.get("token")
    text = text if type(text) is str else ""
    stated: Any = token.get("bytes")
    return {
        "token": text,
        "bytes": stated if _is_bytes(stated) else list(text.encode("utf-8", "replace")),
        "logprob": _number(token.get("logprob")),
    }


def _is_bytes(stated: Any) -> bool:  # noqa: ANN401 -- a provider's JSON
    return is_array(stated) and all(type(one) is int for one in stated)


def _number(stated: Any) -> float:  # noqa: ANN401 -- a provider's JSON
    return stated if type(stated) in {int, float} else 0.0


def _citation(annotation: Json) -> Json | None:
    """A citation of a page; what other models state in other shapes has no place in OpenAI's."""
    inner = as_object(annotation.get("url_citation"))
    if not isinstance(inner.get("url"), str):
        return None
    return {
        "type": "url_citation",
        "start_index": int(_number(inner.get("start_index"))),
        "end_index": int(_number(inner.get("end_index"))),
        "title": title if isinstance(title := inner.get("title"), str) else "",
        "url": inner["url"],
    }
