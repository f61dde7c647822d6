"""The stream of a direct call: the frames LiteLLM would send, made by the classes that make LiteLLM's.

Invariants: only a stream whose frames are all good, with its usage, is ended here. Anything else goes on in
LiteLLM, at any time: its own request gets the events so far and then the rest, and what it sends for those
that the caller has is dropped. So errors, fallbacks, a caller's hang-up and their rows are LiteLLM's. After a
hang-up the provider's connection is closed at once, and there is no rest.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

from llm_proxy.json_access import Json
from llm_proxy.sidecar import call_outcome, responses
from llm_proxy.sidecar.alike_frames import Passage, send_alike
from llm_proxy.sidecar.call_outcome import CallOutcome, DirectAttempt
from llm_proxy.sidecar.direct_answers import GoodAnswer, extra_headers, head_of
from llm_proxy.sidecar.direct_frames import DirectFrames
from llm_proxy.sidecar.direct_requests import OpenedStream, ProviderAnswer, RequestTemplate, as_answer
from llm_proxy.sidecar.direct_templates import DirectCall
from llm_proxy.sidecar.disconnects import unless_disconnected
from llm_proxy.sidecar.event_stream import EVENT_STREAM, ServerSentEvent, media_type
from llm_proxy.sidecar.http_protocol import BODY_FOLLOWS
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches import provider_http
from llm_proxy.sidecar.patches.patch import installed
from llm_proxy.sidecar.provider_lines import ProviderLines
from llm_proxy.sidecar.responses import Message, Receive, ResultSender, Send

DONE_FRAME = b"data: [DONE]\n\n"
MAX_KEPT_BYTES = 256 * 1024
"""Of the events that LiteLLM would get; a stream of more, whose frames are not alike, goes on in LiteLLM."""


class Unfinished(Exception):  # noqa: N818 -- it is no error of the call
    """LiteLLM has to end the stream."""


class DirectStream:
    """One stream, here or from here on in LiteLLM."""

    def __init__(
        self, template: RequestTemplate, call: DirectCall, outcome: CallOutcome, began_s: float
    ) -> None:
        """Create it; `began_s` is when the call began, by `perf_counter`."""
        self._template, self._call, self._outcome = template, call, outcome
        self._began_s, self._overhead_s = began_s, 0.0
        self._opened: OpenedStream | None = None
        self._failure: BaseException | None = None
        self._lines: ProviderLines | None = None
        self._sent: list[bytes] = []
        self._taken: list[bytes] = []
        self._kept_bytes = 0
        self._held: list[bytes] = []
        self._started = self._handed_over = False
        self._live = asyncio.Event()
        self._extra: Json = {}
        self._good: GoodAnswer | None = None

    async def respond(self, call_id: str, receive: Receive, send: Send) -> bool:
        """Respond with the provider's stream; return False if LiteLLM has to go on with it.

        Args:
            call_id: The call's id.
            receive: The request's ASGI receive.
            send: The request's ASGI send.
        """
        try:
            left = await unless_disconnected(self._respond(call_id, send), receive)
        except Exception:  # noqa: BLE001 -- LiteLLM gets the same events, and does the same again
            return False
        if self._good is None:
            if left is not None:
                self._failure = left
                await self.close()
            return False
        self._good.log(call_id, self._outcome)
        return True

    async def _open(self) -> OpenedStream | None:
        """Send the request; return the provider's stream, None for any other answer."""
        body = self._template.body.fill(self._call)
        self._overhead_s = perf_counter() - self._began_s
        opened = await self._template.open(body)
        if not isinstance(opened, OpenedStream):
            self._failure = opened
            return None
        self._opened = opened
        kind = media_type(opened.headers.get("content-type", ""))
        is_stream = opened.status == 200 and kind == EVENT_STREAM and "content-encoding" not in opened.headers
        return opened if is_stream else None

    async def _respond(self, call_id: str, send: Send) -> None:
        opened = await self._open()
        if opened is None:
            return
        body = _FlushingBody(opened, partial(self._send_held, call_id, send))
        frames = self._make_frames(opened, self._prepare(opened, body))
        if "alike_frames" in installed:
            write = getattr(send, "write_chunk", None)
            passage = Passage(body.take_each, write) if write is not None else None
            frames = send_alike(frames, self._outcome, passage)
        try:
            async with aclosing(frames):
                async for frame in frames:
                    self._hold(frame)
        except Exception:
            await self._send_held(call_id, send)
            raise
        await self._send_held(call_id, send, end=DONE_FRAME)

    def _hold(self, frame: str | bytes) -> None:
        self._held.append(frame if isinstance(frame, bytes) else frame.encode())
        if self._kept_bytes > MAX_KEPT_BYTES:
            raise Unfinished

    async def _send_held(self, call_id: str, send: Send, end: bytes = b"") -> None:
        """Send the frames that were made since the last time, and the stream's end."""
        if not self._held and not end:
            return
        if not self._started:
            self._started = True
            await ResultSender(send, self._outcome)({**self._start(call_id), BODY_FOLLOWS: True})
        body, self._held = b"".join((*self._held, end)), []
        await send({"type": "http.response.body", "body": body, "more_body": not end})

    def _prepare(self, opened: OpenedStream, body: "_FlushingBody") -> DirectFrames:
        """Return what makes the frames."""
        self._lines = ProviderLines(body, self._take)
        frames = DirectFrames(self._lines, self._call, self._template.pricing, opened, self._note_event)
        self._extra = extra_headers(frames.hidden, self._call.group)
        self._outcome.stream, self._outcome.lines = frames.source, self._lines
        frames.source.keep_text = partial(self._keep_text, frames)
        return frames

    def _start(self, call_id: str) -> Message:
        headers = head_of(self._template, call_id, self._overhead_s, self._extra)
        return {"type": "http.response.start", "status": 200, "headers": headers}

    def _take(self, event: ServerSentEvent) -> str:
        """Return an event's line, for the frames; after the handover its bytes, for LiteLLM."""
        self._taken.append(_as_sent(event))
        return "" if self._handed_over else provider_http.event_line(event)

    def _note_event(self, event: bytes) -> None:
        """Note an event's bytes for LiteLLM."""
        self._taken.append(event + b"\n\n")

    async def _make_frames(self, opened: OpenedStream, frames: DirectFrames) -> AsyncGenerator[str | bytes]:
        while (frame := await frames.read_frame()) is not None:
            self._note_sent()
            yield frame
        if frames.is_open or not frames.has_usage:
            raise Unfinished
        self._good = self._finish(opened, frames)

    def _note_sent(self) -> None:
        self._sent += self._taken
        self._kept_bytes += sum(map(len, self._taken))
        self._taken = []

    def _keep_text(self, frames: DirectFrames, event: bytes) -> bool:
        """Note an event that was sent without a frame of its own; return False if it needs one."""
        if not frames.keep_text(event):
            return False
        self._note_event(event)
        self._note_sent()
        return True

    def _finish(self, opened: OpenedStream, frames: DirectFrames) -> GoodAnswer:
        """Return the complete answer, priced."""
        priced = frames.complete()
        return self._good_answer(opened, priced.result, priced.cost_usd, priced.breakdown)

    def _good_answer(
        self, opened: OpenedStream, result: Untyped, cost_usd: float | None, breakdown: Untyped
    ) -> GoodAnswer:
        """Record the stream's end; return what is logged of it."""
        call_outcome.record_stream_end()
        return GoodAnswer(
            result,
            self._call,
            self._template,
            ProviderAnswer(opened.status, opened.headers, b"", b"", 0.0),
            self._extra,
            cost_usd,
            breakdown,
            self._outcome.attempts[-1].started_at,
            datetime.now(UTC),
        )

    def hand_over(self, direct: DirectAttempt) -> None:
        """Let LiteLLM's own request get the events so far and the rest."""
        self._handed_over = True
        opened = self._opened
        if opened is None:
            direct.answer = as_answer(self._failure)
            return

        async def give(request: Untyped) -> Untyped:
            return opened.as_response(request, self._rest(opened))

        direct.answer, direct.started_at = give, self._outcome.attempts[-1].started_at
        if self._lines is not None:
            self._lines.taken = None

    async def _rest(self, opened: OpenedStream) -> AsyncGenerator[bytes]:
        if self._lines is None:
            async for chunk in opened:
                yield chunk
            return
        if self._sent:
            yield b"".join(self._sent)
        self._live.set()
        if self._taken:
            yield b"".join(self._taken)
        self._taken = []
        if self._failure is not None:
            await asyncio.Event().wait()  # LiteLLM sees the disconnect too, and cancels its request
        async for _ in self._lines:
            yield b"".join(self._taken)
            self._taken = []

    async def close(self) -> None:
        """Close the provider's connection, if it is still open."""
        if self._opened is not None:
            await self._opened.aclose()

    def receive_later(self, receive: Receive) -> Receive:
        """Return a `receive` for LiteLLM: a hang-up comes only after the caller's part of the stream."""
        has_body = False

        async def first_the_stream() -> Message:
            nonlocal has_body
            if has_body and self._started:
                await self._live.wait()
            message = await receive()
            has_body = has_body or not message.get("more_body", False)
            return message

        return first_the_stream

    def send_rest(self, send: Send) -> Send:
        """Return a `send` for LiteLLM, which drops what the caller has."""
        if not self._started:
            return send

        async def drop_or_send(message: Message) -> None:
            ends = not message.get("more_body", False)
            if message["type"] == "http.response.start":
                return
            if self._live.is_set():
                await send(message)
            elif ends:  # LiteLLM failed before it read the stream
                event = responses.error_event(self._outcome)
                await send({"type": "http.response.body", "body": event})

        return drop_or_send


class _FlushingBody:
    """A provider's body; what is held for the caller is sent before a wait for more."""

    def __init__(self, opened: OpenedStream, send_held: Callable[[], Awaitable[None]]) -> None:
        self._opened, self._send_held = opened, send_held

    async def __anext__(self) -> bytes:
        """Return the next bytes."""
        if not self._opened.is_ended:
            await self._send_held()
        return await anext(self._opened)

    async def aclose(self) -> None:
        """Close the connection, unless the body is read to its end."""
        await self._opened.aclose()

    async def take_each(self, take: Callable[[bytes], bool]) -> None:
        """Call a function with the bytes at once as they come."""
        await self._send_held()
        await self._opened.take_each(take)


def _as_sent(event: ServerSentEvent) -> bytes:
    """Return the bytes of an event, or of a line of JSON lines, which LiteLLM takes for no event."""
    if event.is_json_line:
        return f"{event.data}\n".encode()
    data = "".join(f"data: {one}\n" for one in event.data.split("\n"))
    return (f"event: {event.name}\n{data}\n" if event.name else f"{data}\n").encode()
