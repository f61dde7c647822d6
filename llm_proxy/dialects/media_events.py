"""The ends of OpenAI's streams of images and audio: a last event of their own, or one `error` event.

Invariants: events pass unchanged; nothing is invented, neither pings nor `[DONE]`.
Source: https://platform.openai.com/docs/api-reference/images-streaming.
"""

import orjson

from llm_proxy import sse
from llm_proxy.dialects.dialect import ResponseMeta
from llm_proxy.errors import APIError


class MediaEvents:
    """One stream of images, speech or a transcript."""

    def feed(self, chunk: bytes) -> bytes:
        """The same bytes."""
        return chunk

    def end(self, meta: ResponseMeta) -> bytes:  # noqa: ARG002 -- the operation's own last event was passed
        """No bytes."""
        return b""

    def fail(self, error: APIError) -> bytes:
        """An `error` event, which OpenAI's SDKs raise as `APIError`."""
        return sse.encode_event(orjson.dumps({"type": "error"} | error.body()), b"error")

    def ping(self) -> bytes:
        """No bytes: OpenAI has no such event."""
        return b""
