"""Local time: zones by name or offset, and the hours, days, weeks and months of one.

Pure. Invariants: every moment belongs to one group of each unit; a group begins where its label changes, so
that days have 23, 24 or 25 hours, and an hour that comes twice is two groups. Weeks begin on Monday.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import Literal, cast
from zoneinfo import ZoneInfo

from llm_proxy.errors import BadRequest

Unit = Literal["hour", "day", "week", "month"]
UNITS: tuple[Unit, ...] = ("hour", "day", "week", "month")
Span = tuple[datetime, datetime]
"""From a moment until before another, in UTC."""

FIRST_YEAR, LAST_YEAR = 1970, 2999
"""Of what is asked: no call is older, and calendars of the standard library end in 9999."""
_OFFSET = re.compile(r"(?P<sign>[+\- ])(?P<hours>[0-9]{2}):?(?P<minutes>[0-5][0-9])?", re.ASCII)
_MOST_HOURS = 14
_DAYS = {"day": 1, "week": 7}
_EXAMPLES = {"hour": "2026-11-01T12:00Z", "day": "2026-11-01", "week": "2026-W45", "month": "2026-11"}
_MONTH = re.compile(r"(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])", re.ASCII)
_WEEK = re.compile(r"[0-9]{4}-W[0-5][0-9]", re.ASCII)


def zone_of(text: str) -> tzinfo:
    """The zone of an IANA name or an offset such as `+05:30`; raises `BadRequest` naming `tz`."""
    if text in {"UTC", "Z"}:
        return UTC
    offset = _OFFSET.fullmatch(text)
    if offset is not None:  # a space is a plus that nobody encoded in an address
        hours, minutes = int(offset["hours"]), int(offset["minutes"] or 0)
        if hours * 60 + minutes <= _MOST_HOURS * 60:
            away = timedelta(hours=hours, minutes=minutes)
            return timezone(-away if offset["sign"] == "-" else away)
    else:
        try:
            return ZoneInfo(text)
        except (KeyError, ValueError, OSError):  # not found, a path, a folder, too long
            pass
    why = f"'{text[:40]}' is no time zone; write a name such as Europe/Berlin, or an offset such as +05:30."
    raise BadRequest(why, param="tz")


def label(unit: Unit, moment: datetime, zone: tzinfo) -> datetime | date | str:
    """What a moment's group is called: an hour with its offset, a day, a week's Monday, `2026-11`."""
    local = moment.astimezone(zone)
    if unit == "hour":
        offset = timezone(cast("timedelta", local.utcoffset()))
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=offset, fold=0)
    day = local.date()
    if unit == "day":
        return day
    return day - timedelta(days=day.weekday()) if unit == "week" else f"{day.year:04}-{day.month:02}"


def midnight(day: date, zone: tzinfo) -> datetime:
    """When a day begins there."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def begins(unit: Unit, span: Span, zone: tzinfo) -> Iterator[datetime]:
    """When each group of a span begins, the first where the span does."""
    moment, until = span
    while moment < until:
        yield moment
        moment = _next_hour(moment, zone) if unit == "hour" else _next_day(unit, moment, zone)


def span_of(unit: Unit, text: str, zone: tzinfo) -> Span:
    """The group somebody names; raises `BadRequest` naming the unit."""
    try:
        moment = _moment(unit, text, zone)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        why = f"'{text[:40]}' is not a {unit}; write {_EXAMPLES[unit]}."
        raise BadRequest(why, param=unit)
    if unit == "hour":
        moment -= _into_the_hour(moment, zone)
        return moment, _next_hour(moment, zone)
    return moment, _next_day(unit, moment, zone)


def _moment(unit: Unit, text: str, zone: tzinfo) -> datetime:
    if unit == "hour":
        then = datetime.fromisoformat(text)
        return (then if then.tzinfo else then.replace(tzinfo=zone)).astimezone(UTC)
    month = _MONTH.fullmatch(text)
    if unit == "month" and month is not None:
        return midnight(date(int(month["year"]), int(month["month"]), 1), zone)
    day = date.fromisoformat(f"{text}-1" if _WEEK.fullmatch(text) else text)
    return midnight(_first_day(unit, day), zone)


def _first_day(unit: Unit, day: date) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next_day(unit: Unit, moment: datetime, zone: tzinfo) -> datetime:
    """When the next day, week or month begins; one that a zone leaves out has no moment."""
    day = _first_day(unit, moment.astimezone(zone).date())
    following = moment
    while following <= moment:
        day = _first_day(unit, day + timedelta(days=_DAYS.get(unit, 32)))
        following = midnight(day, zone)
    return following


def _into_the_hour(moment: datetime, zone: tzinfo) -> timedelta:
    local = moment.astimezone(zone)
    return timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


def _next_hour(moment: datetime, zone: tzinfo) -> datetime:
    """The next full hour of the clock there, or an earlier change of that clock."""
    following = moment + timedelta(hours=1) - _into_the_hour(moment, zone)
    before, after = (one.astimezone(zone).utcoffset() for one in (moment, following))
    if before == after:
        return following
    change, ends = moment, following
    while ends - change > timedelta(seconds=1):
        middle = change + (ends - change) / 2
        if middle.astimezone(zone).utcoffset() == before:
            change = middle
        else:
            ends = middle
    return ends.replace(microsecond=0)


def joined(spans: list[Span]) -> list[Span]:
    """Spans in order, those that meet made one."""
    found: list[Span] = []
    for since, until in spans:
        if found and found[-1][1] == since:
            found[-1] = (found[-1][0], until)
        else:
            found.append((since, until))
    return found


def between(moments: list[datetime]) -> list[Span]:
    """The spans from each moment to the next."""
    return list(pairwise(moments))
