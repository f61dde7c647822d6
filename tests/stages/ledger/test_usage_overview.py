"""Pages show what usage queries answer: two ranges compared, and a range over time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import asyncpg
import pytest
from usage_records import random_record, write_records

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.ledger import PostgresUsage
from llm_proxy.ledger.usage_overview import ComparedName, Measure, NameSums, add_sums
from llm_proxy.ledger.usage_query import UsageQuery, UsageRow, parse_zone

NOW = datetime(2026, 11, 26, 11, 12, tzinfo=UTC)
NAMES = ("key", "tenant", "agent", "model")
FILTERS: list[dict[str, str]] = [
    {},
    {"tenant": "acme"},
    {"tenant": ""},
    {"agent": "a1", "provider": "openai"},
    {"user": "u1"},
]


def sums_of(row: UsageRow) -> NameSums:
    """The figures of a usage row that a name has."""
    return NameSums(row.requests, row.succeeded, row.total_tokens, row.cost_usd)


@pytest.fixture
async def usage(database_url: str) -> AsyncIterator[PostgresUsage]:
    """Ten days of calls, of which every other is summed by name."""
    dice = Random(3)  # noqa: S311 -- repeatable
    records = [
        random_record(dice)._replace(started_at=NOW - timedelta(seconds=dice.uniform(0, 10 * 86_400)))
        for _ in range(400)
    ]
    records[::8] = [one._replace(replay_of=str(one.request_id)) for one in records[::8]]
    async with asyncpg.create_pool(database_url, min_size=0, max_size=2) as pool:
        await write_records(pool, records)
        await pool.execute(
            "SELECT sum_usage_day(day) FROM (SELECT DISTINCT day FROM usage_daily) AS d"
            " WHERE extract(day FROM day)::int % 2 = 0"
        )
        yield PostgresUsage(pool)


@pytest.mark.parametrize("gap_hours", [0, 7])
async def test_a_comparison_equals_two_queries(usage: PostgresUsage, gap_hours: int) -> None:
    """Of any filter, with the range before ending earlier or not; the costliest names first."""
    since, until = NOW - timedelta(days=3), NOW + timedelta(hours=1)
    before = since - timedelta(days=3), since - timedelta(hours=gap_hours)
    for filters in FILTERS:
        found = await usage.compare(UsageQuery(since, until, NAMES, filters), before, 100, NOW)
        assert found.total == (await usage.query(UsageQuery(since, until, (), filters), NOW)).total
        assert found.before == (await usage.query(UsageQuery(*before, (), filters), NOW)).total
        for name in NAMES:
            now, then = [
                {
                    row.group[name]: sums_of(row)
                    for row in (await usage.query(UsageQuery(*span, (name,), filters), NOW)).rows
                }
                for span in ((since, until), before)
            ]
            shown = found.lists[name]
            assert {one.name: one.now for one in shown if one.now.requests} == now
            assert {one.name: one.before for one in shown if one.before.requests} == then
            costs = [max(one.now.cost_usd, one.before.cost_usd) for one in shown]
            assert costs == sorted(costs, reverse=True)
        first = await usage.compare(UsageQuery(since, until, ("agent",), filters), before, 2, NOW)
        assert list(first.lists["agent"]) == list(found.lists["agent"])[:2]


@pytest.mark.parametrize("measure", ["cost", "requests", "tokens", "errors"])
async def test_usage_over_time_equals_the_query_by_the_same_groups(
    usage: PostgresUsage, measure: Measure
) -> None:
    """The first names, and the rest of them: together all; of any unit of time and zone."""
    for unit, zone in (("hour", "UTC"), ("day", "UTC"), ("day", "Asia/Kolkata"), ("week", "Europe/Berlin")):
        for name in ("agent", "key", "model"):
            query = UsageQuery(NOW - timedelta(days=5), NOW, (name, unit), {}, parse_zone(zone))
            found = await usage.over_time(query, measure, 2, NOW)
            by_name = (await usage.query(UsageQuery(query.since, NOW, (name,)), NOW)).rows
            ranked = sorted(
                by_name,
                key=lambda row: (-sums_of(row).measure(measure), -row.requests, row.group[name] or ""),
            )
            assert [one.name for one in found.series if not one.is_rest] == [
                row.group[name] for row in ranked[:2]
            ]
            assert [one.total for one in found.series] == [
                *(sums_of(row) for row in ranked[:2]),
                add_sums(sums_of(row) for row in ranked[2:]),
            ]
            rows = (await usage.query(UsageQuery(query.since, NOW, (unit,), {}, query.zone), NOW)).rows
            of_times = [add_sums(one.by_time[at] for one in found.series) for at in range(len(found.times))]
            assert [one for one in of_times if one.requests] == [sums_of(row) for row in rows]


async def test_usage_over_time_without_a_name_is_one_series(usage: PostgresUsage) -> None:
    """And nothing is found in a range without calls."""
    found = await usage.over_time(UsageQuery(NOW - timedelta(days=2), NOW, ("day",)), "cost", 5, NOW)
    [only] = found.series
    whole = (await usage.query(UsageQuery(NOW - timedelta(days=2), NOW), NOW)).total
    assert (only.name, only.is_rest, only.total) == (None, False, sums_of(whole))
    long_ago = UsageQuery(NOW - timedelta(days=400), NOW - timedelta(days=390), ("agent", "day"))
    nothing = await usage.over_time(long_ago, "cost", 5, NOW)
    assert list(nothing.series) == []
    compared = await usage.compare(
        UsageQuery(long_ago.since, long_ago.until, ("agent",)),
        (long_ago.since - timedelta(days=1), long_ago.since),
        5,
        NOW,
    )
    assert (compared.total.requests, list(compared.lists["agent"])) == (0, [])


async def test_unknown_names_and_groups_are_rejected(usage: PostgresUsage) -> None:
    """As by usage queries; a restricted viewer learns of no other key."""
    since = NOW - timedelta(days=2)
    before = since - timedelta(days=2), since
    with pytest.raises(NotFound):
        await usage.compare(UsageQuery(since, NOW, (), {"agent": "nobody"}), before, 5, NOW)
    with pytest.raises(NotFound):
        await usage.over_time(UsageQuery(since, NOW, ("day",), {"agent": "nobody"}), "cost", 5, NOW)
    with pytest.raises(NotFound):
        await usage.compare(UsageQuery(since, NOW, (), {"key": "k2"}, only_key="k1"), before, 5, NOW)
    own = await usage.compare(UsageQuery(since, NOW, ("key",), only_key="k1"), before, 5, NOW)
    assert {one.name for one in own.lists["key"]} == {"k1"}
    for by in (("tag", "day"), ("agent", "model", "day"), ("agent",)):
        with pytest.raises(BadRequest):
            await usage.over_time(UsageQuery(since, NOW, by), "cost", 5, NOW)
    with pytest.raises(BadRequest):
        await usage.compare(UsageQuery(since, NOW, ("day",)), before, 5, NOW)
    assert (
        ComparedName("x", None, NameSums(cost_usd=Decimal(3)), NameSums(cost_usd=Decimal(5))).change_usd == -2
    )
