"""The range, the range before it, the filters and the scope of a page about usage, from its address.

Invariants: parameters are those of `GET /v1/usage`, so that a page and the API answer alike; a range that
still runs is compared with as much of the range before; a viewer's scope is in every query.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from urllib.parse import urlencode

from llm_proxy.console.access import Viewer
from llm_proxy.errors import Forbidden
from llm_proxy.ledger.usage_query import TimeSpan, TimeUnit, UsageQuery, parse_range, parse_zone

PRESETS = {
    "today": "today",
    "this-week": "this week",
    "last-week": "last week",
    "this-month": "this month",
    "last-month": "last month",
    "24h": "24 hours",
    "7d": "7 days",
    "30d": "30 days",
    "90d": "90 days",
}
DEFAULT_RANGE = "7d"
FILTERS = ("tenant", "agent", "key", "model", "provider", "user")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_HOURS_KEPT = timedelta(days=16)
"""Two ranges of this length and what lies between have sums by hour."""
_UNITS: tuple[tuple[timedelta, TimeUnit], ...] = (
    (timedelta(days=3), "hour"),
    (timedelta(days=92), "day"),
    (timedelta(days=500), "week"),
)


@dataclass(frozen=True, slots=True)
class UsageView:
    """What a page shows.

    Attributes:
        given: The parameters as they were given, without empty ones.
        before: The range that is compared.
    """

    given: Mapping[str, str]
    since: datetime
    until: datetime
    before: TimeSpan
    zone: tzinfo
    filters: Mapping[str, str]
    viewer: Viewer

    @property
    def tz(self) -> str:
        """The name of the zone."""
        return self.given.get("tz", "UTC")

    @property
    def label(self) -> str:
        """The range, for people."""
        word = self.given.get("since", DEFAULT_RANGE)
        return PRESETS.get(word, "the range") if "until" not in self.given else "the range"

    @property
    def unit(self) -> TimeUnit:
        """The unit of time that shows the range in some dozens of steps."""
        length = self.until - self.since
        for longest, unit in _UNITS:
            if length <= longest:
                return unit
        return "month"

    def query(self, *group_by: str) -> UsageQuery:
        """Returns the query of the range, within the viewer's scope."""
        scope = self.viewer.scope
        return UsageQuery(
            self.since,
            self.until,
            group_by,
            self.filters,
            self.zone,
            only_key=scope.key_id,
            only_tenant=scope.tenant,
        )

    def key(self, *more: Hashable) -> Hashable:
        """Returns the key of a cached result: scope, ranges, filters and what else it depends on."""
        times = self.since, self.until, self.before, self.tz
        return self.viewer.scope, times, tuple(sorted(self.filters.items())), more

    def address(self, path: str, **changes: str) -> str:
        """Returns the address of a page with these parameters changed; an empty one is left out."""
        given = {name: value for name, value in {**self.given, **changes}.items() if value}
        return f"{path}?{urlencode(given)}" if given else path

    def dimensions(self, *names: str) -> tuple[str, ...]:
        """Returns those of the names that the viewer's rows differ in."""
        hidden = "tenant" if self.viewer.role in {"key", "tenant"} else None
        return tuple(name for name in names if name != hidden)


def read_view(parameters: Mapping[str, str], more: Sequence[str], viewer: Viewer, now: datetime) -> UsageView:
    """Reads a page's parameters; raises `BadRequest` and `Forbidden`.

    Args:
        parameters: Of the request.
        more: Names of the page's own parameters, which its links keep.
        viewer: Who looks.
        now: The time.
    """
    names = ("since", "until", "tz", *FILTERS, *more)
    given = {name: value for name in names if (value := parameters.get(name, "").strip())}
    zone = parse_zone(given.get("tz", "UTC"))
    minute = now.replace(second=0, microsecond=0)
    since, until = parse_range(given.get("since", DEFAULT_RANGE), given.get("until"), minute, zone)
    filters = {name: given[name] for name in FILTERS if name in given}
    tenant = viewer.scope.tenant
    if tenant is not None:
        if filters.get("tenant", tenant) != tenant:
            raise Forbidden("You see your own tenant only.", param="tenant")
        filters["tenant"] = tenant
    before = range_before(since, until, now, zone) if since < until else (since, since)
    return UsageView(given, since, until, before, zone, filters, viewer)


def range_before(since: datetime, until: datetime, now: datetime, zone: tzinfo) -> TimeSpan:
    """Returns the range before another: of its length, or the month before one; as much of it as is over."""
    local, end = since.astimezone(zone), until.astimezone(zone)
    starts_month = (local.day, local.hour, local.minute) == (1, 0, 0)
    if starts_month and until - since > _DAY and end <= _next_month(local):
        begin = (local - _DAY).replace(day=1).astimezone(UTC)
    else:
        begin = since - (until - since)
    step = _HOUR if until - since <= _HOURS_KEPT else _DAY
    over = since + -(-(now - since) // step) * step
    if over >= until or over <= since:
        return begin, since
    return begin, min(begin + (over - since), since)


def _next_month(moment: datetime) -> datetime:
    return (moment + timedelta(days=32)).replace(day=1)
