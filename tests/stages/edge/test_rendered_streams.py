"""Streams of every dialect that go from a sidecar's connection to the caller in one go, or as messages."""

import asyncio
import time
from functools import partial

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import anthropic_wire, responses_wire
from scripted.script import Script
from stages.admission.limiter_outages import build_admission, settings_of
from unit.dialects.responses import chat_frames
from unit.upstream.test_passed_frames import HEAD, Socket, chunked, segments
from usage_records import CALLER

from llm_proxy.call_context import CallContext
from llm_proxy.call_guard import CallGuard
from llm_proxy.dialects import Call
from llm_proxy.dialects.dialect import BodyLimits, Dialect, ModelIndex
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.messages.stream import PING
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request_options import NO_OPTIONS
from llm_proxy.dialects.responses import responses_dialect
from llm_proxy.edge.request import Message
from llm_proxy.edge.responder import Responder
from llm_proxy.edge.responses import WRITE_CHUNK
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError
from llm_proxy.identity import Caller
from llm_proxy.ledger import Ledger
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.pipeline import Services, process_call
from llm_proxy.running_calls import RunningCalls
from llm_proxy.telemetry import Metrics, uuid7
from llm_proxy.upstream import CurrentCatalog
from llm_proxy.upstream.http_client import HTTPConnection, SidecarAddress
from llm_proxy.upstream.litellm_protocol import RoutingInfo
from llm_proxy.upstream.reply import Send, SidecarReply

HERE = SidecarAddress.of("http://127.0.0.1:4000")
RESPONSES = responses_dialect(None)
PING_AFTER_S = 0.01
CHAT = b"".join(
    [
        chat_frames.frame({"role": "assistant", "content": ""}),
        *(chat_frames.frame({"content": text}) for text in ("one", " two", ' "three"\n', "", "four", "five")),
        chat_frames.frame({"reasoning_content": "so"}),
        *(chat_frames.frame({"content": text}) for text in ("six", "seven")),
        chat_frames.ending(),
        b"data: [DONE]\n\n",
    ]
)


def native(endpoint: Endpoint) -> bytes:
    """A provider's own stream."""
    wire = responses_wire.frames if endpoint == "responses" else anthropic_wire.frames
    content, closing = wire(Script(completion_tokens=5), {"model": "m", "input": "x"}, 1)
    return b"".join([*content, *closing])


def call_of(dialect: Dialect, endpoint: Endpoint, *, is_native: bool) -> Call:
    """A streamed call."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}
    if endpoint == "responses":
        asked = {"model": "m", "input": "x", "store": False}
    models = ModelIndex("m", speaks_natively=lambda _group, _wire: is_native)
    return dialect.parse(endpoint, orjson.dumps(asked | {"stream": True}), NO_OPTIONS, models, BodyLimits())


STREAMS: dict[str, tuple[Dialect, Call, bytes]] = {
    "chat": (OPENAI, call_of(OPENAI, "chat.completions", is_native=False), CHAT),
    "Responses, translated": (RESPONSES, call_of(RESPONSES, "responses", is_native=False), CHAT),
    "Messages, translated": (MESSAGES, call_of(MESSAGES, "messages", is_native=False), CHAT),
    "Responses, native": (RESPONSES, call_of(RESPONSES, "responses", is_native=True), native("responses")),
    "Messages, native": (MESSAGES, call_of(MESSAGES, "messages", is_native=True), native("messages")),
}


class OneSidecar:
    """A sidecar's connection, whose bytes the test chooses."""

    def __init__(self) -> None:
        self.connection = HTTPConnection(HERE, asyncio.get_running_loop())
        self.connection.connection_made(Socket())

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """There is always room."""

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:
        """Returns what sends a call."""
        del caller, request_id
        return partial(self._send, call)

    async def _send(self, call: Call, guard: CallGuard, _traceparent: str | None) -> SidecarReply:
        await self.connection.send_request(b"POST / HTTP/1.1\r\n\r\n")
        reply = SidecarReply(
            self.connection, RoutingInfo(), guard, call, idle_s=60, on_close=self.connection.abort
        )
        reply.begin_stream()
        return reply


