"""Event streams of OpenAI's images and audio, as the gateway passes them on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.dialects import Call
from llm_proxy.dialects.media_events import MediaEvents
from llm_proxy.errors import APIError, ProviderFailed, ProviderRejected
from llm_proxy.json_access import Json
from llm_proxy.media_frames import split_frames
from llm_proxy.upstream.media_stream import MediaStreamFilter
from llm_proxy.upstream.reply import raise_if_truncated

CALL = Call("images.generations", "openai", "m", "m", {"model": "m", "prompt": "a cat"})
STATED = b': llmp-usage {"prompt_tokens":20,"completion_tokens":272,"cost":"0.0113"}\n\n'
PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"


def _frame(kind: str, *, named: bool = True, **fields: object) -> bytes:
    name = f"event: {kind}\n" if named else ""
    return f"{name}data: {json.dumps({'type': kind, **fields})}\n\n".encode()


STREAMS = (
    [_frame(PARTIAL, b64_json="AAAA", partial_image_index=0), _frame(COMPLETED, b64_json="BBBB")],
    [_frame("image_edit.partial_image", b64_json="AAAA"), _frame("image_edit.completed", b64_json="BBBB")],
    [_frame("speech.audio.delta", named=False, audio="AAAA"), _frame("speech.audio.done", named=False)],
    [
        _frame("transcript.text.delta", named=False, delta="Good "),
        _frame("transcript.text.done", named=False, text="Good day."),
    ],
)


def _passed(raw: bytes, step: int = 10**9) -> tuple[bytes, MediaStreamFilter]:
    frames = MediaStreamFilter()
    sent = b"".join(frames.feed(raw[at : at + step]) for at in range(0, len(raw), step)) + frames.close()
    return sent, frames


@given(stream=st.sampled_from(STREAMS), step=st.integers(1, 200))
def test_events_pass_as_bytes_in_any_chunking(stream: list[bytes], step: int) -> None:
    """The last one is kept apart; what it used is in a comment that stays here."""
    sent, frames = _passed(b": ping\n\n" + b"".join(stream) + STATED, step)
    assert (sent, frames.last_event) == (stream[0], stream[1])
    assert (frames.done, frames.is_malformed, frames.error) == (True, False, None)
    assert frames.content_frames == (b"transcript" in stream[0])  # a picture's size says nothing of tokens
    assert frames.usage is not None
    assert (frames.usage.prompt_tokens, frames.usage.completion_tokens) == (20, 272)
    assert frames.usage.cost_nano_usd == 11_300_000
    raise_if_truncated(frames, CALL)


def test_each_of_several_images_has_a_last_event() -> None:
    """Only the last of them is kept apart."""
    first, second = _frame(COMPLETED, b64_json="AAAA"), _frame(COMPLETED, b64_json="BBBB")
    sent, frames = _passed(first + second, 7)
    assert (sent, frames.last_event) == (first, second)
    assert frames.usage is None


def test_an_image_of_many_megabytes_passes_unparsed() -> None:
    """The frame is looked at by its head alone: what stands behind that need not even be JSON."""
    frame = b'event: %b\ndata: {"type":"x","b64_json":"%b\x00"}\n\n' % (PARTIAL.encode(), b"A" * 30 * 2**20)
    sent, frames = _passed(frame + _frame(COMPLETED), 2**16)
    assert sent == frame
    assert frames.done


@pytest.mark.parametrize("field", ["named", "typed late"])
def test_the_type_is_found_wherever_it_stands(field: str) -> None:
    """A server of another make writes it behind the image, and no `event` line."""
    event: Json = {"b64_json": "A" * 500, "type": COMPLETED}
    name = f"event: {COMPLETED}\r\n" if field == "named" else ""
    _, frames = _passed(f"{name}data:{json.dumps(event)}\r\n\r\n".encode(), 5)
    assert frames.done
    assert not frames.is_malformed


def test_an_end_mark_passes_only_where_the_provider_sent_one() -> None:
    """Behind the last event, with it; before, it ends nothing."""
    last = _frame("transcript.text.done", named=False, text="x")
    done = b"data: [DONE]\n\n"
    _, frames = _passed(last + done)
    assert frames.last_event == last + done
    _, early = _passed(done)
    assert (early.done, early.last_event) == (False, b"")


@pytest.mark.parametrize(
    "raw",
    [
        STREAMS[0][0],
        STREAMS[0][0] + STREAMS[0][1][:-1],
        STREAMS[0][0] + b"data: [1]\n\n" + STREAMS[0][1],
        b"<html>\n\n",
        b"",
    ],
)
def test_a_stream_without_its_last_event_or_with_garbage_is_truncated(raw: bytes) -> None:
    """Whatever whole events it had were sent."""
    _, frames = _passed(raw, 11)
    with pytest.raises(ProviderFailed) as raised:
        raise_if_truncated(frames, CALL)
    assert raised.value.code == "upstream_stream_cut"


@pytest.mark.parametrize(
    ("error", "raised", "code"),
    [
        (
            {"type": "image_generation_user_error", "code": "moderation_blocked", "message": "Rejected."},
            ProviderRejected,
            "moderation_blocked",
        ),
        ({"code": "upstream_stream_cut", "message": "x"}, ProviderFailed, "upstream_stream_cut"),
    ],
)
@pytest.mark.parametrize("form", ["event: error\ndata: %b\n\n", "data: %b\n\n"])
def test_an_error_is_withheld_and_raised(error: Json, raised: type[APIError], code: str, form: str) -> None:
    """Even behind a last event; the first error counts."""
    event = {"type": "error", "error": error}
    later = b'data: {"error": {"code": "502", "message": "later"}}\n\n'
    frame = form.encode() % json.dumps(event).encode()
    sent, frames = _passed(b"".join(STREAMS[0]) + frame + later, 13)
    assert sent == STREAMS[0][0]
    with pytest.raises(raised) as caught:
        raise_if_truncated(frames, CALL)
    assert caught.value.code == code


def test_text_sent_before_a_cut_is_estimated_and_images_are_not() -> None:
    """Base64 says nothing about tokens."""
    words = [_frame("transcript.text.delta", named=False, delta="Good day to you. ") for _ in range(9)]
    assert _passed(b"".join(words))[1].content_tokens() > 9
    assert _passed(STREAMS[0][0] * 3)[1].content_tokens() == 0


def test_a_broken_stream_ends_in_one_error_event() -> None:
    """In OpenAI's envelope, under the name `error`; nothing else is ever added to a stream."""
    renderer = MediaEvents()
    event = renderer.fail(ProviderFailed("It broke.", code="upstream_stream_cut"))
    name, _, data = event.partition(b"\ndata: ")
    assert name == b"event: error"
    document = json.loads(data)
    assert document["type"] == "error"
    assert (document["error"]["message"], document["error"]["code"]) == ("It broke.", "upstream_stream_cut")
    assert (renderer.feed(b"as it is"), renderer.ping()) == (b"as it is", b"")


@given(st.lists(st.sampled_from([b"\n", b"data: {}", b": x", b"event: a"]), max_size=12))
def test_frames_are_split_at_empty_lines(pieces: list[bytes]) -> None:
    """A single one is returned as it is."""
    frames = b"".join(pieces).lstrip(b"\n") + b"\n\n"
    whole = split_frames(frames)
    assert b"".join(one.strip(b"\n") for one in whole) == b"".join(
        one.strip(b"\n") for one in frames.split(b"\n\n")
    )
    if frames.count(b"\n\n") == 1 and frames.endswith(b"\n\n") and not frames.endswith(b"\n\n\n"):
        assert whole[0] is frames
