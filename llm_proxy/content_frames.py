"""Google's streams of contents, which have no end mark: when one is complete.

Pure; used by the gateway and by the sidecar, which must agree.
"""

from llm_proxy.json_access import Json, as_object, as_objects


class ContentEnd:
    """The end of one stream."""

    __slots__ = ("_begun", "_ended", "_is_blocked")

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._is_blocked = False

    @property
    def is_complete(self) -> bool:
        """Whether every candidate that began has ended, or the prompt was blocked."""
        return self._is_blocked or bool(self._ended and self._ended >= self._begun)

    def read(self, event: Json) -> None:
        """Notes what an event ends."""
        for candidate in as_objects(event.get("candidates")):
            stated: object = candidate.get("index")
            index = stated if isinstance(stated, int) else 0
            self._begun.add(index)
            if candidate.get("finishReason"):
                self._ended.add(index)
        if as_object(event.get("promptFeedback")).get("blockReason"):
            self._is_blocked = True
