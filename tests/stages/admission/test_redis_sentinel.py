"""Admission on a service behind three real Sentinels: followed at a failover, with the limits kept."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from stages.admission.limiter_outages import Ledger, Replicas, new_caller, outcome, until
from stages.admission.valkey_sentinel import PASSWORD, SERVICE, Sentinels

from llm_proxy.admission.limiter import LimiterUnavailable
from llm_proxy.identity import Budget, Limits

PATIENT_MS = 1_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    """The servers, started once."""
    made = Sentinels(tmp_path_factory.mktemp("sentinels"))
    yield made
    made.end()


@pytest.fixture
async def settled(service: Sentinels) -> Sentinels:
    """The servers, in order."""
    await service.settle()
    return service


@pytest.fixture
async def replicas(settled: Sentinels) -> AsyncIterator[Replicas]:
    """Replicas of the gateway that count there."""
    made = Replicas(settled.url())
    yield made
    await made.stop()


async def test_a_killed_primary_is_replaced_with_the_limits_kept(
    settled: Sentinels, replicas: Replicas
) -> None:
    """Two replicas follow; the old primary is a replica when it comes back."""
    both = [await replicas.start(Ledger(), store_timeout_ms=PATIENT_MS) for _ in range(2)]
    caller = new_caller(budgets=(Budget(3, "total", unit="requests"),))  # no window that could end meanwhile
    assert [await outcome(one, caller) for one in (*both, both[0])] == ["enforced"] * 3
    for one in both:
        await until("insufficient_quota", one, caller)  # the calls are settled
    old = await settled.primary()
    settled.kill(old)
    try:
        for one in both:
            await until("enforced", one, new_caller(limits=Limits(rpm=60_000)), within_s=30)
        assert await settled.primary() != old
        assert [await outcome(one, caller) for one in both] == ["insufficient_quota"] * 2
    finally:
        settled.revive(old, await settled.primary())
    await settled.settle()
    assert [await outcome(one, caller) for one in both] == ["insufficient_quota"] * 2


async def test_a_demoted_primary_is_left(settled: Sentinels, replicas: Replicas) -> None:
    """It is alive and answers, but takes no writes: as when an operator orders the failover."""
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    caller, old = new_caller(), await settled.primary()
    assert await outcome(admission, caller) == "enforced"
    async with asyncio.timeout(30):
        while await settled.primary() == old:
            with contextlib.suppress(LimiterUnavailable):  # one is under way
                await settled.ask(settled.sentinel_ports[0], "SENTINEL", "FAILOVER", SERVICE)
            await asyncio.sleep(0.2)
    await settled.settle()
    await until("enforced", admission, new_caller(), within_s=30)
    assert (await settled.ask(old, "ROLE"))[0] == b"slave"


async def test_one_sentinel_is_enough(settled: Sentinels, replicas: Replicas) -> None:
    """The others need not run at the start."""
    for port in settled.sentinel_ports[:2]:
        settled.kill(port)
    try:
        admission = await replicas.start(store_timeout_ms=PATIENT_MS)
        assert await outcome(admission, new_caller()) == "enforced"
    finally:
        for port in settled.sentinel_ports[:2]:
            settled.revive(port)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"sentinel_password": "S3cretPart"}, "a Sentinel says nothing: it refuses this user or password"),
        ({"service": "other"}, "a Sentinel knows no service of this name"),
    ],
    ids=["password", "service"],
)
async def test_what_the_sentinels_refuse_is_told(
    settled: Sentinels, wrong: dict[str, str], fault: str
) -> None:
    """In the state of admission, which health shows."""
    replicas = Replicas(settled.url(**wrong))
    admission = await replicas.start(store_timeout_ms=PATIENT_MS)
    try:
        assert (admission.state().store, admission.state().fault) == ("away", fault)
    finally:
        await replicas.stop()


async def test_of_a_list_of_hosts_the_primary_is_used(settled: Sentinels) -> None:
    """Wherever it stands in the list, after a host that is dead."""
    primary = await settled.primary()
    [replica] = [port for port in settled.ports if port != primary]
    for order in ((1, replica, primary), (primary, replica)):
        hosts = ",".join(f"127.0.0.1:{port}" for port in order)
        replicas = Replicas(f"redis://:{PASSWORD}@{hosts}/0")
        admission = await replicas.start(store_timeout_ms=PATIENT_MS)
        assert await outcome(admission, new_caller()) == "enforced"
        await replicas.stop()
