"""What the calls that ended say of their models."""

from pathlib import Path
from typing import Any

import pytest
from usage_records import record

from llm_proxy.ledger import SharedVitals, Vital, Vitals
from llm_proxy.ledger.worker_slot import acquire_slot

NOON_S = 1_800_000_000.0


class Clock:
    """A clock the test turns."""

    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def known(vitals: Vitals, group: str = "gpt-4o-mini") -> Vital:
    found = vitals.group(group)
    assert found is not None
    return found


def test_a_success_counts_for_its_group_and_its_deployment(clock: Clock) -> None:
    """With the time it ended."""
    vitals = Vitals(clock)
    vitals.finished(record())
    deployment = vitals.deployment("d-1")
    assert deployment is not None
    for one in (known(vitals), deployment):
        assert (one.last_success_s, one.last_failure_s, one.lately(NOON_S)) == (NOON_S, None, (1, 0))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"outcome": "error", "status": 502, "refusal_code": "provider_failed"}, "provider_failed"),
        ({"outcome": "error", "status": 429, "refusal_code": None}, "429"),
        ({"outcome": "cut", "status": 200, "refusal_code": "upstream_stream_cut"}, "upstream_stream_cut"),
    ],
)
def test_a_provider_s_failure_counts_with_its_code(clock: Clock, changes: Any, code: str) -> None:
    """Also one that comes in the middle of a stream."""
    vitals = Vitals(clock)
    vitals.finished(record(deployment=None, **changes))
    assert (known(vitals).code, known(vitals).lately(NOON_S)) == (code, (1, 1))


@pytest.mark.parametrize(
    "changes",
    [{"outcome": "error", "status": 400}, {"outcome": "client_gone", "status": 0}, {"cache": "hit"}],
)
def test_what_is_not_the_model_s_doing_says_nothing_of_it(clock: Clock, changes: Any) -> None:
    """A caller's fault, a caller who left, an answer from the cache."""
    vitals = Vitals(clock)
    vitals.finished(record(**changes))
    assert vitals.group("gpt-4o-mini") is None


def test_only_the_last_five_minutes_make_the_rate(clock: Clock) -> None:
    """The times of the last success and failure stay."""
    vitals = Vitals(clock)
    vitals.finished(record(outcome="error", status=500))
    clock.now_s += 240
    vitals.finished(record())
    assert known(vitals).lately(clock.now_s) == (2, 1)
    clock.now_s += 120
    assert known(vitals).lately(clock.now_s) == (1, 0)
    assert known(vitals).last_failure_s == NOON_S
    clock.now_s += 600
    assert known(vitals).lately(clock.now_s) == (0, 0)
    vitals.finished(record())
    assert known(vitals).lately(clock.now_s) == (1, 0)


FAILED: dict[str, Any] = {"outcome": "error", "status": 502, "refusal_code": "provider_failed"}


def test_workers_add_up_whoever_is_asked(tmp_path: Path, clock: Clock) -> None:
    """Calls and failures by the minute; the latest success and the latest failure of any."""
    both = [Vitals(clock), Vitals(clock)]
    shared = [SharedVitals(own, acquire_slot(tmp_path).path) for own in both]
    both[0].finished(record())
    clock.now_s += 70
    both[1].finished(record(**FAILED))
    clock.now_s += 1
    both[0].finished(record())
    for one in shared:
        one.tell()
    for one in shared:
        seen = known(one.together())
        assert seen.lately(clock.now_s) == (3, 1)
        assert (seen.last_success_s, seen.last_failure_s) == (NOON_S + 71, NOON_S + 70)
        assert seen.code == "provider_failed"


def test_who_takes_a_seat_counts_on(tmp_path: Path, clock: Clock) -> None:
    """What its last owner saw is not lost; a file that is not one says nothing."""
    seat = acquire_slot(tmp_path)
    own = Vitals(clock)
    own.finished(record(**FAILED))
    SharedVitals(own, seat.path).tell()
    seat.release()
    heir = Vitals(clock)
    SharedVitals(heir, acquire_slot(tmp_path).path)
    assert known(heir).lately(NOON_S) == (1, 1)
    (seat.path / "vitals.json").write_text("[1")
    assert SharedVitals(Vitals(clock), seat.path).together().group("gpt-4o-mini") is None