class Heard:
    """What a caller got, by messages and, as far as it `takes` them, by chunks written at once."""

    def __init__(self, takes: list[bool] | None) -> None:
        self.body = b""
        self.fault = ""
        self.at_once = self._asked = 0
        self.begun = asyncio.Event()
        self._takes = takes or []
        self.scope: Message = {}
        if takes is not None:
            self.scope = {"extensions": {WRITE_CHUNK: {"write": self._write}}}

    async def send(self, message: Message) -> None:
        """Takes one message."""
        if body := message.get("body"):
            self.body += body
            self.begun.set()

    def _write(self, chunk: bytes) -> bool:
        assert chunk, "an empty chunk ends a body"
        self._asked += 1
        is_taken = self._takes[self._asked % len(self._takes)]
        if is_taken:
            self.body += chunk
            self.at_once += 1
        return is_taken


async def sent(
    name: str, raw: list[bytes], takes: list[bool] | None, *, is_late: bool = False
) -> tuple[Heard, CallContext]:
    """Sends a stream that arrives in these pieces; one that `is_late` after the caller has heard a ping."""
    dialect, call, _ = STREAMS[name]
    sidecar, catalog, calls, heard = OneSidecar(), CurrentCatalog(), RunningCalls(), Heard(takes)
    ledger = Ledger(None, Metrics(), memory_usage=MemoryUsage())
    services = Services(build_admission(settings_of(default_models=("m",))), sidecar, catalog, ledger, calls)
    context = CallContext(uuid7(), caller=CALLER, call=call)
    guard = calls.open(context, time.monotonic() + 10)
    responder = Responder(context, dialect, heard.scope, heard.send)

    async def run() -> None:
        try:
            async with process_call(services, context, guard) as admitted:
                responder.open_stream(admitted, PING_AFTER_S if is_late else 60)
                await responder.send(admitted)
        except APIError as error:
            heard.fault = str(error.code)
            await responder.send_error(error)
        finally:
            await responder.stop_pings()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    for piece in raw:
        sidecar.connection.data_received(piece)
        await asyncio.sleep(0)
        if is_late:
            await heard.begun.wait()
    sidecar.connection.connection_lost(None)
    await task
    return heard, context


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 400), max_size=20),
    takes=st.lists(st.booleans(), min_size=1, max_size=8),
    lost_bytes=st.sampled_from([0, 0, 5, 200]),
)
def test_a_caller_gets_the_same_whatever_can_be_written_at_once(
    name: str, sizes: list[int], takes: list[bool], lost_bytes: int
) -> None:
    """A chunk that has to wait is rendered once; a stream that breaks ends alike."""
    body = STREAMS[name][2]
    raw = chunked(body, sizes) + b"0\r\n\r\n"
    pieces = segments(raw[: len(raw) - lost_bytes], sizes)
    heard, context = asyncio.run(sent(name, pieces, takes))
    expected, of_messages = asyncio.run(sent(name, pieces, None))
    assert (heard.body, heard.fault) == (expected.body, expected.fault)
    assert context.sent_bytes == of_messages.sent_bytes
    assert (context.outcome, context.usage, context.content_tokens) == (
        of_messages.outcome, of_messages.usage, of_messages.content_tokens,
    )  # fmt: skip


def whole_frames(name: str) -> list[bytes]:
    """The pieces of a stream of which each frame is one."""
    frames = [frame + b"\n\n" for frame in STREAMS[name][2].split(b"\n\n")[:-1]]
    return [HEAD, *(chunked(frame, []) for frame in frames), b"0\r\n\r\n"]


@pytest.mark.parametrize("name", STREAMS)
async def test_every_dialect_s_events_are_written_at_once(name: str) -> None:
    """All but the first, with which the head leaves, and the last, before which the call is settled."""
    pieces = whole_frames(name)
    heard, context = await sent(name, pieces, [True])
    assert not heard.fault
    assert heard.at_once >= len(pieces) - 8
    assert context.outcome == "ok"


@pytest.mark.parametrize("name", ["Messages, translated", "Messages, native"])
async def test_a_ping_before_the_first_event_is_no_answer(name: str) -> None:
    """The head leaves with it; when the answer came is known by its own first event."""
    pieces = whole_frames(name)
    heard, context = await sent(name, pieces, [True], is_late=True)
    expected, _ = await sent(name, pieces, [True])
    assert heard.body.startswith(PING)
    assert heard.body.replace(PING, b"") == expected.body.replace(PING, b"")
    assert context.answered_at > context.started + PING_AFTER_S
