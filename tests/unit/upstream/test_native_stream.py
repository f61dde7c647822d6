"""Event streams in a provider's own protocol, as the gateway passes them on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import anthropic_wire, responses_wire
from scripted.script import Script

from llm_proxy.dialects import Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import (
    APIError,
    ProviderFailed,
    ProviderOverloaded,
    ProviderQuotaExceeded,
    ProviderRateLimited,
    ProviderRejected,
)
from llm_proxy.json_access import Json
from llm_proxy.upstream.native_stream import NativeStreamFilter, ResumedStreamFilter
from llm_proxy.upstream.reply import raise_if_truncated

SCRIPT = Script(
    prompt_tokens=20, completion_tokens=9, cached_tokens=4, cache_write_tokens=6, cache_write_1h_tokens=2,
    reasoning_tokens=3, service_tier="priority",
)  # fmt: skip
FAILED = {"code": "rate_limit_exceeded", "message": "Slow."}
FAILED_EVENT = json.dumps({"type": "response.failed", "response": {"error": FAILED}}).encode()
REFUSED = {"code": "server_error", "message": "The server had an error.", "param": None}
ERROR = {"error": {"code": "upstream_stream_cut", "provider": {"x-llmp-provider-status": "503"}}}


def _stream(endpoint: Endpoint, script: Script = SCRIPT) -> list[bytes]:
    wire = responses_wire.frames if endpoint == "responses" else anthropic_wire.frames
    content, closing = wire(script, {"model": "m", "input": "x"}, 1)
    return [*content, *closing]


def _passed(endpoint: Endpoint, raw: bytes, step: int = 10**9) -> tuple[bytes, NativeStreamFilter]:
    frames = NativeStreamFilter(endpoint)
    sent = b"".join(frames.feed(raw[at : at + step]) for at in range(0, len(raw), step)) + frames.close()
    return sent + frames.last_event, frames


@given(endpoint=st.sampled_from(["responses", "messages"]), step=st.integers(1, 200))
def test_a_stream_passes_as_bytes_in_any_chunking(endpoint: Endpoint, step: int) -> None:
    """Usage, end and content are noted on the way; the cost is in a comment that stays here."""
    raw = b"".join(_stream(endpoint))
    sent, frames = _passed(endpoint, raw + b": llmp-cost 0.00012\n\n", step)
    assert sent == raw
    assert (frames.done, frames.is_malformed, frames.error) == (True, False, None)
    assert frames.content_frames == len(SCRIPT.words())
    usage = frames.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (20, 9, 4)
    assert (usage.cache_write_tokens, usage.cost_nano_usd) == (6, 120_000)
    if endpoint == "responses":
        assert (usage.reasoning_tokens, usage.service_tier) == (3, "priority")
    else:
        assert json.loads(usage.details or "") == {"cache_write_5m_tokens": 4, "cache_write_1h_tokens": 2}


DELTAS: dict[Endpoint, bytes] = {
    "responses": b'event: response.refusal.delta\ndata: {"type":"response.refusal.delta","delta":"%b"}\n\n',
    "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n',
}
REST: dict[Endpoint, list[bytes]] = {
    "responses": [
        b'event: response.output_text.delta\ndata: {"type":"response.completed","response":{}}\n\n',
        responses_wire.error_frame(), b"data: " + FAILED_EVENT + b"\n\n",
    ],
    "messages": [
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":5}}\n\n',
        b'event: content_block_delta\ndata: {"type":"message_stop"}\n\n', anthropic_wire.error_frame(),
    ],
}  # fmt: skip


def _said(written: tuple[bytes, str]) -> bytes:
    form, text = written
    return form % json.dumps(text)[1:-1].encode()


@st.composite
def _oddly_written(draw: st.DrawFn) -> tuple[Endpoint, list[bytes]]:
    """Frames of content in every spelling, and others between them."""
    endpoint: Endpoint = draw(st.sampled_from(list[Endpoint](DELTAS)))
    delta = DELTAS[endpoint]
    spelt = [
        delta, delta, delta.replace(b"\n", b"\r\n"), delta.partition(b"\n")[2],
        delta.replace(b'":"', b'": "'), delta.replace(b"data: {", b"data:{"),
        delta.replace(b"data: {", b"data: {\ndata: "), delta.replace(b"}\n\n", b"}\nid: 5\n\n"),
        delta.replace(b"_delta", b"_stop").replace(b".delta", b".done"),
    ]  # fmt: skip
    texts = st.text(st.characters(codec="utf-8"), max_size=9)
    says = st.tuples(st.sampled_from(spelt), texts).map(_said)
    rest = st.sampled_from(
        [*REST[endpoint], b"data: [DONE]\n\n", b": ping\n\n", b"event: ping\ndata: {}\n\n"]
    )
    return endpoint, draw(st.lists(st.one_of(says, says, rest), max_size=12))


@given(_oddly_written())
def test_frames_one_by_one_pass_as_those_that_come_together(written: tuple[Endpoint, list[bytes]]) -> None:
    """Whatever stands between frames of content; what is billed and how it ended is the same."""
    endpoint, frames = written
    sent, together = _passed(endpoint, b"".join(frames))
    one_by_one = NativeStreamFilter(endpoint)
    assert b"".join(map(one_by_one.feed, frames)) + one_by_one.close() + one_by_one.last_event == sent
    for name in ("content_frames", "usage", "done", "error", "is_malformed"):
        assert getattr(one_by_one, name) == getattr(together, name)


@pytest.mark.parametrize("endpoint", ["responses", "messages"])
def test_a_stream_without_its_last_event_is_not_complete(endpoint: Endpoint) -> None:
    """Neither is one that stops within an event; what was said is estimated."""
    *before, last = _stream(endpoint)
    sent, frames = _passed(endpoint, b"".join(before) + last[:20])
    assert sent == b"".join(before)
    assert (frames.done, frames.is_malformed) == (False, True)
    assert frames.content_tokens() >= len(SCRIPT.words())


def test_a_stream_that_begins_behind_its_last_event_is_complete() -> None:
    """Only one without any event: one that broke off is not, nor is an error."""
    begun, *_, last = _stream("responses")
    for raw, is_complete in ((b"", True), (b": ping\n\n", True), (begun, False), (last, True)):
        resumed = ResumedStreamFilter("responses", is_free=True)
        resumed.feed(raw)
        resumed.close()
        assert (resumed.done, resumed.is_malformed) == (is_complete, False)
    cut = ResumedStreamFilter("responses", is_free=True)
    cut.feed(last[:20])
    cut.close()
    assert cut.is_malformed
    failed = ResumedStreamFilter("responses", is_free=True)
    failed.feed(b"event: response.failed\ndata: %s\n\n" % FAILED_EVENT)
    failed.close()
    assert failed.error is not None
    whole = NativeStreamFilter("responses", is_free=True)
    assert (whole.close(), whole.done) == (b"", False)


def test_missing_event_lines_are_added_and_the_end_mark_of_chats_is_withheld() -> None:
    """Some servers, and LiteLLM, send data alone."""
    raw = b"".join(_stream("responses"))
    bare = b"".join(b"data:" + one.partition(b"\ndata:")[2] for one in _stream("responses"))
    sent, frames = _passed("responses", bare.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n")
    assert sent == raw
    assert frames.done


@pytest.mark.parametrize(
    ("endpoint", "frame", "error"),
    [
        ("responses", responses_wire.error_frame(), REFUSED),
        ("messages", anthropic_wire.error_frame(), {"type": "overloaded_error", "message": "Overloaded"}),
        ("responses", b"data: " + FAILED_EVENT + b"\n\n", FAILED),
    ],
)  # fmt: skip
def test_an_error_is_kept_in_the_providers_words(endpoint: Endpoint, frame: bytes, error: Any) -> None:
    """Its event is not sent on, nor what our sidecar says after it."""
    first = _stream(endpoint)[0]
    sent, frames = _passed(endpoint, first + frame + b"data: " + json.dumps(ERROR).encode() + b"\n\n")
    assert sent == first
    assert frames.error is not None
    assert {name: value for name, value in frames.error.items() if name != "provider"} == error


@pytest.mark.parametrize(
    ("endpoint", "error", "raised", "code"),
    [
        ("responses", FAILED, ProviderRateLimited, "rate_limit_exceeded"),
        (
            "responses",
            {"code": "insufficient_quota", "message": "x"},
            ProviderQuotaExceeded,
            "insufficient_quota",
        ),
        (
            "responses",
            {"code": "context_length_exceeded", "message": "Too long."},
            ProviderRejected,
            "context_length_exceeded",
        ),
        ("messages", {"type": "overloaded_error", "message": "x"}, ProviderOverloaded, "provider_overloaded"),
        (
            "messages",
            {"type": "rate_limit_error", "message": "x"},
            ProviderRateLimited,
            "rate_limit_exceeded",
        ),
        ("messages", {"type": "api_error", "message": "x"}, ProviderFailed, "provider_error"),
    ],
)
def test_an_error_in_a_stream_is_the_one_it_would_be_before(
    endpoint: Endpoint, error: Json, raised: type[APIError], code: str
) -> None:
    """Clients act on its code; the sidecar's event after it changes nothing."""
    event: Json = {"type": "error", "error": error}
    if endpoint == "responses":
        event = {"type": "response.failed", "response": {"error": error}}
    frame = b"data: " + json.dumps(event).encode() + b"\n\n"
    _, frames = _passed(endpoint, frame + b"data: " + json.dumps(ERROR).encode() + b"\n\n")
    with pytest.raises(raised) as found:
        raise_if_truncated(frames, Call(endpoint, endpoint, "m", "m", {}))
    assert found.value.code == code


def test_a_cut_that_only_the_sidecar_saw_is_a_cut() -> None:
    """Its error event stands alone."""
    _, frames = _passed("messages", b"data: " + json.dumps(ERROR).encode() + b"\n\n")
    with pytest.raises(ProviderFailed) as found:
        raise_if_truncated(frames, Call("messages", "messages", "m", "m", {}))
    assert found.value.code == "upstream_stream_cut"


def test_a_frame_that_is_no_json_breaks_the_stream() -> None:
    """It is not sent on."""
    first, *rest = _stream("messages")
    sent, frames = _passed("messages", first + b'event: ping\ndata: {"type": "pi\n\n' + b"".join(rest))
    assert sent == first + b"".join(rest)
    assert frames.is_malformed
