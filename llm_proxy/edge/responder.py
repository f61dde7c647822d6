"""Sends the response of one request: a body, a stream or an error, in the caller's dialect.

Invariants: each caller gets exactly one response; its head leaves with the first byte of a stream, so that an
error before it has a status of its own; a broken stream ends in one error event and no `[DONE]`.
"""

import asyncio
import time
from functools import partial

import orjson

from llm_proxy.background import BackgroundLoop
from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Dialect
from llm_proxy.dialects.dialect import ResponseMeta, StreamRenderer
from llm_proxy.edge import responses
from llm_proxy.edge.idempotency import IdempotentCalls, OwnedCall
from llm_proxy.edge.live_answer import Recorder
from llm_proxy.edge.request import Scope, Send
from llm_proxy.edge.request_cycle import BREAK_OFF, RawHeaders
from llm_proxy.edge.stored_calls import Keeping
from llm_proxy.errors import APIError
from llm_proxy.ledger import keep_answer
from llm_proxy.pipeline import AdmittedCall
from llm_proxy.sse import DONE_EVENT, encode_event
from llm_proxy.upstream.reply import Write

_CHECKS_A_PING = 2


class Responder:
    """Sends the response of one request, in the caller's dialect.

    Attributes:
        started: Whether a response head was sent; an error is then an event of the stream, or its break.
        keeping: Keeps the answer; None where it is not stored here.
        outlet: Takes the messages of the response.
        is_bytes: The answer is a stream of bytes, which an error breaks off.
        owned: The call that holds an idempotency key; None without a key.
        error: What was sent as the answer, or as its end; None while no error was.

    What was not set is the class's: most calls set little of it.
    """

    started = is_bytes = False
    keeping: Keeping | None = None
    owned: OwnedCall | None = None
    error: APIError | None = None
    _write_chunk: Write | None = None
    _renderer: StreamRenderer | None = None
    _unwritten = b""  # what `_write_at_once` rendered and could not write
    _pings: BackgroundLoop | None = None
    _head_lock: asyncio.Lock | None = None
    _idle_checks = 0

    def __init__(self, context: CallContext, dialect: Dialect, scope: Scope, send: Send) -> None:
        self._context = context
        self.dialect = dialect
        self.outlet = send
        self._scope = scope

    def record(self, owned: OwnedCall, calls: IdempotentCalls) -> None:
        """Records the response from now on, for others with the same idempotency key."""
        self.owned = owned
        self.outlet = Recorder(owned.answer, self.outlet, lambda: calls.end(owned, self.error)).send

    def open_renderer(self) -> None:
        """Opens the renderer of a streamed call, which renders an error within the stream, too."""
        call = self._context.call
        if call is not None and call.streaming:
            self._renderer = self.dialect.open_stream(call)

    def open_stream(self, call: AdmittedCall, ping_after_s: float) -> None:
        """Opens the renderer of a streamed call; from now on a caller who waits gets its pings."""
        self.open_renderer()
        if self._renderer is not None and (ping := self._renderer.ping()):
            step = partial(self._ping_if_idle, call, ping)
            self._pings = BackgroundLoop("pings", step, every_s=ping_after_s / _CHECKS_A_PING)
            self._pings.start()

    async def stop_pings(self) -> None:
        """Sends no further ping."""
        if self._pings is not None:
            await self._pings.stop()

    async def _ping_if_idle(self, call: AdmittedCall, ping: bytes) -> None:
        """Sends a ping if nothing was sent since the last checks, and the head before the first."""
        self._idle_checks += 1
        if self._idle_checks >= _CHECKS_A_PING and call.is_admitted:
            self._idle_checks = 0
            await self._start_stream(call)
            await self.outlet({"type": "http.response.body", "body": ping, "more_body": True})

    async def send(self, admitted: AdmittedCall) -> None:
        """Sends the reply of a call; raises what the reply raises."""
        if admitted.is_stream:
            await self._send_stream(admitted)
        else:
            await self._send_body(admitted)

    async def send_error(self, error: APIError) -> None:
        """Sends an error: as a response, or as an event of the stream that has started; bytes break off."""
        self.error = error
        if self.is_bytes:
            await self.outlet({"type": BREAK_OFF})
            return
        if self.started:
            event = (
                self._renderer.fail(error)
                if self._renderer
                else encode_event(orjson.dumps(self.dialect.error(error, self._context.id_text)))
            )
            if self.keeping is not None:
                event = await self.keeping.ending(event)
            await self.outlet({"type": "http.response.body", "body": event})
            return
        self.started = True
        await responses.send_error(self.outlet, error, self._context, self.dialect)

    async def _send_body(self, admitted: AdmittedCall) -> None:
        context = self._context
        assert context.call is not None  # noqa: S101 -- it was admitted
        body = await admitted.body()
        out = self.dialect.render(context.call, body, _response_meta(context))
        if self.keeping is not None:
            out = await self.keeping.body(out)
        headers = self._headers(admitted)
        await admitted.settle()
        context.ttft_ms = context.elapsed_ms()
        if context.payload is not None:
            keep_answer(context.payload, out)
        await responses.send_body(self.outlet, 200, out, headers, admitted.content_type)
        context.status, self.started = 200, True

    async def _send_stream(self, admitted: AdmittedCall) -> None:
        """Sends the head with the first event; a stream that ends before its closing event is truncated."""
        send, context = self.outlet, self._context
        renderer, payload = self._renderer, context.payload
        self._write_chunk = responses.chunk_writer(self._scope)
        async for chunk in admitted.chunks(self._write_at_once if self._is_read_by_one(admitted) else None):
            context.answered_at = context.answered_at or time.perf_counter()
            out, self._unwritten = self._unwritten or self._rendered(chunk), b""
            if not out:
                continue
            is_sent = not self.started and await self._start_stream(admitted, out)
            if payload is not None and not self.is_bytes:
                keep_answer(payload, out)
            self._idle_checks = 0
            context.sent_bytes += len(out)
            if not is_sent:
                await send({"type": "http.response.body", "body": out, "more_body": True})
        await self.stop_pings()
        if not self.started:
            admitted.note_usage()
            await self._start_stream(admitted)
        await admitted.settle()
        last = admitted.last_event() if renderer is None else renderer.feed(admitted.last_event())
        if payload is not None and last:
            keep_answer(payload, last)
        end = last + (DONE_EVENT if renderer is None else renderer.end(_response_meta(context)))
        if self.keeping is not None:
            end = await self.keeping.ending(end)
        await send({"type": "http.response.body", "body": end})
        context.outcome = "ok"

    def _is_read_by_one(self, admitted: AdmittedCall) -> bool:
        """Whether the events of a stream go to the caller alone."""
        is_kept = self.owned is not None or self._context.payload is not None
        return self._write_chunk is not None and not is_kept and admitted.byte_type is None

    def _rendered(self, chunk: bytes) -> bytes:
        return chunk if self._renderer is None else self._renderer.feed(chunk)

    def _write_at_once(self, chunk: bytes) -> bool:
        """Renders and writes a further chunk of a stream; False where it was not written."""
        if not (self.started and self._context.answered_at) or self._write_chunk is None:
            return False
        out = self._rendered(chunk)
        if out and not self._write_chunk(out):
            self._unwritten = out
            return False
        self._idle_checks = 0
        self._context.sent_bytes += len(out)
        return True

    async def _start_stream(self, admitted: AdmittedCall, first: bytes = b"") -> bool:
        """Sends the head, once: a ping and the first chunk may both want to. Returns as `_send_head`."""
        if self._pings is None:
            return await self._send_head(admitted, first)
        self._head_lock = self._head_lock or asyncio.Lock()
        async with self._head_lock:
            return not self.started and await self._send_head(admitted, first)

    async def _send_head(self, admitted: AdmittedCall, first: bytes) -> bool:
        """Sends the head; a call that is interrupted while it waits has no status yet.

        Returns whether the first chunk left with it.
        """
        context = self._context
        assert context.call is not None  # noqa: S101 -- it was admitted
        self.is_bytes = admitted.byte_type is not None
        content_type = admitted.byte_type or context.call.stream_type
        is_sent = await responses.start_stream(self.outlet, self._headers(admitted), content_type, first)
        context.ttft_ms = context.elapsed_ms()
        context.status, context.outcome, self.started = 200, "cut", True
        return is_sent

    def _headers(self, admitted: AdmittedCall) -> RawHeaders:
        headers = responses.response_headers(self._context, admitted.limit_headers)
        return headers + responses.dialect_headers(self.dialect, self._context.id_text)


def _response_meta(context: CallContext) -> ResponseMeta:
    return ResponseMeta(context.routing.provider, context.routing.provider_model, context.elapsed_ms())
