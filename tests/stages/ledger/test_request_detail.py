"""One request from its record and the sidecar's log; counts of rejections in Postgres."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
from sidecars import Sidecar
from usage_records import CALLER, record, run_ledger

from llm_proxy.call_context import CallContext
from llm_proxy.errors import RateLimited, ReachedLimit
from llm_proxy.ledger import LedgerStore
from llm_proxy.ledger.rejected_requests import CounterRow, RejectionCounts, RejectionScope
from llm_proxy.ledger.request_detail import describe_request
from llm_proxy.ledger.request_lookup import RequestLookup, ids_in
from llm_proxy.ledger.retention import DEFAULT_DAYS
from llm_proxy.ledger.usage_store import PostgresUsage, open_usage
from llm_proxy.telemetry import timestamp_of, uuid7


async def _logged(usage: PostgresUsage, request_id: UUID, count: int) -> list[str]:
    """Returns the lines, once the sidecar has logged so many attempts."""
    async with asyncio.timeout(15):
        while True:
            found = await usage.request_detail(request_id)
            if found is not None and len(found["model_calls"]) >= count:
                return describe_request(found)
            await asyncio.sleep(0.1)


async def test_each_attempt_has_its_status_time_and_reason(
    sidecar: Sidecar, call_log_dsn: str, tmp_path: Path
) -> None:
    """Two failures that are retried, then an answer; the record's own message at the last failure."""
    request_id = uuid7()
    said = f"{request_id} {json.dumps({'do': 'flaky', 'fails': 2, 'key': str(request_id)})}"
    body = {"model": "policed", "messages": [{"role": "user", "content": said}]}
    answer = await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(request_id)})
    assert answer.status == 200
    hops = answer.headers["x-llmp-hops"]
    assert [hop[2] for hop in json.loads(hops)][-1] == 200
    answered = record(request_id=request_id, started_at=timestamp_of(request_id), group="policed", hops=hops)
    failed_id = uuid7()
    failed = record(
        request_id=failed_id, started_at=timestamp_of(failed_id), outcome="error", status=502, hops=hops,
        refusal_code="provider_error", provider_message="It broke its leg.", cost_nano_usd=None,
    )._replace(hops=json.dumps(json.loads(hops)[:2]))  # fmt: skip
    async with run_ledger(call_log_dsn, tmp_path) as ledger:
        ledger.call_finished(answered)
        ledger.call_finished(failed)
    async with open_usage(call_log_dsn) as usage:
        lines = await _logged(usage, request_id, 3)
        without = describe_request(await usage.request_detail(failed_id) or {})
    reported = [line for line in lines if line.startswith("hop ")]
    assert [line.partition(": policed at ")[0] for line in reported] == ["hop 1", "hop 2", "hop 3"]
    assert ["status 200" in line for line in reported] == [False, False, True]
    assert all(" ms" in line and f"{datetime.now(UTC):%Y-%m-%d}" in line for line in reported)
    assert "Error" in reported[0]
    assert without[2].endswith("It broke its leg.")
    assert without[3].endswith("are unknown")
    assert "ended error with 502, provider_error" in without[-1]
    assert "cost unknown" in without[-1]


async def test_a_request_is_found_by_its_answers_id_and_by_the_providers(
    sidecar: Sidecar, call_log_dsn: str, tmp_path: Path
) -> None:
    """As the sidecar's log has them; another key finds nothing by them."""
    request_id = uuid7()
    async with open_usage(
        call_log_dsn
    ) as usage:  # the provider gives each answer of other tests this id, too
        await usage.pool.execute("DELETE FROM llm_calls WHERE provider_request_id = 'req_scripted'")
    body = {"model": "openai", "messages": [{"role": "user", "content": str(request_id)}]}
    answer = await sidecar.post("/v1/chat/completions", body, **{"x-litellm-call-id": str(request_id)})
    answer_id = answer.json["id"]
    async with run_ledger(call_log_dsn, tmp_path) as ledger:
        ledger.call_finished(record(request_id=request_id, started_at=timestamp_of(request_id)))
    async with open_usage(call_log_dsn) as usage:
        await _logged(usage, request_id, 1)
        lookup = RequestLookup(usage.pool)
        for pasted in (answer_id, f"msg_{answer_id}", "Error (request id: req_scripted)"):
            found = await lookup.find(ids_in(pasted), None, None)
            assert request_id in {one["request_id"] for one in found}, pasted
        assert await lookup.find(ids_in(answer_id), "key-2", None) == []
        assert await lookup.find(ids_in(answer_id), None, "zeta") == []
        assert await lookup.find(ids_in(f"nothing like {answer_id}9"), None, None) == []


async def test_counts_written_twice_and_by_several_workers_are_exact(
    database_url: str, tmp_path: Path
) -> None:
    """A repeated batch adds nothing; a later one of the same minute replaces it."""
    refused = RateLimited("Full.", retry_after_s=1)
    refused.reached_limit = ReachedLimit("requests", "key", "key key-1", 3, 1, 3)
    workers = [RejectionCounts() for _ in range(3)]
    request_id = uuid7()
    async with run_ledger(database_url, tmp_path):
        pass  # brings the schema
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=2)
    store = LedgerStore(pool, DEFAULT_DAYS)
    for number, worker in enumerate(workers, 1):
        batches: list[list[CounterRow]] = []
        for _ in range(number):
            worker.add(request_id, CALLER, refused)
            batches.append(worker.pending_rows())
        for rows in [*batches, *reversed(batches), batches[0]]:
            await store.insert_rejection_counts(rows)
    usage = PostgresUsage(pool)
    [row] = await usage.rejected_in_minute(request_id, RejectionScope())
    assert (row["key_id"], row["tenant"], row["limit_scope"], row["limit_kind"], row["times"]) == (
        "key-1", "acme", "key", "requests", 6,
    )  # fmt: skip
    assert await usage.rejected_in_minute(request_id, RejectionScope(key="another")) == []
    assert await usage.rejected_in_minute(request_id, RejectionScope(tenant="zeta")) == []
    now = datetime.now(UTC)
    span = now - timedelta(hours=1), now + timedelta(hours=1)
    counted = await usage.rejection_counts(*span, tenant="acme")
    assert [one["times"] for one in counted] == [6]
    await pool.execute("UPDATE refusal_counts SET minute = minute - interval '15 days'")
    assert await store.delete_expired() == 3
    assert await pool.fetchval("SELECT count(*) FROM refusal_counts") == 0
    await pool.close()


async def test_a_worker_writes_counts_and_sample_until_it_stops(database_url: str, tmp_path: Path) -> None:
    """Nothing is missing after an orderly stop."""
    refused = RateLimited("Full.", retry_after_s=1)
    refused.reached_limit = ReachedLimit("budget", "key", "key key-1", 10**9, 5 * 10**8, 10**9, unit="usd")
    request_id = uuid7()
    async with run_ledger(database_url, tmp_path) as ledger:
        for _ in range(50):
            context = CallContext(request_id)
            context.caller = CALLER
            ledger.request_rejected(context, refused)
    async with open_usage(database_url) as usage:
        [row] = await usage.rejected_in_minute(request_id, RejectionScope(key="key-1"))
        story = await usage.request_detail(request_id)
    assert row["times"] == 50
    assert story is not None
    assert (story["reached"]["limit"], story["reached"]["wanted"]) == ("1.000000000", "0.500000000")
