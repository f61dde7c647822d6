"""One answer for many: whoever comes, however late, gets every frame, once and in order."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.edge.live_answer import (
    BODY,
    BROKEN,
    HEAD,
    LAST,
    Frame,
    LiveAnswer,
    Recorder,
    decode_frames,
    encode_frames,
    frame_of,
    head_of,
)
from llm_proxy.edge.request_cycle import BREAK_OFF
from llm_proxy.errors import FirstCallLost, ReplayGone

FRAMES = st.lists(st.builds(Frame, st.sampled_from([HEAD, BODY, LAST, BROKEN]), st.binary(max_size=50)))


@given(frames=FRAMES)
def test_frames_are_read_as_they_were_written(frames: list[Frame]) -> None:
    """Of any kind and size."""
    assert decode_frames(encode_frames(frames)) == frames


def test_a_head_is_read_as_it_was_sent() -> None:
    """Bytes beyond ASCII, too."""
    headers = [(b"content-type", b"text/plain"), (b"x-said", "größer".encode())]
    head = head_of(frame_of({"type": "http.response.start", "status": 201, "headers": headers}))
    assert head == (201, headers)


async def listened(answer: LiveAnswer) -> list[Frame]:
    """All frames that a listener gets."""
    return [frame async for frame in answer.follow()]


async def test_every_listener_gets_all_frames_whenever_it_comes() -> None:
    """Before the first frame, between two, and after the last."""
    answer, frames = (
        LiveAnswer(1000),
        [Frame(HEAD, b"[]"), *(Frame(BODY, b"%d" % at) for at in range(5)), Frame(LAST)],
    )
    listeners: list[asyncio.Task[list[Frame]]] = []
    for frame in frames:
        listeners.append(asyncio.create_task(listened(answer)))
        await asyncio.sleep(0)
        answer.add(frame)
    listeners.append(asyncio.create_task(listened(answer)))
    assert await asyncio.gather(*listeners) == [frames] * len(listeners)


async def test_an_answer_beyond_its_bound_is_dropped_for_all() -> None:
    """The listener that has some of it learns that no more comes."""
    answer = LiveAnswer(10)
    answer.add(Frame(BODY, b"12345"))
    waiting = asyncio.create_task(listened(answer))
    await asyncio.sleep(0)
    answer.add(Frame(BODY, b"123456"))
    answer.add(Frame(LAST))
    assert (answer.is_dropped, answer.frames) == (True, [])
    for listener in (waiting, listened(answer)):
        with pytest.raises(ReplayGone):
            await listener


async def test_an_answer_that_fails_gives_its_frames_and_then_the_error() -> None:
    """What came before it is not taken back."""
    answer, got = LiveAnswer(10), list[Frame]()
    answer.add(Frame(BODY, b"1"))
    answer.fail(FirstCallLost)
    answer.add(Frame(LAST))
    with pytest.raises(FirstCallLost):
        got += [frame async for frame in answer.follow()]
    answer.fail(ReplayGone)
    with pytest.raises(FirstCallLost):
        await listened(answer)


@pytest.mark.parametrize("last", [{"type": BREAK_OFF}, {"type": "http.response.body", "body": b"z"}])
async def test_the_end_is_kept_before_it_leaves(last: dict[str, Any]) -> None:
    """So that a caller who has it finds it kept."""
    order: list[object] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        order.append(message["type"])

    async def on_end() -> None:
        order.append("kept")

    answer = LiveAnswer(1000)
    recorder = Recorder(answer, send, on_end)
    await recorder.send({"type": "http.response.start", "status": 200, "headers": []})
    await recorder.send({"type": "http.response.body", "body": b"a", "more_body": True})
    await recorder.send(last)
    assert order == ["http.response.start", "http.response.body", "kept", last["type"]]
    assert answer.ended
