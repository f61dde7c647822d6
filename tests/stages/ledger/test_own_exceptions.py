"""An exception of the gateway's own, after a call was admitted: an error in record, sums and metrics."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from stages.admission.limiter_outages import build_admission, settings_of
from usage_records import CALLER

from llm_proxy.call_context import CallContext
from llm_proxy.dialects import Call
from llm_proxy.identity import Limits
from llm_proxy.ledger import Ledger
from llm_proxy.ledger.usage_query import UsageQuery
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.pipeline import AdmittedCall, Services, process_call
from llm_proxy.running_calls import RunningCalls
from llm_proxy.telemetry import Metrics, uuid7
from llm_proxy.upstream import CurrentCatalog
from llm_proxy.upstream.mock.upstream import MockUpstream

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
CALL = Call("chat.completions", "openai", "gpt-4o-mini", "gpt-4o-mini", ASKED)


async def fails_before_a_byte(_admitted: AdmittedCall) -> None:
    """As a dialect would that cannot write an answer."""
    raise KeyError("a fault of ours")


async def is_cancelled_by_nobody_we_know(_admitted: AdmittedCall) -> None:
    """As when the server ends its tasks."""
    raise asyncio.CancelledError


async def fails_in_the_middle(admitted: AdmittedCall) -> None:
    """As a stream would that cannot go on."""
    admitted.context.status, admitted.context.outcome = 200, "cut"
    raise KeyError("a fault of ours")


@pytest.mark.parametrize(
    ("send", "told"),
    [
        (fails_before_a_byte, (500, "error", "internal_error")),
        (is_cancelled_by_nobody_we_know, (500, "error", "internal_error")),
        (fails_in_the_middle, (200, "cut", "internal_error")),
    ],
)
async def test_a_fault_of_ours_is_an_error_wherever_calls_are_counted(
    send: Callable[[AdmittedCall], Awaitable[None]], told: tuple[int, str, str]
) -> None:
    """Whatever raised it; what was sent decides the status."""
    metrics, remembered = Metrics(), MemoryUsage()
    ledger = Ledger(None, metrics, memory_usage=remembered)
    admission = build_admission(settings_of(default_models=("gpt-4o-mini",)))
    watches, catalog = RunningCalls(), CurrentCatalog()
    upstream = MockUpstream(catalog, "gpt-4o-mini")
    services = Services(admission, upstream, catalog, ledger, watches)
    context = CallContext(uuid7(), caller=CALLER, call=CALL)
    watch = watches.open(context, time.monotonic() + 10)
    with pytest.raises((KeyError, asyncio.CancelledError)):
        async with process_call(services, context, watch) as admitted:
            await send(admitted)
    story = await remembered.request_detail(context.request_id)
    assert story is not None
    assert (story["status"], story["outcome"], story["refusal_code"]) == told
    now = datetime.now(UTC)
    total = (await remembered.query(UsageQuery(now - timedelta(days=1), now + timedelta(days=1)), now)).total
    assert (total.requests, total.success_rate) == (1, 0)
    metrics.collect()
    page = metrics.render().decode().splitlines()
    counted = [line for line in page if line.startswith("llm_proxy_requests_total")]
    assert [line for line in counted if f'"{told[0]}"' in line and f'"{told[1]}"' in line]
    assert not [line for line in counted if '"ok"' in line]


async def reads_nothing(_admitted: AdmittedCall) -> None:
    """As a responder that fails before it reads would."""
    raise KeyError("a fault of ours")


async def reads_everything(admitted: AdmittedCall) -> None:
    """A stream to its end, or the whole body; settled before the last byte, as a responder does."""
    if admitted.is_stream:
        async for _ in admitted.chunks():
            admitted.context.status = 200
    else:
        await admitted.body()
    await admitted.settle()
    admitted.context.status = 200


async def stops_in_the_middle(admitted: AdmittedCall) -> None:
    """As when the caller disconnects: after the first chunk, or before the body is read."""
    if admitted.is_stream:
        async for _ in admitted.chunks():
            break
    raise asyncio.CancelledError


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("send", [reads_nothing, reads_everything, stops_in_the_middle])
async def test_however_the_block_ends_the_call_is_settled_once_and_recorded_once(
    send: Callable[[AdmittedCall], Awaitable[None]], *, streaming: bool
) -> None:
    """And its parallel slot is free for the next call at once."""
    remembered = MemoryUsage()
    ledger = Ledger(None, Metrics(), memory_usage=remembered)
    admission = build_admission(settings_of(default_models=("gpt-4o-mini",)))
    await admission.start()
    calls, catalog = RunningCalls(), CurrentCatalog()
    services = Services(admission, MockUpstream(catalog, "gpt-4o-mini"), catalog, ledger, calls)
    call = CALL._replace(body={**ASKED, "stream": True} if streaming else ASKED, streaming=streaming)
    caller = replace(CALLER, limits=Limits(parallel=1))
    for _ in range(3):
        context = CallContext(uuid7(), caller=caller, call=call)
        guard = calls.open(context, time.monotonic() + 10)
        with contextlib.suppress(KeyError, asyncio.CancelledError):
            async with process_call(services, context, guard) as admitted:
                await send(admitted)
        assert await remembered.request_detail(context.request_id) is not None
    now = datetime.now(UTC)
    query = UsageQuery(now - timedelta(days=1), now + timedelta(days=1))
    assert (await remembered.query(query, now)).total.requests == 3
    await admission.stop()
