"""Events of a call that LiteLLM makes as a whole one, on their way to the caller."""

import asyncio

import pytest

from llm_proxy.sidecar.event_channel import EventChannel, StreamedCall
from llm_proxy.sidecar.event_stream import BROKEN_EVENT


async def _events(call: StreamedCall, errors: list[BaseException] | None = None) -> list[bytes]:
    kept = errors if errors is not None else []
    return [one async for one in call.events(lambda result: result, kept.append)]


async def test_events_pass_in_order_and_the_usage_follows() -> None:
    """No faster than they are taken."""
    channel, taken = EventChannel(), list[int]()

    async def make() -> str:
        for at in range(3):
            await channel.put(b"%d\n\n" % at)
            taken.append(at)
        return "{}"

    call = StreamedCall(make(), channel)
    assert await call.begin()
    await asyncio.sleep(0)
    assert taken == [0]
    assert await _events(call) == [b"0\n\n", b"1\n\n", b"2\n\n", b": llmp-usage {}\n\n"]


async def test_a_call_without_events_has_its_own_result_or_error() -> None:
    """It may have been answered by a provider without streams."""

    async def answer() -> str:
        return "whole"

    async def fail() -> str:
        raise ValueError("refused")

    whole = StreamedCall(answer(), EventChannel())
    assert not await whole.begin()
    assert whole.result() == "whole"
    failed = StreamedCall(fail(), EventChannel())
    assert not await failed.begin()
    with pytest.raises(ValueError, match="refused"):
        failed.result()


async def test_an_error_after_an_event_is_an_event() -> None:
    """It is noted for the log."""
    channel, errors = EventChannel(), list[BaseException]()

    async def make() -> str:
        await channel.put(b"0\n\n")
        raise ValueError("cut")

    call = StreamedCall(make(), channel)
    assert await call.begin()
    assert await _events(call, errors) == [b"0\n\n", BROKEN_EVENT]
    assert [str(one) for one in errors] == ["cut"]
    assert channel.started


@pytest.mark.parametrize("begun", [False, True])
async def test_a_caller_who_leaves_ends_the_call(*, begun: bool) -> None:
    """Before its first event, and while one waits to be taken."""
    channel, ended = EventChannel(), asyncio.Event()

    async def make() -> str:
        try:
            if begun:
                await channel.put(b"0\n\n")
                await channel.put(b"1\n\n")
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    call = StreamedCall(make(), channel)
    if begun:
        assert await call.begin()
        events = call.events(lambda result: result, lambda _: None)
        assert await anext(events) == b"0\n\n"
        await events.aclose()
    else:
        waiting = asyncio.create_task(call.begin())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert ended.is_set()
