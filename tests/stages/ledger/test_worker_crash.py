"""A killed worker: finished calls are kept, started ones are recorded as lost."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from usage_records import record, run_ledger, until_written

WORKER = """
import asyncio, json, sys
from pathlib import Path
from usage_records import CALL, CALLER, record, run_ledger
from llm_proxy.call_context import CallContext
from llm_proxy.telemetry import uuid7

async def work(dsn, spool, flights):
    async with run_ledger(dsn or None, Path(spool)) as ledger:
        for _ in range(flights):
            context = CallContext(uuid7(), caller=CALLER, call=CALL)
            context.client_request_id = "theirs"
            ledger.call_started(context, ledger.started_line(context))
            print("opened", context.request_id, flush=True)
        while True:
            context = CallContext(uuid7(), caller=CALLER, call=CALL)
            ledger.call_started(context, ledger.started_line(context))
            hops = json.dumps([["g" * 90, "d" * 90, 500]] * 16)
            long = {"provider_message": "x" * 600, "hops": hops, "user": "\u0416" * 256}
            ledger.call_finished(record(request_id=context.request_id, **long))
            print("posted", context.request_id, flush=True)
            await asyncio.sleep(0.0005)

asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def killed_worker(
    dsn: str, spool: Path, *, flights: int, after_s: float
) -> tuple[set[UUID], set[UUID]]:
    """Runs a worker, kills it with SIGKILL, and returns what it said it had opened and posted."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WORKER, dsn, str(spool), str(flights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:  # noqa: ASYNC220 -- starts at once
        assert worker.stdout is not None
        first = await asyncio.to_thread(worker.stdout.readline)
        assert first
        reading = asyncio.create_task(asyncio.to_thread(worker.stdout.read))
        await asyncio.sleep(after_s)
        worker.send_signal(signal.SIGKILL)
        said = first + await reading
    lines = [line.split() for line in said.splitlines()[:-1]]
    opened = {UUID(line[1]) for line in lines if line[0] == "opened"}
    return opened, {UUID(line[1]) for line in lines if line[0] == "posted"}


async def outcomes(dsn: str) -> dict[UUID, str]:
    """Every row's id and outcome."""
    connection = await asyncpg.connect(dsn)
    try:
        return {
            row["request_id"]: row["outcome"]
            for row in await connection.fetch("SELECT request_id, outcome FROM requests")
        }
    finally:
        await connection.close()


@pytest.mark.parametrize("after_s", [0.02, 0.31, 0.77])
async def test_a_killed_worker_loses_no_finished_record(
    database_url: str, tmp_path: Path, after_s: float
) -> None:
    """A living worker recovers its slot: every finished record is there, every started call is `lost`."""
    async with run_ledger(database_url, tmp_path) as ledger:
        opened, posted = await killed_worker(database_url, tmp_path, flights=5, after_s=after_s)
        async with asyncio.timeout(20):
            while not opened <= (await outcomes(database_url)).keys():  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)
        await until_written(ledger)
    found = await outcomes(database_url)
    assert len(opened) == 5
    assert posted - found.keys() == set()
    assert {found[one] for one in opened} == {"lost"}
    assert {found[one] for one in posted} <= {"ok"}


async def test_the_next_start_recovers_its_own_slot(database_url: str, tmp_path: Path) -> None:
    """A worker killed without Postgres leaves journal and spool to the next one in its slot, once."""
    opened, posted = await killed_worker("", tmp_path, flights=3, after_s=0.5)
    for _ in range(2):
        async with run_ledger(database_url, tmp_path) as ledger:
            await until_written(ledger)
    found = await outcomes(database_url)
    assert posted - found.keys() == set()
    assert {found[one] for one in opened} == {"lost"}
    assert sum(outcome == "lost" for outcome in found.values()) <= len(opened) + 1


async def test_a_lost_call_keeps_its_owner_and_model(database_url: str, tmp_path: Path) -> None:
    """Its tokens and cost are unknown, not 0."""
    opened, _ = await killed_worker("", tmp_path, flights=1, after_s=0.1)
    async with run_ledger(database_url, tmp_path) as ledger:
        await until_written(ledger)
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchrow("SELECT * FROM requests WHERE request_id = $1", opened.pop())
    await connection.close()
    plain = record()
    assert row is not None
    assert (row["key_id"], row["tenant"], row["agent"]) == (plain.key_id, plain.tenant, plain.agent)
    assert (row["model_group"], row["client_request_id"]) == (plain.group, "theirs")
    assert (row["prompt_tokens"], row["cost_usd"], row["usage_source"]) == (None, None, "unknown")
