"""Runs in the records: their sums are those of their calls, page by page; the calls of one, in order."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from usage_records import add_child_keys, random_record, write_records

from llm_proxy.call_context import CallContext
from llm_proxy.errors import BadRequest, NotFound, RateLimited
from llm_proxy.identity import Caller
from llm_proxy.ledger import LedgerStore, UsageRecord
from llm_proxy.ledger.rejected_requests import rejected_request
from llm_proxy.ledger.request_filters import parse_position
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.ledger.run_calls import RunQuery, RunReader
from llm_proxy.telemetry import uuid7

NOW = datetime(2026, 11, 26, 11, 12, tzinfo=UTC)
REACHED = RateLimited("It was reached.")
RANGE = (NOW - timedelta(days=2), NOW)
WRITES = {"chat.completions", "messages"}
Json = dict[str, Any]
RunKey = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with these calls in it."""

    reader: RunReader
    records: list[UsageRecord]
    pool: "asyncpg.Pool[asyncpg.Record]"

    def by_run(self) -> dict[RunKey, list[UsageRecord]]:
        """The calls of the range, by run."""
        found = defaultdict[RunKey, list[UsageRecord]](list)
        for one in self.records:
            if one.run_name is not None and RANGE[0] <= one.started_at < RANGE[1]:
                root_key = (one.key_ancestors or one.key_id).partition(",")[0]
                found[one.run_name, root_key, one.tenant].append(one)
        return found

    async def pages(self, query: RunQuery) -> list[Json]:
        """The rows of all pages of runs."""
        rows: list[Json] = []
        while True:
            page = await self.reader.runs(query)
            assert len(page.rows) <= query.limit
            rows += page.rows
            if page.after is None:
                return rows
            query = replace(query, after=parse_position(str(page.after)))

    async def requests_of_run(self, query: RunQuery, counts: tuple[int, int]) -> list[Json]:
        """The rows of all pages of a run's requests, each of which has its calls and rejections counted."""
        rows: list[Json] = []
        while True:
            page = await self.reader.calls(query)
            assert page.run is not None
            assert (page.run["key_id"], page.run["calls"], page.run["rejected"]) == ("k1", *counts)
            rows += page.rows
            if page.after is None:
                return rows
            query = replace(query, after=parse_position(str(page.after)))


@pytest.fixture
async def filled(database_url: str) -> AsyncIterator[Filled]:
    """Three days of calls, most of them in runs; several runs have their last call at the same time."""
    random = Random(33)  # noqa: S311 -- rows, not secrets
    names = [None, "night", "day", "é {x}'%_"]
    records = [
        random_record(random, NOW)._replace(
            run_name=random.choice(names), door=random.choice([*sorted(WRITES), "embeddings"])
        )
        for _ in range(300)
    ]
    records = [
        one._replace(key_ancestors="k1") if one.key_id == "k3" and random.random() < 0.5 else one
        for one in records
    ]
    at_once = NOW - timedelta(seconds=1)
    records += [
        one._replace(request_id=UUID(int=random.getrandbits(128)), started_at=at_once) for one in records[:30]
    ]
    async with asyncpg.create_pool(database_url, min_size=0, max_size=2) as pool:
        await write_records(pool, records)
        await pool.execute("INSERT INTO api_keys (key_id, name, tenant) VALUES ('k1', 'one', 'acme')")
        yield Filled(RunReader(pool), records, pool)


def is_turn(one: UsageRecord) -> bool:
    """As limits count turns."""
    return one.door in WRITES and (one.cache == "hit" or bool(one.total_tokens))


async def test_the_sums_of_runs_are_those_of_their_calls(filled: Filled) -> None:
    """Each run once, whatever the pages; those with the latest calls first."""
    expected = filled.by_run()
    for limit in (1000, 4):
        rows = await filled.pages(RunQuery(*RANGE, {}, limit=limit))
        assert len(rows) == len(expected)
        for row in rows:
            calls = expected[row["run"], row["key_id"], row["tenant"]]
            assert row["calls"] == len(calls)
            assert row["turns"] == sum(map(is_turn, calls))
            assert row["failed"] == sum(one.outcome != "ok" for one in calls)
            assert row["prompt_tokens"] == sum(one.prompt_tokens or 0 for one in calls)
            assert row["cost_usd"] == sum(Decimal(one.cost_nano_usd or 0) for one in calls) / 10**9
            assert (row["first_at"], row["last_at"]) == (
                min(one.started_at for one in calls),
                max(one.started_at for one in calls),
            )
            assert set(row["agents"]) == {one.agent for one in calls} - {None}
            assert row["key_name"] == ("one" if row["key_id"] == "k1" else None)
        times = [row["last_at"] for row in rows]
        assert times == sorted(times, reverse=True)


