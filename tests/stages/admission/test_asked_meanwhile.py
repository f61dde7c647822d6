"""A call is composed while a real Valkey is asked: one that ends just then sends nothing, and holds nothing.

Calls go through `process_call` to a sidecar on a real socket.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from stages.admission.limiter_outages import PATIENT_MS, OwnValkey, Replicas, new_caller
from stages.admission.limiter_outages import Ledger as Prices
from stages.admission.test_lost_replies import until_nothing_is_held

from llm_proxy.admission import AdmissionController, LimitStatus, current_limits
from llm_proxy.admission.redis.connection import RedisConnection
from llm_proxy.call_context import CallContext
from llm_proxy.call_guard import TimeoutPolicy, Timeouts
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, StoreUnavailable, UpstreamUnreachable
from llm_proxy.identity import Budget, Caller, Limits
from llm_proxy.ledger import Ledger
from llm_proxy.ledger.usage_store import MemoryUsage
from llm_proxy.pipeline import Services, process_call
from llm_proxy.running_calls import RunningCalls
from llm_proxy.telemetry import Metrics, uuid7
from llm_proxy.upstream import CurrentCatalog, SidecarClient
from llm_proxy.upstream.litellm_protocol import LiteLLMControls
from llm_proxy.upstream.pool import SidecarPool
from llm_proxy.upstream.sidecar_keys import SidecarKeys
from llm_proxy.upstream.slot_queue import QueueTimes, SlotQueue

ANSWER = (
    b'{"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}'
)
BUDGET = (Budget(10**9, "day"),)
ASKED_S = 0.1


class Trial:
    """One gateway's stages before one sidecar, which answers every call."""

    def __init__(self, admission: AdmissionController, controls: LiteLLMControls | None = None) -> None:
        self.admission = admission
        self.catalog = CurrentCatalog()
        self._controls = controls or LiteLLMControls()
        self.calls = RunningCalls()
        self.usage = MemoryUsage()
        self.received: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Opens the sidecar's socket."""
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.pool = SidecarPool([f"http://127.0.0.1:{port}"], max_in_flight=1)
        queue = SlotQueue(self.pool, QueueTimes(1, 1), max_waiting=8)
        timeouts, catalog = TimeoutPolicy(Timeouts(5, 5, 5)), self.catalog
        self.client = SidecarClient(queue, SidecarKeys(("key",)), timeouts, self._controls, catalog)
        ledger = Ledger(None, Metrics(), memory_usage=self.usage)
        self.services = Services(self.admission, self.client, catalog, ledger, self.calls)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.received.append(await reader.readexactly(size))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)

    async def call(self, caller: Caller, **body: object) -> CallContext:
        """Makes one call; raises its error."""
        asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi."}]} | body
        call = Call("chat.completions", "openai", "gpt", "gpt", asked, prompt_bytes=40, max_tokens=10)
        context = CallContext(uuid7(), caller=caller, call=call)
        guard = self.calls.open(context, time.monotonic() + 10)
        try:
            async with process_call(self.services, context, guard) as admitted:
                await admitted.body()
        finally:
            self.calls.close(guard)
        return context

    def close_sidecar(self) -> None:
        """Ends the sidecar: it takes no call any more."""
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no slot of the sidecar is taken."""
        return not self.pool.in_flight and not any(one.calls for one in self.pool.sidecars)


async def standing(admission: AdmissionController, caller: Caller) -> Sequence[LimitStatus]:
    """Where a caller stands."""
    return (await current_limits(admission, caller)).limit_statuses


async def until_nothing_runs(admission: AdmissionController, caller: Caller) -> None:
    """Waits until no call of a caller holds anything; what it has used stays counted."""
    async with asyncio.timeout(5):
        while any(one.running or one.held for one in await standing(admission, caller)):  # noqa: ASYNC110 -- no event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def trial_of(
    admission: AdmissionController, controls: LiteLLMControls | None = None
) -> AsyncGenerator[Trial]:
    """A trial with this admission."""
    made = Trial(admission, controls)
    await made.open()
    try:
        yield made
    finally:
        made.close_sidecar()
        made.client.stop()


async def test_a_command_alone_in_a_turn_leaves_at_once_and_several_leave_together(own: OwnValkey) -> None:
    """The event loop stands still meanwhile; replies come in order. After such a turn, all leave together."""
    connection = RedisConnection(own.url, timeout_s=5, load_commands=list)
    await connection.start()
    store: Any = redis.Redis
    with store.from_url(own.url) as beside:
        for commands, at_once in ((3, b"1"), (2, b"0"), (1, b"0"), (2, b"1")):  # turns
            beside.set("counted", 0)
            replies: list[asyncio.Future[int]] = []
            for _ in range(commands):
                replies.append(connection.execute("INCR", "counted"))
                connection.flush_if_alone()
            time.sleep(0.05)  # noqa: ASYNC251 -- the loop's turn goes on
            assert beside.get("counted") == at_once
            assert await asyncio.gather(*replies) == [*range(1, commands + 1)]
    await connection.stop()


async def test_a_refused_call_reaches_no_sidecar(replicas: Replicas) -> None:
    """The second of two at once, where one a minute may run; it takes no slot."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(rpm=1))
    async with trial_of(admission) as trial:
        ends = await asyncio.gather(*[trial.call(caller) for _ in range(2)], return_exceptions=True)
        assert [end.status for end in ends if isinstance(end, APIError)] == [429]
        assert trial.is_idle
        assert len(trial.received) == 1


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_call_that_is_cancelled_while_the_store_is_asked_sends_nothing(
    own: OwnValkey,
    replicas: Replicas,
    is_late: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """In the turn of the event loop that asked, or after it; what the store reserves then is given back."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(parallel=1, tpm=10_000), budgets=BUDGET)
    async with trial_of(admission) as trial:
        await trial.call(caller)
        own.freeze()
        calling = asyncio.create_task(trial.call(caller))
        await asyncio.sleep(ASKED_S if is_late else 0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        own.thaw()
        await until_nothing_runs(admission, caller)
        assert trial.is_idle
        assert len(trial.received) == 1
        await trial.call(caller)


@pytest.mark.parametrize(("on_failure", "sent"), [("deny", 1), ("local", 2)])
async def test_a_store_that_ends_while_it_is_asked_decides_as_one_that_is_away(
    own: OwnValkey, replicas: Replicas, on_failure: str, sent: int
) -> None:
    """The call is refused and not sent, or sent once."""
    admission = await replicas.start(
        Prices(spent=0), store_timeout_ms=PATIENT_MS, limits_on_store_failure=on_failure
    )
    caller = new_caller(limits=Limits(rpm=100))
    async with trial_of(admission) as trial:
        await trial.call(caller)
        own.freeze()
        calling = asyncio.create_task(trial.call(caller))
        await asyncio.sleep(ASKED_S)
        own.kill()
        if sent == 1:
            with pytest.raises(StoreUnavailable):
                await calling
        else:
            await calling
        assert trial.is_idle
        assert len(trial.received) == sent


async def test_a_sidecar_that_ends_while_the_store_is_asked_gets_nothing(
    own: OwnValkey, replicas: Replicas
) -> None:
    """The call fails, and holds nothing after that."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(tpm=10_000, parallel=1), budgets=BUDGET)
    async with trial_of(admission) as trial:
        own.freeze()
        calling = asyncio.create_task(trial.call(caller))
        await asyncio.sleep(ASKED_S)
        trial.close_sidecar()
        own.thaw()
        with pytest.raises(UpstreamUnreachable):
            await calling
        assert trial.is_idle
        assert trial.received == []
    await until_nothing_is_held(admission, caller)


async def test_a_call_that_cannot_be_composed_is_admitted_and_settled(replicas: Replicas) -> None:
    """Its error is the call's own, and it has used nothing; one that is refused gets the refusal."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(tpm=10_000, parallel=1), budgets=BUDGET)
    async with trial_of(admission) as trial:
        with pytest.raises(TypeError):
            await trial.call(caller, seed=object())
        assert trial.is_idle
        assert trial.received == []
        await until_nothing_is_held(admission, caller)
        once = new_caller(limits=Limits(rpm=1))
        await trial.call(once)
        with pytest.raises(APIError) as refused:
            await trial.call(once, seed=object())
        assert refused.value.status == 429


async def test_a_call_without_a_line_for_the_journal_is_admitted_and_settled(replicas: Replicas) -> None:
    """Its caller is called what JSON cannot hold: it ends as one that is not sent, and holds nothing."""
    admission = await replicas.start(Prices(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(limits=Limits(parallel=1), budgets=BUDGET)
    async with trial_of(admission) as trial:
        await trial.call(caller)
        unnamed: Any = object()
        with pytest.raises((TypeError, ValueError)):
            await trial.call(replace(caller, channel=unnamed))
        assert trial.is_idle
        assert len(trial.received) == 1
        await until_nothing_runs(admission, caller)
