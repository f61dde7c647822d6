"""Speech on its way from the provider: bytes as they come, or OpenAI's events, and what they used.

LiteLLM reads the whole answer first, knows neither `stream_format` nor a voice that is an object, and calls
every answer audio. Invariants: an answer without audio is a failure before anything is sent; a break leaves
the bytes without their end, and events with an error event; a provider's connection is closed at the end.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator

from llm_proxy.json_access import Json, as_object, is_object
from llm_proxy.quantities import Quantities, encode_usage, usage_comment
from llm_proxy.sidecar import answer_usage, litellm_internals
from llm_proxy.sidecar.answer_usage import SPEECH
from llm_proxy.sidecar.call_outcome import CallOutcome, SpeechCall
from llm_proxy.sidecar.event_stream import BROKEN_EVENT, EVENT_STREAM, EventDecoder, media_type
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.responses import Receive, Scope, Send

OTHER_AUDIO_TYPES = frozenset({"application/octet-stream", "binary/octet-stream", "application/ogg", ""})
"""Content types beside `audio/...` that providers give to audio."""
LAST_EVENT = "speech.audio.done"
HIDDEN = frozenset({"stream_format", "extra_body"})
NAMELESS = "custom"
"""What LiteLLM sees in place of a voice that is an object without an id: it takes only names."""


class NoAudioError(Exception):
    """The provider's answer is empty."""


def prepare(request: Untyped, body: Json, outcome: CallOutcome) -> None:
    """Keep what LiteLLM would drop of a request, and show it the rest; invalid JSON is left to it.

    Some of its providers would get fields of OpenAI's that it does not know; the model's own are added later.
    """
    kept = {"stream_format": body["stream_format"]} if "stream_format" in body else {}
    seen = {name: value for name, value in body.items() if name not in HIDDEN}
    if is_object(voice := body.get("voice")):
        kept["voice"], seen["voice"] = voice, voice.get("id") or NAMELESS
    outcome.speech = SpeechCall(kept)
    litellm_internals.show_body(request, seen)


async def answer(result: Untyped, body: Json, outcome: CallOutcome) -> "SpeechAnswer":
    """Return the response to send, once its first bytes have come.

    Raises:
        NoAudioError: There are none.
    """
    kept = outcome.speech.answer if outcome.speech is not None else None
    if kept is None:
        media, chunks = str(result.media_type), result.body_iterator
    else:
        media, chunks = kept.headers.get("content-type", ""), _relayed(kept)
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        raise NoAudioError("the answer is empty") from None
    characters = len(str(body.get("input") or ""))
    answer_usage.state(outcome, SPEECH, {}, characters=characters)
    headers = [pair for pair in result.raw_headers if pair[0] != b"content-type"]
    headers.append((b"content-type", (media or str(result.media_type)).encode("latin-1", "replace")))
    sent = SpeechAnswer(headers, first, chunks)
    if media_type(media) == EVENT_STREAM:
        sent.events = SpeechEvents(Quantities(characters=characters), outcome)
    return sent


def is_audio(content_type: str) -> bool:
    """Whether an answer of this content type is audio, or events with it."""
    kind = media_type(content_type)
    return kind.startswith("audio/") or kind == EVENT_STREAM or kind in OTHER_AUDIO_TYPES


async def _relayed(provider: Untyped) -> AsyncGenerator[bytes]:
    try:
        async for chunk in provider.aiter_bytes():
            if chunk:
                yield chunk
    finally:
        await provider.aclose()


async def _close(chunks: Untyped) -> None:
    if hasattr(chunks, "aclose"):
        await chunks.aclose()


class SpeechEvents:
    """Reads the last event of a stream, for what it states."""

    def __init__(self, quantities: Quantities, outcome: CallOutcome) -> None:
        self._decoder = EventDecoder()
        self._quantities = quantities
        self._outcome = outcome
        self._last: Json = {}

    def feed(self, chunk: bytes) -> None:
        """Take bytes as they are passed on."""
        for event in self._decoder.feed(chunk):
            if LAST_EVENT in event.data:
                self._last = as_object(json.loads(event.data))

    def comment(self) -> bytes:
        """Return the comment that states what the stream used; empty if it did not end."""
        if not self._last:
            return b""
        tokens = answer_usage.tokens_of(SPEECH, self._last)
        stated = encode_usage(tokens, self._quantities, self._outcome.stated_cost_usd)
        return usage_comment(stated)


class SpeechAnswer:
    """The response: an ASGI application.

    Attributes:
        body_iterator: The chunks after the first.
        events: What reads them; None for bytes.
    """

    def __init__(self, headers: list[tuple[bytes, bytes]], first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._headers = headers
        self._first = first
        self.body_iterator = rest
        self.events: SpeechEvents | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 -- ASGI
        """Send the response; raise what breaks its bytes."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send_chunk(send, self._first)
            async for chunk in self.body_iterator:
                await self._send_chunk(send, chunk)
        except Exception:
            if self.events is None:
                raise
            await send({"type": "http.response.body", "body": BROKEN_EVENT})
            return
        finally:
            await _close(self.body_iterator)
        end = self.events.comment() if self.events is not None else b""
        await send({"type": "http.response.body", "body": end})

    async def _send_chunk(self, send: Send, chunk: bytes) -> None:
        if self.events is not None:
            self.events.feed(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
