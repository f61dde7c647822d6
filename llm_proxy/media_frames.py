"""OpenAI's answers of images and audio, of which only the small parts are read: events by their heads.

Pure; used by the gateway and by the sidecar. Invariant: base64 is never decoded, nor parsed as JSON where an
event is named in its head. Source: https://platform.openai.com/docs/api-reference/images-streaming.
"""

import re

from llm_proxy.json_access import Json, read_object

LAST_EVENTS = frozenset(
    {"image_generation.completed", "image_edit.completed", "speech.audio.done", "transcript.text.done"}
)
"""The names of the events that end a stream; each of several images has one."""
ERROR = "error"
MAX_EVENT_BYTES = 64 * 2**20
"""A PNG of eight million points may have 25 MB, a third more in base64."""
_HEAD_BYTES = 256
_LINE_END = ord("\n")
_NAMED = re.compile(rb"event: ?([a-z_.]+)\ndata: ?(?=\{)")
_UNNAMED = re.compile(rb"data: ?(?=\{)")
_TYPE = re.compile(rb'\{\s*"type"\s*:\s*"([a-z_.]+)"')
_ERROR = re.compile(rb'\{\s*"error"\s*:')
_PICTURE = re.compile(rb'"b64_json"\s*:\s*"')


def split_frames(frames: bytes) -> list[bytes]:
    """Returns complete frames apart, each with its empty line; a single one, however large, is not copied."""
    end = frames.find(b"\n")
    while 0 <= end < len(frames) - 2 and frames[end + 1] != _LINE_END:  # ten times sooner than both at once
        end = frames.find(b"\n", end + 1)
    if end == len(frames) - 2:
        return [frames]
    return [one + b"\n\n" for one in frames.split(b"\n\n") if one.strip()]


def event_name(frame: bytes) -> str | None:
    """Returns the name of a frame's event, else its `type`; `error` for any error, None without an object."""
    head = frame[:_HEAD_BYTES]
    start = _NAMED.match(head) or _UNNAMED.match(head)
    if start is None or not frame.endswith(b"}\n\n"):
        return _parsed_name(frame)
    if _ERROR.match(head, start.end()):
        return ERROR
    if start.re is _NAMED:
        return start[1].decode()
    typed = _TYPE.match(head, start.end())
    return typed[1].decode() if typed is not None else _parsed_name(frame)


def _parsed_name(frame: bytes) -> str | None:
    event = parse_event(frame)
    if not event:
        return None
    return ERROR if event.get("error") else str(event.get("type") or "")


def parse_event(frame: bytes) -> Json:
    """Returns the object of a frame, its picture left out; empty when it holds none."""
    lines = (line.partition(b":") for line in without_pictures(frame).split(b"\n"))
    data = b"\n".join(value.strip() for name, _, value in lines if name == b"data")
    return read_object(data)


def without_pictures(text: bytes) -> bytes:
    """Returns JSON in which every `b64_json` is empty; for all else the same bytes."""
    parts: list[bytes] = []
    at = 0
    while found := _PICTURE.search(text, at):
        parts.append(text[at : found.end()])
        end = text.find(b'"', found.end())
        at = end if end >= 0 else len(text)
    return b"".join([*parts, text[at:]]) if parts else text
