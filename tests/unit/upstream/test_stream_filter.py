"""The sidecar's frames on their way to the caller."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.upstream.stream_filter import StreamFilter


def frame(**event: Any) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return frame(id="1", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": 1.2e-05}
STREAM = (
    delta("Hel")
    + delta("lo", "stop")
    + frame(id="1", choices=[{"index": 0, "delta": {}}], usage=USAGE)
    + b"data: [DONE]\n\n"
)


def run(raw: bytes, cuts: list[int], *, wants_usage: bool) -> tuple[bytes, StreamFilter]:
    frames, out, start = StreamFilter(wants_usage=wants_usage), b"", 0
    for cut in [*sorted(c % (len(raw) + 1) for c in cuts), len(raw)]:
        if cut > start:
            out += frames.feed(raw[start:cut])
            start = cut
    return out + frames.close() + frames.last_event, frames


def test_content_frames_pass_unchanged() -> None:
    """To the byte."""
    raw = b'data: {"choices": [ {"delta":{"content":"odd  spacing"}} ] }\n\n'
    assert StreamFilter(wants_usage=False).feed(raw) == raw


@given(st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_any_chunking_gives_the_same_bytes(cuts: list[int], wants_usage: bool) -> None:  # noqa: FBT001 -- a drawn value
    """However the network split the stream."""
    whole, _ = run(STREAM, [], wants_usage=wants_usage)
    out, frames = run(STREAM, cuts, wants_usage=wants_usage)
    assert out == whole
    assert frames.done
    assert frames.finished
    assert frames.usage is not None
    assert (frames.usage.prompt_tokens, frames.usage.completion_tokens, frames.usage.cost_nano_usd) == (
        3,
        2,
        12_000,
    )


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"usage", b"usages", b"error", b"finish_reason", b"provider_specific_x", b"[DONE]"),
        *(b'say \\"x\\"}', b"\\\\", b"a\\nb", "\u00e9\u4e16".encode(), b"a\rb", b"a\nb", b'","usage":{"x'),
        *(b"x" * 999, b"x" * 1000, b'","images":["' + b"x" * 5000),
    ],
)
def test_a_frame_like_the_last_one_is_read_as_in_one_go(text: bytes) -> None:
    """Of such a frame less is looked at; the spaces in its JSON show which was parsed."""
    drawn = [(b"Hel", b"null"), (text, b"null"), (b"lo", b"null"), (text, b'"stop"'), (text, b"null")]
    raw = [
        b'data: {"id": "1", "choices":[{"delta":{"content":"%b"}, "finish_reason":%b}]}\n\n' % one
        for one in drawn
    ]
    alone, together = StreamFilter(wants_usage=True), StreamFilter(wants_usage=True)
    assert b"".join(map(alone.feed, raw)) == together.feed(b"".join(raw))
    for name in ("content_frames", "finished", "usage", "is_malformed", "error", "done"):
        assert getattr(alone, name) == getattr(together, name)


def test_a_frame_like_the_last_one_comes_after_what_is_held() -> None:
    """A chunk that begins as the last frame did may end one whose first line came before."""
    filtered, chunks = StreamFilter(wants_usage=False), [delta("Hel"), b": a comment\n", delta("lo")]
    assert b"".join(map(filtered.feed, chunks)) == b"".join(chunks)


def test_the_usage_frame_is_only_for_callers_that_requested_it() -> None:
    """In OpenAI's shape: `choices` is empty and the cost is removed."""
    requested, _ = run(STREAM, [], wants_usage=True)
    last = json.loads(requested.strip().split(b"\n\n")[-1][6:])
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    silent, frames = run(STREAM, [], wants_usage=False)
    assert silent == delta("Hel") + delta("lo", "stop")
    assert frames.content_frames == 2


def test_tokens_counted_by_the_sidecar_are_marked_and_the_mark_is_removed() -> None:
    """Only what the provider stated is the provider's."""
    raw = STREAM.replace(b'"cost":1.2e-05', b'"llmp_counted":true')
    out, frames = run(raw, [], wants_usage=True)
    assert b"llmp_counted" not in out
    assert frames.usage is not None
    assert frames.usage.counted_by_sidecar
    stated = run(STREAM, [], wants_usage=True)[1].usage
    assert stated is not None
    assert not stated.counted_by_sidecar


