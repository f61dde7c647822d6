"""A sidecar's reply as it arrives: one JSON body, or a stream of frames.

Invariants: closed exactly once; closed unread, its connection is closed and the provider's call cancelled;
idle time counts only while waiting for the sidecar, never for the caller; the sidecar's headers never leave
this package. Required nulls that LiteLLM leaves out are put back (OpenAI's CreateChatCompletionResponse).
"""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

import orjson

from llm_proxy.errors import ProviderFailed, UpstreamBroke
from llm_proxy.json_access import Json, as_object, as_objects
from llm_proxy.upstream.call_guard import FOREVER, Watch
from llm_proxy.upstream.http_client import Connection
from llm_proxy.upstream.litellm_protocol import Served
from llm_proxy.upstream.stream_filter import Frames, FrameTooLarge, strip
from llm_proxy.upstream.token_usage import COUNTED, Usage, estimated_usage, is_zero, read_usage, strip_usage


class Reply(Protocol):
    """An answer on its way: either one JSON body or a stream of frames.

    Attributes:
        served: Who answered.
        frames: The stream's frames; None when the answer is one body.
    """

    served: Served
    frames: Frames | None

    async def json(self) -> tuple[bytes, Usage | None]:
        """The whole body, LiteLLM's additions taken out, and what it says was used."""
        ...

    async def chunk(self) -> bytes | None:
        """The next bytes that may go out now (perhaps none); None when the stream has ended."""
        ...

    def close(self) -> None:
        """Let go of the connection; unread, it is closed, and the provider is cancelled."""
        ...


def restore(document: Json) -> bool:
    """Put the missing nulls back; whether any was missing."""
    kind, missing = document.get("object"), False
    if kind not in ("chat.completion", "text_completion"):
        return False
    for choice in as_objects(document.get("choices")):
        if "logprobs" not in choice:
            choice["logprobs"], missing = None, True
        message = as_object(choice.get("message"))
        for name in ("content", "refusal") if message else ():
            if name not in message:
                message[name], missing = None, True
    return missing


OUR_MARK = b"x-llmp-attempts"
"""A header that only our sidecar sends."""


def broke_off() -> UpstreamBroke:
    """The refusal of a call whose connection broke; it may have run, so nobody repeats it."""
    return UpstreamBroke("The connection to the model backend broke before an answer.")


class Answer:
    """A reply of a sidecar; see `Reply`."""

    __slots__ = (
        "_closed",
        "_connection",
        "_freed",
        "_idle_s",
        "_prompt_tokens",
        "_watch",
        "frames",
        "served",
    )

    def __init__(
        self,
        connection: Connection,
        served: Served,
        watch: Watch,
        *,
        idle_s: float,
        freed: Callable[[], None],
        prompt_tokens: int = 0,
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._idle_s = idle_s
        self._freed = freed
        self._prompt_tokens = prompt_tokens
        self._closed = False
        self.served = served
        self.frames: Frames | None = None

    def stream(self, *, wants_usage: bool) -> None:
        """This answer is a stream of frames."""
        self.frames = Frames(
            wants_usage=wants_usage, prompt_tokens=self._prompt_tokens, states_zeros=self._is_ours()
        )
        self._watch.phase = "idle"

    async def json(self) -> tuple[bytes, Usage | None]:
        """The whole body, LiteLLM's additions taken out, and its usage; one not stated is estimated in it."""
        try:
            body = await self._connection.read_all()
            if not self._connection.whole:
                raise broke_off()
            document = as_object(orjson.loads(body))
        except OSError as broken:
            raise broke_off() from broken
        except orjson.JSONDecodeError:
            body, document = b"", {}
        self._watch.silent_at = FOREVER
        if not document:
            raise ProviderFailed("The model's provider failed to answer.")
        usage = as_object(document.get("usage"))
        found = read_usage(usage, document)
        if found is not None and "cost" in usage:
            found = found._replace(cost_nano_usd=None)  # the provider's own word; LiteLLM's is in a header
        if found is not None and is_zero(found) and not self._is_ours():
            found = None
        changed = restore(document)
        if found is None and ("choices" in document or "data" in document):
            document["usage"] = usage = estimated_usage(document, self._prompt_tokens)
            changed = True
        if b"provider_specific" in body or "cost" in usage or COUNTED in usage:
            strip(document)
            strip_usage(usage)
            changed = True
        if changed:
            body = orjson.dumps(document)
        return body, found

    def _is_ours(self) -> bool:
        return OUR_MARK in self._connection.headers

    async def chunk(self) -> bytes | None:
        """The next bytes that may go out now (perhaps none); None when the stream has ended."""
        frames, watch, connection = self.frames, self._watch, self._connection
        assert frames is not None  # noqa: S101 -- only streams are read by chunk
        watch.silent_at = monotonic() + self._idle_s
        try:
            while not (connection.parts or connection.whole):
                await connection.news()
            raw = connection.came()
            watch.silent_at = FOREVER
            watch.heard += 1
            if raw:
                return frames.feed(raw)
        except (OSError, FrameTooLarge):
            frames.garbage = True
        return frames.close() or None

    def close(self) -> None:
        """Let go of the connection; unread, it is closed, and the provider is cancelled."""
        if not self._closed:
            self._closed = True
            self._freed()
