"""OpenAI's chat answers read for the translators: whole, or as frames of a stream.

Pure. Invariants: any chunking of the same frames gives the same deltas; a whole answer is one delta; fields
of another type than published count as absent; one choice is read, the first unless another is requested;
another id with a name is another call, though some servers give each the same index. Beside OpenAI's fields:
`reasoning_content`, `reasoning`, `images`, `thinking_blocks` (with signatures, which go back unchanged).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from llm_proxy import sse
from llm_proxy.dialects.translation.usage import ChatUsage, read_chat_usage
from llm_proxy.errors import ProviderFailed
from llm_proxy.json_access import Json, as_object, as_objects, is_array, is_object


class ThinkingPiece(NamedTuple):
    """A piece of what the model reasoned.

    A block of Claude's is its pieces up to the one with the signature; a redacted block is one piece.

    Attributes:
        text: What is added to the block's text.
        signature: The signature that ends the block; empty before, and for models without signatures.
        redacted: The data of a redacted block; empty for any other.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolCallPiece(NamedTuple):
    """A piece of a tool call, a whole one in a whole answer.

    Attributes:
        position: Which call of the answer, from 0.
        call_id: Empty in the pieces after the first.
        name: Empty in the pieces after the first.
        text: What is added to the call's arguments, or to a custom tool's input.
        is_custom: The provider names it a call of a custom tool.
    """

    position: int
    call_id: str = ""
    name: str = ""
    text: str = ""
    is_custom: bool = False


class ChatDelta(NamedTuple):
    """What one frame adds to the answer, or all of a whole answer; in the order of the fields.

    Attributes:
        thinking: What the model reasoned.
        annotations: Citations of the text, in OpenAI's chat format.
        logprobs: The tokens of the text, each with its `logprob` and `top_logprobs`.
        images: Links of images that the model made, `data:` mostly.
    """

    text: str = ""
    refusal: str = ""
    thinking: tuple[ThinkingPiece, ...] = ()
    tool_calls: tuple[ToolCallPiece, ...] = ()
    annotations: tuple[Json, ...] = ()
    logprobs: tuple[Json, ...] = ()
    images: tuple[str, ...] = ()


_NOTHING = ChatDelta()
_PLAIN_FIELDS = frozenset({"content", "role"})
_PROBE = "\x00"
_TRIES = 8
"""How many frames are tried as the form of those that follow."""


