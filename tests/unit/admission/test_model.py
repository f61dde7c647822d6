"""The store of one process forgets what no longer counts."""

from llm_proxy.admission.limiter import NO_EPOCH, Ask, Check, Plan
from llm_proxy.admission.memory_limiter import SWEEP_EVERY, Counter, Model


def test_subjects_nobody_counts_any_more_take_no_memory() -> None:
    """However many there were."""
    model = Model()
    for number in range(50):
        checks = (
            Check("requests", "agent", "a", f"r{number}", 5),
            Check("tokens", "agent", "a", f"t{number}", 5),
            Check("parallel", "agent", "a", f"p{number}", 5),
        )
        model.admit(Ask(Plan("t", "{t}", checks, 0), (1, 1, 1), NO_EPOCH, "lease", 30_000), 1_000)
        model.seed(f"b{number}", Counter(1, 2_000))
    assert len(model.windows) == len(model.buckets) == len(model.places) == len(model.counters) == 50
    nothing = Ask(Plan("t", "{t}", (), 0), (), NO_EPOCH, "lease", 30_000)
    for _ in range(SWEEP_EVERY):
        model.admit(nothing, 100_000)
    assert (model.windows, model.buckets, model.places, model.counters) == ({}, {}, {}, {})
