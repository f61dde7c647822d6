"""What a gateway's event loop says of faults nobody waits for."""

import asyncio
import contextlib
import gc
import socket

import pytest

from llm_proxy.cli.serve import new_event_loop

NOWHERE = "no-such-name.invalid"  # RFC 6761: never resolved, by nobody


async def give_up() -> None:
    """Asks for a connection, and no longer wants it while its name is looked up."""
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


def test_a_name_that_is_not_found_for_a_connection_given_up_is_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who gave up has reported it; with the resolver gone there would be several a second."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(give_up())
    assert caplog.messages == []


def test_any_other_fault_nobody_waits_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Also one like it that came in another way."""

    async def forgotten() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(OSError("of its own"))
        del future
        gc.collect()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(forgotten())
    assert "Future exception was never retrieved" in caplog.text
