"""The gateway's records and the sidecar's log compared."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from usage_records import record, run_ledger

from llm_proxy.ledger.reconcile import enrich_estimates, find_discrepancies
from llm_proxy.ledger.usage_store import open_usage

AGO = datetime.now(UTC) - timedelta(minutes=5)
LOGGED = """
    INSERT INTO llm_calls (
        call_id, attempt, started_at, status, prompt_tokens, completion_tokens, cost_usd, images, provider)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'openai')"""


async def log(dsn: str, call_id: UUID, *, attempt: str = "", status: str = "success", **said: Any) -> None:
    """One model call as the sidecar saw it, by default as `record()` did."""
    reported = {"prompt": 12, "completion": 34, "cost": Decimal("0.000056789")} | said
    connection = await asyncpg.connect(dsn)
    at = AGO + timedelta(milliseconds=3)
    await connection.execute(
        LOGGED, call_id, attempt, at, status, reported["prompt"], reported["completion"], reported["cost"],
        reported.get("images"),
    )  # fmt: skip
    await connection.close()


async def found(dsn: str) -> dict[UUID, tuple[str, ...]]:
    """Request id -> how the logs differ."""
    async with open_usage(dsn) as usage:
        listed = await find_discrepancies(usage.pool, AGO - timedelta(hours=1), datetime.now(UTC), 100)
    return {one.request_id: one.kinds for one in listed}


async def test_agreeing_records_are_no_discrepancies(database_url: str, tmp_path: Path) -> None:
    """Equal figures, a nano-dollar of rounding, a cache hit, a replay, a failed attempt, an unknown price."""
    agreeing = [record(started_at=AGO) for _ in range(4)]
    hit = record(started_at=AGO, cache="hit", cost_nano_usd=0)
    replay = record(started_at=AGO, replay_of=str(hit.request_id), cost_nano_usd=0)
    failed = record(started_at=AGO, outcome="error", status=502, prompt_tokens=None, completion_tokens=None)
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (*agreeing, hit, replay, failed):
            ledger.call_finished(one)
    plain, rounded, retried, unpriced = (one.request_id for one in agreeing)
    await log(database_url, plain)
    await log(database_url, rounded, cost=Decimal("0.000056788"))
    await log(database_url, retried, attempt="1", status="failure", prompt=None, completion=None, cost=None)
    await log(database_url, retried, attempt="2")
    await log(database_url, unpriced, cost=None)
    assert await found(database_url) == {}


async def test_discrepancies_are_listed_by_kind(database_url: str, tmp_path: Path) -> None:
    """Tokens, images, cost, a call that only one side has."""
    tokens, cost, silent = (record(started_at=AGO) for _ in range(3))
    free = record(started_at=AGO, cost_nano_usd=None)
    drawn, alike = (record(started_at=AGO, images=2) for _ in range(2))
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (tokens, cost, silent, free, drawn, alike):
            ledger.call_finished(one)
    stranger = record().request_id
    await log(database_url, tokens.request_id, completion=35)
    await log(database_url, cost.request_id, cost=Decimal("0.1"))
    await log(database_url, stranger)
    await log(database_url, drawn.request_id, images=3)
    await log(database_url, alike.request_id, images=2)
    await log(database_url, free.request_id, cost=Decimal(0))
    assert await found(database_url) == {
        tokens.request_id: ("tokens",),
        drawn.request_id: ("quantities",),
        cost.request_id: ("cost",),
        free.request_id: ("cost",),  # 0 and unknown are not the same
        silent.request_id: ("missing_there",),
        stranger: ("missing_here",),
    }


async def test_estimates_are_enriched_once(database_url: str, tmp_path: Path) -> None:
    """Afterwards the logs agree."""
    estimated = record(started_at=AGO, usage_source="estimated", prompt_tokens=1, cost_nano_usd=None)
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.call_finished(estimated)
    await log(database_url, estimated.request_id)
    assert await found(database_url) == {estimated.request_id: ("tokens", "cost")}
    async with open_usage(database_url) as usage:
        since = AGO - timedelta(hours=1)
        assert await enrich_estimates(usage.pool, since, datetime.now(UTC)) == 1
        assert await enrich_estimates(usage.pool, since, datetime.now(UTC)) == 0
    assert await found(database_url) == {}


async def test_estimated_quantities_are_enriched(database_url: str, tmp_path: Path) -> None:
    """Also where the log states no tokens; the estimate of these stays."""
    estimated = record(started_at=AGO, usage_source="estimated", images=4, cost_nano_usd=None)
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.call_finished(estimated)
    await log(database_url, estimated.request_id, prompt=None, completion=None, images=1)
    async with open_usage(database_url) as usage:
        assert await enrich_estimates(usage.pool, AGO - timedelta(hours=1), datetime.now(UTC)) == 1
        story = await usage.request_detail(estimated.request_id)
        sums = await usage.pool.fetch("SELECT images, prompt_tokens FROM usage_daily")
    assert story is not None
    assert (story["images"], story["prompt_tokens"], story["usage_source"]) == (1, 12, "sidecar")
    assert [tuple(row) for row in sums] == [(1, 12)]


async def test_a_failed_call_gets_its_provider_from_the_log(database_url: str, tmp_path: Path) -> None:
    """Its tokens stay unknown; the sums by provider follow."""
    unknown = {"prompt_tokens": None, "completion_tokens": None, "cost_nano_usd": None, "provider": None}
    failed = record(
        started_at=AGO, outcome="error", status=504, usage_source="unknown", deployment=None, **unknown
    )
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.call_finished(failed)
    await log(database_url, failed.request_id, status="failure", prompt=0, completion=0, cost=None)
    async with open_usage(database_url) as usage:
        assert await enrich_estimates(usage.pool, AGO - timedelta(hours=1), datetime.now(UTC)) == 0
        story = await usage.request_detail(failed.request_id)
        by = await usage.pool.fetch("SELECT provider FROM usage_daily WHERE requests > 0")
    assert story is not None
    assert (story["provider"], story["usage_source"], story["prompt_tokens"]) == ("openai", "unknown", None)
    assert [row["provider"] for row in by] == ["openai"]


async def test_tokens_of_both_logs_are_integers(database_url: str, tmp_path: Path) -> None:
    """Also sums over a call's attempts."""
    differing = record(started_at=AGO)
    async with run_ledger(database_url, tmp_path) as ledger:
        ledger.call_finished(differing)
    await log(database_url, differing.request_id, attempt="1", completion=20)
    await log(database_url, differing.request_id, attempt="2", completion=21)
    async with open_usage(database_url) as usage:
        [one] = await find_discrepancies(usage.pool, AGO - timedelta(hours=1), datetime.now(UTC), 100)
    assert json.dumps([one.tokens, one.logged_tokens]) == "[[12, 34], [24, 41]]"
