"""What a conversation did last, as keyed digests: its last tool calls and results, or its last words.

Pure. Invariants: no text is kept, only digests that no one without the key can make; the same step gives the
same digest in every API; only the last messages are read, and of a long text only the ends are normalised, so
the time is bounded. What changes by itself is left out: white space, the order of names, ids of calls, times
with seconds, durations, arguments such as `attempt` or `nonce`.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import orjson

from llm_proxy.dialects import Call
from llm_proxy.json_access import Json, as_object, as_objects, is_array, is_object

DIGEST_BYTES = 8
NO_STEP = bytes(DIGEST_BYTES)
"""The step of a conversation in which the model has not answered yet."""
MAX_ITEMS = 64
"""Calls, results and texts that are read of a conversation, from its end."""
MAX_TOOL_CHARS = 64
_END_CHARS = 1024
"""Characters of each end of a text that are normalised; what is between is digested as it is."""
_SHORT_CHARS, _MAX_KNOWN = 64, 20_000
_MAX_ARGUMENT_BYTES = 65_536
"""Longer arguments are digested as they are."""

Kind = Literal["call", "result", "answer", "ask"]


class Turn(NamedTuple):
    """The fingerprints of one call.

    Attributes:
        step: What the model did last and what came of it: the calls of tools with their results, or its
            words and the reply to them; `NO_STEP` at the start of a conversation.
        before: The step before that one.
        prompt: The whole request, as far as its model, its size and its ends distinguish it.
        size_bytes: The size of the prompt.
        tool: The name of the first tool of the step, for the evidence; empty without one.
    """

    step: bytes
    before: bytes
    prompt: bytes
    size_bytes: int
    tool: str = ""


class _Item(NamedTuple):
    """One thing in a conversation; `text` is its text or content, or the arguments of a call."""

    kind: Kind
    text: object
    name: str = ""


def fingerprint(call: Call, key: bytes) -> Turn | None:
    """Returns the fingerprints of a call; None where it is no conversation. `key` has 16 to 64 bytes."""
    items_of = _ITEMS.get(call.endpoint)
    if items_of is None or call.operation is not None:
        return None
    steps = _Steps(key)
    count, items = items_of(call.body)
    for read, item in enumerate(items):
        if read == MAX_ITEMS or not steps.add(item):
            break
    steps.close()
    start = _digest(key, b"start", _start_of(call.body).encode("utf-8", "replace"))
    facts = f"{call.group} {count} {call.prompt_bytes}".encode("utf-8", "replace")
    prompt = _digest(key, b"prompt", facts, start, steps.step, *steps.asked)
    return Turn(steps.step, steps.before, prompt, min(call.prompt_bytes, 2**32 - 1), steps.tool)


class _Steps:
    """The last two steps of a conversation, from its items, the last first."""

    __slots__ = (
        "_answers", "_asks", "_calls", "_key", "_results", "_seen",
        "asked", "before", "step", "tool",
    )  # fmt: skip

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.step = self.before = NO_STEP
        self.tool = ""
        self.asked: list[bytes] = []
        self._seen = 0
        self._clear()

    def _clear(self) -> None:
        self._calls: list[tuple[str, object]] = []
        self._results: list[object] = []
        self._answers: list[object] = []
        self._asks: list[object] = []

    def add(self, item: _Item) -> bool:
        """Takes an item; returns False when both steps are complete."""
        if item.kind in {"result", "ask"} and (self._calls or self._answers) and self._end_step():
            return False
        if item.kind == "call":
            self._calls.append((item.name, item.text))
        elif item.kind == "result":
            self._results.append(item.text)
        elif item.kind == "answer":
            self._answers.append(item.text)
        else:
            self._asks.append(item.text)
        return True

    def close(self) -> None:
        """Ends the step at the start of the conversation."""
        if self._seen < 2:
            self._end_step()

    def _end_step(self) -> bool:
        """Digests a step; returns whether both are known."""
        if not self._seen:
            self.asked = [_digest_text(self._key, text_of(one)) for one in self._asks]
            if self._calls:
                self.tool = self._calls[-1][0][:MAX_TOOL_CHARS]
        digest = self._digest_step()
        self.step, self.before = (digest, NO_STEP) if not self._seen else (self.step, digest)
        self._seen += 1
        self._clear()
        return self._seen == 2

    def _digest_step(self) -> bytes:
        key = self._key
        if self._calls:
            arguments = [canonical_arguments(given) for _, given in self._calls]
            calls = sorted(
                _digest(key, b"call", name.encode("utf-8", "replace"), text)
                for (name, _), text in zip(self._calls, arguments, strict=True)
            )
            results = sorted(_digest_text(key, text_of(one)) for one in self._results)
            return _digest(key, b"tools", *calls, b"/", *results)
        if not self._answers:
            return NO_STEP
        words = (_digest_text(key, text_of(one)) for one in (*self._answers, *self._asks))
        return _digest(key, b"words", *words)


def _digest(key: bytes, *parts: bytes) -> bytes:
    found = blake2b(key=key, digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(4))
        found.update(part)
    return found.digest()


_known: dict[bytes, bytes] = {}
"""Digests of texts as they were sent -> of the texts, normalised: a conversation sends its texts again."""


def _digest_text(key: bytes, text: str) -> bytes:
    if len(text) < _SHORT_CHARS:
        return _digest(key, b"text", normalised(text))
    sent = blake2b(text.encode("utf-8", "replace"), key=key, digest_size=16).digest()
    found = _known.get(sent)
    if found is None:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        found = _known[sent] = _digest(key, b"text", normalised(text))
    return found


_EPOCH = re.compile(r"1[67]\d{8}(?:\d{3})?(?!\d)")
"""Seconds or milliseconds since 1970, in the years 2020 to 2033."""
_CHANGING = re.compile(
    r"\d++(?:"
    r"-\d\d-\d\d[T ]?\d\d:\d\d:(?!00(?:\.0+)?(?:[^\d.]|$))\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"  # a moment
    r"|:\d\d:(?!00)\d\d(?:[.,]\d+)?"  # a time of day
    r"|(?:\.\d++)?\s?(?:[mun]?s|µs|secs?|seconds?)\b"  # a duration
    r")"
)
"""What differs by itself between two equal texts; a moment on the full minute is a caller's question."""
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_ID = re.compile(r"(?:req|request|trace|call|toolu|msg|resp|run|corr)[_-](?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{6,}")
_NAMED_ID = re.compile(r"ID: (?<=Chunk ID: |quest ID: |Trace ID: |trace ID: )[\w-]{4,}")
"""An id in prose; Codex's results begin with that of a chunk. By a literal first, which is searched fast."""
_CHANGING_NAMES = frozenset({
    "attempt", "attempts", "retry", "retries", "retry_count", "try", "tries", "nonce", "seed", "random",
    "timestamp", "ts", "now", "time", "current_time", "request_id", "idempotency_key", "trace_id", "call_id",
    "iteration", "turn", "step_number", "cache_buster", "salt",
})  # fmt: skip
"""Arguments that differ between two equal calls: left out where their value is no object or list."""


