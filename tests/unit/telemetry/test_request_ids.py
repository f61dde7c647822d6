"""Request ids hold their time and are increasing."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from llm_proxy.telemetry import timestamp_of, uuid7
from llm_proxy.telemetry.request_ids import RequestIds


def test_ids_are_version_7_and_strictly_increasing() -> None:
    """Also within a millisecond, as RFC 9562 demands."""
    ids = [uuid7() for _ in range(5000)]
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_id_holds_its_time() -> None:
    """In milliseconds."""
    made = timestamp_of(uuid7())
    assert abs(datetime.now(UTC) - made) < timedelta(seconds=1)


def test_other_uuids_give_an_arbitrary_time() -> None:
    """Callers may query any id; nothing is found at that time."""
    for number in (0, 2**128 - 1, 0xFBA6CCACA4DC3440807D9F6072D691EA):
        assert timestamp_of(UUID(int=number)).year < 9000


def test_two_generators_do_not_collide() -> None:
    """Two workers generate different ids at the same time."""
    one, other = RequestIds(), RequestIds()
    ids = [make() for _ in range(2000) for make in (one, other)]
    assert len(set(ids)) == len(ids)
