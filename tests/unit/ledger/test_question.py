"""A question goes to the smallest table that can answer it, and nothing of a caller's reaches the SQL."""

from datetime import UTC, date, datetime, timedelta

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.question import Question, answer_sql, moment

NOW = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
TODAY = datetime(2026, 11, 21, tzinfo=UTC)
WEEK = TODAY - timedelta(days=7)


@pytest.mark.parametrize(
    ("since", "by", "where", "table"),
    [
        (WEEK, ("agent",), {}, "usage_daily"),
        (TODAY - timedelta(days=3000), (), {"agent": "a"}, "usage_daily"),
        (WEEK, ("hour",), {}, "usage_hourly"),
        (NOW - timedelta(hours=24), ("model",), {}, "usage_hourly"),
        (WEEK, ("user", "day"), {}, "usage_user_days"),
        (WEEK, ("user",), {"agent": "a"}, "usage_user_days"),
        (WEEK, ("user", "model"), {}, "usage_users"),
        (WEEK, ("model",), {"user": "u"}, "usage_users"),
        (NOW - timedelta(hours=5), ("user",), {}, "requests"),
        (WEEK, ("user", "provider"), {}, "requests"),
    ],
)
def test_the_smallest_table_that_can_answers(
    since: datetime, by: tuple[str, ...], where: dict[str, str], table: str
) -> None:
    """Days from days, hours from hours, users from users; rows only for what no roll-up keeps."""
    statement, _ = answer_sql(Question(since, TODAY + timedelta(days=1), by, where), NOW)
    assert f"FROM {table} " in statement


def test_values_travel_as_arguments() -> None:
    """Whatever somebody names an agent."""
    nasty = "'; DROP TABLE requests; --"
    statement, arguments = answer_sql(Question(WEEK, TODAY, ("agent",), {"agent": nasty, "key": "k"}), NOW)
    assert nasty not in statement
    assert arguments == [WEEK.date(), TODAY.date(), nasty, "k"]


@pytest.mark.parametrize("name", ["password", "agent; --", "", "day)"])
def test_an_unknown_dimension_is_refused_by_name(name: str) -> None:
    """To group by, or to filter by."""
    with pytest.raises(BadRequest, match="Unknown dimension"):
        Question(WEEK, TODAY, (name,))
    with pytest.raises(BadRequest, match="Unknown dimension"):
        Question(WEEK, TODAY, (), {name: "x"})


def test_ranges_no_table_keeps_are_refused() -> None:
    """Empty ones, hours of long ago, users by hour over months."""
    with pytest.raises(BadRequest, match="empty"):
        Question(TODAY, TODAY)
    with pytest.raises(BadRequest, match="35 days"):
        answer_sql(Question(TODAY - timedelta(days=60), TODAY, ("hour",)), NOW)
    with pytest.raises(BadRequest, match="8 days"):
        answer_sql(Question(TODAY - timedelta(days=30), TODAY, ("user", "hour")), NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00+02:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", WEEK),
        ("2w", TODAY - timedelta(days=14)),
    ],
)
def test_times_are_read_as_people_write_them(text: str, expected: datetime) -> None:
    """Days and weeks ago begin at midnight, so that the roll-up by day answers."""
    assert moment(text, NOW) == expected


@pytest.mark.parametrize(
    ("name", "text", "argument"),
    [
        ("day", "2026-11-20", date(2026, 11, 20)),
        ("hour", "2026-11-20T10:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("hour", "2026-11-20T12:00+02:00", datetime(2026, 11, 20, 10, tzinfo=UTC)),
        ("agent", "2026-11-20", "2026-11-20"),
    ],
)
def test_a_filter_is_given_as_its_column_wants_it(name: str, text: str, argument: object) -> None:
    """A day as a date, an hour as a moment, a name as it is."""
    _, arguments = answer_sql(Question(WEEK, TODAY, (), {name: text}), NOW)
    assert arguments[2] == argument


@pytest.mark.parametrize(
    ("name", "text"), [("day", "x"), ("day", ""), ("hour", "noon"), ("agent", "a\0b"), ("user", "\0")]
)
def test_a_filter_no_column_holds_is_refused_by_name(name: str, text: str) -> None:
    """By us, not by Postgres."""
    with pytest.raises(BadRequest) as refused:
        answer_sql(Question(WEEK, TODAY, (), {name: text}), NOW)
    assert refused.value.param == name


def test_a_dimension_named_twice_is_refused() -> None:
    """A line has room for it once."""
    with pytest.raises(BadRequest, match="twice"):
        Question(WEEK, TODAY, ("agent", "agent"))


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "",
        "7",
        "d7",
        "99999d",
        "2026-13-01",
        "\u0663d",
        "0001-01-01T00:00+14:00",
        "9999-12-31T12:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(BadRequest, match="not a time"):
        moment(text, NOW)
