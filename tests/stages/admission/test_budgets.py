"""Budgets on a real Valkey: denied in an outage, rebuilt after a loss, never overspent unnoticed."""

import asyncio
from uuid import uuid4

import pytest
from stages.admission.limiter_outages import (
    CALL,
    COST_NANO_USD,
    PATIENT_MS,
    Ledger,
    OwnValkey,
    Replicas,
    new_caller,
    outcome,
    until,
)

from llm_proxy.admission import AdmissionController, current_limits
from llm_proxy.admission.corrections import Corrections
from llm_proxy.admission.lease import Lease, SettledUsage
from llm_proxy.dialects import Call
from llm_proxy.errors import APIError, BudgetExceeded, BudgetHeld, Forbidden, StoreUnavailable
from llm_proxy.identity import Budget, Caller
from llm_proxy.money import Price
from llm_proxy.quantities import Quantities


async def test_a_budget_denies_while_the_store_is_unreachable(own: OwnValkey, replicas: Replicas) -> None:
    """Budgets fail closed."""
    admission = await replicas.start(Ledger(), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(10**9, "day"),))
    assert await outcome(admission, caller) == "enforced"
    own.kill()
    await until("store_unavailable", admission, caller)


async def test_budgets_of_an_emptied_store_are_rebuilt_from_the_ledger(
    own: OwnValkey, replicas: Replicas
) -> None:
    """A missing counter is unknown, not 0."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(1_000, "month"),))
    assert await outcome(admission, caller) == "enforced"
    ledger.spent_before = 1_000
    await own.ask("FLUSHALL")
    with pytest.raises(BudgetExceeded):
        await admission.admit(caller, CALL, uuid4())
    ledger.spent_before = None
    await own.ask("FLUSHALL")
    with pytest.raises(StoreUnavailable):
        await admission.admit(caller, CALL, uuid4())
    assert ledger.asked == 3


async def test_reservations_in_an_emptied_store_are_made_in_the_new_counter(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Calls in flight still count, at this replica at once, and settle by the difference."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(3 * COST_NANO_USD, "total"),))
    running = [await admission.admit(caller, CALL, uuid4()) for _ in range(2)]
    await own.ask("FLUSHALL")
    asking = [admission.admit(caller, CALL, uuid4()) for _ in range(8)]
    fared = await asyncio.gather(*asking, return_exceptions=True)
    running += [one for one in fared if isinstance(one, Lease)]
    assert [type(one) for one in fared if not isinstance(one, Lease)] == [BudgetHeld] * 7
    for lease in running:
        lease.settle(10, 7)
        await lease.wait_settled()
    assert admission.state().unsettled == 0
    (key,) = await own.ask("KEYS", "lp:*:m:*")
    assert int(await own.ask("HGET", key, "spent")) == 3 * 7


async def test_many_calls_without_a_counter_query_the_ledger_once(own: OwnValkey, replicas: Replicas) -> None:
    """A flush is no storm on Postgres."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(10**9, "total"),))
    await asyncio.gather(*(outcome(admission, caller) for _ in range(50)))
    assert ledger.asked == 1
    await own.ask("FLUSHALL")


async def test_settlements_of_an_outage_arrive_when_the_store_is_back_and_count_once(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Money is never dropped."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(10**9, "total"),))
    leases = [await admission.admit(caller, CALL, uuid4()) for _ in range(20)]
    own.freeze()
    for number, lease in enumerate(leases):
        lease.settle(10, number)
    await asyncio.sleep(0.6)
    assert admission.state().unsettled > 0
    own.thaw()
    await asyncio.sleep(1)
    assert admission.state().unsettled == 0
    (key,) = await own.ask("KEYS", "lp:*:m:*")
    assert int(await own.ask("HGET", key, "spent")) == sum(range(20))


async def test_overspend_is_at_most_what_running_calls_cost_above_their_reservations(
    replicas: Replicas,
) -> None:
    """Two replicas, many clients, unforeseen costs."""
    limit = 30_000
    both = [await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS) for _ in range(2)]
    caller = new_caller(budgets=(Budget(limit, "day"),))
    spent = rejected = 0
    in_flight: dict[Lease, int] = {}
    most_over = 0

    async def client(number: int) -> None:
        nonlocal spent, rejected, most_over
        for turn in range(20):
            try:
                lease = await both[number % 2].admit(caller, CALL, uuid4())
            except (BudgetExceeded, BudgetHeld):
                rejected += 1
                await asyncio.sleep(0.01)
                continue
            actual = (number * 131 + turn * 577) % (2 * COST_NANO_USD + 100)
            in_flight[lease] = max(0, actual - COST_NANO_USD)
            most_over = max(most_over, sum(in_flight.values()))
            await asyncio.sleep(0.01)
            lease.settle(200, actual)
            spent += actual
            await lease.wait_settled()
            del in_flight[lease]

    await asyncio.gather(*(client(number) for number in range(24)))
    print(f"budget {limit}, spent {spent}, refused {rejected}, over at most {most_over}")  # noqa: T201 -- asked for
    assert rejected > 0
    assert limit * 0.9 < spent <= limit + most_over


