"""Usage of any range, zone and group equals the plain sum over the rows, computed by the test itself."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from math import ceil
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from usage_records import add_child_keys, random_record, record, write_records

from llm_proxy.errors import NotFound
from llm_proxy.ledger import MemoryUsage, PostgresUsage, UsageRecord
from llm_proxy.ledger.latency_histogram import MAX_RELATIVE_ERROR
from llm_proxy.ledger.usage_query import NAME_COLUMNS, TIME_UNITS, UsageQuery, UsageResult

NOW = datetime(2026, 11, 26, 11, 12, tzinfo=UTC)
DAYS = [
    *(date(2026, 10, day) for day in (3, 4, 24, 25, 26, 31)),
    *(date(2026, 11, day) for day in (1, 2, 24, 25, 26)),
]
"""On some of them the clocks of Berlin, New York and Lord Howe change; of the first no hours are kept."""
FIRST = datetime(2026, 10, 3, tzinfo=UTC)
ZONES: list[tzinfo] = [
    UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11)),
    *map(ZoneInfo, ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu",
                    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "America/Scoresbysund")),
]  # fmt: skip
FIELDS = {"key": "key_id", "model": "group"}


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with these calls in it."""

    usage: PostgresUsage
    records: list[UsageRecord]
    written: list[UsageRecord]
    """Answers replayed for an idempotency key too, which are no calls."""


@pytest.fixture
async def filled(database_url: str) -> AsyncIterator[Filled]:
    """Two months of calls, many of them at the edges of hours."""
    chance = Random(5)  # noqa: S311 -- a test's dice
    records = [some_record(chance) for _ in range(700)]
    replays = [some_record(chance)._replace(replay_of=str(records[0].request_id)) for _ in range(100)]
    written = [*records, *replays]
    chance.shuffle(written)
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as pool:
        await write_records(pool, written)
        yield Filled(PostgresUsage(pool), records, written)


def some_record(chance: Random) -> UsageRecord:
    """A call at some time, often a round one."""
    day = datetime.combine(chance.choice(DAYS), time(), UTC)
    started_at = day + timedelta(seconds=chance.uniform(0, 86_399))
    if chance.random() < 0.3:
        started_at = started_at.replace(minute=chance.choice([0, 15, 30, 45]), second=0, microsecond=0)
    return random_record(chance)._replace(
        started_at=started_at,
        session=chance.choice([None, "s1", "s2"]),
        run=chance.choice([None, "r1"]),
        tags=chance.choice([None, None, "a", "b", "a,b", "b,c,a"]),
    )


