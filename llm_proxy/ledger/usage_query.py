"""`UsageQuery` and its answer: time range, time zone, grouping and filters; rows of sums.

Pure. Invariants: every unknown dimension or value is rejected by its field's name; a range is read in the
query's zone; every moment belongs to one group of each unit, so that days have 23, 24 or 25 hours and
a repeated hour is two groups. Weeks begin on Monday. Costs are `Decimal`.
Raises: `BadRequest`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.latency_histogram import NO_LATENCIES, LatencyHistogram
from llm_proxy.quantities import NOTHING, Quantities

TimeUnit = Literal["hour", "day", "week", "month"]
TIME_UNITS: tuple[TimeUnit, ...] = ("hour", "day", "week", "month")
TimeSpan = tuple[datetime, datetime]
"""A beginning (inclusive) and an end (exclusive), in UTC."""

FIRST_YEAR, LAST_YEAR = 1970, 2999
"""Bounds of every time in a query: no call is older, and the standard library's calendar ends in 9999."""
_OFFSET = re.compile(r"(?P<sign>[+\- ])(?P<hours>[0-9]{2}):?(?P<minutes>[0-5][0-9])?", re.ASCII)
_MAX_OFFSET_HOURS = 14
_DAYS = {"day": 1, "week": 7}
_EXAMPLES = {"hour": "2026-11-01T12:00Z", "day": "2026-11-01", "week": "2026-W45", "month": "2026-11"}
_MONTH = re.compile(r"(?P<year>[0-9]{4})-(?P<month>0[1-9]|1[0-2])", re.ASCII)
_WEEK = re.compile(r"[0-9]{4}-W[0-5][0-9]", re.ASCII)


_ROOT_KEY = """(SELECT coalesce((SELECT k.ancestors[1] FROM api_keys AS k WHERE k.key_id = own.id), own.id)
FROM (SELECT key_id AS id) AS own)"""
"""The key that a child key is below, or the key itself; `key_id` is that of the table that is read."""
NAME_COLUMNS = {
    "agent": "agent", "tenant": "tenant", "key": "key_id", "model": "model_group", "provider": "provider",
    "user": "user_id", "session": "session_id", "run": "run_id", "tag": "tags",
    "would_refuse": "would_refuse", "root_key": _ROOT_KEY,
}  # fmt: skip
"""The dimensions that are names, and their columns in `requests`, or what makes them of these."""
DIMENSIONS = (*NAME_COLUMNS, *TIME_UNITS)
MAX_ROWS = 10_000
"""The maximum of rows in an answer over HTTP, and of groups of time in every answer."""
DEFAULT_DAYS = 30
_MAX_VALUE_CHARS = 256
_AGO_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(?P<number>[0-9]{1,4})(?P<unit>[mhdw])", re.ASCII)
_DAY_WORDS = {"today": 0, "yesterday": -1}
_PERIOD_ENDS = {"yesterday": "today", "last-week": "this-week", "last-month": "this-month"}
"""Words for a complete period, and the word for its end."""
RANGE_WORDS = ("today", "yesterday", "this-week", "last-week", "this-month", "last-month")


def parse_zone(text: str) -> tzinfo:
    """Parses an IANA name or an offset such as `+05:30`; raises `BadRequest` naming `tz`."""
    if text in {"UTC", "Z"}:
        return UTC
    offset = _OFFSET.fullmatch(text)
    if offset is not None:  # a space is a `+` that was not percent-encoded in the URL
        hours, minutes = int(offset["hours"]), int(offset["minutes"] or 0)
        if hours * 60 + minutes <= _MAX_OFFSET_HOURS * 60:
            difference = timedelta(hours=hours, minutes=minutes)
            return timezone(-difference if offset["sign"] == "-" else difference)
    else:
        try:
            return ZoneInfo(text)
        except (KeyError, ValueError, OSError):  # not found, a path, a folder, too long
            pass
    message = (
        f"'{text[:40]}' is not a time zone; write a name such as Europe/Berlin, or an offset such as +05:30."
    )
    raise BadRequest(message, param="tz")