async def test_a_model_without_a_price_is_rejected_under_a_budget(replicas: Replicas) -> None:
    """And only there."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    unpriced = Call("chat.completions", "openai", "unpriced", "unpriced", {}, prompt_bytes=4)
    with pytest.raises(APIError) as rejected:
        await admission.admit(new_caller(budgets=(Budget(1, "day"),)), unpriced, uuid4())
    assert rejected.value.code == "price_unknown"
    assert await admission.admit(new_caller(), unpriced, uuid4())


async def test_a_budget_is_corrected_when_the_sidecars_log_has_exact_figures(replicas: Replicas) -> None:
    """Once, up or down; a call that was never sent costs nothing."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    corrections = Corrections(ledger)
    caller, watch = (
        new_caller(budgets=(Budget(10**6, "day"), Budget(10**7, "total"))),
        admission.watch_spending(),
    )
    calls = {uuid4(): exact for exact in (150, 20, 90)}
    for request_id in calls:
        lease = await admission.admit(caller, CALL, request_id)
        lease.settle(10, 90)
        await lease.wait_settled()
        corrections.add(request_id, lease)
    await corrections.step()
    assert [one.used for one in (await current_limits(admission, caller)).limit_statuses] == [270, 270]
    polls = [{one.spent for one in await watch.poll()} for _ in range(3)]
    assert polls == [set(), {270}, set()]
    ledger.logged = {one: (SettledUsage(10, exact), True) for one, exact in calls.items()}
    for _ in range(2):
        await corrections.step()
        await asyncio.sleep(0.1)
    polls = [{one.spent for one in await watch.poll()} for _ in range(3)]
    assert polls == [set(), {260}, set()]
    assert [one.used for one in (await current_limits(admission, caller)).limit_statuses] == [260, 260]


async def test_a_failed_call_of_unknown_cost_keeps_its_settlement(replicas: Replicas) -> None:
    """The ledger has its provider and no figures."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    corrections = Corrections(ledger)
    caller, request_id = new_caller(budgets=(Budget(10**6, "day"),)), uuid4()
    lease = await admission.admit(caller, CALL, request_id)
    lease.settle(0, 0)
    await lease.wait_settled()
    corrections.add(request_id, lease)
    ledger.logged = {request_id: (SettledUsage(None, None, "gpt"), False)}
    await corrections.step()
    assert lease.usage == SettledUsage(0, 0, "gpt")
    await asyncio.sleep(0.1)
    assert [one.used for one in (await current_limits(admission, caller)).limit_statuses] == [0]


async def test_a_counter_rebuilt_from_the_ledger_is_not_corrected_by_what_the_ledger_had(
    own: OwnValkey, replicas: Replicas
) -> None:
    """A budget below 0 was neither known nor unknown, and rejected its calls until its period ended."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    corrections = Corrections(ledger)
    caller = new_caller(budgets=(Budget(10**6, "day"),))
    request_id = uuid4()
    lease = await admission.admit(caller, CALL, request_id)
    lease.settle(10, 90)
    corrections.add(request_id, lease)
    await lease.wait_settled()
    await asyncio.sleep(0.01)
    await own.ask("FLUSHALL")
    ledger.spent_before, ledger.logged = 20, {request_id: (SettledUsage(10, 20), True)}
    assert await outcome(admission, caller) == "enforced"
    await corrections.step()
    assert await outcome(admission, caller) == "enforced"
    while admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
        await asyncio.sleep(0.01)
    assert [one.used for one in (await current_limits(admission, caller)).limit_statuses] == [40]


async def test_a_reservation_is_at_most_the_largest_budget(
    replicas: Replicas,
) -> None:
    """Larger sums are no integers in the store's scripts, which failed half-way, and each try was a 503."""
    admission = await replicas.start(HighestPrice(), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(10**6, "day"), Budget(10**6, "day", unit="tokens")))
    for _ in range(2):
        lease = await admission.admit(caller, CALL._replace(max_tokens=2**31 - 1, choices=10**6), uuid4())
        held = [one.held for one in (await current_limits(admission, caller)).limit_statuses]
        assert held == [2**53, (2**31 - 1) * 10**6 + 100]
        lease.settle(5, 5)
        await lease.wait_settled()
    assert [(one.used, one.held) for one in (await current_limits(admission, caller)).limit_statuses] == [
        (10, 0)
    ] * 2


