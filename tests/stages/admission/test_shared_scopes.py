"""Policies that count the calls of all tenants, on a real Valkey and in one process."""

import asyncio
import logging
from collections.abc import AsyncIterator
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
)

from llm_proxy.admission import AdmissionController, current_limits
from llm_proxy.admission.corrections import Corrections
from llm_proxy.admission.lease import SettledUsage
from llm_proxy.errors import BudgetExceeded, BudgetHeld, RateLimited
from llm_proxy.identity import Budget, LimitPolicy, Limits
from llm_proxy.identity.caller import BudgetUnit

UNITS: tuple[BudgetUnit, ...] = "usd", "tokens", "requests"
BOTH = CALL._replace(model="gpt-x", group="gpt-x")
"""A call to a group whose provider is `gpt`; it may fall back to `spare`."""


@pytest.fixture(params=["shared", "process"])
async def one_or_two(request: pytest.FixtureRequest, own: OwnValkey) -> AsyncIterator[Replicas]:
    """Replicas that count on a Valkey, or one that counts alone."""
    made = Replicas(own.url if request.param == "shared" else None)
    yield made
    await made.stop()


async def used(
    admission: AdmissionController, scope: str, by: str = "kind"
) -> dict[tuple[str, str], int | None]:
    """What the policies of a scope have counted, by subject and kind, or unit."""
    found = (await current_limits(admission, new_caller(), "gpt-x")).limit_statuses
    return {
        (one.check.subject, getattr(one.check, by)): one.used for one in found if one.check.scope == scope
    }


async def settled(admission: AdmissionController) -> None:
    """Waits until the store has every settlement."""
    async with asyncio.timeout(5):
        while admission.state().unsettled:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)


async def test_all_tenants_together_get_the_global_limit(replicas: Replicas) -> None:
    """From two replicas, in any order."""
    rule = LimitPolicy("global", limits=Limits(rpm=12))
    both = [await replicas.start(Ledger(), rule, store_timeout_ms=PATIENT_MS) for _ in range(2)]
    fared = await asyncio.gather(*(outcome(both[number % 2], new_caller()) for number in range(40)))
    assert (fared.count("enforced"), fared.count("rate_limit_exceeded")) == (12, 28)


async def test_a_global_budget_starts_with_the_ledgers_spend(one_or_two: Replicas) -> None:
    """The error does not show how much that is."""
    rule = LimitPolicy("global", budgets=(Budget(1_000 + 2 * COST_NANO_USD, "month"),))
    admission = await one_or_two.start(Ledger(spent=1_000), rule, store_timeout_ms=PATIENT_MS)
    for _ in range(2):
        lease = await admission.admit(new_caller(), CALL, uuid4())
        lease.settle(200, COST_NANO_USD)
        await settled(admission)
    with pytest.raises(BudgetExceeded) as refused:
        await admission.admit(new_caller(), CALL, uuid4())
    assert not any(letter.isdigit() for letter in refused.value.message)


async def test_held_money_of_all_callers_is_held_in_a_rebuilt_counter(
    own: OwnValkey, replicas: Replicas
) -> None:
    """Whoever's call notices that the store was emptied."""
    rule = LimitPolicy("global", budgets=(Budget(3 * COST_NANO_USD, "month"),))
    admission = await replicas.start(Ledger(spent=0), rule, store_timeout_ms=PATIENT_MS)
    for _ in range(3):
        await admission.admit(new_caller(), CALL, uuid4())
    await own.ask("FLUSHALL")
    with pytest.raises(BudgetHeld):
        await admission.admit(new_caller(), CALL, uuid4())


