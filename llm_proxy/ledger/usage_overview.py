"""Usage as pages show it, each in one reading of the roll-ups: two ranges compared, and a range over time.

Invariants: figures are those of `GET /v1/usage` for the same range, filters and groups; names beyond the
first are summed as the rest, so that what is shown adds up to the total. A range is read as `usage_sql` does.
Raises: `BadRequest`, `NotFound` for an unknown name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import asyncpg

from llm_proxy.errors import BadRequest
from llm_proxy.identity.postgres_store import Connection
from llm_proxy.ledger.usage_names import key_names, require_known_names, resolve_key_filter
from llm_proxy.ledger.usage_parts import AvailableData, split_query
from llm_proxy.ledger.usage_query import EMPTY_ROW, NAME_COLUMNS, TimeSpan, UsageQuery, UsageRow
from llm_proxy.ledger.usage_sql import SUMS, fetch_available, sums_by_name, usage_row, used_source

Measure = Literal["cost", "requests", "tokens", "errors"]
MEASURES: Mapping[Measure, str] = {
    "cost": "cost_usd",
    "requests": "requests",
    "tokens": "prompt_tokens + completion_tokens",
    "errors": "requests - succeeded",
}
"""What names are ranked by: an expression of the sums."""
_BEFORE, _NOW = 1, 2
_SUMMED = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in SUMS)

_LISTED = ("requests", "succeeded", "prompt_tokens", "completion_tokens", "cost_usd")
_LISTED_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in _LISTED)
_ROOM = "SET LOCAL work_mem = '32MB'; SET LOCAL jit = off"
"""Sorting many names on the disk, or compiling their sums, takes longer than everything else."""
_TOTALS = f"SELECT span, {_SUMMED} FROM ({{used}}) AS used GROUP BY span"  # noqa: S608 -- this package's names
_LISTS = """
    WITH {tables}listed AS (
        SELECT span, list, name, {sums} FROM ({lists}) AS parts GROUP BY 1, 2, 3 HAVING sum(requests) > 0
    ), ranked AS (
        SELECT *, max(cost_usd) OVER one AS best, max(requests) OVER one AS most
        FROM listed WINDOW one AS (PARTITION BY list, name)
    ), placed AS (
        SELECT *, dense_rank() OVER (PARTITION BY list ORDER BY best DESC, most DESC, name) AS place
        FROM ranked
    )
    SELECT * FROM placed WHERE place <= {top} ORDER BY list, place, span"""
_NAMED = "named AS (SELECT {keys}, {sums} FROM ({used}) AS used GROUP BY {keys})"
_LISTED_NAMED = """
    SELECT span, {place} AS list, coalesce({names}) AS name, {sums} FROM named
    GROUP BY GROUPING SETS ({sets})"""
_LISTED_SUMMED = "SELECT span, kind AS list, name, {sums} FROM ({used}) AS summed GROUP BY 1, 2, 3"
_OVER_TIME = """
    WITH named AS MATERIALIZED (
        SELECT width_bucket(at, {times}) AS at, {name} AS name, {sums} FROM ({used}) AS used GROUP BY 1, 2
        HAVING sum(requests) > 0
    ), ranked AS (
        SELECT name, row_number() OVER (ORDER BY sum({measure}) DESC, sum(requests) DESC, name) AS line
        FROM named GROUP BY name ORDER BY line LIMIT {top}
    )
    SELECT at, coalesce(line, {top} + 1) AS line, ranked.name AS shown, {sums}
    FROM named LEFT JOIN ranked USING (name) GROUP BY 1, 2, 3 ORDER BY line, at"""


@dataclass(frozen=True, slots=True)
class NameSums:
    """What one name used in a range."""

    requests: int = 0
    succeeded: int = 0
    total_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def measure(self, measure: Measure) -> Decimal | int:
        """Returns what a measure counts."""
        values: dict[Measure, Decimal | int] = {
            "cost": self.cost_usd,
            "requests": self.requests,
            "tokens": self.total_tokens,
            "errors": self.requests - self.succeeded,
        }
        return values[measure]


@dataclass(frozen=True, slots=True)
class ComparedName:
    """What one name used in a range, and in the range before.

    Attributes:
        name: An id, for keys; None for requests without one.
        label: The name of a key.
    """

    name: str | None
    label: str | None
    now: NameSums
    before: NameSums

    @property
    def change_usd(self) -> Decimal:
        """How much more it cost than before."""
        return self.now.cost_usd - self.before.cost_usd


@dataclass(frozen=True, slots=True)
class UsageComparison:
    """A range and the one before.

    Attributes:
        lists: By dimension the names with the highest cost in either range.
        unknown_spans: Parts of both ranges that no figure counts.
    """

    total: UsageRow
    before: UsageRow
    lists: Mapping[str, Sequence[ComparedName]]
    unknown_spans: Sequence[TimeSpan]


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """The usage of one name, or of the rest, in each group of time and in all of them.

    Attributes:
        is_rest: Whether it is of all names that are not among the first.
    """

    name: str | None
    label: str | None
    is_rest: bool
    total: NameSums
    by_time: Sequence[NameSums]


@dataclass(frozen=True, slots=True)
class UsageSeries:
    """Usage over time.

    Attributes:
        times: The beginnings of the groups of time.
        series: The first names by the measure, then the rest, if there is any; one series without a name.
        unknown_spans: Parts of the range that no figure counts.
    """

    times: Sequence[datetime]
    series: Sequence[NamedSeries]
    unknown_spans: Sequence[TimeSpan]


async def compare_ranges(
    connection: Connection, query: UsageQuery, before: TimeSpan, top: int, now: datetime
) -> UsageComparison:
    """Returns the sums of a query's range and of a range before, with the first names of each dimension.

    Args:
        connection: In a snapshot.
        query: Its `group_by` names the dimensions of the lists; no units of time.
        before: The other range; it ends where the query's begins, or earlier.
        top: At most so many names in each list, those with the highest cost in either range.
        now: The time.
    """
    if query.time_units or before[1] > query.since or "tag" in query.group_by:
        raise BadRequest("These ranges or groups cannot be compared.", param="group_by")
    query = await resolve_key_filter(connection, query)
    available = await fetch_available(connection, now)
    await connection.execute(_ROOM)
    summed = _read_parts(replace(query, group_by=()), before, available, SUMS)
    totals: dict[int, UsageRow] = {}
    if summed.selects:
        text = _TOTALS.format(used=" UNION ALL ".join(summed.selects))
        rows = await connection.fetch(text, *summed.arguments)
        totals = {row["span"]: usage_row(row, {}) for row in rows}
    if not totals:
        await require_known_names(connection, query.filters, query.only_key, query.only_tenant)
    named = _read_parts(query, before, available, _LISTED)
    lists: dict[str, list[ComparedName]] = {name: [] for name in query.group_by}
    if lists and (named.selects or named.by_name):
        rows = await connection.fetch(_lists(query.group_by, named), *named.arguments, top)
        labels = await _labels(connection, query, rows)
        for name in query.group_by:
            lists[name] = _compared([row for row in rows if row["list"] == name], labels)
    return UsageComparison(
        totals.get(_NOW, EMPTY_ROW), totals.get(_BEFORE, EMPTY_ROW), lists, named.unknown_spans
    )


@dataclass(frozen=True, slots=True)
class _ReadParts:
    """The SELECTs of the parts of two ranges, distinguished by `span`.

    Attributes:
        selects: With the query's names.
        by_name: Of sums by name, with `kind` and `name`.
    """

    arguments: list[Any] = field(default_factory=list[Any])
    selects: list[str] = field(default_factory=list[str])
    by_name: list[str] = field(default_factory=list[str])
    unknown_spans: list[TimeSpan] = field(default_factory=list[TimeSpan])


def _read_parts(
    query: UsageQuery, before: TimeSpan, available: AvailableData, sums: Collection[str]
) -> _ReadParts:
    read = _ReadParts()
    most_names = len(query.group_by)
    if query.names.intersection(query.filters):  # another name's sums do not know the filter
        most_names = min(most_names, 1)
    for span, (since, until) in ((_NOW, (query.since, query.until)), (_BEFORE, before)):
        one = replace(query, since=since, until=until) if since < until else None
        parts = split_query(one, available, most_names) if one is not None else None
        if one is None or parts is None:
            continue
        read.unknown_spans.extend(parts.unknown)
        of_span = f"SELECT {span} AS span, part.* FROM ({{}}) AS part"  # noqa: S608 -- this package's
        kinds = query.group_by or None
        if kinds:
            by_name = sums_by_name(one, parts, read.arguments, sums, kinds)
            read.by_name.extend(of_span.format(select) for select in by_name)
            parts = replace(parts, summed_days=[], summed_hours=[])
        used = used_source(one, parts, read.arguments, sums)
        read.selects.extend([of_span.format(used)] if used is not None else [])
    return read


def _lists(by: Sequence[str], read: _ReadParts) -> str:
    """Returns the statement; its last argument is the top."""
    names = [f'"{name}"' for name in by]
    # GROUPING has a bit for each name, set unless the row is grouped by it.
    bits = 2 ** len(by) - 1
    places = (f"WHEN {bits - 2 ** (len(by) - 1 - place)} THEN '{name}'" for place, name in enumerate(by))
    tables: list[str] = []
    lists: list[str] = []
    if read.selects:
        keys, used = ", ".join(["span", *names]), " UNION ALL ".join(read.selects)
        tables.append(_NAMED.format(keys=keys, sums=_LISTED_SUMS, used=used))
        place = f"CASE GROUPING({', '.join(names)}) {' '.join(places)} END"
        sets = ", ".join(f"(span, {name})" for name in names)
        lists.append(_LISTED_NAMED.format(place=place, names=", ".join(names), sums=_LISTED_SUMS, sets=sets))
    if read.by_name:
        lists.append(_LISTED_SUMMED.format(sums=_LISTED_SUMS, used=" UNION ALL ".join(read.by_name)))
    return _LISTS.format(
        tables="".join(f"{one}, " for one in tables),
        sums=_LISTED_SUMS,
        lists=" UNION ALL ".join(lists),
        top=f"${len(read.arguments) + 1}",
    )


def _compared(rows: Iterable[asyncpg.Record], labels: Mapping[tuple[str, str], str]) -> list[ComparedName]:
    found: dict[tuple[str, str], dict[int, NameSums]] = {}
    for row in rows:
        found.setdefault((row["list"], row["name"]), {})[row["span"]] = _name_sums(row)
    return [
        ComparedName(
            one[1] or None, labels.get(one), sums.get(_NOW, NameSums()), sums.get(_BEFORE, NameSums())
        )
        for one, sums in found.items()
    ]


async def _labels(
    connection: Connection, query: UsageQuery, rows: Iterable[asyncpg.Record]
) -> dict[tuple[str, str], str]:
    """Returns the names of the keys in these rows, by list and id."""
    if "key" not in query.group_by:
        return {}
    names = await key_names(connection, {row["name"] for row in rows if row["list"] == "key" and row["name"]})
    return {("key", key_id): name for key_id, name in names.items()}


async def usage_over_time(
    connection: Connection, query: UsageQuery, measure: Measure, top: int, now: datetime
) -> UsageSeries:
    """Returns a query's usage in each group of time: of the first names by a measure, the rest, and all.

    Args:
        connection: In a snapshot.
        query: Its `group_by` is a unit of time, and at most one name before it.
        measure: What names are ranked by, over the whole range.
        top: At most so many names.
        now: The time.
    """
    names = [name for name in query.group_by if name in NAME_COLUMNS]
    if len(query.time_units) != 1 or len(names) > 1 or "tag" in names:
        message = (
            "Usage over time is of one unit of time and at most one name, but no tag: a call has several."
        )
        raise BadRequest(message, param="group_by")
    query = await resolve_key_filter(connection, query)
    parts = split_query(query, await fetch_available(connection, now), most_names=1)
    arguments: list[Any] = []
    used = used_source(query, parts, arguments, _LISTED) if parts is not None else None
    rows: list[asyncpg.Record] = []
    if parts is not None and used is not None:
        arguments += [parts.groups, top]
        await connection.execute(_ROOM)
        rows = await connection.fetch(_over_time(used, names, MEASURES[measure], len(arguments)), *arguments)
    if parts is None or not rows:
        await require_known_names(connection, query.filters, query.only_key, query.only_tenant)
        return UsageSeries([], [], parts.unknown if parts else [])
    labels: Mapping[str, str] = {}
    if names == ["key"]:
        labels = await key_names(connection, {row["shown"] for row in rows if row["shown"]})
    return UsageSeries(parts.groups, _series(rows, len(parts.groups), labels), parts.unknown)


def _over_time(used: str, names: Sequence[str], measure: str, arguments: int) -> str:
    """Returns the statement; its last two arguments are the beginnings of the groups and the top."""
    return _OVER_TIME.format(
        used=used,
        sums=_LISTED_SUMS,
        name=f'"{names[0]}"' if names else "''",
        measure=measure,
        times=f"${arguments - 1}::timestamptz[]",
        top=f"${arguments}",
    )


def _series(rows: Iterable[asyncpg.Record], times: int, labels: Mapping[str, str]) -> list[NamedSeries]:
    lines: dict[tuple[int, str | None], dict[int, NameSums]] = {}
    for row in rows:
        lines.setdefault((row["line"], row["shown"]), {})[row["at"]] = _name_sums(row)
    return [
        NamedSeries(
            shown or None,
            labels.get(shown or ""),
            shown is None,
            add_sums(found.values()),
            [found.get(at, NameSums()) for at in range(1, times + 1)],
        )
        for (_, shown), found in lines.items()
    ]


def _name_sums(row: asyncpg.Record) -> NameSums:
    tokens = int(row["prompt_tokens"] + row["completion_tokens"])
    return NameSums(int(row["requests"]), int(row["succeeded"]), tokens, row["cost_usd"])


def add_sums(sums: Iterable[NameSums]) -> NameSums:
    """Returns the sums of all of these together."""
    every = list(sums)
    return NameSums(
        sum(one.requests for one in every),
        sum(one.succeeded for one in every),
        sum(one.total_tokens for one in every),
        sum((one.cost_usd for one in every), Decimal(0)),
    )
