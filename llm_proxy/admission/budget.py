"""Budget periods: when the one a budget counts in began, when it ends, and what tells it from others.

Pure. Units: periods are calendar days and months in the budget's time zone.
"""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from llm_proxy.identity import Budget

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
UTC_NAME = "UTC"


def began(budget: Budget, now_ms: int) -> datetime:
    """When the period a budget counts in began; all time begins in 1970."""
    if budget.period == "total":
        return BEGINNING
    now = datetime.fromtimestamp(now_ms / 1000, _zone(budget.zone))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return midnight if budget.period == "day" else midnight.replace(day=1)


def ends_ms(budget: Budget, now_ms: int) -> int:
    """When the period ends, in milliseconds since 1970; 0 for one that never does."""
    if budget.period == "total":
        return 0
    start = began(budget, now_ms)
    following = start + timedelta(days=1) if budget.period == "day" else start + timedelta(days=32)
    if budget.period == "month":
        following = following.replace(day=1)
    return int(following.timestamp() * 1000)


def stamp(budget: Budget, now_ms: int) -> str:
    """What tells the counter of one period from that of another, and of the same in another zone."""
    day = f"{began(budget, now_ms):%Y%m%d}"
    return day if budget.period == "total" or budget.zone == UTC_NAME else f"{day}:{budget.zone}"


def _zone(name: str) -> ZoneInfo | timezone:
    return UTC if name == UTC_NAME else ZoneInfo(name)


def next_day_ms(now_ms: int) -> int:
    """When the next day begins in UTC: no period of that zone ends earlier."""
    return (now_ms // DAY_MS + 1) * DAY_MS
