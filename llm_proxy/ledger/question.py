"""A question about usage, and the SQL that answers it from the smallest table that can.

Pure. Invariants: only names of `DIMENSIONS` reach the SQL, values travel as arguments; ranges are whole
days, or whole hours when a time of day is given or hours are asked for (UTC); an answer's sums are the
roll-up's, which are the rows' own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from llm_proxy.errors import BadRequest

DIMENSIONS = {
    "agent": "agent", "tenant": "tenant", "key": "key_id", "model": "model_group", "provider": "provider",
    "user": "user_id", "day": "day", "hour": "hour", "would_refuse": "would_refuse",
}  # fmt: skip
HOURS_KEPT = timedelta(days=35)
RAW_AT_MOST = timedelta(days=8)  # a week, and today
MOST_LINES = 10_000
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(?P<number>[0-9]{1,4})(?P<unit>[mhdw])")
_TIMES = {"day": "2026-11-01", "hour": "2026-11-01T12:00Z"}
"""Dimensions that are no names, and how one is written."""

_SUMS = """
    sum(requests)::bigint AS requests, sum(succeeded)::bigint AS succeeded,
    sum(cache_hits)::bigint AS cache_hits,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(cached_tokens)::bigint AS cached_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
    sum(cost_usd) AS cost_usd, sum(unpriced)::bigint AS unpriced, sum(estimated)::bigint AS estimated,
    sum(latency_us) / nullif(sum(timed), 0) / 1000 AS avg_latency_ms"""

_RAW = """(
    SELECT date_trunc('hour', started_at, 'UTC') AS hour, (started_at AT TIME ZONE 'UTC')::date AS day,
           key_id, coalesce(tenant, '') AS tenant, coalesce(agent, '') AS agent,
           coalesce(user_id, '') AS user_id, coalesce(would_refuse, '') AS would_refuse,
           model_group, coalesce(provider, '') AS provider, 1 AS requests,
           (outcome = 'ok')::int AS succeeded,
           (cache = 'hit')::int AS cache_hits, prompt_tokens, completion_tokens, cached_tokens,
           reasoning_tokens, cost_usd, (cost_usd IS NULL)::int AS unpriced,
           (usage_source = 'estimated')::int AS estimated,
           (outcome <> 'lost')::int AS timed,
           CASE WHEN outcome <> 'lost' THEN latency_ms * 1000 END AS latency_us
    FROM requests WHERE started_at >= $1 AND started_at < $2) AS raw"""


def moment(text: str, now: datetime) -> datetime:
    """A time somebody wrote: `2026-11-01`, `2026-11-01T12:00Z`; or ago: `90m`, `24h`, whole days `7d`, `2w`.

    Raises `BadRequest`. Without an offset it is UTC.
    """
    ago = _AGO.fullmatch(text)
    if ago:
        then = now - timedelta(**{_UNITS[ago["unit"]]: int(ago["number"])})
        return midnight(then) if ago["unit"] in "dw" else then
    try:
        then = datetime.fromisoformat(text)
        then = then.astimezone(UTC) if then.tzinfo else then.replace(tzinfo=UTC)
        return then + timedelta(days=2) - timedelta(days=2)  # whole days are counted beyond it
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        raise BadRequest(
            f"'{text[:40]}' is not a time; write 2026-11-01, or 24h, or 7d.", param="since"
        ) from None


def midnight(moment: datetime) -> datetime:
    """The beginning of that day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Question:
    """What was used from `since` until before `until`, by these dimensions, where these hold.

    Attributes:
        where: Dimension to value; an empty value asks for requests that have none.
    """

    since: datetime
    until: datetime
    by: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.by, *self.where) if name not in DIMENSIONS]
        if unknown:
            allowed = ", ".join(DIMENSIONS)
            raise BadRequest(f"Unknown dimension '{unknown[0][:40]}'; there are {allowed}.", param="group_by")
        if len({*self.by}) < len(self.by):
            raise BadRequest("A dimension is named twice.", param="group_by")
        if self.since >= self.until:
            raise BadRequest("The range is empty: 'since' is not before 'until'.", param="since")


def answer_sql(question: Question, now: datetime) -> tuple[str, list[Any]]:
    """The statement and its arguments; raises `BadRequest` when no table can answer it."""
    table, moment = _source(question, now)
    since, until = question.since, question.until
    if moment == "day":
        since, until = since.date(), _whole_days(until).date()  # type: ignore[assignment]
    arguments: list[Any] = [since, until]
    conditions = ["TRUE"] if table == _RAW else [f"{moment} >= $1 AND {moment} < $2"]
    for name, value in question.where.items():
        arguments.append(filter_value(name, value))
        conditions.append(f"{_column(name, moment)} = ${len(arguments)}")
    keys = [_column(name, moment) for name in question.by]
    shown = "".join(f'{key} AS "{name}", ' for key, name in zip(keys, question.by, strict=True))
    grouped = f" GROUP BY {', '.join(keys)} ORDER BY {_order(question.by, keys)}" if keys else ""
    statement = (
        f"SELECT {shown}{_SUMS} FROM {table} WHERE {' AND '.join(conditions)}{grouped} LIMIT {MOST_LINES}"  # noqa: S608 -- names are this file's own
    )
    return statement, arguments


def _source(question: Question, now: datetime) -> tuple[str, str]:
    asked = {*question.by, *question.where}
    whole_days = _is_midnight(question.since) and (_is_midnight(question.until) or question.until >= now)
    if "would_refuse" in asked or (
        "user" in asked and ("hour" in asked or "provider" in asked or not whole_days)
    ):
        if question.until - question.since > RAW_AT_MOST:
            raise BadRequest(
                "Users by hour or by provider, and what limits in shadow mode would refuse,"
                f" are told for ranges of {RAW_AT_MOST.days} days at most.",
                param="group_by",
            )
        return _RAW, "hour"
    if "user" in asked:
        return "usage_users" if "model" in asked else "usage_user_days", "day"
    if "hour" not in asked and whole_days:
        return "usage_daily", "day"
    if question.since < now - HOURS_KEPT:
        raise BadRequest(f"Hours are kept for {HOURS_KEPT.days} days; ask for whole days.", param="since")
    return "usage_hourly", "hour"


def filter_value(name: str, text: str) -> Any:  # noqa: ANN401 -- as the column's type wants it
    """What a filter compares with; raises `BadRequest` for what no column of that kind can hold."""
    if name not in _TIMES:
        if "\0" in text:
            raise BadRequest(f"'{name}' holds a character no name has.", param=name)
        return text
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"'{text[:40]}' is not a {name}; write {_TIMES[name]}.", param=name) from None
    if name == "day":
        return then.date()
    return then if then.tzinfo else then.replace(tzinfo=UTC)


def _column(name: str, moment: str) -> str:
    column = DIMENSIONS[name]
    return "(hour AT TIME ZONE 'UTC')::date" if column == "day" and moment == "hour" else column


def _order(by: tuple[str, ...], keys: list[str]) -> str:
    times = [key for name, key in zip(by, keys, strict=True) if name in {"day", "hour"}]
    return ", ".join([*times, "sum(cost_usd) DESC NULLS LAST", "sum(requests) DESC"])


def _is_midnight(moment: datetime) -> bool:
    return moment == midnight(moment)


def _whole_days(until: datetime) -> datetime:
    return until if _is_midnight(until) else until + timedelta(days=1)
