"""A search of requests finds what a plain filter over all rows finds, page by page."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from usage_records import add_child_keys, random_record, record

from llm_proxy import schema
from llm_proxy.errors import BadRequest, NotFound, ReachedLimit
from llm_proxy.ledger import LedgerStore, UsageRecord
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.rejected_requests import RejectedRequest
from llm_proxy.ledger.request_filters import RequestFilters, parse_filters, parse_position
from llm_proxy.ledger.request_lookup import RequestLookup, ids_in
from llm_proxy.ledger.request_search import RequestSearch, RequestSearcher, time_of
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.schema.migrations import run_work_batch

NOW = datetime(2026, 11, 26, 11, 12, tzinfo=UTC)
NUMBER = 40
RANGE = (NOW - timedelta(days=4), NOW + timedelta(days=1))
REACHED = ReachedLimit("requests", "key", "key k1", 3, 1, 3)
Json = dict[str, Any]
Matches = Callable[[UsageRecord], bool]


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with these calls and rejections in it."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    records: list[UsageRecord]
    rejected: list[RejectedRequest]

    async def add(self, records: list[UsageRecord]) -> None:
        """Writes calls as the ledger does."""
        store = LedgerStore(self.pool, DEFAULT_DAYS)
        for at in range(0, len(records), 200):
            await store.insert_records([(row_of(one), encode(row_of(one))) for one in records[at : at + 200]])

    async def find(self, filters: RequestFilters, **changes: Any) -> list[UUID]:
        """Returns the ids of all pages of a search, in order; no page is longer than wanted."""
        searcher = RequestSearcher(self.pool)
        search = replace(RequestSearch(*RANGE, filters, limit=7), **changes)
        found: list[UUID] = []
        while True:
            page = await searcher.find_page(search)
            assert len(page.rows) <= search.limit
            found += [row["request_id"] for row in page.rows]
            if page.after is None:
                return found
            search = replace(search, after=parse_position(str(page.after)))


def a_rejection(random: Random) -> RejectedRequest:
    """A rejection of the last three days."""
    limited = random.random() < 0.5
    return RejectedRequest(
        request_id=UUID(int=random.getrandbits(128)),
        rejected_at=NOW - timedelta(seconds=random.uniform(0, 3 * 86_400)),
        status=429 if limited else 403,
        code="rate_limit_exceeded" if limited else "forbidden",
        origin="limit" if limited else "gateway",
        door="chat.completions",
        key_id=random.choice(["k1", "k2", None]),
        key_prefix="sk-one",
        tenant=random.choice([None, "acme", "zeta"]),
        agent=random.choice([None, "a1"]),
        group=random.choice(["gpt", "claude"]),
        user=random.choice([None, "u1"]),
        reached=REACHED if limited else None,
        model=random.choice([None, "gpt", "asked"]),
    )


@pytest.fixture
async def filled(database_url: str) -> AsyncIterator[Filled]:
    """Three days of calls and rejections, several at the same microsecond."""
    random = Random(40)  # noqa: S311 -- rows, not secrets
    records = [random_record(random, NOW) for _ in range(240)]
    records += [one._replace(request_id=UUID(int=random.getrandbits(128))) for one in records[:20]]
    records += [
        record(session="s-1", run="r-1", tags="blue,green", started_at=NOW, refusal_code="provider_error",
               outcome="error", status=502, group_asked="asked", client_request_id="mine-1"),
    ]  # fmt: skip
    rejected = [a_rejection(random) for _ in range(40)]
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as pool:
        for day in {one.started_at.date() for one in records}:
            await pool.execute("SELECT requests_partition($1)", day)
        made = Filled(pool, records, rejected)
        await made.add(records)
        await LedgerStore(pool, DEFAULT_DAYS).insert_rejected([one.as_row() for one in rejected])
        await pool.execute("INSERT INTO api_keys (key_id, name, tenant) VALUES ('k1', 'one', 'acme')")
        yield made


def expected(
    filled: Filled, calls: Matches | None, rejections: Callable[[RejectedRequest], bool] | None
) -> list[UUID]:
    """The ids that match, newest first."""
    rows = [(one.started_at, one.request_id) for one in filled.records if calls and calls(one)]
    rows += [(one.rejected_at, one.request_id) for one in filled.rejected if rejections and rejections(one)]
    return [request_id for _, request_id in sorted(rows, reverse=True)]


CASES: list[tuple[dict[str, str], Matches | None, Callable[[RejectedRequest], bool] | None]] = [
    ({}, lambda _: True, lambda _: True),
    ({"tenant": "acme"}, lambda one: one.tenant == "acme", lambda one: one.tenant == "acme"),
    ({"agent": "a1", "user": "u1"}, lambda one: (one.agent, one.user) == ("a1", "u1"),
     lambda one: (one.agent, one.user) == ("a1", "u1")),
    ({"key": "one"}, lambda one: one.key_id == "k1", lambda one: one.key_id == "k1"),
    ({"model": "gpt"}, lambda one: one.group == "gpt", lambda one: "gpt" in {one.group, one.model}),
    ({"model": "asked"}, lambda one: one.group_asked == "asked", lambda one: one.model == "asked"),
    ({"session": "s-1", "run": "r-1", "tag": "green"}, lambda one: one.session == "s-1", None),
    ({"outcome": "refused"}, None, lambda _: True),
    ({"outcome": "failed"}, lambda one: one.outcome != "ok", lambda _: True),
    ({"outcome": "cut"}, lambda one: one.outcome == "cut", None),
    ({"status": "4xx"}, None, lambda _: True),
    ({"status": "502", "cause": "provider_error"}, lambda one: one.status == 502, None),
    ({"cause": "key:requests"}, None, lambda one: one.reached is not None),
    ({"cause": "forbidden"}, None, lambda one: one.code == "forbidden"),
    ({"min_cost": "400", "max_cost": "800.5"},
     lambda one: one.cost_nano_usd is not None and 400 * 10**9 <= one.cost_nano_usd <= 8005 * 10**8, None),
    ({"min_ms": "2000", "max_ms": "2500"}, lambda one: 2000 <= one.latency_ms <= 2500, None),
    ({"endpoint": "chat.completions", "provider": "openai"}, lambda one: one.provider == "openai", None),
    ({"tenant": "nobody"}, None, None),
]  # fmt: skip


async def test_every_filter_finds_exactly_what_matches_newest_first(filled: Filled) -> None:
    """Of calls and rejections together; those that a filter cannot say anything of are left out."""
    for given, calls, rejections in CASES:
        found = await filled.find(parse_filters({"tenant": "", **given}.items()))
        assert found == expected(filled, calls, rejections), given


async def test_a_key_and_a_tenant_see_their_own_alone(filled: Filled) -> None:
    """Whatever they filter by."""
    own = await filled.find(parse_filters([]), only_key="k2")
    assert own == expected(filled, lambda one: one.key_id == "k2", lambda one: one.key_id == "k2")
    assert own
    assert await filled.find(parse_filters([("tenant", "zeta")]), only_tenant="acme") == []
    with pytest.raises(NotFound):
        await filled.find(parse_filters([("key", "one")]), only_tenant="zeta")
    with pytest.raises(NotFound):
        await filled.find(parse_filters([("key", "one")]), only_key="k2")


async def test_a_key_sees_its_child_keys_requests_too(filled: Filled) -> None:
    """Calls and rejections, also of one of them alone; none of a key above or beside."""
    await add_child_keys(filled.pool, {"k2": ["k1"], "k3": ["k1"]})
    every = ("k1", "k2", "k3")
    family = await filled.find(parse_filters([]), only_key="k1")
    assert family == expected(filled, lambda one: one.key_id in every, lambda one: one.key_id in every)
    of_child = expected(filled, lambda one: one.key_id == "k2", lambda one: one.key_id == "k2")
    assert await filled.find(parse_filters([("key", "k2")]), only_key="k1") == of_child
    assert await filled.find(parse_filters([]), only_key="k2") == of_child
    for other in ("one", "k1", "k3"):
        with pytest.raises(NotFound):
            await filled.find(parse_filters([("key", other)]), only_key="k2")
    await filled.add([record(key_id="k2", client_request_id="mine-2", started_at=NOW)])
    lookup, pasted = RequestLookup(filled.pool), ids_in("mine-2")
    found = [await lookup.find(pasted, only, None) for only in ("k1", "k2", "k3")]
    assert [[row["key_id"] for row in rows] for rows in found] == [["k2"], ["k2"], []]


async def test_pages_do_not_move_when_rows_are_inserted(filled: Filled) -> None:
    """New calls appear on the first page of a new search only."""
    searcher, search = RequestSearcher(filled.pool), RequestSearch(*RANGE, limit=50)
    before = await filled.find(parse_filters([]))
    first = await searcher.find_page(search)
    await filled.add([record(started_at=NOW + timedelta(minutes=number)) for number in range(5)])
    rest = await filled.find(parse_filters([]), after=first.after, limit=50)
    assert [row["request_id"] for row in first.rows] + rest == before
    assert len(await filled.find(parse_filters([]))) == len(before) + 5


async def test_all_matches_are_read_in_pages_and_keys_are_named(filled: Filled) -> None:
    """Each row once, in order."""
    pages = [page async for page in RequestSearcher(filled.pool).find_all(RequestSearch(*RANGE))]
    rows = [row for page in pages for row in page]
    assert [row["request_id"] for row in rows] == await filled.find(parse_filters([]))
    assert {row["key_name"] for row in rows if row["key_id"] == "k1"} == {"one"}
    assert [time_of(row) for row in rows] == sorted((time_of(row) for row in rows), reverse=True)


async def test_a_search_that_runs_out_of_time_says_how_far_it_came_and_goes_on(filled: Filled) -> None:
    """Page by page it finds all the same; each page gets further."""
    searcher = RequestSearcher(filled.pool)
    search = RequestSearch(*RANGE, parse_filters([("outcome", "cut")]), limit=1000)
    found: list[UUID] = []
    reached = [RANGE[1]]
    while True:
        page = await searcher.find_page(search, within_s=0)
        found += [row["request_id"] for row in page.rows]
        if page.after is None:
            break
        assert page.searched_to is not None
        assert page.searched_to < reached[-1]
        reached.append(page.searched_to)
        search = replace(search, after=page.after)
    assert found == expected(filled, lambda one: one.outcome == "cut", None)
    assert len(reached) > 5


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([("nonsense", "1")], "nonsense"), ([("tenant", "a"), ("tenant", "b")], "tenant"),
        ([("status", "4x")], "status"), ([("outcome", "good")], "outcome"),
        ([("min_cost", "NaN")], "min_cost"), ([("max_ms", "-1")], "max_ms"),
        ([("min_ms", "1e400")], "min_ms"), ([("user", "a\0")], "user"),
        ([("agent", "x" * 257)], "agent"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_named(given: list[tuple[str, str]], param: str) -> None:
    """Unknown, repeated, or no value of its kind."""
    with pytest.raises(BadRequest) as raised:
        parse_filters(given)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "text", ["", "1", "x-00", "1-" + "g" * 32, "9" * 40 + "-" + "0" * 32, "1-" + "0" * 33]
)
def test_a_wrong_place_is_a_bad_request(text: str) -> None:
    """Whatever was put into the link."""
    with pytest.raises(BadRequest):
        parse_position(text)


async def test_days_before_the_migration_get_its_indexes_beside_the_calls(empty_database_url: str) -> None:
    """One index of one day a batch; days made ahead have them at once, and days made later as well."""
    lacking = (
        "SELECT count(*) FROM pg_index w WHERE w.indrelid = 'requests'::regclass AND NOT EXISTS ("
        " SELECT 1 FROM pg_inherits a JOIN pg_index p ON p.indexrelid = a.inhrelid"
        " WHERE a.inhparent = w.indexrelid AND p.indrelid = $1::text::regclass)"
    )
    today = datetime.now(UTC).date()
    past, ahead, later = (today + timedelta(days=days) for days in (-3, 2, 30))
    async with (
        asyncpg.create_pool(empty_database_url, min_size=0, max_size=2) as pool,
        pool.acquire() as connection,
    ):
        for step in schema.all_migrations():
            if step.number > NUMBER:
                break
            if step.number == NUMBER:
                for day in (past, ahead):
                    await connection.execute("SELECT requests_partition($1)", day)
            await connection.execute(step.sql)
        await connection.execute("SELECT requests_partition($1)", later)
        count = await connection.fetchval(lacking, f"requests_{past:%Y%m%d}")
        assert count == len(("tenant", "user", "client_id", "failed"))
        assert [await connection.fetchval(lacking, f"requests_{day:%Y%m%d}") for day in (ahead, later)] == [
            0,
            0,
        ]
        batches: list[str] = []
        while (work := await run_work_batch(connection)) is not None:
            batches.append(work.name)
        assert batches.count("index_request_days") == count + 1
        assert await connection.fetchval(lacking, f"requests_{past:%Y%m%d}") == 0