async def test_a_call_counts_at_the_provider_that_served_it(one_or_two: Replicas) -> None:
    """Tokens and money; requests at every provider that might have."""
    rule = LimitPolicy("provider", limits=Limits(rpm=9, tpm=9_000), budgets=(Budget(10**6, "month"),))
    admission = await one_or_two.start(Ledger(spent=0), rule, store_timeout_ms=PATIENT_MS)
    for provider, tokens, cost in (("gpt", 30, 40), ("spare", 50, 60), (None, 0, 0)):
        lease = await admission.admit(new_caller(), BOTH, uuid4())
        lease.settle(tokens, cost, provider)
    await settled(admission)
    assert await used(admission, "provider") == {
        ("provider gpt", "requests"): 3,
        ("provider gpt", "tokens"): 30,
        ("provider gpt", "budget"): 40,
    }
    spare = BOTH._replace(model="spare-x", group="spare-x", max_tokens=9_000)
    running = await admission.admit(new_caller(), spare._replace(max_tokens=10), uuid4())
    with pytest.raises(RateLimited):
        await admission.admit(new_caller(), spare, uuid4())
    running.settle(0, 0)
    await settled(admission)
    found = (await current_limits(admission, new_caller(), "spare-x")).limit_statuses
    assert {one.check.kind: one.used for one in found if one.check.scope == "provider"}["tokens"] == 50


async def test_an_abandoned_call_counts_at_every_provider_until_the_ledger_knows_it(
    one_or_two: Replicas,
) -> None:
    """Then a counter holds what a rebuilt one would, in every unit; of an unserved call 0."""
    rule = LimitPolicy("provider", budgets=tuple(Budget(10**6, "month", unit=unit) for unit in UNITS))
    ledger = TwoProviders(spent=0)
    admission = await one_or_two.start(ledger, rule, store_timeout_ms=PATIENT_MS)
    corrections = Corrections(ledger)
    calls = [uuid4() for _ in range(3)]
    for request_id in calls:
        lease = await admission.admit(new_caller(), BOTH, request_id)
        lease.settle(10, 90)
        await settled(admission)
        corrections.add(request_id, lease)
    assert await used(admission, "provider", by="unit") == {
        ("provider gpt", "usd"): 270, ("provider gpt", "tokens"): 30, ("provider gpt", "requests"): 3,
        ("provider other", "usd"): 270, ("provider other", "tokens"): 30, ("provider other", "requests"): 3,
    }  # fmt: skip
    at_first, later = SettledUsage(10, 90, "gpt"), SettledUsage(12, 100, "gpt")
    ledger.logged = {calls[0]: (SettledUsage(20, 50, "other"), True), calls[1]: (at_first, False)}
    await corrections.step()
    ledger.logged = {calls[1]: (later, True)}
    await corrections.step()
    corrections.max_age_s = 0
    await corrections.step()
    await settled(admission)
    assert await used(admission, "provider", by="unit") == {
        ("provider gpt", "usd"): 100, ("provider gpt", "tokens"): 12, ("provider gpt", "requests"): 1,
        ("provider other", "usd"): 50, ("provider other", "tokens"): 20, ("provider other", "requests"): 1,
    }  # fmt: skip


async def test_the_limits_of_an_alias_are_its_groups(replicas: Replicas) -> None:
    """As a call by that name meets them."""
    rule = LimitPolicy("tenant_group", group="gpt-x", limits=Limits(rpm=3))
    admission = await replicas.start(Aliased(), rule, store_timeout_ms=PATIENT_MS)
    for name in ("gpt-x", "short"):
        found = (await current_limits(admission, new_caller(), name)).limit_statuses
        assert [one.check.limit for one in found if one.check.scope == "tenant_group"] == [3]


class Aliased(Ledger):
    """`short` is another name of `gpt-x`."""

    def resolved(self, name: str) -> str:
        """The group."""
        return "gpt-x" if name == "short" else name


class TwoProviders(Ledger):
    """Every group is served by two."""

    def providers(self, group: str) -> tuple[str, ...]:
        """The group's own, and another."""
        return (*super().providers(group), "other")


@pytest.mark.parametrize("capped", [True, False])
async def test_a_production_start_without_a_global_budget_logs_it_once(
    replicas: Replicas, caplog: pytest.LogCaptureFixture, *, capped: bool
) -> None:
    """A shadow budget limits nothing."""
    rule = LimitPolicy("global", budgets=(Budget(1, "day"),), mode=None if capped else "shadow")
    with caplog.at_level(logging.WARNING):
        await replicas.start(
            Ledger(), rule, environment="production", internal_api_key="k" * 40, admin_key="a" * 40
        )
    said = [one for one in caplog.messages if "scope `global`" in one]
    assert len(said) == (not capped)
