"""What a lease settles."""

import pytest

from llm_proxy.admission.lease import ActiveLeases, Lease, Reservation, SettledUsage
from llm_proxy.admission.limiter import (
    ADMITTED,
    NO_EPOCH,
    LimitCheck,
    LimiterRequest,
    LimiterResult,
    LimitPlan,
)
from llm_proxy.admission.memory_backend import MemoryBackend
from llm_proxy.admission.settlements import SettlementQueue
from llm_proxy.identity import Caller

TOKENS = LimitCheck("tokens", "provider", "provider p", "k", 100, spender_id="p")
MONEY = LimitCheck("budget", "key", "key k", "k", 100, period="month")
ONE_OF_EACH_KIND = (
    ((LimitCheck("requests", "key", "key k", "k", 100),), ()),
    ((LimitCheck("duration", "run", "run r", "k", 100),), ()),
    ((LimitCheck("parallel", "key", "key k", "k", 100),), ()),
    ((TOKENS,), ()),
    ((MONEY,), ()),
    ((), (TOKENS,)),
    ((), ()),
)


@pytest.mark.parametrize(("checks", "fallback_checks"), ONE_OF_EACH_KIND)
def test_a_plan_says_whether_its_calls_settle_anything(
    checks: tuple[LimitCheck, ...], fallback_checks: tuple[LimitCheck, ...]
) -> None:
    """A call of any other plan has nothing to send, and no caller waits for it."""
    plan = LimitPlan("t", "{t}", checks, 0, fallback_checks)
    backend, counted = MemoryBackend(), (90,) * len(checks)
    reservation = Reservation(
        LimiterRequest(plan, counted, NO_EPOCH, "lease", 30_000),
        LimiterResult(ADMITTED, 0, 0, *(((0,) * len(checks),) * 4)),
        backend,
        SettlementQueue(backend, "r", 0.0),
    )
    assert bool([*reservation.settlement_entries(SettledUsage(5, 5, "p"))]) is plan.settles
    assert reservation.is_tight is bool(checks and plan.settles)
    assert Lease(Caller("k", "virtual"), tuple, (reservation,), ActiveLeases()).settles is plan.settles
