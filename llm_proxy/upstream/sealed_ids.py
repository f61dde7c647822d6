"""Replaces a provider's ids of responses by ours in an answer on its way to the caller.

Invariants: bytes change only where an id stands as a whole string; the caller's own ids come back as it sent
them; whatever names a response in an answer is replaced, in every event.
"""

from collections.abc import Callable

import orjson

from llm_proxy.json_access import Json, as_object
from llm_proxy.sse import parse_event

_RESPONSE = b'"response":'
_RESPONSE_SPACED = b'"response" :'
_NAMES = ("id", "previous_response_id")


class SealedIds:
    """The ids of one answer."""

    __slots__ = ("_ids", "_learned", "_seal")

    def __init__(self, seal: Callable[[str], str], known: dict[str, str]) -> None:
        """Takes what makes our id of a provider's, and ours of those that the call named."""
        self._seal = seal
        self._ids = {own: token for own, token in known.items() if own}
        self._learned = False

    def in_body(self, body: bytes, document: Json) -> bytes:
        """Returns a whole answer with our ids."""
        self._learn(document)
        return self._replaced(body)

    def in_frames(self, frames: bytes) -> bytes:
        """Returns complete events with our ids."""
        if not self._learned and (_RESPONSE in frames or _RESPONSE_SPACED in frames):
            for frame in frames.split(b"\n\n"):
                if (data := parse_event(frame).data) and (response := _response_of(data)):
                    self._learn(response)
                    self._learned = True
        return self._replaced(frames)

    def _learn(self, response: Json) -> None:
        for name in _NAMES:
            own = response.get(name)
            if isinstance(own, str) and own.startswith("resp") and own not in self._ids:
                self._ids[own] = self._seal(own)

    def _replaced(self, raw: bytes) -> bytes:
        for own, token in self._ids.items():
            quoted = orjson.dumps(own)
            if quoted in raw:
                raw = raw.replace(quoted, orjson.dumps(token))
        return raw


def _response_of(data: bytes) -> Json:
    try:
        return as_object(as_object(orjson.loads(data)).get("response"))
    except orjson.JSONDecodeError:
        return {}
