"""A usage query parses ranges, zones and filters, and rejects invalid ones by name."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.usage_parts import AvailableData, split_query
from llm_proxy.ledger.usage_query import UsageQuery, parse_range, parse_time, parse_zone
from llm_proxy.ledger.usage_sql import build_statement, used_source

NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
TODAY = datetime(2026, 11, 21, tzinfo=UTC)
WEEK = TODAY - timedelta(days=7)
BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
KEPT = AvailableData(
    (WEEK.date() - timedelta(days=90), TODAY.date()), TODAY - timedelta(days=34), TODAY - timedelta(60)
)
NAMED = ("usage_name_days", "usage_name_hours")
TABLES = ("usage_daily", "usage_hourly", "usage_user_days", "usage_users", "requests")


@pytest.mark.parametrize(
    ("since", "by", "where", "tables"),
    [
        (WEEK, ("agent",), {}, {"usage_daily"}),
        (TODAY - timedelta(days=3000), (), {"agent": "a"}, {"usage_daily"}),
        (WEEK, ("hour",), {}, {"usage_hourly"}),
        (TODAY - timedelta(hours=5), ("model",), {}, {"usage_daily", "usage_hourly"}),
        (TODAY - timedelta(hours=29, minutes=10), (), {}, {"usage_daily", "usage_hourly", "requests"}),
        (WEEK, ("user", "day"), {"user": "u"}, {"usage_user_days"}),
        (WEEK, ("user",), {}, {"usage_user_days", "usage_daily"}),
        (WEEK, ("model",), {"user": "u"}, {"usage_users"}),
        (TODAY - timedelta(hours=5), ("user",), {"user": "u"}, {"usage_user_days", "requests"}),
        (WEEK, ("user", "provider"), {}, {"requests"}),
        (WEEK, ("tag",), {}, {"requests"}),
        (WEEK, (), {"session": "s"}, {"requests"}),
    ],
)
def test_a_query_reads_the_smallest_tables_that_answer(
    since: datetime, by: tuple[str, ...], where: dict[str, str], tables: set[str]
) -> None:
    """Days from days, hours from hours, users from users; rows for edges and unsummed dimensions."""
    query = UsageQuery(since, TODAY + timedelta(days=1), by, where)
    parts = split_query(query, KEPT)
    assert parts is not None
    statement = build_statement(query, parts)
    assert statement is not None
    assert {table for table in TABLES if re.search(rf"FROM {table}\b", statement.text)} == tables
    assert not parts.unknown


SUMMED = frozenset(TODAY.date() - timedelta(days=ago) for ago in range(1, 90))
"""Every day but today."""


@pytest.mark.parametrize(
    ("since", "by", "where", "tables"),
    [
        (WEEK, (), {}, {"usage_name_days", "usage_daily"}),
        (WEEK, ("agent",), {}, {"usage_name_days", "usage_daily"}),
        (WEEK, ("agent", "day"), {}, {"usage_name_days", "usage_daily"}),
        (WEEK, (), {"tenant": "acme"}, {"usage_name_days", "usage_daily"}),
        (WEEK, ("hour",), {}, {"usage_name_hours", "usage_hourly"}),
        (WEEK + timedelta(hours=5), ("model",), {}, {"usage_name_days", "usage_name_hours", "usage_daily"}),
        (WEEK, ("agent", "model"), {}, {"usage_daily"}),
        (WEEK, ("agent",), {"tenant": "acme"}, {"usage_daily"}),
        (WEEK, ("root_key",), {}, {"usage_daily"}),
        (WEEK, ("user",), {}, {"usage_user_days", "usage_daily"}),
        (WEEK, ("tag",), {}, {"requests"}),
    ],
)
def test_days_that_are_summed_by_name_answer_queries_of_one_name(
    since: datetime, by: tuple[str, ...], where: dict[str, str], tables: set[str]
) -> None:
    """Without histograms; those of all calls with them; nothing of one key's holder."""
    known = replace(KEPT, summed=SUMMED)
    query = UsageQuery(since, TODAY + timedelta(days=1), by, where)
    parts = split_query(query, known, most_names=1)
    assert parts is not None
    text = used_source(query, parts, [], ("requests",)) or ""
    assert {table for table in (*TABLES, *NAMED) if re.search(rf"FROM {table}\b", text)} == tables
    with_times = split_query(query, known)
    assert with_times is not None
    assert bool(with_times.summed_days or with_times.summed_hours) == (not query.names)
    own = split_query(replace(query, only_key="k"), known, most_names=1)
    assert own is not None
    assert (own.summed_days, own.summed_hours) == ([], [])


