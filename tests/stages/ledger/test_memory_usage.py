"""Mock mode's usage in memory equals what Postgres would answer."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from usage_records import random_record, record, run_ledger

from llm_proxy.ledger import MemoryUsage
from llm_proxy.ledger.usage_query import UsageQuery, UsageRow, midnight
from llm_proxy.ledger.usage_store import open_usage


def by_group(lines: Sequence[UsageRow]) -> dict[tuple[str, ...], tuple[object, ...]]:
    """The sums of each group; the mean of latencies to a tenth of a millisecond, as roll-ups round."""
    return {
        tuple(str(value) for value in line.group.values()): (
            line.requests, line.succeeded, line.cache_hits, line.prompt_tokens, line.completion_tokens,
            line.cached_tokens, line.reasoning_tokens, line.cost_usd, line.unpriced_requests,
            line.estimated_requests, *line.quantities, line.p50_latency_ms, line.p95_latency_ms,
            line.p95_ttft_ms, line.latency_requests, line.ttft_requests,
            None if line.avg_latency_ms is None else pytest.approx(line.avg_latency_ms, abs=0.1),
        )
        for line in lines
    }  # fmt: skip


async def test_memory_and_postgres_answer_alike(database_url: str, tmp_path: Path) -> None:
    """Sums by each dimension and by two, filtered and not; the same request's story."""
    chance, remembered = Random(7), MemoryUsage()  # noqa: S311 -- a test's dice
    records = [record(agent="a1"), *(random_record(chance) for _ in range(200))]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in records:
            ledger.call_finished(one)
            remembered.add(one)
    now = datetime.now(UTC)
    since, until = (
        midnight(now.date(), UTC) - timedelta(days=40),
        midnight(now.date(), UTC) + timedelta(days=1),
    )
    questions = [
        UsageQuery(since, until, by, where)
        for by in ((), ("agent",), ("tenant", "model"), ("key",), ("day", "provider"), ("user",))
        for where in ({}, {"agent": records[0].agent or ""})
    ]
    async with open_usage(database_url) as usage:
        for query in questions:
            in_memory, kept_there = await remembered.query(query, now), await usage.query(query, now)
            assert by_group(in_memory.rows) == by_group(kept_there.rows)
        reported, kept = [await one.request_detail(records[0].request_id) for one in (usage, remembered)]
    assert reported is not None
    assert kept is not None
    assert reported == kept
