"""What the filters of all event streams have in common: complete frames, what passed, and how it ended.

Invariants: any chunking of the same bytes gives the same frames; an unfinished frame is malformed and is not
sent; the first error counts.
"""

from urllib.parse import quote

import orjson

from llm_proxy.json_access import Json, as_object
from llm_proxy.money import usd_to_nano
from llm_proxy.quantities import COST_COMMENT
from llm_proxy.sse import MAX_EVENT_BYTES, FrameGate
from llm_proxy.upstream.token_usage import TokenUsage, estimate_stream_tokens

_STATUSES = {
    "authentication_error": 401,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "image_generation_user_error": 400,
    "insufficient_quota": 429,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "moderation_blocked": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "timeout_error": 504,
    "upstream_stream_cut": 502,
}
"""The codes and types of errors in streams -> the status of the same error before a stream."""


class EventFilter:
    """The frames of one stream of events; a protocol's own filter says which pass.

    Attributes:
        usage: What was stated last; None until it was.
        content_frames: Frames passed so far whose size says how many tokens the answer has.
        done: The protocol's own end was seen.
        is_malformed: A frame could not be read, or the stream ended inside one.
        error: The error object of the stream; None without one.
        last_event: The frames that ended the stream, withheld until its cost is known and settled; none
            where the end is the dialect's to send.
    """

    __slots__ = (
        "_content_bytes", "_gate", "_last", "content_frames", "done", "error", "is_malformed", "last_event",
        "usage",
    )  # fmt: skip

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._gate = FrameGate(max_event_bytes)
        self._content_bytes = 0
        self._last: bytes = b""
        self.usage: TokenUsage | None = None
        self.content_frames = 0
        self.done = False
        self.is_malformed = False
        self.error: Json | None = None
        self.last_event: bytes = b""

    def content_tokens(self) -> int:
        """Estimates the completion tokens sent so far, for a stream that ended before its usage."""
        return estimate_stream_tokens(self.content_frames, self._content_bytes, self._last)

    def close(self) -> bytes:
        """Ends the stream; an unfinished frame is malformed, and is not sent."""
        if self._gate.close().strip():
            self.is_malformed = True
        return b""

    def _parse(self, data: bytes) -> Json:
        """Returns the object of an event; what is none makes the stream malformed, and is empty."""
        try:
            event = as_object(orjson.loads(data))
        except orjson.JSONDecodeError:
            event = {}
        if not event:
            self.is_malformed = True
        return event

    def _count_content(self, frames: bytes, count: int = 1) -> None:
        self.content_frames += count
        self._content_bytes += len(frames)
        self._last = frames

    def _note_error(self, error: Json) -> None:
        """Notes an error; a provider's own gets what our sidecar says of one that has a status."""
        if self.error is None:
            self.error = _stated_error(error)

    def _read_comment(self, frame: bytes) -> None:
        """Notes the cost that a comment of our sidecar's states."""
        if frame.startswith(COST_COMMENT) and self.usage is not None:
            cost = usd_to_nano(frame[len(COST_COMMENT) :].strip().decode("latin-1"))
            self.usage = self.usage._replace(cost_nano_usd=cost)


def _stated_error(error: Json) -> Json:
    status = next((_STATUSES[one] for one in (error.get("code"), error.get("type")) if one in _STATUSES), 500)
    stated = {
        "x-llmp-provider-status": str(status),
        "x-llmp-message": quote(str(error.get("message") or "")),
    }
    return {"provider": stated} | error
