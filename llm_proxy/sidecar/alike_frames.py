"""AlikeFrames: frames of a stream that differ from one before in their texts alone, sent without LiteLLM.

Invariants: a generator, LiteLLM's or that of a direct call, opens, ends, logs and breaks off every stream: it
gets the texts that it has not seen as one event, before any other event, before the end, and before it learns
of a caller's hang-up.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module

from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.frame_template import FrameTranslation
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.openai_passthrough import PASSTHROUGH_ATTRIBUTE
from llm_proxy.sidecar.provider_lines import ProviderLines

Frames = AsyncGenerator[str | bytes]
PLAIN_ITERATORS = frozenset(
    {
        ("litellm.llms.anthropic.chat.handler", "ModelResponseIterator"),
        ("litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini", "ModelResponseIterator"),
    }
)
"""LiteLLM's parsers that put a frame's text into their frame as it is, if no JSON schema is enforced."""


def _translation(stream: Untyped) -> FrameTranslation | None:
    """Return a translation for LiteLLM's stream; None if it makes frames in a way of its own."""
    if stream is None or stream.merge_reasoning_content_in_choices:
        return None
    frames = stream.__dict__.get(PASSTHROUGH_ATTRIBUTE)
    if frames is not None:
        known = getattr(stream, "known_templates", None)
        return FrameTranslation(sees_repeats=False, known=known, recalls=not frames.holds_text)
    source = stream.completion_stream
    kind = (type(source).__module__, type(source).__name__)
    plain = kind in PLAIN_ITERATORS and not getattr(source, "json_mode", False)
    return FrameTranslation(sees_repeats=True) if plain else None


@dataclass(frozen=True, slots=True)
class Passage:
    """How frames get from a provider to the caller without a task that waits for them.

    Attributes:
        take_each: Calls a function with the bytes of the provider's body as they come, while it returns True.
        write: Writes a frame at once; returns False if the caller cannot take it now.
    """

    take_each: Callable[[Callable[[bytes], bool]], Awaitable[None]]
    write: Callable[[bytes], bool]


async def send_alike(frames: Frames, outcome: CallOutcome, passage: Passage | None = None) -> Frames:
    """Yield the frames of a generator, and between them those that it need not make.

    With a passage, frames are sent by that as long as it can.
    """
    sender, ended = AlikeFrames(outcome, passage), False
    try:
        async for frame in frames:
            yield frame
            sender.observe(frame)
            while ready := await sender.next_frames():
                yield ready
            await sender.catch_up(frames)
        ended = True
    finally:
        if not ended:
            with import_module("anyio").CancelScope(shield=True):
                await sender.catch_up(frames)
                await frames.aclose()


class AlikeFrames:
    """The part of one call's stream that LiteLLM does not translate."""

    def __init__(self, outcome: CallOutcome, passage: Passage | None = None) -> None:
        self._outcome, self._passage = outcome, passage
        self._unsent = b""
        self._lines: ProviderLines | None = None
        self._translation: FrameTranslation | None = None

    def observe(self, frame: str | bytes) -> None:
        """Learn from a frame of LiteLLM's and the provider's events that it took for it."""
        lines = self._outcome.lines
        if lines is not self._lines:  # the first frame, or the first of a fallback
            self._lines = lines
            self._translation = _translation(self._outcome.stream) if lines is not None else None
            if lines is not None and self._translation is not None:
                lines.taken = []
        elif self._translation is not None and lines is not None and lines.taken is not None:
            event = lines.taken[0] if len(lines.taken) == 1 else None
            self._translation.observe(event, frame.encode() if isinstance(frame, str) else frame)
            lines.taken.clear()

    async def next_frames(self) -> bytes:
        """Return the next frames that LiteLLM need not make; nothing if the next one is LiteLLM's."""
        translation, lines = self._translation, self._lines
        if translation is None or lines is None:
            return b""
        while translation.trusts and not translation.is_full:
            if ready := _translated(translation, lines):
                return ready
            if lines.is_drained and (passage := self._passage) is not None:
                await passage.take_each(self._sender(translation, lines, passage.write))
                if self._unsent:
                    ready, self._unsent = self._unsent, b""
                    return ready
            if not lines.is_drained or not await lines.read():
                break
        return b""

    def _sender(
        self, translation: FrameTranslation, lines: ProviderLines, write: Callable[[bytes], bool]
    ) -> Callable[[bytes], bool]:
        """Return what sends the frames for a provider's bytes, as long as all are sent and more may come.

        Bytes that are whole events like the last one pass by the lines.
        """
        translate, is_between_events = translation.translate_alike, lines.is_between_events

        def send(chunk: bytes) -> bool:
            nonlocal is_between_events
            goes_on, ready = True, translate(chunk) if is_between_events else None
            if ready is None:
                lines.feed(chunk)
                ready = _translated(translation, lines)
                goes_on = lines.is_drained and not translation.is_full
                is_between_events = lines.is_between_events
            if ready and not write(ready):
                self._unsent = ready
                return False
            return goes_on

        return send

    async def catch_up(self, frames: Frames) -> None:
        """Let the stream keep what it has not seen; else its generator makes, in vain, the frame of that."""
        if self._translation is None or self._lines is None or self._lines.taken is None:
            return
        merged = self._translation.take_merged()
        keep = getattr(self._outcome.stream, "keep_text", None)
        if merged is not None and not (keep is not None and keep(merged)):
            self._lines.put_back(merged)
            await anext(frames, None)
        self._lines.taken.clear()


def _translated(translation: FrameTranslation, lines: ProviderLines) -> bytes:
    """Return the frames for the events that were read, up to the first that LiteLLM must see."""
    ready: list[bytes] = []
    while (event := lines.next_event) is not None and (
        made := translation.translate(event, lines.separator)
    ) is not None:
        lines.drop_event()
        ready.append(made)
    return b"".join(ready)
