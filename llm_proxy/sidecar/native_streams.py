"""The stream of a direct native call: the provider's complete events as they are, then what they cost.

Invariants: as for `direct_streams`; an event that states a failure, or an end that LiteLLM must look at, is
not sent from here. LiteLLM gets the events again that it needs: all of a message, the first and the last of a
response.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial

from llm_proxy.json_access import Json, as_object
from llm_proxy.quantities import COST_COMMENT
from llm_proxy.sidecar import catalog, direct_internals, native_answers, native_prices
from llm_proxy.sidecar.call_outcome import CallOutcome
from llm_proxy.sidecar.direct_answers import GoodAnswer, extra_headers
from llm_proxy.sidecar.direct_requests import OpenedStream, RequestTemplate
from llm_proxy.sidecar.direct_streams import DirectStream, Unfinished
from llm_proxy.sidecar.direct_templates import DirectCall
from llm_proxy.sidecar.event_stream import BOM
from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.native_prices import Price
from llm_proxy.sidecar.responses import ResultSender, Send
from llm_proxy.sidecar.stream_end import read_to_end
from llm_proxy.sse import FrameGate

FIRST_MARKS = (b"response.created", b"message_start")
END_MARKS = (
    b"response.completed",
    b"response.incomplete",
    b"message_start",
    b"message_delta",
    b"message_stop",
)
"""In events that state usage, or the end."""
FAILURE_MARKS = (b"event: error", b'"type":"error"', b'"type": "error"', b"response.failed", b"\r")
"""In events that are LiteLLM's."""
ENDS = frozenset({"response.completed", "response.incomplete"})
THOUGHT_MARK = b"thinking_delta"


class DirectNativeStream(DirectStream):
    """One stream, here or from here on in LiteLLM."""

    def __init__(
        self, template: RequestTemplate, call: DirectCall, outcome: CallOutcome, began_s: float
    ) -> None:
        """Create it; `began_s` is when the call began, by `perf_counter`."""
        super().__init__(template, call, outcome, began_s)
        self._pricing = template.pricing
        self._gate = FrameGate()
        self._unsent = b""
        self._keeps_all = call.endpoint == "messages"
        self._result: Untyped = None
        self._cost_usd: float | None = None
        self._breakdown: Untyped = None
        self._message: Json = {}
        self._delta: Json = {}
        self._usage: Json = {}
        self._is_stopped = False

    async def _respond(self, call_id: str, send: Send) -> None:
        opened = await self._open()
        if opened is None:
            return
        write = getattr(send, "write_chunk", None)
        self._extra = extra_headers(direct_internals.native_hidden(opened.headers), self._call.group)
        async for chunk in read_to_end(opened, self._has_ended, opened.aclose):
            self._take_chunk(chunk)
            if not self._unsent:
                continue
            if not self._started:
                self._check_first()
                self._started = True
                await ResultSender(send, self._outcome)(self._start(call_id))
            await self._send(send)
            while write is not None and not self._has_ended():
                await opened.take_each(partial(self._pass_on, write))
                if not self._unsent:
                    break
                await self._send(send)
        good = self._complete(opened)
        known = catalog.is_cost_known(good.cost_usd, {}, *self._names())
        comment = COST_COMMENT + f"{good.cost_usd:.12f}\n\n".encode() if known else b""
        self._good = good
        await send({"type": "http.response.body", "body": comment})

    def _names(self) -> tuple[str, str]:
        last = self._outcome.attempts[-1]
        return last.deployment, last.model

    def _check_first(self) -> None:
        """Leave a stream to LiteLLM whose first event is not known, or comes after a byte order mark."""
        first = self._unsent[: self._unsent.find(b"\n\n")]
        if first.startswith(BOM) or not any(mark in first for mark in FIRST_MARKS):
            raise Unfinished

    def _take_chunk(self, chunk: bytes) -> None:
        """Hold the events that are complete; read those that matter."""
        self._unsent = ready = self._gate.feed(chunk)
        for mark in FAILURE_MARKS:
            if ready.find(mark) >= 0:
                raise Unfinished
        for mark in END_MARKS:
            if ready.find(mark) >= 0:
                self._read(ready)
                return

    def _pass_on(self, write: Callable[[bytes], bool], chunk: bytes) -> bool:
        """Send what is complete at once; return whether all was sent, and more may come."""
        self._take_chunk(chunk)
        ready = self._unsent
        if ready:
            if not write(ready):
                return False
            self._note_ready()
        return not self._has_ended()

    def _has_ended(self) -> bool:
        """Return whether the last event was sent."""
        return self._result is not None or self._is_stopped

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._unsent, "more_body": True})
        self._note_ready()

    def _note_ready(self) -> None:
        if self._keeps_all or not self._sent or self._result is not None:
            self._sent.append(self._unsent)
        self._unsent = b""

    def _read(self, frames: bytes) -> None:
        """Note what events state of usage and end; raise `Unfinished` for an end that is LiteLLM's."""
        for event in native_answers.events_of(frames):
            kind = event.get("type")
            if kind in ENDS:
                response = as_object(event.get("response"))
                if not native_answers.is_plain_response(response):
                    raise Unfinished
                self._note(*native_prices.price_response(response, self._pricing))
            elif kind == "message_start":
                self._message = as_object(event.get("message"))
                self._note_usage(self._message.get("usage"))
                self._usage.pop("output_tokens", None)  # those of its first moment
            elif kind == "message_delta":
                self._note_usage(event.get("usage"))
                self._delta = as_object(event.get("delta"))
            elif kind == "message_stop":
                self._is_stopped = True

    def _note_usage(self, usage: object) -> None:
        self._usage |= {name: value for name, value in as_object(usage).items() if value is not None}

    def _complete(self, opened: OpenedStream) -> GoodAnswer:
        """Return the complete answer, priced; raise `Unfinished` if it is none."""
        if self._gate.held_bytes or self._unsent:
            raise Unfinished
        if self._is_stopped and native_answers.is_counted(self._usage):
            content = [{"type": "text", "thinking": self._thoughts()}]
            message = {"id": self._message.get("id"), "content": content, "usage": self._usage}
            native_answers.record_stop_reason(self._delta)
            self._note(*native_prices.price_message(message, self._pricing))
        if self._result is None:
            raise Unfinished
        return self._good_answer(opened, self._result, self._cost_usd, self._breakdown)

    def _note(self, result: Untyped, price: Price) -> None:
        self._cost_usd, self._breakdown = price
        self._result = result

    async def _rest(self, opened: OpenedStream) -> AsyncGenerator[bytes]:
        if self._sent:
            yield b"".join(self._sent)
        self._live.set()
        if waiting := self._unsent + self._gate.close():
            yield waiting
        if self._failure is not None:
            await asyncio.Event().wait()  # LiteLLM sees the disconnect too, and cancels its request
        async for chunk in opened:
            yield chunk

    def _thoughts(self) -> str:
        """Return a message's thoughts, whose tokens LiteLLM counts where the usage does not state them."""
        frames = b"".join(self._sent).split(b"\n\n")
        read = (one for frame in frames if THOUGHT_MARK in frame for one in native_answers.events_of(frame))
        return "".join(str(as_object(event.get("delta")).get("thinking") or "") for event in read)