def normalised(text: str) -> bytes:
    """Returns a text without what changes by itself: white space, times with seconds, durations, ids."""
    middle = b""
    if len(text) > 2 * _END_CHARS:
        head, between, tail = text[:_END_CHARS], text[_END_CHARS:-_END_CHARS], text[-_END_CHARS:]
        middle = blake2b(between.encode("utf-8", "replace"), digest_size=16).digest()
        text = f"{head} {tail}"
    text = _CHANGING.sub("~", _EPOCH.sub("~", text))
    if "-" in text or "_" in text:
        text = _ID.sub("~", _UUID.sub("~", text))
    text = _NAMED_ID.sub("~", text)
    return "".join(text.split()).encode("utf-8", "replace") + middle


def canonical_arguments(given: object) -> bytes:
    """Returns the arguments of a call, an object or its JSON, in one form for all that mean the same."""
    if isinstance(given, str):
        if len(given) > _MAX_ARGUMENT_BYTES:
            return given.encode("utf-8", "replace")
        try:
            parsed: object = orjson.loads(given)
        except orjson.JSONDecodeError:
            return normalised(given)
        given = parsed
    if is_object(given):
        given = {
            name: value
            for name, value in given.items()
            if name.lower() not in _CHANGING_NAMES or is_object(value) or is_array(value)
        }
    return normalised(_json(given))


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except (TypeError, orjson.JSONEncodeError):
        return repr(value)


_DATA_FIELDS = frozenset(
    {"image_url", "file", "input_audio", "source", "inlineData", "inline_data", "fileData"}
)


def text_of(content: object) -> str:
    """Returns the text of a content: a text, or parts; of a file its ends and its size."""
    if isinstance(content, str):
        return content
    if is_array(content):
        return "\n".join(text_of(one) for one in content[:MAX_ITEMS])
    return _text_of_part(as_object(content)) if content is not None else ""


def _text_of_part(part: Json) -> str:
    for name in ("text", "thinking", "refusal", "output"):
        if isinstance(text := part.get(name), str):
            return text
    if not _DATA_FIELDS.isdisjoint(part):
        text = _json(part)
        return f"{len(text)} {text[:256]} {text[-2048:]}"
    if is_array(inner := part.get("content")) or isinstance(inner, str):
        return text_of(inner)
    return _json(part)


