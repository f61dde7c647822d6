"""Exceptions that no task awaits, as the gateway's event loop logs them."""

import asyncio
import contextlib
import gc
import socket

import pytest

from llm_proxy.cli.serve import new_event_loop

NOWHERE = "no-such-name.invalid"  # RFC 6761: never resolved


async def cancel_during_look_up() -> None:
    """Cancels a connection while its host name is looked up."""
    loop = asyncio.get_running_loop()
    connecting = asyncio.create_task(loop.create_connection(asyncio.Protocol, NOWHERE, 9))
    await asyncio.sleep(0)
    connecting.cancel()
    for name in (NOWHERE, f"another.{NOWHERE}"):
        with contextlib.suppress(socket.gaierror, asyncio.CancelledError):
            await loop.getaddrinfo(name, 9)
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await connecting
    del connecting
    gc.collect()
    await asyncio.sleep(0.05)


def test_a_failed_look_up_of_a_cancelled_connection_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller has reported it; without a resolver there would be several lines a second."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(cancel_during_look_up())
    assert caplog.messages == []


def test_any_other_exception_that_nothing_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Such as an `OSError` of another future."""

    async def forgotten() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(OSError("of its own"))
        del future
        gc.collect()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(forgotten())
    assert "Future exception was never retrieved" in caplog.text
