"""A question about usage: which range, in which zone, grouped by what, where what holds.

Pure. Invariants: only names of `DIMENSIONS` are dimensions; every wrong word is refused by its field's name;
a range is read in the question's zone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from llm_proxy.errors import BadRequest
from llm_proxy.ledger.zones import FIRST_YEAR, LAST_YEAR, UNITS, Span, Unit, midnight, span_of

NAMES = {
    "agent": "agent", "tenant": "tenant", "key": "key_id", "model": "model_group", "provider": "provider",
    "user": "user_id", "session": "session_id", "run": "run_id", "tag": "tags",
    "would_refuse": "would_refuse",
}  # fmt: skip
"""Dimensions that are names, and their columns in `requests`."""
DIMENSIONS = (*NAMES, *UNITS)
MOST_LINES = 10_000
"""Of an answer over HTTP, and groups of time in any."""
DEFAULT_DAYS = 30
_LONGEST_VALUE = 256
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(?P<number>[0-9]{1,4})(?P<unit>[mhdw])", re.ASCII)
_DAYS = {"today": 0, "yesterday": -1}
_PERIOD = {"yesterday": "today", "last-week": "this-week", "last-month": "this-month"}
"""Words for a whole period, and where it ends."""
WORDS = ("today", "yesterday", "this-week", "last-week", "this-month", "last-month")


@dataclass(frozen=True, slots=True)
class Question:
    """What was used from `since` until before `until`, by these dimensions, where these hold.

    Attributes:
        where: Dimension to value; an empty value asks for requests that have none.
        zone: Whose hours, days, weeks and months are meant.
        top: So many lines at most, of each of these times; None for all.
        owner: The id of the key whose calls alone may be told; None for everybody's.
        within: The tenant whose names alone may be told; `where` asks for it. None for all.
        most: Lines of the answer.
    """

    since: datetime
    until: datetime
    by: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    zone: tzinfo = UTC
    top: int | None = None
    owner: str | None = None
    within: str | None = None
    most: int = MOST_LINES

    def __post_init__(self) -> None:
        for given, param in ((self.by, "group_by"), (self.where, None)):
            unknown = next((name for name in given if name not in DIMENSIONS), None)
            if unknown is not None:
                why = f"Unknown dimension '{unknown[:40]}'; there are {', '.join(DIMENSIONS)}."
                raise BadRequest(why, param=param or unknown[:40])
        if len({*self.by}) < len(self.by):
            raise BadRequest("A dimension is named twice.", param="group_by")
        if self.since >= self.until:
            raise BadRequest("The range is empty: 'since' is not before 'until'.", param="since")
        for name, value in self.where.items():
            if name in NAMES and ("\0" in value or len(value) > _LONGEST_VALUE):
                raise BadRequest(f"'{name}' holds what no name does.", param=name)
        self.spans()

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of time it groups by."""
        return tuple(unit for unit in UNITS if unit in self.by)

    @property
    def names(self) -> frozenset[str]:
        """The names it groups by or asks for."""
        return frozenset(name for name in (*self.by, *self.where) if name in NAMES)

    def spans(self) -> Span | None:
        """The range, narrowed to the times it asks for; None when nothing is left."""
        since, until = self.since, self.until
        for unit in UNITS:
            if unit in self.where:
                begin, end = span_of(unit, self.where[unit], self.zone)
                since, until = max(since, begin), min(until, end)
        return (since, until) if since < until else None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an answer: the group, and its sums.

    Attributes:
        group: Dimension to value; None where the requests have none. A key's name stands beside its id.
        cost_usd: Of the requests whose cost is known.
        unpriced_requests: Those that were answered, or used tokens, and whose cost is not.
        avg_latency_ms: None when nothing ended.
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

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def success_rate(self) -> float:
        """From 0 to 1; 0 when there was nothing."""
        return self.succeeded / self.requests if self.requests else 0.0


NOTHING = Line({}, 0, 0, 0, 0, 0, 0, 0, Decimal(0), 0, 0, None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was used.

    Attributes:
        lines: By time, then the costliest first.
        total: Of all the question selects, each request once.
        untold: Parts of the range of which calls are on record that are in no line: of their time only sums
            of whole days (UTC) are kept, and these lie across the range's end or the border of two groups.
        total_untold: The same of the total.
        has_more: There may be more lines than the question wants.
    """

    lines: Sequence[Line]
    total: Line
    untold: Sequence[Span] = ()
    total_untold: Sequence[Span] = ()
    has_more: bool = False


def asked_range(since: str | None, until: str | None, now: datetime, zone: tzinfo = UTC) -> Span:
    """The range somebody wrote; raises `BadRequest` naming `since` or `until`.

    Without `since` it begins 30 days ago; without `until` it ends with today, or with the period that
    `since` names.
    """
    begin = moment(since or f"{DEFAULT_DAYS}d", now, zone, "since")
    end = until or _PERIOD.get(since or "")
    return begin, moment(end, now, zone, "until") if end else _day(now, zone, 1)


def moment(text: str, now: datetime, zone: tzinfo = UTC, param: str = "since") -> datetime:
    """A time somebody wrote: `2026-11-01T12:00Z`, an hour ago `60m`, whole days ago `7d`, a word of `WORDS`.

    Raises `BadRequest`. Without an offset it is the zone's.
    """
    try:
        then = _read(text, now, zone)
        if FIRST_YEAR <= then.year <= LAST_YEAR:
            return then
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        pass
    why = f"'{text[:40]}' is not a time from {FIRST_YEAR} to {LAST_YEAR}"
    raise BadRequest(f"{why}; write 2026-11-01, or 24h, or 7d, or {', '.join(WORDS)}.", param=param)


def _read(text: str, now: datetime, zone: tzinfo) -> datetime:
    if text == "now":
        return now
    if text in _DAYS:
        return _day(now, zone, _DAYS[text])
    if text in WORDS:
        return _begin_of(text, now, zone)
    ago = _AGO.fullmatch(text)
    if ago:
        number, unit = int(ago["number"]), ago["unit"]
        if unit in "dw":
            return _day(now, zone, -number * (7 if unit == "w" else 1))
        return now - timedelta(**{_UNITS[unit]: number})
    then = datetime.fromisoformat(text)
    return (then if then.tzinfo else then.replace(tzinfo=zone)).astimezone(UTC)


def _day(now: datetime, zone: tzinfo, days: int) -> datetime:
    return midnight(now.astimezone(zone).date() + timedelta(days=days), zone)


def _begin_of(word: str, now: datetime, zone: tzinfo) -> datetime:
    which, _, unit = word.partition("-")
    day = now.astimezone(zone).date()
    if unit == "week":
        day -= timedelta(days=day.weekday() + (7 if which == "last" else 0))
    else:
        day = day.replace(day=1)
        day = (day - timedelta(days=1)).replace(day=1) if which == "last" else day
    return midnight(day, zone)
