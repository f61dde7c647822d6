"""Running calls are ticked as long as there are any."""

import asyncio

from llm_proxy.call_context import CallContext
from llm_proxy.running_calls import TICK_S, RunningCalls
from llm_proxy.telemetry.request_ids import uuid7


async def test_a_call_after_a_quiet_time_ends_when_its_time_is_up() -> None:
    """Nothing ticks while no call runs; the next call starts it again."""
    calls, reasons = RunningCalls(), list[str | None]()
    calls.start()

    async def run() -> None:
        guard = calls.open(CallContext(uuid7()), asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            reasons.append(guard.reason)
            guard.was_interrupted()
        calls.close(guard)

    async with asyncio.timeout(10):
        await run()
        await asyncio.sleep(2.5 * TICK_S)
        await run()
    assert reasons == ["body", "body"]
    calls.stop()