def test_values_are_sql_arguments() -> None:
    """Whatever an agent is called."""
    nasty = "'; DROP TABLE requests; --"
    query = UsageQuery(WEEK, TODAY, ("agent",), {"agent": nasty, "key": "k"})
    parts = split_query(query, KEPT)
    assert parts is not None
    statement = build_statement(query, parts)
    assert statement is not None
    assert nasty not in statement.text
    assert statement.arguments == [WEEK.date(), TODAY.date(), nasty, "k"]


@pytest.mark.parametrize("name", ["password", "agent; --", "", "day)"])
def test_an_unknown_dimension_is_rejected_by_name(name: str) -> None:
    """In groups and in filters."""
    with pytest.raises(BadRequest, match="Unknown dimension") as refused:
        UsageQuery(WEEK, TODAY, (name,))
    assert refused.value.param == "group_by"
    with pytest.raises(BadRequest, match="Unknown dimension"):
        UsageQuery(WEEK, TODAY, (), {name: "x"})


def test_an_empty_range_or_too_many_times_are_rejected() -> None:
    """Nothing is cut off."""
    with pytest.raises(BadRequest, match="empty"):
        UsageQuery(TODAY, TODAY)
    kept = AvailableData((datetime(2020, 1, 1, tzinfo=UTC).date(), TODAY.date()), TODAY, TODAY)
    with pytest.raises(BadRequest, match="10,000") as refused:
        split_query(UsageQuery(TODAY - timedelta(days=900), TODAY, ("hour",)), kept)
    assert refused.value.param == "group_by"


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-11-01", UTC, datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01", KOLKATA, datetime(2026, 10, 31, 18, 30, tzinfo=UTC)),
        ("2026-11-01T12:00Z", KOLKATA, datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00+02:00", UTC, datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("90m", UTC, NOW - timedelta(minutes=90)),
        ("24h", BERLIN, NOW - timedelta(hours=24)),
        ("7d", UTC, WEEK),
        ("7d", BERLIN, WEEK - timedelta(hours=1)),
        ("2w", UTC, TODAY - timedelta(days=14)),
        ("now", BERLIN, NOW),
        ("today", BERLIN, TODAY - timedelta(hours=1)),
        ("yesterday", KOLKATA, datetime(2026, 11, 19, 18, 30, tzinfo=UTC)),
        ("this-week", UTC, datetime(2026, 11, 16, tzinfo=UTC)),
        ("last-week", UTC, datetime(2026, 11, 9, tzinfo=UTC)),
        ("this-month", UTC, datetime(2026, 11, 1, tzinfo=UTC)),
        ("last-month", BERLIN, datetime(2026, 9, 30, 22, tzinfo=UTC)),
    ],
)
def test_times_are_parsed_in_many_forms(text: str, zone: tzinfo, expected: datetime) -> None:
    """In the given zone."""
    assert parse_time(text, NOW, zone) == expected


def test_a_word_for_a_complete_period_ends_the_range() -> None:
    """Unless another end is given; else a range ends with today."""
    assert parse_range("yesterday", None, NOW) == (TODAY - timedelta(days=1), TODAY)
    assert parse_range("yesterday", "now", NOW) == (TODAY - timedelta(days=1), NOW)
    october = datetime(2026, 9, 30, 22, tzinfo=UTC), datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert parse_range("last-month", None, NOW, BERLIN) == october
    assert parse_range("today", None, NOW) == (TODAY, TODAY + timedelta(days=1))
    assert parse_range(None, None, NOW) == (TODAY - timedelta(days=30), TODAY + timedelta(days=1))
    with pytest.raises(BadRequest) as refused:
        parse_range("7d", "9999-12-31T12:00Z", NOW)
    assert refused.value.param == "until"