def group_label(unit: TimeUnit, moment: datetime, zone: tzinfo) -> datetime | date | str:
    """Returns the label of a moment's group: hour with offset, day, Monday of the week, or `2026-11`."""
    local = moment.astimezone(zone)
    if unit == "hour":
        offset = timezone(cast("timedelta", local.utcoffset()))
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=offset, fold=0)
    day = local.date()
    if unit == "day":
        return day
    return day - timedelta(days=day.weekday()) if unit == "week" else f"{day.year:04}-{day.month:02}"


def midnight(day: date, zone: tzinfo) -> datetime:
    """Returns the beginning of a day in a time zone, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def group_starts(unit: TimeUnit, span: TimeSpan, zone: tzinfo) -> Iterator[datetime]:
    """Yields the beginning of each group in a span; the first one is the beginning of the span."""
    moment, until = span
    while moment < until:
        yield moment
        moment = _next_hour(moment, zone) if unit == "hour" else _next_day(unit, moment, zone)


def parse_span(unit: TimeUnit, text: str, zone: tzinfo) -> TimeSpan:
    """Parses an hour, day, week or month and returns its span; raises `BadRequest` naming the unit."""
    try:
        moment = _parse_group_start(unit, text, zone)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise BadRequest(f"'{text[:40]}' is not a {unit}; write {_EXAMPLES[unit]}.", param=unit)
    if unit == "hour":
        moment -= _into_the_hour(moment, zone)
        return moment, _next_hour(moment, zone)
    return moment, _next_day(unit, moment, zone)


def _parse_group_start(unit: TimeUnit, text: str, zone: tzinfo) -> datetime:
    if unit == "hour":
        then = datetime.fromisoformat(text)
        return (then if then.tzinfo else then.replace(tzinfo=zone)).astimezone(UTC)
    month = _MONTH.fullmatch(text)
    if unit == "month" and month is not None:
        return midnight(date(int(month["year"]), int(month["month"]), 1), zone)
    day = date.fromisoformat(f"{text}-1" if _WEEK.fullmatch(text) else text)
    return midnight(_first_day(unit, day), zone)


def _first_day(unit: TimeUnit, day: date) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day


def _next_day(unit: TimeUnit, moment: datetime, zone: tzinfo) -> datetime:
    """Returns the beginning of the next day, week or month; skips a day that a time zone left out."""
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
    """Returns the next full hour of the local clock, or an earlier change of that clock (to a second)."""
    following = moment + timedelta(hours=1) - _into_the_hour(moment, zone)
    before, after = (end.astimezone(zone).utcoffset() for end in (moment, following))
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


def merge_spans(spans: list[TimeSpan]) -> list[TimeSpan]:
    """Merges adjacent spans of a sorted list."""
    merged: list[TimeSpan] = []
    for since, until in spans:
        if merged and merged[-1][1] == since:
            merged[-1] = (merged[-1][0], until)
        else:
            merged.append((since, until))
    return merged


def consecutive_spans(moments: list[datetime]) -> list[TimeSpan]:
    """Returns the spans between each moment and the next."""
    return list(pairwise(moments))


def require_range(since: datetime, until: datetime) -> None:
    """Raises `BadRequest` for an empty range."""
    if since >= until:
        raise BadRequest("The range is empty: 'since' is not before 'until'.", param="since")


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Selects requests of a range and groups their sums.

    Attributes:
        since: Inclusive.
        until: Exclusive.
        group_by: Dimensions (`DIMENSIONS`).
        filters: Dimension to value; an empty value selects requests without one.
        zone: The time zone of hours, days, weeks and months.
        top: At most so many rows for each group of time; None means all.
        only_key: The id of the only key whose calls the caller may see, with those of keys below it; or None.
        only_tenant: The only tenant whose names the caller may see, also in `filters`; None means any.
        max_rows: At most so many rows in the answer.
    """

    since: datetime
    until: datetime
    group_by: tuple[str, ...] = ()
    filters: Mapping[str, str] = field(default_factory=dict[str, str])
    zone: tzinfo = UTC
    top: int | None = None
    only_key: str | None = None
    only_tenant: str | None = None
    max_rows: int = MAX_ROWS

    def __post_init__(self) -> None:
        for given, param in ((self.group_by, "group_by"), (self.filters, None)):
            unknown = next((name for name in given if name not in DIMENSIONS), None)
            if unknown is not None:
                message = f"Unknown dimension '{unknown[:40]}'; there are {', '.join(DIMENSIONS)}."
                raise BadRequest(message, param=param or unknown[:40])
        if len({*self.group_by}) < len(self.group_by):
            raise BadRequest("A dimension is named twice.", param="group_by")
        require_range(self.since, self.until)
        for name, value in self.filters.items():
            if name in NAME_COLUMNS and ("\0" in value or len(value) > _MAX_VALUE_CHARS):
                raise BadRequest(f"'{name}' is too long for a name, or contains NUL.", param=name)
        self.time_span()

    @property
    def time_units(self) -> tuple[TimeUnit, ...]:
        """The units of time in `group_by`."""
        return tuple(unit for unit in TIME_UNITS if unit in self.group_by)

    @property
    def names(self) -> frozenset[str]:
        """The dimensions in `group_by` and `filters` that are names."""
        return frozenset(name for name in (*self.group_by, *self.filters) if name in NAME_COLUMNS)

    def time_span(self) -> TimeSpan | None:
        """Returns the range, narrowed by the filters on times; None if nothing is left."""
        since, until = self.since, self.until
        for unit in TIME_UNITS:
            if unit in self.filters:
                begin, end = parse_span(unit, self.filters[unit], self.zone)
                since, until = max(since, begin), min(until, end)
        return (since, until) if since < until else None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A group and its sums; the field names are those of the JSON answer and of the CSV columns.

    Attributes:
        group: Dimension to value; None for requests without one. `key` is followed by `key_name`.
        cost_usd: Of the requests with a known cost.
        unpriced_requests: Requests that succeeded or used anything, and whose cost is unknown.
        avg_latency_ms: None if no request ended.
        quantities: What was used beside tokens.
        latencies: Of the requests that ended.
        first_token_times: Of the requests that streamed a token.
    """

    group: Mapping[str, Any]
    requests: int
    succeeded: int
    cache_hits: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: Decimal
    unpriced_requests: int
    estimated_requests: int
    avg_latency_ms: float | None
    quantities: Quantities = NOTHING
    latencies: LatencyHistogram = NO_LATENCIES
    first_token_times: LatencyHistogram = NO_LATENCIES

    @property
    def images(self) -> int:
        """Images that were made."""
        return self.quantities.images

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that were written down or translated."""
        return self.quantities.audio_ms / 1000

    @property
    def characters(self) -> int:
        """Characters that were spoken."""
        return self.quantities.characters

    @property
    def search_units(self) -> int:
        """Search units of reranking."""
        return self.quantities.search_units

    @property
    def p50_latency_ms(self) -> float | None:
        """The median duration, within `MAX_RELATIVE_ERROR`; None if none is known."""
        return self.latencies.percentile_ms(50)

    @property
    def p95_latency_ms(self) -> float | None:
        """The 95th percentile of durations, the same."""
        return self.latencies.percentile_ms(95)

    @property
    def p50_ttft_ms(self) -> float | None:
        """The median time to the first token, the same."""
        return self.first_token_times.percentile_ms(50)

    @property
    def p95_ttft_ms(self) -> float | None:
        """The 95th percentile of times to the first token, the same."""
        return self.first_token_times.percentile_ms(95)

    @property
    def latency_requests(self) -> int:
        """The number of requests of which the percentiles of durations are."""
        return self.latencies.calls

    @property
    def ttft_requests(self) -> int:
        """The number of requests of which the percentiles of times to the first token are."""
        return self.first_token_times.calls

    @property
    def total_tokens(self) -> int:
        """Prompt tokens plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def success_rate(self) -> float:
        """Succeeded requests divided by all requests; 0 without requests."""
        return self.succeeded / self.requests if self.requests else 0.0


EMPTY_ROW = UsageRow({}, 0, 0, 0, 0, 0, 0, 0, Decimal(0), 0, 0, None)


@dataclass(frozen=True, slots=True)
class UsageResult:
    """The answer to a usage query.

    Attributes:
        rows: By time, then by cost, the highest first.
        total: The sums of all selected requests, each counted once.
        unknown_spans: Parts of the range with requests that no row counts: only sums of whole days (UTC) are
            stored for them, and these days cross the range's end or the border of two groups.
        total_unknown_spans: The same for `total`.
        has_more: Whether `max_rows` may have left rows out.
    """

    rows: Sequence[UsageRow]
    total: UsageRow
    unknown_spans: Sequence[TimeSpan] = ()
    total_unknown_spans: Sequence[TimeSpan] = ()
    has_more: bool = False


def parse_range(since: str | None, until: str | None, now: datetime, zone: tzinfo = UTC) -> TimeSpan:
    """Parses a range; raises `BadRequest` naming `since` or `until`.

    Without `since` it begins 30 days ago; without `until` it ends at the end of today, or of the period that
    `since` names.
    """
    begin = parse_time(since or f"{DEFAULT_DAYS}d", now, zone, "since")
    end = until or _PERIOD_ENDS.get(since or "")
    return begin, parse_time(end, now, zone, "until") if end else _day_start(now, zone, 1)


def parse_time(text: str, now: datetime, zone: tzinfo = UTC, param: str = "since") -> datetime:
    """Returns the time that a text states: `2026-11-01T12:00Z`, `60m` or `7d` ago, a word of `RANGE_WORDS`.

    Minutes and hours count back from `now`, days and weeks from the beginning of today. A time without an
    offset is in `zone`. Raises `BadRequest` naming `param`.
    """
    try:
        then = _parse_time(text, now, zone)
        if FIRST_YEAR <= then.year <= LAST_YEAR:
            return then
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        pass
    message = f"'{text[:40]}' is not a time from {FIRST_YEAR} to {LAST_YEAR}"
    raise BadRequest(f"{message}; write 2026-11-01, or 24h, or 7d, or {', '.join(RANGE_WORDS)}.", param=param)


def _parse_time(text: str, now: datetime, zone: tzinfo) -> datetime:
    if text == "now":
        return now
    if text in _DAY_WORDS:
        return _day_start(now, zone, _DAY_WORDS[text])
    if text in RANGE_WORDS:
        return _period_start(text, now, zone)
    ago = _AGO.fullmatch(text)
    if ago:
        number, unit = int(ago["number"]), ago["unit"]
        if unit in "dw":
            return _day_start(now, zone, -number * (7 if unit == "w" else 1))
        return now - timedelta(**{_AGO_UNITS[unit]: number})
    then = datetime.fromisoformat(text)
    return (then if then.tzinfo else then.replace(tzinfo=zone)).astimezone(UTC)


def _day_start(now: datetime, zone: tzinfo, days: int) -> datetime:
    return midnight(now.astimezone(zone).date() + timedelta(days=days), zone)


def _period_start(word: str, now: datetime, zone: tzinfo) -> datetime:
    which, _, unit = word.partition("-")
    day = now.astimezone(zone).date()
    if unit == "week":
        day -= timedelta(days=day.weekday() + (7 if which == "last" else 0))
    else:
        day = day.replace(day=1)
        day = (day - timedelta(days=1)).replace(day=1) if which == "last" else day
    return midnight(day, zone)
