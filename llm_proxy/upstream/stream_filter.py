"""The sidecar's server-sent events on their way to the caller, parsed only where they must be.

Frames with content pass unchanged. A frame with usage, an error or the end is parsed; LiteLLM's additions
(`usage.cost`, `provider_specific_fields`) are removed. Usage is sent once, as OpenAI's last frame
(`choices: []`), to a caller who requested it: as stated, else estimated; it leaves with the end.
Invariants: any chunking of the same bytes gives the same frames; `[DONE]` is withheld.
"""

import re

import orjson

from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.upstream.event_filter import EventFilter
from llm_proxy.upstream.token_usage import (
    TokenUsage,
    is_zero,
    last_event,
    read_usage,
    strip_usage_additions,
    usage_object,
)

_USAGE, _PROVIDER, _ERROR, _DONE = b'"usage"', b'"provider_specific', b'"error"', b"[DONE]"
_FINISH = b'"finish_reason":"'
_COMPLETION, _TEXT = b'"text_completion"', b'"text":'
_ADDED = "provider_specific_fields"
_PLAIN = rb'(?!usage"|error"|provider_specific)[^"\r\n\[]{0,999}+'
"""A text that makes no mark, alone or with what stands around it; a longer one is faster to search."""
_PLAIN_TEXT = re.compile(_PLAIN).match
_PLAIN_FRAME = re.compile(
    rb'(data: [^\r\n]{0,999}?"content":")' + _PLAIN + rb'("\}[^\r\n]{0,999}+\n\n)'
).fullmatch
_CHUNK_FIELDS = frozenset(
    {"id", "object", "created", "model", "choices", "system_fingerprint", "service_tier", "obfuscation"}
)
_CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason", "text"})


class StreamFilter(EventFilter):
    """The frames of one stream of chats.

    Attributes:
        finished: A `finish_reason` was seen.
    """

    __slots__ = (
        "_begin", "_end", "_prompt_tokens", "_states_zeros", "_usage_event", "_wants_usage", "finished",
    )  # fmt: skip

    def __init__(self, *, wants_usage: bool, prompt_tokens: int = 0, states_zeros: bool = True) -> None:
        super().__init__()
        self._wants_usage = wants_usage
        self._states_zeros = states_zeros  # an unmodified LiteLLM writes zeros where nothing was stated
        self._prompt_tokens = prompt_tokens
        self._usage_event: Json = {}
        self._begin = self._end = b""  # what the last plain frame has around its text
        self.finished = False

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        begin = self._begin
        if begin and chunk[: len(begin)] == begin and not self._gate.held_bytes:
            text = _PLAIN_TEXT(chunk, len(begin))
            if text is not None and chunk[text.end() :] == self._end:  # as the last one, but for its text
                self._count_content(chunk)
                return chunk
        if self._gate.held_bytes or not chunk.endswith(b"\n\n"):
            chunk = self._gate.feed(chunk)
            if not chunk:
                return b""
        if _is_marked(chunk):
            return self._filter_frames(chunk)
        if chunk.find(_FINISH) >= 0:
            self.finished = True
            if _COMPLETION in chunk:
                return b"".join(self._filter_frame(frame) for frame in chunk.split(b"\n\n") if frame)
        elif not (begin and chunk.startswith(begin)) and (plain := _PLAIN_FRAME(chunk)) is not None:
            self._begin, self._end = plain.groups()
        self._count_content(chunk, chunk.count(b"\n\n"))
        return chunk

    def _filter_frames(self, chunk: bytes) -> bytes:
        out: list[bytes] = []
        for frame in chunk.replace(b"\r\n", b"\n").split(b"\n\n"):
            if frame:
                kept = self._filter_frame(frame)
                if kept:
                    out.append(kept)
        return b"".join(out)

    def _filter_frame(self, frame: bytes) -> bytes:
        if not frame.startswith(b"data:"):
            return frame + b"\n\n"
        data = frame[5:].strip()
        if data == b"[DONE]":
            self.done = True
            self.last_event = self._usage_frame() if self._wants_usage else b""
            return b""
        if not (_is_marked(data) or _lacks_text(data)):
            self.finished = self.finished or _FINISH in data
            return self._pass_content(frame + b"\n\n")
        event = self._parse(data)
        return self._filter_event(event) if event else b""

    def _pass_content(self, frame: bytes) -> bytes:
        self._count_content(frame)
        return frame

    def _filter_event(self, event: Json) -> bytes:
        error = as_object(event.get("error"))
        if error:
            self.error = error
            return b""
        strip_additions(event)
        usage = as_object(event.pop("usage", None))
        out = b""
        _add_missing_text(event)
        found = read_usage(usage, event)
        if found is not None and not (found.cost_nano_usd or self._states_zeros):
            found = found._replace(cost_nano_usd=None)
        is_statement = found is not None and self._is_statement(found)
        if found is not None and not _choices(event) and (is_statement or not self._wants_usage):
            out = self._content_of_usage_frame(event)
        elif has_content(event):
            self.finished = self.finished or any(one.get("finish_reason") for one in _choices(event))
            out = self._pass_content(b"data: " + orjson.dumps(event) + b"\n\n")
        if is_statement:
            self.usage = found
            strip_usage_additions(usage)
            self._usage_event = event | {"choices": [], "usage": usage}
        return out

    def _is_statement(self, usage: TokenUsage) -> bool:
        """Whether a usage is stated: zeros are not after a count, nor from an unmodified LiteLLM."""
        return not is_zero(usage) or (self._states_zeros and self.usage is None)

    def _content_of_usage_frame(self, event: Json) -> bytes:
        """Returns what a usage frame holds besides the usage, for a caller who did not request usage.

        Such a caller expects a choice in each frame, so it gets one that adds nothing.
        """
        if self._wants_usage or not has_content(event):
            return b""
        is_text = event.get("object") == "text_completion"
        empty: Json = {"text": "", "logprobs": None} if is_text else {"delta": {}}
        event = event | {"choices": [{"index": 0, **empty, "finish_reason": None}]}
        return self._pass_content(b"data: " + orjson.dumps(event) + b"\n\n")

    def _usage_frame(self) -> bytes:
        """Returns the last frame: the stated usage, else an estimate in the last frame's envelope."""
        event = self._usage_event
        if not event:
            last = last_event(self._last)
            event = {name: last[name] for name in ("id", "object", "created", "model") if name in last}
            event |= {"choices": [], "usage": usage_object(self._prompt_tokens, self.content_tokens())}
        return b"data: " + orjson.dumps(event) + b"\n\n"


