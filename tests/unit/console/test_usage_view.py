"""The ranges that pages of usage compare, and results that are kept for seconds."""

import asyncio
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest

from llm_proxy.console.pages.overview import change
from llm_proxy.console.result_cache import MAX_ENTRIES, ResultCache
from llm_proxy.console.usage_view import range_before

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: tzinfo = UTC) -> datetime:
    """A time there, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@pytest.mark.parametrize(
    ("since", "until", "now", "before"),
    [
        ("2026-03-02", "2026-03-09", "2026-05-01", ("2026-02-23", "2026-03-02")),
        ("2026-03-09", "2026-03-13", "2026-03-12T09:20", ("2026-03-05", "2026-03-08T10:00")),
        ("2026-03-01", "2026-04-01", "2026-05-01", ("2026-02-01", "2026-03-01")),
        ("2026-03-01", "2026-03-12", "2026-03-11T09:20", ("2026-02-01", "2026-02-11T10:00")),
        ("2026-03-01", "2026-04-01", "2026-03-30T09:20", ("2026-02-01", "2026-03-01")),
        ("2026-03-01", "2026-03-02", "2026-04-01", ("2026-02-28", "2026-03-01")),
        ("2026-01-01", "2026-04-01", "2026-03-20T09:20", ("2025-10-03", "2025-12-21")),
        ("2026-05-01", "2026-05-02", "2026-04-01", ("2026-04-30", "2026-05-01")),
    ],
)
def test_the_range_before_is_as_long_as_what_is_over(
    since: str, until: str, now: str, before: tuple[str, str]
) -> None:
    """A month is compared with the month before it; a running range with its beginning only."""
    found = range_before(at(since), at(until), at(now), UTC)
    assert found == (at(before[0]), at(before[1]))


def test_a_month_is_that_of_the_zone() -> None:
    """With its change of clocks."""
    found = range_before(at("2026-04-01", BERLIN), at("2026-05-01", BERLIN), at("2026-06-01"), BERLIN)
    assert found == (at("2026-03-01", BERLIN), at("2026-04-01", BERLIN))


def test_a_change_is_told_in_words() -> None:
    """Without a sign that has to be guessed."""
    assert [change(3, 2), change(1, 2), change(1000, 1001), change(1, 0), change(0, 0), change(None, 1)] == [
        "50 % more", "50 % less", "as before", "none before", "", "",
    ]  # fmt: skip


async def test_a_result_is_read_once_until_its_time_is_over() -> None:
    """By all who ask for it; by another key anew; a failure is not kept."""
    now, reads = 100.0, list[str]()
    cache = ResultCache(5, lambda: now)

    async def read(name: str) -> str:
        reads.append(name)
        await asyncio.sleep(0)
        if name == "fails":
            raise LookupError
        return f"{name} {len(reads)}"

    both = await asyncio.gather(*(cache.get(("all", 1), lambda: read("all")) for _ in range(2)))
    assert both == ["all 1", "all 1"]
    assert await cache.get(("acme", 1), lambda: read("acme")) == "acme 2"
    now += 4.9
    assert await cache.get(("all", 1), lambda: read("all")) == "all 1"
    now += 0.2
    assert await cache.get(("all", 1), lambda: read("all")) == "all 3"
    for _ in range(2):
        with pytest.raises(LookupError):
            await cache.get("fails", lambda: read("fails"))
    assert reads.count("fails") == 2
    for number in range(2 * MAX_ENTRIES):
        await cache.get(number, lambda: read("many"))
    assert await cache.get(("all", 1), lambda: read("all")) != "all 3"


async def test_who_leaves_while_it_reads_takes_nothing_from_others() -> None:
    """The next one reads."""
    cache, go = ResultCache(), asyncio.Event()

    async def read() -> str:
        await go.wait()
        return "read"

    first, second = (asyncio.create_task(cache.get("key", read)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert await second == "read"
