"""Replaces a provider's ids of responses and of their items by ours in an answer on its way to the caller.

Invariants: bytes change only where an id stands as a whole string; the caller's own ids come back as it sent
them; whatever names a response or an item in an answer is replaced, in every event.
"""

import re
from collections.abc import Callable

import orjson

from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.sse import parse_event

_RESPONSE = b'"response":'
_RESPONSE_SPACED = b'"response" :'
_ITEM = b'"response.output_item.'
_NAMES = ("id", "previous_response_id")
_ITEM_ID = re.compile(r"[a-z]{1,8}_(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{1,200}")
"""Of another form, it could be a word of the answer's."""


class SealedIds:
    """The ids of one answer."""

    __slots__ = ("_ids", "_seal", "_seal_item")

    def __init__(
        self, seal: Callable[[str], str], seal_item: Callable[[str], str], known: dict[str, str]
    ) -> None:
        """Takes what makes our id of a response's and of an item's, and ours of those that the call named."""
        self._seal, self._seal_item = seal, seal_item
        self._ids: dict[bytes, bytes] = {}
        for own, token in known.items():
            if own:
                self._ids[orjson.dumps(own)] = orjson.dumps(token)

    def in_body(self, body: bytes, document: Json) -> bytes:
        """Returns a whole answer with our ids."""
        self._learn(document)
        return self._replaced(body)

    def in_delta(self, frame: bytes) -> bytes:
        """Returns an event of content, which names no item for the first time, with our ids."""
        return self._replaced(frame)

    def in_frames(self, frames: bytes) -> bytes:
        """Returns complete events with our ids."""
        if _ITEM in frames or _RESPONSE in frames or _RESPONSE_SPACED in frames:
            for frame in frames.split(b"\n\n"):
                self._learn_from(frame)
        return self._replaced(frames)

    def _learn_from(self, frame: bytes) -> None:
        event = _parse(parse_event(frame).data or b"{}")
        self._learn(as_object(event.get("response")))
        self._learn_item(as_object(event.get("item")))

    def _learn(self, response: Json) -> None:
        for name in _NAMES:
            own = response.get(name)
            if isinstance(own, str) and own.startswith("resp"):
                self._replace_by(self._seal, own)
        for item in as_objects(response.get("output")):
            self._learn_item(item)

    def _learn_item(self, item: Json) -> None:
        own = item.get("id")
        if isinstance(own, str) and own != item.get("call_id") and _ITEM_ID.fullmatch(own):
            self._replace_by(self._seal_item, own)

    def _replace_by(self, seal: Callable[[str], str], own: str) -> None:
        quoted = orjson.dumps(own)
        if quoted not in self._ids:
            self._ids[quoted] = orjson.dumps(seal(own))

    def _replaced(self, raw: bytes) -> bytes:
        for own, token in self._ids.items():
            raw = raw.replace(own, token)
        return raw


def _parse(data: bytes) -> Json:
    try:
        return as_object(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}