class ChatAnswerReader:
    """Reads one answer; what belongs to no delta is an attribute, as far as it was seen.

    Attributes:
        answer_id: The provider's id of the answer.
        created: When it was made, in seconds since 1970; 0 when not stated.
        finish_reason: Why it ended; None before, or when not stated.
        usage: None before it was stated.
        frames: How many frames were read.
        service_tier: The tier that is billed.
        native_reason: Why it ended in the provider's own words, which our sidecar states of Gemini.
        stop_sequence: The text it stopped at, which vLLM states.
    """

    __slots__ = (
        "_after", "_before", "_call_ids", "_choice", "_decoder", "_made", "_positions", "_tries",
        "answer_id", "created", "finish_reason", "frames", "model", "native_reason",
        "service_tier", "stop_sequence", "usage",
    )  # fmt: skip

    def __init__(self, choice: int | None = None) -> None:
        """Begins an answer; `choice` is the index of the one to read, where there are several."""
        self._choice = choice
        self._decoder = sse.SSEDecoder()
        self._call_ids: list[str] = []
        self._positions: dict[int, int] = {}
        self._before = self._after = b""  # of the string in which frames differ, each with a quote
        self._made: Callable[[str], ChatDelta] = ChatDelta  # the delta of such a string
        self._tries = _TRIES
        self.answer_id = ""
        self.frames = 0
        self.created = 0
        self.finish_reason: str | None = None
        self.model = ""
        self.native_reason = ""
        self.service_tier: str | None = None
        self.stop_sequence: str | None = None
        self.usage: ChatUsage | None = None

    def text_of(self, chunk: bytes) -> str | None:
        """Reads a chunk that is one frame, and but for its text like one before; returns the text.

        None for any other chunk, which was not read. Nothing but the text is new in such a frame.
        """
        return self._string_of(chunk) if self._made is ChatDelta else None

    def _string_of(self, chunk: bytes) -> str | None:
        """Reads a chunk that is one frame, and but for one string like one before; returns that string."""
        before, after = self._before, self._after
        if not (before and chunk.startswith(before) and chunk.endswith(after)) or self._decoder.rest:
            return None
        try:
            text: str = orjson.loads(chunk[len(before) - 1 : 1 - len(after)])
        except orjson.JSONDecodeError:
            return None
        if not text:
            return None
        self.frames, self._tries = self.frames + 1, _TRIES
        return text

    def feed(self, chunk: bytes) -> list[ChatDelta]:
        """Takes bytes of a stream of frames, any chunking; returns the deltas that add something."""
        if (said := self._string_of(chunk)) is not None:
            return [self._made(said)]
        deltas: list[ChatDelta] = []
        for frame in self._decoder.feed(chunk):
            data = sse.parse_event(frame).data
            if not data or data == b"[DONE]":
                continue
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue
            if not is_object(event):
                continue
            self.frames += 1
            delta = self._read(event, self._chosen(event.get("choices")), "delta")
            if delta is not _NOTHING:
                deltas.append(delta)
                if self._tries:
                    self._learn_form(frame, delta)
        return deltas

    def _learn_form(self, frame: bytes, delta: ChatDelta) -> None:
        """Keeps what stands around the one string of a frame, if another there would be read in its place."""
        self._tries -= 1
        names, text, made = _one_string(delta)
        if not text or not frame.startswith(b"data: ") or frame.find(b"\n") != len(frame) - 2:
            return
        written = orjson.dumps(text)
        for name in names:
            start = frame.find(name + written)
            if start < 0:
                continue
            before, after = frame[: start + len(name) + 1], frame[start + len(name + written) - 1 :]
            event = as_object(orjson.loads(before[6:-1] + orjson.dumps(_PROBE) + after[1:]))
            if self._read(event, self._chosen(event.get("choices")), "delta") == made(_PROBE):
                self._before, self._after, self._made = before, after, made

    def read_answer(self, reply: bytes) -> ChatDelta:
        """Returns a whole answer as one delta; raises `ProviderFailed` when it is none."""
        try:
            answer = orjson.loads(reply)
        except orjson.JSONDecodeError:
            answer = None
        choices = answer.get("choices") if is_object(answer) else None
        if not is_object(answer) or not is_array(choices) or not choices:
            raise ProviderFailed("The provider's answer could not be read.")
        return self._read(answer, self._chosen(choices), "message")

    def _chosen(self, choices: Any) -> Any:  # noqa: ANN401 -- a provider's JSON
        if self._choice is None:
            return choices[0] if is_array(choices) and choices else None
        return next((one for one in as_objects(choices) if one.get("index", 0) == self._choice), None)

    def _read(self, event: Json, choice: Any, part: str) -> ChatDelta:  # noqa: ANN401 -- a provider's JSON
        if not self.answer_id or not self.model:
            self._read_head(event)
        usage = event.get("usage")
        if is_object(usage):
            self.usage = read_chat_usage(usage) or self.usage
        if event.get("service_tier"):
            self.service_tier = _text(event["service_tier"]) or self.service_tier
        if not is_object(choice):
            return _NOTHING
        if choice.get("finish_reason"):
            self.finish_reason = _text(choice["finish_reason"]) or self.finish_reason
            self.stop_sequence = _text(choice.get("stop_reason")) or self.stop_sequence
            stated = as_object(choice.get("provider_specific_fields")).get("native_finish_reason")
            self.native_reason = _text(stated) or self.native_reason
        message = choice.get(part)
        if not is_object(message):
            return _NOTHING
        calls = self._read_calls(message.get("tool_calls"), is_whole=part == "message")
        return _delta(message, choice.get("logprobs"), calls)

    def _read_calls(self, calls: Any, *, is_whole: bool) -> tuple[ToolCallPiece, ...]:  # noqa: ANN401 -- a provider's JSON
        if not is_array(calls):
            return ()
        return tuple(
            self._read_call(call, at, is_whole=is_whole) for at, call in enumerate(calls) if is_object(call)
        )

    def _read_call(self, call: Json, at: int, *, is_whole: bool) -> ToolCallPiece:
        piece = _tool_call(call)
        stated = call.get("index")
        index = stated if type(stated) is int and stated >= 0 and not is_whole else at
        position = self._positions.get(index)
        known_id = "" if position is None else self._call_ids[position]
        if position is None or (piece.name and known_id and piece.call_id not in {"", known_id}):
            self._before = b""  # frames that are alike belong to another call now
            position = self._positions[index] = len(self._call_ids)
            self._call_ids.append(piece.call_id)
        elif not known_id:
            self._call_ids[position] = piece.call_id
        return piece._replace(position=position)

    def _read_head(self, event: Json) -> None:
        self.answer_id = self.answer_id or _text(event.get("id"))
        self.model = self.model or _text(event.get("model"))
        created = event.get("created")
        if not self.created and type(created) is int and created > 0:
            self.created = created