async def test_a_key_and_a_tenant_see_their_own_runs(filled: Filled) -> None:
    """Whatever the filters name."""
    mine = await filled.pages(RunQuery(*RANGE, {}, only_key="k2"))
    assert {row["key_id"] for row in mine} == {"k2"}
    of_tenant = await filled.pages(RunQuery(*RANGE, {"run": "night"}, only_tenant="zeta"))
    assert {(row["run"], row["tenant"]) for row in of_tenant} == {("night", "zeta")}
    assert await filled.pages(RunQuery(*RANGE, {"tenant": "acme"}, only_tenant="zeta")) == []
    with pytest.raises(NotFound):
        await filled.reader.runs(RunQuery(*RANGE, {"key": "one"}, only_key="k2"))
    with pytest.raises(NotFound):
        await filled.reader.calls(RunQuery(*RANGE, {"run": "night"}, only_key="k9"))


async def test_a_child_key_sees_its_own_calls_of_a_family_s_run(filled: Filled) -> None:
    """Not those of the keys above it, nor what they cost."""
    (name, _, tenant), calls = next(
        (key, calls)
        for key, calls in filled.by_run().items()
        if key[1] == "k1" and key[2] and any(one.key_id == "k3" for one in calls)
    )
    own = [one for one in calls if one.key_id == "k3"]
    query = RunQuery(*RANGE, {"run": name, "key": "k1", "tenant": tenant or ""}, only_key="k3")
    with pytest.raises(NotFound):
        await filled.reader.calls(query)
    query = RunQuery(*RANGE, {"run": name, "tenant": tenant or ""}, only_key="k3", limit=500)
    rows = (await filled.reader.runs(query)).rows
    of_root = next(row for row in rows if row["key_id"] == "k1")
    assert of_root["calls"] == len(own)
    assert of_root["cost_usd"] == sum(Decimal(one.cost_nano_usd or 0) for one in own) / 10**9


async def test_the_calls_of_a_run_come_in_the_order_they_began(filled: Filled) -> None:
    """All of them, page by page, and its sums on every page."""
    (name, _, tenant), calls = max(
        ((key, calls) for key, calls in filled.by_run().items() if key[2] and key[1] == "k1"),
        key=lambda item: len(item[1]),
    )
    query = RunQuery(*RANGE, {"run": name, "key": "one", "tenant": tenant or ""}, limit=3)
    found = await filled.requests_of_run(query, (len(calls), 0))
    assert {one["run_name"] for one in found} == {name}
    order = sorted(calls, key=lambda one: (one.started_at, one.request_id))
    assert [one["request_id"] for one in found] == [one.request_id for one in order]


async def test_rejected_calls_stand_in_their_run_and_in_no_sum(filled: Filled) -> None:
    """Of the root key and its child keys, among the calls by time; a run may have nothing else."""
    pool = filled.pool
    await add_child_keys(pool, {"k8": ["k1"]})
    (name, _, tenant), calls = max(
        ((key, calls) for key, calls in filled.by_run().items() if key[2] and key[1] == "k1"),
        key=lambda item: len(item[1]),
    )
    refused = [
        rejected_request(
            CallContext(
                uuid7(),
                started_at=at.timestamp(),
                caller=Caller(key_id, "virtual", tenant, run_id=run),
            ),
            REACHED,
        )
        for key_id, run, at in (
            ("k1", name, RANGE[0] + timedelta(hours=1)), ("k8", name, RANGE[0] + timedelta(hours=30)),
            ("k8", "only", RANGE[1] - timedelta(minutes=1)), ("k2", name, RANGE[1] - timedelta(minutes=1)),
        )
    ]  # fmt: skip
    await LedgerStore(pool, DEFAULT_DAYS).insert_rejected([one.as_row() for one in refused])
    query = RunQuery(*RANGE, {"run": name, "key": "k1", "tenant": tenant or ""}, limit=3)
    found = await filled.requests_of_run(query, (len(calls), 2))
    order = [(one.started_at, one.request_id) for one in calls]
    order += [(one.rejected_at, one.request_id) for one in refused[:2]]
    assert [one["request_id"] for one in found] == [request_id for _, request_id in sorted(order)]
    shown = next(one for one in found if one["request_id"] == refused[1].request_id)
    assert (shown["outcome"], shown["code"], shown["key_ancestors"]) == (
        "refused",
        "rate_limit_exceeded",
        ["k1"],
    )
    only = await filled.reader.calls(RunQuery(*RANGE, {"run": "only"}))
    assert only.run is not None
    assert (only.run["calls"], only.run["rejected"], only.run["key_id"], only.run["models"]) == (
        0,
        1,
        "k1",
        [],
    )
    own = await filled.reader.calls(RunQuery(*RANGE, {"run": "only"}, only_key="k8"))
    assert [one["request_id"] for one in own.rows] == [refused[2].request_id]
    with pytest.raises(NotFound):
        await filled.reader.calls(RunQuery(*RANGE, {"run": "only"}, only_key="k2"))


async def test_a_name_that_several_runs_have_is_asked_about(filled: Filled) -> None:
    """With the keys that named it."""
    with pytest.raises(BadRequest) as refused:
        await filled.reader.calls(RunQuery(*RANGE, {"run": "night"}))
    assert (refused.value.code, refused.value.param) == ("run_ambiguous", "key")
    assert "key one" in refused.value.message or "key k2" in refused.value.message