def test_usage_beside_content_becomes_a_frame_of_its_own() -> None:
    """A provider that states usage in its last content frame loses no content by it."""
    raw = frame(
        id="1", choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], usage=USAGE
    )
    out, frames = run(raw + b"data: [DONE]\n\n", [], wants_usage=True)
    first, second = (json.loads(part[6:]) for part in out.strip().split(b"\n\n"))
    assert first["choices"][0]["delta"] == {"content": "x"}
    assert "usage" not in first
    assert second["choices"] == []
    assert frames.finished


def test_an_error_event_is_withheld_and_stored() -> None:
    """The stream's owner decides what the caller gets."""
    out, frames = run(delta("a") + frame(error={"message": "boom", "code": "500"}), [], wants_usage=False)
    assert out == delta("a")
    assert frames.error == {"message": "boom", "code": "500"}
    assert not frames.done


def test_provider_specific_fields_are_removed() -> None:
    """LiteLLM adds them, anywhere."""
    raw = frame(
        provider_specific_fields=None,
        choices=[
            {"delta": {"content": "x", "provider_specific_fields": {"a": 1}}, "provider_specific_fields": {}}
        ],
    )
    out, _ = run(raw, [], wants_usage=False)
    assert b"provider_specific" not in out
    assert json.loads(out[6:])["choices"][0]["delta"] == {"content": "x"}


def test_an_unfinished_frame_at_the_end_is_malformed_and_withheld() -> None:
    """Half a frame is not sent."""
    out, frames = run(delta("a") + b'data: {"choices": [{"del', [], wants_usage=False)
    assert out == delta("a")
    assert frames.is_malformed


def test_line_ends_of_any_kind_are_accepted() -> None:
    """A stream with CRLF is valid."""
    out, frames = run(STREAM.replace(b"\n", b"\r\n"), [7, 60, 61], wants_usage=False)
    assert b"Hel" in out
    assert b"lo" in out
    assert frames.done


def test_the_last_frame_of_a_completion_has_a_text_too() -> None:
    """OpenAI's schema requires one, and clients join the texts; the others pass unchanged."""
    first = frame(object="text_completion", choices=[{"index": 0, "text": "Paris"}])
    last = frame(object="text_completion", choices=[{"finish_reason": "stop", "index": 0}])
    for raw in (first + last, last, last + b"data: [DONE]\n\n"):
        out, frames = run(raw, [], wants_usage=False)
        events = [json.loads(one[6:]) for one in out.decode().strip().split("\n\n")]
        assert events[-1]["choices"] == [{"finish_reason": "stop", "index": 0, "text": ""}]
        assert out.startswith(first) or len(events) == 1
        assert frames.finished
        assert frames.content_frames == len(events)


def test_usage_in_every_frame_is_sent_once_at_the_end() -> None:
    """As stated last; zeros after a count are no correction."""
    raw = b"".join(
        frame(
            id="1",
            choices=[{"index": 0, "delta": {"content": "x"}}],
            usage={"prompt_tokens": 3, "completion_tokens": n},
        )
        for n in (1, 2, 0)
    )
    zero = frame(id="1", choices=[], usage={"prompt_tokens": 0, "completion_tokens": 0})
    out, frames = run(raw + zero + b"data: [DONE]\n\n", [], wants_usage=True)
    events = [json.loads(part[6:]) for part in out.strip().split(b"\n\n")]
    assert [bool(event.get("usage")) for event in events] == [False, False, False, True]
    assert frames.usage is not None
    assert frames.usage.prompt_tokens == 3


