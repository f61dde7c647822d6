"""Google's own streams on their way to the caller: frames are read, and pass as bytes.

Invariants: any chunking of the same bytes gives the same frames; comments and errors are withheld; a
stream is complete as `content_frames` says; its last frame is kept apart.
"""

from llm_proxy.content_frames import ContentEnd
from llm_proxy.json_access import Json, as_object
from llm_proxy.sse import parse_event
from llm_proxy.upstream.event_filter import EventFilter
from llm_proxy.upstream.token_usage import read_usage, usage_of_content

_STATUSES = {
    "ABORTED": "rate_limit_error",
    "DEADLINE_EXCEEDED": "timeout_error",
    "INVALID_ARGUMENT": "invalid_request_error",
    "NOT_FOUND": "not_found_error",
    "PERMISSION_DENIED": "permission_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAUTHENTICATED": "authentication_error",
    "UNAVAILABLE": "overloaded_error",
}
"""Google's states -> the words in which `event_filter` knows them."""


class ContentStreamFilter(EventFilter):
    """The frames of one stream of Google's."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        super().__init__()
        self._end = ContentEnd()

    def feed(self, chunk: bytes) -> bytes:
        """Takes bytes as received; returns the bytes to send now."""
        frames = self._gate.feed(chunk)
        return b"".join(self._filter_frame(one + b"\n\n") for one in frames.split(b"\n\n") if one.strip())

    def _filter_frame(self, frame: bytes) -> bytes:
        """Returns the frames to send now; no bytes for one that is withheld."""
        if frame.startswith(b":"):
            self._read_comment(frame)
            return b""
        event = self._parse(parse_event(frame).data or b"")
        if not event:
            return b""
        if "error" in event:
            error = as_object(event["error"])
            self._note_error({"type": _STATUSES.get(str(error.get("status")), "")} | error)
            return b""
        self._read(event)
        self._count_content(frame)
        ready, self.last_event = self.last_event, b""
        if self.done:
            self.last_event = frame
            return ready
        return ready + frame

    def _read(self, event: Json) -> None:
        """Notes what an event states."""
        self._end.read(event)
        self.done = self._end.is_complete
        usage = read_usage(usage_of_content(as_object(event.get("usageMetadata"))))
        if usage is not None and (usage.completion_tokens or self.done):
            self.usage = usage  # a frame before may state the prompt alone