def _start_of(body: Json) -> str:
    """The beginning and the end of the system text, or without one of the first message."""
    for name in ("system", "instructions", "systemInstruction"):
        if body.get(name):
            text = text_of(body[name])
            return text[:1024] + text[-1024:]
    for name in ("messages", "input", "contents", "prompt"):
        value = body.get(name)
        if is_array(value) and value:
            value = value[0]
        if value:
            text = text_of(value)
            return text[:1024] + text[-1024:]
    return ""


# The items of each API's body, the last first, with the number of messages.


def _chat_items(body: Json) -> tuple[int, Iterator[_Item]]:
    messages: Any = body.get("messages")
    return (len(messages), _items_of_chat(messages)) if is_array(messages) else (0, iter(()))


def _items_of_chat(messages: list[Any]) -> Iterator[_Item]:
    for given in reversed(messages):
        message = as_object(given)
        role, content = message.get("role"), message.get("content")
        if role == "tool" or role == "function":  # noqa: PLR1714 -- it may be anything
            yield _Item("result", content)
        elif role == "assistant":
            for one in reversed(as_objects(message.get("tool_calls"))):
                named = as_object(one.get("function") or one.get("custom"))
                yield _Item("call", named.get("arguments", named.get("input")), str(named.get("name") or ""))
            if function := as_object(message.get("function_call")):
                yield _Item("call", function.get("arguments"), str(function.get("name") or ""))
            if content:
                yield _Item("answer", content)
        elif role == "user":
            yield _Item("ask", content)


def _message_items(body: Json) -> tuple[int, Iterator[_Item]]:
    messages: Any = body.get("messages")
    return (len(messages), _items_of_messages(messages)) if is_array(messages) else (0, iter(()))


def _items_of_messages(messages: list[Any]) -> Iterator[_Item]:
    for given in reversed(messages):
        message = as_object(given)
        content, of_model = message.get("content"), message.get("role") == "assistant"
        for one in reversed(content if is_array(content) else [content]):
            block = as_object(one)
            kind = str(block.get("type") or "text")
            if kind.endswith("tool_use"):
                yield _Item("call", block.get("input"), str(block.get("name") or ""))
            elif kind.endswith("tool_result"):
                yield _Item("result", block.get("content"))
            elif kind in {"thinking", "redacted_thinking"}:
                continue
            else:
                yield _Item("answer" if of_model else "ask", one)


def _response_items(body: Json) -> tuple[int, Iterator[_Item]]:
    given: Any = body.get("input")
    if is_array(given):
        return len(given), _items_of_responses(given)
    return 1, iter((_Item("ask", given),))


def _items_of_responses(items: list[Any]) -> Iterator[_Item]:
    for given in reversed(items):
        item = as_object(given)
        kind = str(item.get("type") or "message")
        if kind == "message":
            yield _Item("answer" if item.get("role") == "assistant" else "ask", item.get("content"))
        elif kind.endswith("_call_output"):
            yield _Item("result", item.get("output"))
        elif kind.endswith("_call"):
            if "output" in item:
                yield _Item("result", item["output"])
            arguments = next((item[one] for one in ("arguments", "input", "action") if one in item), None)
            yield _Item("call", arguments, str(item.get("name") or kind))


def _content_items(body: Json) -> tuple[int, Iterator[_Item]]:
    contents: Any = body.get("contents")
    contents = contents if is_array(contents) else [contents]
    return len(contents), _items_of_contents(contents)


def _items_of_contents(contents: list[Any]) -> Iterator[_Item]:
    for given in reversed(contents):
        content = as_object(given)
        of_model, parts = content.get("role") == "model", content.get("parts")
        for one in reversed(parts if is_array(parts) else [parts]):
            part = as_object(one)
            if called := as_object(part.get("functionCall") or part.get("function_call")):
                yield _Item("call", called.get("args"), str(called.get("name") or ""))
            elif result := as_object(part.get("functionResponse") or part.get("function_response")):
                yield _Item("result", _output_of(result.get("response")))
            elif not part.get("thought"):
                yield _Item("answer" if of_model else "ask", one)


def _output_of(response: object) -> object:
    """What a function returned: Google's clients wrap a text into an object of one field."""
    fields = as_object(response)
    return next(iter(fields.values())) if len(fields) == 1 else _json(response)


def _prompt_items(body: Json) -> tuple[int, Iterator[_Item]]:
    return 1, iter((_Item("ask", body.get("prompt")),))


_ITEMS = {
    "chat.completions": _chat_items,
    "completions": _prompt_items,
    "messages": _message_items,
    "responses": _response_items,
    "generate_content": _content_items,
}
