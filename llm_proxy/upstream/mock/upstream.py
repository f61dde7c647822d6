"""Mock mode's upstream: canned replies sent through the same frames and errors as a sidecar's.

Invariants: no socket; every answer is marked `miss` and costs 0.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import orjson

from llm_proxy.call_guard import CallGuard
from llm_proxy.dialects import Call
from llm_proxy.endpoints import MODES, OPAQUE_ENDPOINTS
from llm_proxy.identity import Caller
from llm_proxy.json_access import as_object
from llm_proxy.upstream.byte_stream import ByteStream
from llm_proxy.upstream.catalog import Catalog, CurrentCatalog, Deployment, ModelGroup
from llm_proxy.upstream.error_mapping import map_error
from llm_proxy.upstream.litellm_protocol import RoutingInfo
from llm_proxy.upstream.mock.responses import CUT_FRAME, MODELS, CannedReply, reply_to
from llm_proxy.upstream.reply import Send, StreamFrames, Write, raise_if_truncated, stream_frames
from llm_proxy.upstream.token_usage import TokenUsage, read_usage, usage_in_header


class MockUpstream:
    """An upstream without a sidecar."""

    def __init__(self, catalog: CurrentCatalog, default_model: str) -> None:
        catalog.update(_catalog((default_model, *MODELS)))

    def check_capacity(self, caller: Caller, call: Call | None) -> None:
        """Never raises: mock mode has no bound on running calls."""

    def compose(self, call: Call, caller: Caller, request_id: str) -> Send:  # noqa: ARG002 -- as an upstream
        """Returns what answers a call."""
        return partial(_answer, call)


async def _answer(call: Call, _guard: CallGuard, _traceparent: str | None) -> "MockReply":
    """Returns the mock's reply; raises what a sidecar's error would be."""
    reply = reply_to(call)
    if reply.first_ms:
        await asyncio.sleep(reply.first_ms / 1000)
    if reply.status != 200:
        raise map_error(reply.status, dict(reply.headers), reply.body, model=call.model)
    return MockReply(reply, call)


class MockReply:
    """A mock reply on its way; see `Reply`."""

    def __init__(self, reply: CannedReply, call: Call) -> None:
        self._reply = reply
        self._call = call
        self.routing = RoutingInfo(
            group=call.group,
            provider_model=call.group.rpartition("/")[2],
            provider="mock",
            deployment="mock",
            cost_nano_usd=0,
            attempts=1,
        )
        self.stream_filter: StreamFrames | None = None
        self._headers = {name.encode(): value.encode() for name, value in reply.headers}
        if call.streaming:
            self.stream_filter = stream_frames(call, self._headers)

    @property
    def content_type(self) -> bytes:
        """The media type of the body."""
        return b"application/json" if self._reply.body.startswith(b"{") else b"text/plain; charset=utf-8"

    async def json(self) -> tuple[bytes, TokenUsage | None]:
        """Returns the body, and the usage it states."""
        if self._call.endpoint in OPAQUE_ENDPOINTS:
            return self._reply.body, usage_in_header(self._headers)
        document = as_object(orjson.loads(self._reply.body))
        return self._reply.body, read_usage(as_object(document.get("usage")), document)

    async def chunks(self, write: Write | None = None) -> AsyncIterator[bytes]:  # noqa: ARG002 -- as `Reply`
        """Yields the frames, with pauses between them; raises what broke the stream."""
        assert self.stream_filter is not None  # noqa: S101 -- only streams come in chunks
        for number, frame in enumerate(self._reply.frames):
            if number and self._reply.gap_ms:
                await asyncio.sleep(self._reply.gap_ms / 1000)
            if frame is CUT_FRAME and isinstance(self.stream_filter, ByteStream):
                self.stream_filter.is_malformed = True
            else:
                yield self.stream_filter.feed(frame)
        self.stream_filter.close()
        raise_if_truncated(self.stream_filter, self._call)

    def close(self) -> None:
        """Does nothing: a mock reply holds no connection."""


_MODES = {
    "mock-embedding": "embedding",
    "mock-image": "image_generation",
    "mock-rerank": "rerank",
    "mock-moderation": "moderation",
    "mock-speech": "audio_speech",
    "mock-transcribe": "audio_transcription",
}


def _catalog(names: tuple[str, ...]) -> Catalog:
    one = Deployment("mock", "mock", "mock", input_pico_usd=0, output_pico_usd=0)
    groups = {
        name: ModelGroup(name, mode, deployments=(one,), endpoints=MODES[mode] if name in _MODES else None)
        for name, mode in ((name, _MODES.get(name, "chat")) for name in names)
    }
    groups["*"] = ModelGroup("*", wildcard=True, deployments=(one,))
    return Catalog(groups, {"mock": one})