@pytest.mark.parametrize(
    "text",
    [
        "tomorrow", "", "7", "d7", "99999d", "9999w", "2026-13-01", "\u0663d", "0001-01-01T00:00+14:00",
        "NaN", "0001-01-01", "9999-12-31T12:00Z", "3000-01-01", "-1d", "1e3", "inf", "\0",
        "2026-11-01T12:00+99:99",
    ],
)  # fmt: skip
def test_an_invalid_time_is_rejected(text: str) -> None:
    """With an example and the field's name."""
    with pytest.raises(BadRequest, match="not a time") as refused:
        parse_time(text, NOW, UTC, "until")
    assert refused.value.param == "until"


@pytest.mark.parametrize("text", ["+05:30", " 05:30", "+0530", "-11", "Z", "UTC", "Asia/Kolkata", "+14:00"])
def test_a_zone_is_a_name_or_an_offset(text: str) -> None:
    """A `+` that is not percent-encoded arrives as a space."""
    assert NOW.astimezone(parse_zone(text)) == NOW
    assert parse_zone(" 05:30") == timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    "text",
    ["", "+14:01", "+99:99", "+25", "Europe", "../etc/passwd", "/etc/localtime", "Mars/Base", "a" * 5000,
     "\0", "+5", "NaN", "5:30", "\ud800"],
)  # fmt: skip
def test_an_invalid_zone_is_rejected(text: str) -> None:
    """By its name."""
    with pytest.raises(BadRequest) as refused:
        parse_zone(text)
    assert refused.value.param == "tz"


@pytest.mark.parametrize(
    ("where", "zone", "since", "hours"),
    [
        ({"day": "2026-10-25"}, BERLIN, datetime(2026, 10, 24, 22, tzinfo=UTC), 25),
        ({"hour": "2026-11-20T10:20"}, UTC, datetime(2026, 11, 20, 10, tzinfo=UTC), 1),
        ({"hour": "2026-11-20T12:00+02:00"}, KOLKATA, datetime(2026, 11, 20, 9, 30, tzinfo=UTC), 1),
        ({"week": "2026-W45"}, UTC, datetime(2026, 11, 2, tzinfo=UTC), 168),
        ({"week": "2026-11-04"}, UTC, datetime(2026, 11, 2, tzinfo=UTC), 168),
        ({"month": "2026-10"}, BERLIN, datetime(2026, 9, 30, 22, tzinfo=UTC), 31 * 24 + 1),
        ({"month": "2026-10", "day": "2026-10-02"}, UTC, datetime(2026, 10, 2, tzinfo=UTC), 24),
    ],
)
def test_a_filter_on_a_time_narrows_the_range(
    where: dict[str, str], zone: tzinfo, since: datetime, hours: int
) -> None:
    """In the query's zone; a time outside the range leaves nothing."""
    query = UsageQuery(TODAY - timedelta(days=90), TODAY, (), where, zone)
    assert query.time_span() == (since, since + timedelta(hours=hours))
    assert UsageQuery(TODAY, NOW, (), where, zone).time_span() is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("day", "x"), ("day", ""), ("day", "9999-12-31"), ("day", "0001-01-01"), ("hour", "noon"),
     ("week", "2026-W99"), ("month", "2026-13"), ("agent", "a\0b"), ("user", "\0"), ("user", "u" * 257)],
)  # fmt: skip
def test_a_filter_that_no_column_can_hold_is_rejected_by_name(name: str, text: str) -> None:
    """By the gateway, not by Postgres."""
    with pytest.raises(BadRequest) as refused:
        UsageQuery(WEEK, TODAY, (), {name: text})
    assert refused.value.param == name


def test_a_dimension_named_twice_is_rejected() -> None:
    """A row has one place for it."""
    with pytest.raises(BadRequest, match="twice"):
        UsageQuery(WEEK, TODAY, ("agent", "agent"))