def some_question(chance: Random) -> UsageQuery:
    """Any range, zone, groups and filters."""
    begin, end = sorted(
        FIRST + timedelta(seconds=chance.randrange(-86_400, int((NOW - FIRST).total_seconds()) + 86_400))
        for _ in range(2)
    )
    step = chance.choice([1, 60, 1800, 3600, 86_400])
    since = datetime.fromtimestamp(int(begin.timestamp()) // step * step, UTC)
    until = datetime.fromtimestamp(int(end.timestamp()) // step * step + step, UTC)
    by = chance.sample([*NAME_COLUMNS, *TIME_UNITS], chance.randrange(4))
    where: dict[str, str] = {}
    if chance.random() < 0.5:
        name, value = chance.choice(
            [("agent", "a1"), ("tenant", ""), ("user", "u1"), ("user", ""), ("tag", "a"), ("tag", ""),
             ("key", "k2"), ("session", "s1"), ("provider", "openai"), ("model", "gpt"),
             ("day", "2026-10-25"), ("week", "2026-11-02"), ("month", "2026-10"),
             ("hour", "2026-11-02T01:00")]
        )  # fmt: skip
        where[name] = value
    return UsageQuery(since, until, tuple(by), where, chance.choice(ZONES))


def times(record: UsageRecord, zone: tzinfo) -> dict[str, str]:
    """A call's hour, day, week and month there, as text."""
    local = record.started_at.astimezone(zone)
    monday = local.date() - timedelta(days=local.isoweekday() - 1)
    return {
        "hour": local.isoformat()[:13] + ":00:00" + local.isoformat()[-6:],
        "day": local.strftime("%Y-%m-%d"), "week": monday.isoformat(), "month": local.strftime("%Y-%m"),
    }  # fmt: skip


def names(record: UsageRecord, name: str) -> list[str | None]:
    """What a call is called in a dimension; tags may be several."""
    if name == "tag":
        return [*record.tags.split(",")] if record.tags else [None]
    return [getattr(record, FIELDS.get(name, name))]


def selected(record: UsageRecord, query: UsageQuery) -> bool:
    """Whether a call is in the range and passes the filters."""
    if not query.since <= record.started_at < query.until:
        return False
    of_time = times(record, query.zone)
    return all(
        of_time[name].startswith(value) if name in of_time else (value or None) in names(record, name)
        for name, value in query.filters.items()
    )


def plain_sum(records: list[UsageRecord], query: UsageQuery) -> dict[tuple[Any, ...], list[UsageRecord]]:
    """The calls of each group."""
    groups: dict[tuple[Any, ...], list[UsageRecord]] = defaultdict(list)
    for one in records:
        if not selected(one, query):
            continue
        of_time = times(one, query.zone)
        keys: list[tuple[Any, ...]] = [()]
        for name in query.group_by:
            values = [of_time[name]] if name in of_time else names(one, name)
            keys = [(*key, value) for key in keys for value in values]
        for key in keys:
            groups[key].append(one)
    return groups


def reported(answer: UsageResult, query: UsageQuery) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """An answer's lines: calls, tokens, cost."""
    return {
        tuple(text(line.group[name]) for name in query.group_by): (
            line.requests, line.prompt_tokens, line.cost_usd, line.unpriced_requests,
            round(line.avg_latency_ms or 0, 1), line.p50_latency_ms, line.p95_latency_ms, line.p50_ttft_ms,
            line.p95_ttft_ms,
        )
        for line in answer.rows
    }  # fmt: skip


def text(value: object) -> object:
    """Times as text."""
    return value.isoformat() if isinstance(value, date) else value


def used(record: UsageRecord) -> bool:
    """Whether a call is known to have used tokens, images, audio, characters or searches."""
    units = (record.images, record.audio_ms, record.characters, record.search_units)
    return any((record.prompt_tokens, record.completion_tokens, *units))


def sums(records: list[UsageRecord]) -> tuple[Any, ...]:
    """The same of calls."""
    timed = [one.latency_ms for one in records if one.outcome != "lost"]
    return (
        len(records),
        sum(one.prompt_tokens or 0 for one in records),
        Decimal(sum(one.cost_nano_usd or 0 for one in records)).scaleb(-9),
        sum(one.cost_nano_usd is None and (one.outcome == "ok" or used(one)) for one in records),
        pytest.approx(sum(timed) / len(timed) if timed else 0, abs=0.2),
        *(near_percentile(timed, percent) for percent in (50, 95)),
        *(near_percentile([one.ttft_ms for one in records if one.ttft_ms], percent) for percent in (50, 95)),
    )


def near_percentile(times_ms: list[float], percent: int) -> object:
    """What equals the nearest-rank percentile but for a histogram's error."""
    if not times_ms:
        return None
    exact = sorted(times_ms)[ceil(len(times_ms) * percent / 100) - 1]
    return pytest.approx(exact, rel=MAX_RELATIVE_ERROR + 0.001)


async def test_every_query_equals_the_plain_sum_over_the_rows(filled: Filled) -> None:
    """A hundred queries, in Postgres and in memory; the total counts each call once."""
    chance, memory = Random(11), MemoryUsage()  # noqa: S311 -- repeatable
    for one in filled.written:
        memory.add(one)
    for _ in range(100):
        query = some_question(chance)
        groups = plain_sum(filled.records, query)
        expected = {group: sums(calls) for group, calls in groups.items()}
        whole = {one.request_id: one for calls in groups.values() for one in calls}
        for keeper in (filled.usage, memory):
            answer = await keeper.query(query, NOW)
            assert not answer.unknown_spans
            assert not answer.total_unknown_spans
            if query.group_by:
                assert reported(answer, query) == expected, query
            assert answer.total.requests == len(whole), query
            assert answer.total.cost_usd == sums([*whole.values()])[2], query


async def test_a_replay_that_is_written_again_or_renamed_counts_nowhere_still(filled: Filled) -> None:
    """Estimates are made exact, people renamed: the sums follow the rows of calls alone."""
    await filled.usage.pool.execute(
        "UPDATE requests SET user_id = 'u9', prompt_tokens = 7 WHERE replay_of IS NOT NULL OR user_id = 'u2'"
    )
    since = FIRST - timedelta(days=1)
    changed = [
        one._replace(user="u9", prompt_tokens=7) if one.user == "u2" else one for one in filled.records
    ]
    for by in (("user",), ("user", "model"), ("day",), ("hour",)):
        query = UsageQuery(since, NOW, by)
        expected = {group: sums(calls) for group, calls in plain_sum(changed, query).items()}
        assert reported(await filled.usage.query(query, NOW), query) == expected
    left = "SELECT count(*) FROM usage_users WHERE replays < 0 OR user_id = 'u2' AND replays <> 0"
    assert await filled.usage.pool.fetchval(left) == 0


async def test_parts_of_days_without_rows_are_reported_as_unknown(filled: Filled) -> None:
    """A part of such a day is not guessed; a day without calls is answered."""
    pool, records = filled.usage.pool, filled.records
    late = NOW + timedelta(days=60)
    await pool.execute("SELECT requests_retire('2026-11-01')")
    day, noon = datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 10, 25, 12, tzinfo=UTC)
    whole = await filled.usage.query(UsageQuery(day, day + timedelta(days=1)), late)
    assert whole.total.requests == sum(one.started_at.date() == day.date() for one in records)
    assert whole.unknown_spans == []
    part = await filled.usage.query(UsageQuery(noon, day + timedelta(days=2)), late)
    assert part.unknown_spans == part.total_unknown_spans == [(noon, day + timedelta(days=1))]
    assert part.total.requests == sum(one.started_at.date() == date(2026, 10, 26) for one in records)
    unused = await filled.usage.query(UsageQuery(noon - timedelta(days=5), noon - timedelta(days=4)), late)
    assert (unused.total.requests, unused.unknown_spans) == (0, [])
    kolkata = await filled.usage.query(UsageQuery(day, day + timedelta(days=2), ("day",), {}, ZONES[1]), late)
    assert kolkata.total_unknown_spans == []
    assert kolkata.total.requests == whole.total.requests + part.total.requests
    assert kolkata.unknown_spans == [(day, day + timedelta(days=2))]
    tagged = await filled.usage.query(UsageQuery(day, day + timedelta(days=2), ("tag",)), late)
    assert (list(tagged.rows), tagged.unknown_spans) == ([], [(day, day + timedelta(days=2))])
    assert tagged.total.requests == kolkata.total.requests


async def test_top_rows_are_those_of_each_time(filled: Filled) -> None:
    """As in memory; the total stays that of all."""
    memory = MemoryUsage()
    for one in filled.written:
        memory.add(one)
    since, until = NOW - timedelta(days=3), NOW
    for by in (("agent",), ("day", "agent"), ("key", "hour")):
        every, top = (UsageQuery(since, until, by, zone=ZONES[5], top=top) for top in (None, 2))
        lines = (await filled.usage.query(every, NOW)).rows
        best, kept = await filled.usage.query(top, NOW), await memory.query(top, NOW)
        times_of = Counter(str([line.group[unit] for unit in top.time_units]) for line in lines)
        assert len(best.rows) == sum(min(2, many) for many in times_of.values())
        assert set(reported(best, top).items()) <= set(
            reported(await filled.usage.query(every, NOW), every).items()
        )
        assert [line.group for line in best.rows] == [line.group for line in kept.rows]
        assert best.total.requests == sum(line.requests for line in lines)
        cut = await filled.usage.query(replace(every, max_rows=3), NOW)
        assert (len(cut.rows), cut.has_more, best.has_more) == (3, True, False)
        assert cut.total == best.total


async def test_an_unknown_name_is_404(filled: Filled) -> None:
    """In Postgres and in memory; a known one without use in the range has zeros."""
    memory = MemoryUsage()
    for one in filled.written:
        memory.add(one)
    since, long_ago = NOW - timedelta(days=60), NOW - timedelta(days=55)
    for keeper in (filled.usage, memory):
        for name in NAME_COLUMNS:
            with pytest.raises(NotFound) as refused:
                await keeper.query(UsageQuery(since, NOW, (), {name: "nobody-at-all"}), NOW)
            assert (refused.value.param, refused.value.code) == (name, "unknown_name")
        known = {"agent": "a1", "tenant": "acme", "key": "k1", "model": "gpt", "provider": "openai",
                 "user": "u1", "session": "s1", "run": "r1", "tag": "a"}  # fmt: skip
        for name, value in known.items():
            answer = await keeper.query(UsageQuery(since, long_ago, (), {name: value}), NOW)
            assert (answer.total.requests, list(answer.rows)) == (0, [])
        with pytest.raises(NotFound):
            await keeper.query(UsageQuery(since, NOW, (), {"key": "k2"}, only_key="k1"), NOW)
        own = await keeper.query(UsageQuery(since, NOW, ("key",), only_key="k1"), NOW)
        assert [line.group for line in own.rows] == [{"key": "k1", "key_name": None}]


async def test_a_key_sees_what_its_child_keys_used(filled: Filled) -> None:
    """By every table that answers, told apart by key; never a key above or beside."""
    await add_child_keys(filled.usage.pool, {"k2": ["k1"], "k3": ["k1"]})
    ask = filled.usage.query
    since = NOW - timedelta(days=60)
    for by in (("key",), ("key", "day"), ("key", "user"), ("key", "hour"), ("key", "tag")):
        whole = await ask(UsageQuery(since, NOW, by), NOW)
        for only, seen in (("k1", {"k1", "k2", "k3"}), ("k2", {"k2"})):
            own = await ask(UsageQuery(since, NOW, by, only_key=only), NOW)
            assert own.rows == [row for row in whole.rows if row.group["key"] in seen]
            keyed = await ask(UsageQuery(since, NOW, ("key",)), NOW)
            of_seen = [row.requests for row in keyed.rows if row.group["key"] in seen]
            assert own.total.requests == sum(of_seen)
    for user in ("u1", ""):
        whole = await ask(UsageQuery(since, NOW, ("key",), {"user": user}), NOW)
        own = await ask(UsageQuery(since, NOW, (), {"user": user}, only_key="k2"), NOW)
        [alone] = [row for row in whole.rows if row.group["key"] == "k2"]
        assert own.total.requests == alone.requests
    roots = await ask(UsageQuery(since, NOW, ("root_key",), only_key="k2"), NOW)
    assert [row.group["root_key"] for row in roots.rows] == ["k1"]
    one = await ask(UsageQuery(since, NOW, ("key",), {"key": "k3"}, only_key="k1"), NOW)
    assert [row.group["key"] for row in one.rows] == ["k3"]
    for filters in ({"key": "k1"}, {"key": "k3"}, {"root_key": "k3"}):
        with pytest.raises(NotFound):
            await ask(UsageQuery(since, NOW, (), filters, only_key="k2"), NOW)


async def test_in_memory_a_key_sees_what_its_child_keys_used() -> None:
    """As in Postgres."""
    memory = MemoryUsage()
    for key_id, above in (("root", None), ("child", "root"), ("deep", "root,child"), ("other", None)):
        memory.add(record(key_id=key_id, key_ancestors=above, started_at=NOW - timedelta(hours=1)))
    since = NOW - timedelta(days=1)
    for only, seen in (("root", {"root", "child", "deep"}), ("child", {"child", "deep"}), ("deep", {"deep"})):
        own = await memory.query(UsageQuery(since, NOW, ("key",), only_key=only), NOW)
        assert {row.group["key"] for row in own.rows} == seen
    with pytest.raises(NotFound):
        await memory.query(UsageQuery(since, NOW, (), {"key": "root"}, only_key="child"), NOW)


async def test_a_key_in_a_filter_is_not_repeated(filled: Filled) -> None:
    """When the secret is sent instead of the key's name."""
    secret = "sk-llmp-AbCdEfGhIjKl-" + "x" * 38
    with pytest.raises(NotFound) as refused:
        await filled.usage.query(UsageQuery(NOW - timedelta(days=1), NOW, (), {"key": secret}), NOW)
    assert "x" * 8 not in refused.value.message
