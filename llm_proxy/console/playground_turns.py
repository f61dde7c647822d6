"""A conversation in the playground: its messages so far, kept in the form, and the text of an answer.

Pure. Invariants: the console keeps nothing of a conversation; turns are texts alone: pictures and calls of
tools of earlier turns are not sent again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, as_list, as_object, as_objects

TurnRole = Literal["user", "assistant"]
MAX_TURNS = 200
_DATA = b"data:"


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """One message of a conversation."""

    role: TurnRole
    text: str


def parse_turns(text: str) -> tuple[ConversationTurn, ...]:
    """Returns the turns of the form's field; raises `BadRequest`."""
    if not text.strip():
        return ()
    try:
        found: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _no_turns() from None
    rows = as_objects(found)
    if not isinstance(found, list) or len(rows) != len(as_list(found)) or len(rows) > MAX_TURNS:  # pyright: ignore[reportUnknownArgumentType]
        raise _no_turns()
    return tuple(_turn(row) for row in rows)


def _turn(row: Json) -> ConversationTurn:
    role, text = row.get("role"), row.get("text")
    if role not in ("user", "assistant") or not isinstance(text, str):
        raise _no_turns()
    return ConversationTurn(role, text)


def _no_turns() -> BadRequest:
    return BadRequest("This is not a conversation.", param="turns")


def turns_text(turns: Sequence[ConversationTurn]) -> str:
    """Returns the field's text."""
    return orjson.dumps([{"role": one.role, "text": one.text} for one in turns]).decode()


def text_of_answer(kind: str, data: bytes) -> str:
    """Returns the text of a successful answer in any dialect, whole or streamed; empty without one.

    Args:
        kind: The media type.
        data: The body.
    """
    if kind.startswith("text/event-stream"):
        return "".join(_added_text(event) for event in _events(data))
    try:
        body = as_object(orjson.loads(data))
    except orjson.JSONDecodeError:
        return ""
    return _whole_text(body)


def _events(data: bytes) -> Iterator[Json]:
    for line in data.splitlines():
        if line.startswith(_DATA):
            try:
                yield as_object(orjson.loads(line.removeprefix(_DATA)))
            except orjson.JSONDecodeError:  # the end's mark
                continue


def _whole_text(body: Json) -> str:
    for choice in as_objects(body.get("choices")):
        return _text(as_object(choice.get("message")).get("content"))
    if as_list(body.get("candidates")):
        return _parts_text(body)
    outputs = as_objects(body.get("output"))
    parts = as_objects(body.get("content")) if not outputs else []
    for one in outputs:
        parts += as_objects(one.get("content"))
    return "".join(_text(part.get("text")) for part in parts if part.get("type") in ("text", "output_text"))


def _added_text(event: Json) -> str:
    if event.get("type") == "response.output_text.delta":
        return _text(event.get("delta"))
    if event.get("type") == "content_block_delta":
        return _text(as_object(event.get("delta")).get("text"))
    if "candidates" in event:
        return _parts_text(event)
    return "".join(
        _text(as_object(choice.get("delta")).get("content")) for choice in as_objects(event.get("choices"))
    )


def _parts_text(body: Json) -> str:
    """Returns the text of Google's first candidate, without its thoughts."""
    for candidate in as_objects(body.get("candidates")):
        parts = as_objects(as_object(candidate.get("content")).get("parts"))
        return "".join(_text(part.get("text")) for part in parts if not part.get("thought"))
    return ""


def _text(value: Any) -> str:  # noqa: ANN401 -- JSON
    return value if isinstance(value, str) else ""
