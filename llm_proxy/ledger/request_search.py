"""Searches single requests, calls and rejections in one list, newest first, page by page, in Postgres.

Invariants: nothing is written; a page begins after a place in the list, so rows that are inserted meanwhile
move nothing. A search answers within `SEARCH_S`, whatever the filters: it reads the range from its newest end
in slices, which grow while they are quick, and says how far it came. All matches are read by pages: memory is
bounded, and no transaction is held. Raises: `DatabaseUnavailable`, `BadRequest`, `NotFound` (no such key).
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from llm_proxy.identity.postgres_store import Connection
from llm_proxy.json_access import Json
from llm_proxy.ledger.key_families import of_family
from llm_proxy.ledger.request_filters import NO_FILTERS, Position, RequestFilters, before
from llm_proxy.ledger.usage_names import key_names, resolve_key
from llm_proxy.ledger.usage_query import require_range
from llm_proxy.ledger.usage_store import rejected_as_dict, row_as_dict
from llm_proxy.schema.database import db_deadline

SEARCH_S = 0.7
"""How long a page is looked for; then it is returned as far as it is filled."""
EXPORT_S = 5.0
"""The same of a page of an export, for which no person waits at a screen."""
MAX_PAGE = 1000
_FIRST_SLICE, _LONGEST_SLICE = timedelta(hours=1), timedelta(days=400)
_QUICK_S = 0.1
_GROWTH = 4
_MARGIN_S = 2.0
_MIN_SLICE_MS = 300
_TICK = timedelta(microseconds=1)
_NEWEST = (
    "SELECT greatest((SELECT max(started_at) FROM requests WHERE started_at < $1),"
    " (SELECT max(refused_at) FROM refusals WHERE refused_at < $1))"
)


@dataclass(frozen=True, slots=True)
class RequestSearch:
    """A search; an empty range raises `BadRequest`.

    Attributes:
        since: The beginning of the range.
        until: Its end, exclusive.
        only_key: The one key (its id) whose requests, and those of keys below it, may be seen; None for any.
        only_tenant: The one tenant whose requests may be seen; None for any.
        after: The place after which the page begins; None for the newest.
        limit: Rows of a page, at most `MAX_PAGE`.
    """

    since: datetime
    until: datetime
    filters: RequestFilters = NO_FILTERS
    only_key: str | None = None
    only_tenant: str | None = None
    after: Position | None = None
    limit: int = 50

    def __post_init__(self) -> None:
        require_range(self.since, self.until)


@dataclass(frozen=True, slots=True)
class RequestPage:
    """Rows that match, newest first.

    Attributes:
        rows: As `request_detail` returns them, with `key_name` and without model calls.
        after: Where the next page begins; None at the end of the range.
        searched_to: With fewer rows than wanted, and a next page: the time down to which was searched.
    """

    rows: list[Json]
    after: Position | None
    searched_to: datetime | None = None


class RequestSearcher:
    """Searches the requests of a database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find_page(self, search: RequestSearch, within_s: float = SEARCH_S) -> RequestPage:
        """Returns one page; looks for it for at most about `within_s`."""
        async with db_deadline(within_s + _MARGIN_S), self._pool.acquire() as connection:
            search = await _with_key_id(connection, search)
            page = await _search(connection, search, within_s)
            names = await key_names(connection, {one["key_id"] for one in page.rows if one["key_id"]})
        for row in page.rows:
            row["key_name"] = names.get(row["key_id"])
        return page

    async def find_all(self, search: RequestSearch) -> AsyncGenerator[list[Json]]:
        """Yields all rows in pages, newest first."""
        search = replace(search, limit=MAX_PAGE)
        while True:
            page = await self.find_page(search, EXPORT_S)
            if page.rows:
                yield page.rows
            if page.after is None:
                return
            search = replace(search, after=page.after)


async def _with_key_id(connection: Connection, search: RequestSearch) -> RequestSearch:
    """Returns the search with the id of the key that its filters name."""
    name = search.filters.values.get("key")
    if name is None:
        return search
    key_id = await resolve_key(connection, name, search.only_key, search.only_tenant)
    values = {**search.filters.values, "key": key_id}
    return replace(search, filters=replace(search.filters, values=values))


