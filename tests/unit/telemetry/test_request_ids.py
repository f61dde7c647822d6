"""Request ids tell their time and come in order."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from llm_proxy.telemetry import timestamp_of, uuid7
from llm_proxy.telemetry.request_ids import RequestIds


def test_ids_are_version_7_and_strictly_increasing() -> None:
    """Also within a millisecond, as RFC 9562 wants of one source."""
    ids = [uuid7() for _ in range(5000)]
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_an_id_tells_when_it_was_made() -> None:
    """To the millisecond."""
    made = timestamp_of(uuid7())
    assert abs(datetime.now(UTC) - made) < timedelta(seconds=1)


def test_any_other_uuid_tells_some_moment_and_is_no_exception() -> None:
    """A caller may ask for any id; a search at that moment finds nothing."""
    for number in (0, 2**128 - 1, 0xFBA6CCACA4DC3440807D9F6072D691EA):
        assert timestamp_of(UUID(int=number)).year < 9000


def test_two_sources_do_not_meet() -> None:
    """Two workers make different ids in the same instant."""
    one, other = RequestIds(), RequestIds()
    ids = [make() for _ in range(2000) for make in (one, other)]
    assert len(set(ids)) == len(ids)