def _one_string(delta: ChatDelta) -> tuple[tuple[bytes, ...], str, Callable[[str], ChatDelta]]:
    """Returns the one string of a delta, how frames name it, and what makes the delta of another string.

    No string where there are several, or other things, in the delta.
    """
    if not any(delta[1:]):
        return (b'"content":', b'"content": '), delta.text, ChatDelta
    if len(delta.thinking) == 1 and delta == ChatDelta(thinking=(ThinkingPiece(delta.thinking[0].text),)):
        names = (b'"reasoning_content":', b'"reasoning_content": ', b'"reasoning":', b'"reasoning": ')
        return names, delta.thinking[0].text, _thought
    if len(delta.tool_calls) == 1 and delta == ChatDelta(tool_calls=delta.tool_calls):
        piece = delta.tool_calls[0]

        def made(text: str) -> ChatDelta:
            return ChatDelta(tool_calls=(ToolCallPiece(piece.position, piece.call_id, text=text),))

        if piece == ToolCallPiece(piece.position, piece.call_id, text=piece.text):
            return (b'"arguments":', b'"arguments": '), piece.text, made
    return (), "", ChatDelta


def _thought(text: str) -> ChatDelta:
    return ChatDelta(thinking=(ThinkingPiece(text),))


def _delta(message: Json, logprobs: Any, calls: tuple[ToolCallPiece, ...]) -> ChatDelta:  # noqa: ANN401 -- a provider's JSON
    content = message.get("content")
    if type(content) is str and content and not logprobs and not _others(message):
        return ChatDelta(content)
    delta = ChatDelta(
        content if type(content) is str else _joined_parts(content),
        _text(message.get("refusal")),
        _thinking(message),
        calls,
        tuple(as_objects(message.get("annotations"))),
        tuple(as_objects(as_object(logprobs).get("content"))),
        _images(message),
    )
    return _NOTHING if delta == _NOTHING else delta


def _others(message: Json) -> bool:
    """Whether a message says more than its text."""
    others = message.keys() - _PLAIN_FIELDS
    return bool(others) and any(map(message.get, others))


def _thinking(message: Json) -> tuple[ThinkingPiece, ...]:
    """The blocks if there are any: LiteLLM states their text once more as `reasoning_content`."""
    blocks = as_objects(message.get("thinking_blocks"))
    if blocks:
        pieces = (
            ThinkingPiece(_text(one.get("thinking")), _text(one.get("signature")), _text(one.get("data")))
            for one in blocks
        )
        return tuple(piece for piece in pieces if any(piece))
    text = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    return (ThinkingPiece(text),) if text else ()


def _tool_call(call: Json) -> ToolCallPiece:
    custom = call.get("custom")
    is_custom = is_object(custom)
    inner = custom if is_object(custom) else as_object(call.get("function"))
    text = _text(inner.get("input" if is_custom else "arguments"))
    return ToolCallPiece(0, _text(call.get("id")), _text(inner.get("name")), text, is_custom)


def _images(message: Json) -> tuple[str, ...]:
    links = (_text(as_object(one.get("image_url")).get("url")) for one in as_objects(message.get("images")))
    return tuple(link for link in links if link)


def _joined_parts(content: Any) -> str:  # noqa: ANN401 -- a provider's JSON
    """The texts of a content that is an array of parts, as some servers answer."""
    return "".join(_text(part.get("text")) for part in as_objects(content)) if content else ""


def _text(value: Any) -> str:  # noqa: ANN401 -- a provider's JSON
    return value if type(value) is str else ""
