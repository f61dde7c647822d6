"""The store of one process forgets what no longer counts."""

from llm_proxy.admission.limiter import NO_EPOCH, LimitCheck, LimiterRequest, LimitPlan
from llm_proxy.admission.memory_limiter import SWEEP_INTERVAL, BudgetCounter, MemoryLimiter


def test_subjects_nobody_counts_any_more_take_no_memory() -> None:
    """However many there were."""
    model = MemoryLimiter()
    for number in range(50):
        checks = (
            LimitCheck("requests", "agent", "a", f"r{number}", 5),
            LimitCheck("tokens", "agent", "a", f"t{number}", 5),
            LimitCheck("parallel", "agent", "a", f"p{number}", 5),
        )
        model.reserve(
            LimiterRequest(LimitPlan("t", "{t}", checks, 0), (1, 1, 1), NO_EPOCH, "lease", 30_000), 1_000
        )
        model.seed(f"b{number}", BudgetCounter(1, 2_000))
    assert (
        len(model.request_windows) == len(model.token_windows) == len(model.slots) == len(model.budgets) == 50
    )
    nothing = LimiterRequest(LimitPlan("t", "{t}", (), 0), (), NO_EPOCH, "lease", 30_000)
    for _ in range(SWEEP_INTERVAL):
        model.reserve(nothing, 100_000)
    assert (model.request_windows, model.token_windows, model.slots, model.budgets) == ({}, {}, {}, {})