async def _search(connection: Connection, search: RequestSearch, within_s: float) -> RequestPage:
    """Reads slices from the newest end until the page is full, the range is read, or the time is over."""
    clock = asyncio.get_running_loop().time
    ends_at, found, length = clock() + within_s, list[Json](), _FIRST_SLICE
    after = start = await _first_place(connection, search)
    while after.at > search.since:
        since, began = max(search.since, after.at - length), clock()
        left_ms = max(_MIN_SLICE_MS, int((ends_at - began) * 1000))
        try:
            wanted = search.limit + 1 - len(found)
            rows = await _read_slice(connection, search, Slice(since, after, wanted, left_ms))
        except asyncpg.QueryCanceledError:
            length /= _GROWTH
        else:
            found += rows
            if len(found) > search.limit:
                last = found[search.limit - 1]
                return RequestPage(found[: search.limit], Position(time_of(last), last["request_id"]))
            after = before(since)
            if clock() - began < _QUICK_S:
                length = min(length * _GROWTH, _LONGEST_SLICE)
        if after is not start and search.since < after.at and clock() >= ends_at:
            return RequestPage(found, after, after.at)
    return RequestPage(found, None)


async def _first_place(connection: Connection, search: RequestSearch) -> Position:
    """Returns the place at which a search begins: no row that it may return is newer."""
    until = before(search.until)
    after = until if search.after is None else min(search.after, until)
    newest: datetime | None = await connection.fetchval(_NEWEST, after.at + _TICK)
    return before(search.since) if newest is None else min(after, before(newest + _TICK))


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the range to be read.

    Attributes:
        since: Its beginning.
        after: The place after which its rows are.
        limit: At most so many rows.
        timeout_ms: How long the server may read it.
    """

    since: datetime
    after: Position
    limit: int
    timeout_ms: int


async def _read_slice(connection: Connection, search: RequestSearch, part: Slice) -> list[Json]:
    """Returns the newest rows of a part of the range; raises `asyncpg.QueryCanceledError`."""
    rows: list[Json] = []
    async with connection.transaction(readonly=True):
        await connection.execute(
            f"SET LOCAL statement_timeout = {part.timeout_ms}; SET LOCAL plan_cache_mode = force_custom_plan"
        )
        if search.filters.with_calls:
            text, arguments = _statement("requests", "started_at", search, part)
            rows += [row_as_dict(row) for row in await connection.fetch(text, *arguments)]
        if search.filters.with_rejections:
            text, arguments = _statement("refusals", "refused_at", search, part)
            rows += [rejected_as_dict(row) for row in await connection.fetch(text, *arguments)]
    rows.sort(key=lambda row: (time_of(row), row["request_id"]), reverse=True)
    return rows[: part.limit]


def _statement(table: str, at: str, search: RequestSearch, part: Slice) -> tuple[str, list[Any]]:
    """Returns the statement that reads a table's rows of a slice, and its arguments."""
    arguments: list[Any] = [part.since, part.after.at, part.after.request_id, part.limit]

    def argument(value: Any) -> str:  # noqa: ANN401 -- of a column's type
        arguments.append(value)
        return f"${len(arguments)}"

    filters = search.filters
    conditions = filters.of_calls(argument) if table == "requests" else filters.of_rejections(argument)
    if search.only_key is not None:
        conditions.append(of_family("key_id", argument(search.only_key)))
    if search.only_tenant is not None:
        conditions.append(f"tenant = {argument(search.only_tenant)}")
    where = " AND ".join([f"{at} >= $1", f"{at} <= $2", f"({at}, request_id) < ($2, $3::uuid)", *conditions])
    text = f"SELECT * FROM {table} WHERE {where} ORDER BY {at} DESC, request_id DESC LIMIT $4"  # noqa: S608 -- names are this package's own
    return text, arguments


def time_of(row: Json) -> datetime:
    """Returns when a request of either kind began."""
    found: datetime = row["refused_at"] if row["outcome"] == "refused" else row["started_at"]
    return found
