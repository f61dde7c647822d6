"""Splits a query's range into parts, each answered by the smallest table that does so exactly.

Pure. Invariants: the parts are disjoint and cover the range, except for what is reported as unknown; a day or
an hour of a roll-up counts only if it lies in the range and in one group as a whole; days that are summed by
name answer queries of at most one name. Raises: `BadRequest`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.usage_query import (
    MAX_ROWS,
    TimeSpan,
    UsageQuery,
    consecutive_spans,
    group_starts,
    merge_spans,
)

ROLLED_UP = frozenset({"agent", "tenant", "key", "root_key", "model", "provider"})
"""The names of the roll-ups by day and by hour."""
SUMMED_NAMES = ROLLED_UP - {"root_key"}
"""The kinds of names that days are summed by."""
_OF_USERS = ROLLED_UP - {"provider"} | {"user"}
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AvailableData:
    """The data in the database.

    Attributes:
        days: The first and the last day of the roll-up by day.
        hours_since: The beginning of the roll-up by hour.
        rows_since: The beginning of the rows.
        summed: The days that are summed by name.
    """

    days: tuple[date, date] | None
    hours_since: datetime
    rows_since: datetime
    summed: frozenset[date] = frozenset()

    @property
    def span(self) -> TimeSpan | None:
        """The time from the first day to the end of the last; None without any day."""
        if self.days is None:
            return None
        first, last = (datetime.combine(day, time(), UTC) for day in self.days)
        return first, last + _DAY


@dataclass(frozen=True, slots=True)
class QueryParts:
    """The parts of a query's range, by the table that answers them.

    Attributes:
        groups: The beginnings of the groups of time, in order; one if the query has none.
        unknown: The spans that no table answers exactly.
        summed_days: Days that are summed by name, of a query that these sums answer.
        summed_hours: Hours of such days.
    """

    groups: list[datetime]
    days: list[TimeSpan]
    hours: list[TimeSpan]
    rows: list[TimeSpan]
    unknown: list[TimeSpan]
    summed_days: list[TimeSpan] = field(default_factory=list[TimeSpan])
    summed_hours: list[TimeSpan] = field(default_factory=list[TimeSpan])


def split_query(query: UsageQuery, available: AvailableData, most_names: int = 0) -> QueryParts | None:
    """Splits a query's range; returns None if no data lies in it.

    Args:
        query: The query.
        available: The data.
        most_names: Sums by name answer a query of at most so many names: of none if histograms are needed,
            which only the sums of all calls have; of one; of more if each name is summed by itself.

    Raises:
        BadRequest: The range has more groups of time than an answer has rows.
    """
    span = _overlap(query.time_span(), available.span)
    if span is None:
        return None
    groups = _groups(query, span)
    parts = QueryParts(groups, [], [], [], [])
    by_day, by_hour = query.names <= ROLLED_UP | _OF_USERS, query.names <= ROLLED_UP
    by_day = by_day and not {"user", "provider"} <= query.names
    for piece in consecutive_spans([*groups, span[1]]):
        for since, until in _take_whole(piece, _DAY, parts.days) if by_day else [piece]:
            rest = [(since, until)]
            if by_hour and until > available.hours_since:
                with_hours = max(since, available.hours_since)
                early = [(since, with_hours)] if since < with_hours else []
                rest = [*early, *_take_whole((with_hours, until), _HOUR, parts.hours)]
            for begin, end in rest:
                middle = min(max(begin, available.rows_since), end)
                parts.unknown.extend([(begin, middle)] if begin < middle else [])
                parts.rows.extend([(middle, end)] if middle < end else [])
    merged = QueryParts(
        groups,
        *(merge_spans(sorted(spans)) for spans in (parts.days, parts.hours, parts.rows, parts.unknown)),
    )
    is_summed = query.only_key is None and len(query.names) <= most_names and query.names <= SUMMED_NAMES
    return _with_sums(merged, available.summed) if is_summed else merged


def _with_sums(parts: QueryParts, summed: frozenset[date]) -> QueryParts:
    """Returns the parts with what lies in summed days apart."""
    days, summed_days = split_by_day(parts.days, summed)
    hours, summed_hours = split_by_day(parts.hours, summed)
    return replace(parts, days=days, hours=hours, summed_days=summed_days, summed_hours=summed_hours)


def split_by_day(spans: Sequence[TimeSpan], days: Collection[date]) -> tuple[list[TimeSpan], list[TimeSpan]]:
    """Returns the parts of the spans outside these days (UTC), and inside."""
    outside: list[TimeSpan] = []
    inside: list[TimeSpan] = []
    for since, until in spans:
        begin = since
        while begin < until:
            end = min(datetime.combine(begin.date() + _DAY, time(), UTC), until)
            (inside if begin.date() in days else outside).append((begin, end))
            begin = end
    return merge_spans(outside), merge_spans(inside)


def _groups(query: UsageQuery, span: TimeSpan) -> list[datetime]:
    times: set[datetime] = {span[0]}
    for unit in query.time_units:
        for moment in group_starts(unit, span, query.zone):
            times.add(moment)
            if len(times) > MAX_ROWS:
                message = f"The range has more than {MAX_ROWS:,} of these times; ask for a shorter one."
                raise BadRequest(message, param="group_by")
    return sorted(times)


def _overlap(one: TimeSpan | None, other: TimeSpan | None) -> TimeSpan | None:
    if one is None or other is None:
        return None
    since, until = max(one[0], other[0]), min(one[1], other[1])
    return (since, until) if since < until else None


def _take_whole(piece: TimeSpan, length: timedelta, taken: list[TimeSpan]) -> list[TimeSpan]:
    """Moves the whole days or hours (UTC) of a span to `taken`; returns the rest of the span."""
    since, until = -(-(piece[0] - _EPOCH) // length) * length, (piece[1] - _EPOCH) // length * length
    if since >= until:
        return [piece]
    whole = (_EPOCH + since, _EPOCH + until)
    taken.append(whole)
    rest = ((piece[0], whole[0]), (whole[1], piece[1]))
    return [(begin, end) for begin, end in rest if begin < end]