def test_stated_zeros_are_passed_on() -> None:
    """As the provider stated them."""
    raw = delta("x", "stop") + frame(id="1", choices=[], usage={"prompt_tokens": 0, "completion_tokens": 0})
    out, frames = run(raw + b"data: [DONE]\n\n", [], wants_usage=True)
    assert json.loads(out.strip().split(b"\n\n")[-1][6:])["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    assert frames.usage is not None
    assert frames.content_frames == 1


def test_zeros_of_an_unmodified_litellm_are_estimated() -> None:
    """In a frame of their own or beside the last content."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    last = frame(
        id="1", choices=[{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}], usage=zeros
    )
    for end in (delta("lo", "stop") + frame(id="1", choices=[], usage=zeros), last):
        stream = StreamFilter(wants_usage=True, prompt_tokens=7, states_zeros=False)
        out = stream.feed(delta("Hel") + end + b"data: [DONE]\n\n") + stream.last_event
        events = [json.loads(part[6:]) for part in out.strip().split(b"\n\n")]
        estimate = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        assert [event["usage"] for event in events if event.get("usage")] == [estimate]
        assert stream.usage is None
        assert stream.content_tokens() == 2
    stream.feed(frame(id="1", choices=[], usage=USAGE) + frame(id="1", choices=[], usage=zeros))
    assert stream.usage is not None
    assert stream.usage.prompt_tokens == 3


def test_a_stream_without_usage_ends_with_an_estimate_if_requested() -> None:
    """In the envelope of its frames; the record says that it was estimated."""
    for wants_usage in (True, False):
        stream = StreamFilter(wants_usage=wants_usage, prompt_tokens=7)
        out = stream.feed(delta("Hel") + delta("lo", "stop") + b"data: [DONE]\n\n") + stream.last_event
        last = json.loads(out.strip().split(b"\n\n")[-1][6:])
        expected = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        assert last.get("usage") == (expected if wants_usage else None)
        assert last["id"] == "1"
        assert stream.usage is None


def test_a_frame_of_annotations_alone_is_sent() -> None:
    """Azure's filter says "error" in them, which is no error of the stream."""
    filtered = {"hate": {"error": {"code": "content_filter_error"}, "filtered": False}}
    choice = {"index": 0, "delta": {}, "finish_reason": None, "content_filter_results": filtered}
    out, frames = run(
        frame(id="1", choices=[choice]) + frame(id="1", choices=[], citations=["x"], usage=USAGE),
        [],
        wants_usage=False,
    )
    events = [json.loads(part[6:]) for part in out.strip().split(b"\n\n")]
    assert events[0]["choices"][0]["content_filter_results"] == filtered
    assert events[1]["citations"] == ["x"]
    assert frames.error is None


def test_a_cost_stated_by_the_provider_is_passed_on() -> None:
    """LiteLLM's own is not."""
    usage = USAGE | {"cost": 0.25, "llmp_stated_cost": 0.5}
    out, frames = run(
        delta("x", "stop") + frame(id="1", choices=[], usage=usage) + b"data: [DONE]\n\n",
        [],
        wants_usage=True,
    )
    assert json.loads(out.strip().split(b"\n\n")[-1][6:])["usage"]["cost"] == 0.5
    assert b"llmp" not in out
    assert frames.usage is not None
    assert frames.usage.cost_nano_usd == 250_000_000


def test_content_of_a_usage_frame_gets_a_choice_without_requested_usage() -> None:
    """Clients read the first choice of each frame; llama.cpp's timings and xAI's citations stand there."""
    timings = {"cache_n": 36, "predicted_ms": 12.5}
    raw = delta("Hi", "stop") + frame(id="1", choices=[], usage=USAGE, timings=timings) + b"data: [DONE]\n\n"
    out, frames = run(raw, [], wants_usage=False)
    events = [json.loads(one[6:]) for one in out.decode().split("\n\n") if one]
    assert [event["choices"][0]["delta"].get("content") or "" for event in events] == ["Hi", ""]
    assert events[1]["timings"] == timings
    assert events[1]["choices"][0]["finish_reason"] is None
    assert "usage" not in events[1]
    assert frames.finished
    requested, _ = run(raw, [], wants_usage=True)
    [_, last] = [json.loads(one[6:]) for one in requested.decode().split("\n\n") if one]
    assert last["choices"] == []
    assert last["timings"] == timings
    assert last["usage"]["total_tokens"] == 5


def test_a_bare_usage_frame_is_withheld_unless_requested() -> None:
    """Of a chat or a completion."""
    for raw in (
        delta("Hi", "stop") + frame(id="1", choices=[], usage=USAGE),
        frame(id="1", object="text_completion", choices=[{"index": 0, "text": "a", "finish_reason": "stop"}])
        + frame(id="1", object="text_completion", choices=[], usage=USAGE),
    ):
        out, _ = run(raw + b"data: [DONE]\n\n", [], wants_usage=False)
        assert out.count(b"data: ") == 1