def has_content(event: Json) -> bool:
    """Whether a frame holds more than its usage."""
    return any(value is not None for name, value in event.items() if name not in _CHUNK_FIELDS) or any(
        choice.get("finish_reason")
        or choice.get("text") is not None
        or any(value is not None for value in as_object(choice.get("delta")).values())
        or any(value is not None for name, value in choice.items() if name not in _CHOICE_FIELDS)
        for choice in _choices(event)
    )


def strip_additions(event: Json) -> None:
    """Removes what LiteLLM added to an answer or a frame."""
    event.pop(_ADDED, None)
    for choice in _choices(event):
        choice.pop(_ADDED, None)
        for part in ("message", "delta"):
            inner = as_object(choice.get(part))
            inner.pop(_ADDED, None)
            for tool in as_objects(inner.get("tool_calls")):
                tool.pop(_ADDED, None)


def _is_marked(data: bytes) -> bool:
    """Whether it may hold usage, an addition, an error, the end or another line end.

    `in` takes half as long again: it raises, and catches, that bytes are no integer.
    """
    find = data.find
    return (
        find(_USAGE) >= 0 or find(_PROVIDER) >= 0 or find(_ERROR) >= 0 or find(_DONE) >= 0 or find(b"\r") >= 0
    )


def _lacks_text(data: bytes) -> bool:
    """Whether a completion's frame has no text, as LiteLLM's last one."""
    return _COMPLETION in data and _FINISH in data and _TEXT not in data


def _add_missing_text(event: Json) -> None:
    if event.get("object") == "text_completion":
        for choice in _choices(event):
            if choice.get("finish_reason"):
                choice.setdefault("text", "")


def _choices(event: Json) -> list[Json]:
    return as_objects(event.get("choices"))