class HighestPrice(Ledger):
    """A dollar a token."""

    def price(self, group: str) -> Price:  # noqa: ARG002 -- the protocol's
        """The highest possible."""
        return Price(10**12, 10**12)


async def test_a_replica_that_does_not_know_a_budget_rejects_during_an_outage(
    own: OwnValkey, replicas: Replicas
) -> None:
    """It may be retried: the money is not known to be spent."""
    admission = await replicas.start(Ledger(spent=0), budgets_on_store_failure="local")
    own.kill()
    caller = new_caller(budgets=(Budget(10**9, "day"),))
    await until("rate_limit_exceeded", admission, caller)
    with pytest.raises(BudgetHeld, match="The limits store is unavailable") as rejected:
        await admission.admit(caller, CALL, uuid4())
    assert rejected.value.retryable


IMAGES = CALL._replace(endpoint="images.generations", quantities=Quantities(images=2), max_tokens=None)
SPOKEN = CALL._replace(endpoint="audio.transcriptions", quantities=Quantities(audio_ms=61_500))


async def statuses(admission: AdmissionController, caller: Caller) -> list[tuple[int | None, int]]:
    """Used and held of each budget."""
    found = (await current_limits(admission, caller)).limit_statuses
    return [(one.used, one.held) for one in found]


async def test_a_budget_in_a_unit_reserves_what_a_call_asks_for_and_settles_what_it_used(
    replicas: Replicas,
) -> None:
    """Images and the milliseconds of audio, beside money; a chat takes nothing of either."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    units = Budget(3, "day", unit="images"), Budget(100_000, "day", unit="audio_seconds")
    caller = new_caller(budgets=(*units, Budget(10**6, "day")))
    drawing = await admission.admit(caller, IMAGES, uuid4())
    heard = await admission.admit(caller, SPOKEN, uuid4())
    assert await statuses(admission, caller) == [(0, 2), (0, 61_500), (0, 200)]
    with pytest.raises(BudgetHeld, match=r"0 of 3 images a day spent, 2 images held .*, 1 image left"):
        await admission.admit(caller, IMAGES, uuid4())
    drawing.settle(0, 150, "openai", Quantities(images=1))
    heard.settle(0, None, "openai", Quantities(audio_ms=60_000))
    for lease in (drawing, heard):
        await lease.wait_settled()
    assert await statuses(admission, caller) == [(1, 0), (60_000, 0), (150, 0)]


async def test_an_exhausted_budget_of_images_stops_images_and_nothing_else(replicas: Replicas) -> None:
    """It is used up with what a call used beyond its reservation; a chat goes on."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(2, "day", unit="images"),))
    lease = await admission.admit(caller, IMAGES, uuid4())
    lease.settle(0, 5, None, Quantities(images=4))
    await lease.wait_settled()
    with pytest.raises(BudgetExceeded, match="4 of 2 images a day spent, 0 images left"):
        await admission.admit(caller, IMAGES, uuid4())
    (await admission.admit(caller, CALL, uuid4())).settle(1, 1)
    (await admission.admit(caller, SPOKEN, uuid4())).settle(1, 1)
    assert await statuses(admission, caller) == [(4, 0)]


async def test_unknown_use_settles_as_reserved_and_is_corrected_from_the_ledger(replicas: Replicas) -> None:
    """The sidecar's log may know later how many images were made."""
    ledger = Ledger(spent=0)
    admission = await replicas.start(ledger, store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(10, "day", unit="images"),))
    request_id = uuid4()
    lease = await admission.admit(caller, IMAGES, request_id)
    lease.settle(None, None, None, None)
    await lease.wait_settled()
    assert await statuses(admission, caller) == [(2, 0)]
    corrections = Corrections(ledger)
    corrections.add(request_id, lease)
    ledger.logged = {request_id: (SettledUsage(0, 5, "gpt", Quantities(images=1)), True)}
    await corrections.step()
    await until_settled(admission)
    assert await statuses(admission, caller) == [(1, 0)]


async def test_money_for_images_is_their_price_and_an_unknown_price_is_refused(replicas: Replicas) -> None:
    """As for a chat."""
    admission = await replicas.start(Ledger(spent=0), store_timeout_ms=PATIENT_MS)
    caller = new_caller(budgets=(Budget(150, "day"),))
    lease = await admission.admit(caller, IMAGES, uuid4())
    with pytest.raises(BudgetHeld, match=r"needs about \$0\.0000002 \(2 images\)"):
        await admission.admit(caller, IMAGES, uuid4())
    lease.settle(0, 100, "openai", Quantities(images=1))
    with pytest.raises(Forbidden, match="no known price"):
        await admission.admit(caller, IMAGES._replace(group="unpriced"), uuid4())


async def until_settled(admission: AdmissionController) -> None:
    """Waits until the store has every settlement."""
    async with asyncio.timeout(5):
        while admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.01)
