"""Rows that Postgres does not accept, among others: a bad row never holds back another."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from usage_records import record, run_ledger, until_written

from llm_proxy.ledger.observers import Payload
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.spool import Journal, Spool
from llm_proxy.ledger.worker_slot import acquire_slot
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline, write_rows
from llm_proxy.sidecar.call_log import COLUMNS, CallLog


async def ask(dsn: str, sql: str, *arguments: Any) -> Any:
    """One value, over a connection of the test's own."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


POISON: dict[str, dict[str, Any]] = {
    "a NUL in a text": {"user": "a\0b", "session": "\0"},
    "lone surrogates in a text": {"model": "\ud83d", "client_request_id": "x\udc80"},
    "a text too long for an index": {"agent": "x" * 100_000, "tenant": "y" * 100_000, "user": "z" * 100_000},
    "tokens beyond a bigint": {"prompt_tokens": 2**63},
    "tokens that fit and overflow a sum": {"completion_tokens": 2**63 - 1, "prompt_tokens": 2**63 - 1},
    "a cost beyond its column": {"cost_nano_usd": 2**63 - 1},
    "a negative count": {"cached_tokens": -(2**62)},
    "a status beyond a smallint": {"status": 70_000},
    "a value a CHECK forbids": {"outcome": "exploded"},
    "a latency that is no number": {"latency_ms": float("nan")},
    "attempts that are no JSON": {"hops": "{"},
    "attempts with a NUL": {"hops": '[["a\\u0000", "d", 500]]'},
    "a provider's message of any size": {"provider_message": "\ud800\0" + "m" * 1_000_000},
    "a missing value": {"key_id": None},
    "a wrong type": {"attempts": "many"},
    "a day far ahead": {"started_at": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)},
}
NEVER = {
    "a value a CHECK forbids", "a latency that is no number", "a missing value", "a wrong type",
    "a status beyond a smallint", "a day far ahead",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*POISON, "all of them"])
async def test_a_bad_row_stops_no_other(
    database_url: str, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each good row is written, and the next batch too; what cannot be repaired is put aside and logged."""
    kinds = list(POISON) if kind == "all of them" else [kind]
    bad = [record(**POISON[one]) for one in kinds]
    good = [record() for _ in range(20)]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in [*good[:7], *bad, *good[7:]]:
            ledger.call_finished(one)
        await until_written(ledger)
        later = record(prompt_tokens=5)
        ledger.call_finished(later)
        await until_written(ledger)
        assert ledger.state().postgres == "up"
    ids = [one.request_id for one in [*good, later]]
    assert await ask(database_url, "SELECT count(*) FROM requests WHERE request_id = ANY($1)", ids) == 21
    never = len(NEVER & {*kinds})
    assert await ask(database_url, "SELECT count(*) FROM requests") == 21 + len(bad) - never
    assert await ask(database_url, "SELECT sum(requests) FROM usage_daily") == 21 + len(bad) - never
    reported = [one for one in caplog.records if "rejects a record for good" in one.message]
    assert len(reported) == never
    assert all(getattr(one, "request_id", "") and getattr(one, "why", "") for one in reported)


async def test_cleaning_a_text_changes_no_other_field(database_url: str, tmp_path: Path) -> None:
    """A call's attempts stay, whatever its user is called."""
    odd = [record(user=text, hops='[["g", "d", 503], ["h", "e", 200]]') for text in ("a\0b", "\ud800b")]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in odd:
            ledger.call_finished(one)
    known = "SELECT count(*) FROM requests WHERE jsonb_array_length(hops) = 2 AND user_id IN ('ab', '?b')"
    assert await ask(database_url, known) == 2


async def test_bad_lines_in_spool_and_journal_stop_no_replay(database_url: str, tmp_path: Path) -> None:
    """Foreign lines, or half of one; a dead worker's calls."""
    dead = acquire_slot(tmp_path)
    good = [record() for _ in range(3)]
    lines = [encode(row_of(one)) for one in good]
    values = orjson.loads(lines[0])
    strange = [
        b"{}", b"[1]", b"null", b"\xff\xfe",
        orjson.dumps([5, *values[1:]]),
        orjson.dumps([str(uuid4()), 5, *values[2:]]),
        orjson.dumps([str(uuid4()), "2026-11-01T00:00:00", *values[2:]]),
        orjson.dumps([str(uuid4()), "0001-01-01T00:00:00+14:00", *values[2:]]),
        orjson.dumps([str(uuid4()), values[1], {"a": []}, *values[3:-1], "x"]),
    ]  # fmt: skip
    spool = Spool(dead.path, 2**24)
    spool.append([lines[0], *strange, lines[1]])
    spool.close()
    journal = Journal(dead.path / "journal")
    journal.complete(good[2].request_id, lines[2])
    for opened in (b"[]", orjson.dumps([1] * 15), orjson.dumps([str(uuid4()), 1e300, *["x"] * 13])):
        journal.begin(uuid4(), opened)
    dead.release()
    async with run_ledger(database_url, tmp_path) as ledger:
        await until_written(ledger)
    ids = [one.request_id for one in good]
    assert await ask(database_url, "SELECT count(*) FROM requests WHERE request_id = ANY($1)", ids) == 3


async def test_a_missing_partition_is_made_again(database_url: str, tmp_path: Path) -> None:
    """Dropped: at once. Detached: only its day cannot be written."""
    today, yesterday = record(), record(started_at=datetime.now(UTC) - timedelta(days=1))
    async with run_ledger(database_url, tmp_path) as ledger:
        for one in (today, yesterday):
            ledger.call_finished(one)
        await until_written(ledger)
        name = today.started_at.strftime("requests_%Y%m%d")
        await ask(database_url, f"DROP TABLE {name}")
        again = record()
        ledger.call_finished(again)
        await until_written(ledger)
        assert ledger.state().postgres == "up"
        assert await ask(database_url, "SELECT count(*) FROM requests") == 2
        detached = yesterday.started_at.strftime("requests_%Y%m%d")
        await ask(database_url, f"ALTER TABLE requests DETACH PARTITION {detached}")
        after = record()
        ledger.call_finished(record(started_at=yesterday.started_at))
        ledger.call_finished(after)
        await until_written(ledger)
        assert ledger.state().postgres == "up"
    assert await ask(database_url, "SELECT count(*) FROM requests WHERE request_id = $1", after.request_id)


async def test_a_rejected_statement_is_not_an_unavailable_database(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing permission is logged as such; records wait in the spool and follow."""
    caplog.set_level(logging.INFO)
    name = f"restricted_{uuid4().hex[:8]}"
    await ask(database_url, f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    await ask(database_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    await ask(database_url, f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {name}")
    restricted = f"postgresql://{name}:pw@{database_url.rpartition('@')[2]}"
    try:
        async with run_ledger(restricted, tmp_path) as ledger:
            one = record()
            ledger.call_finished(one)
            async with asyncio.timeout(10):
                while not ledger.state().spool_records:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.05)
            assert ledger.state().postgres == "refused"
            assert not [one for one in caplog.messages if "is away" in one]
            [said] = [one for one in caplog.records if "refuses the records" in one.message]
            assert getattr(said, "why", "") == "its role lacks a permission"
            await ask(database_url, f"GRANT INSERT ON requests TO {name}")
            await until_written(ledger)
        assert await ask(database_url, "SELECT count(*) FROM requests") == 1
    finally:
        await ask(database_url, f"DROP OWNED BY {name}")
        await ask(database_url, f"DROP ROLE {name}")


async def test_a_bad_payload_stops_no_other_and_no_sample(database_url: str, tmp_path: Path) -> None:
    """A long name is truncated, text is cleaned."""
    records = [record() for _ in range(4)]
    users = ["u" * 500_000, "a\0\udc80", "ok", None]
    async with run_ledger(database_url, tmp_path) as ledger:
        for one, user in zip(records, users, strict=True):
            ledger.keep_payload(
                Payload(one.request_id, one.started_at, user, user, user, b"\xff\0\xed\xa0\xbd", b"{}")
            )
    assert await ask(database_url, "SELECT count(*) FROM payloads") == 4


CALL: dict[str, Any] = {
    "attempt": "success:d", "started_at": datetime.now(UTC), "status": "success", "prompt_tokens": 1,
    "completion_tokens": 1, "cost_breakdown": "{}", "attempts": 1, "http_status": 200,
}  # fmt: skip


def call(**changes: Any) -> tuple[Any, ...]:
    """A row of `llm_calls`."""
    values: dict[str, Any] = {**CALL, "call_id": uuid4(), **changes}
    return tuple(values.get(name) for name in COLUMNS)


async def test_a_bad_row_of_the_sidecar_stops_no_other(call_log_dsn: str, call_log_url: str) -> None:
    """Wrong types, overflows, text and JSON: left out, counted, the rest is written."""
    bad = [
        call(prompt_tokens=2**70), call(http_status=99_999), call(model="a\0b"), call(model="\ud800"),
        call(cost_breakdown="{"), call(cost_breakdown='{"a": "\\u0000"}'), call(status=None),
        call(started_at="yesterday"), call(attempt="x" * 10_000_000), call(cost_usd="1"), call(attempts="x"),
    ]  # fmt: skip
    good = [call() for _ in range(20)]
    log = CallLog(call_log_url)
    for row in [*good[:3], *bad, *good[3:]]:
        log.post(row)
    await log.start()
    await log.stop()
    ids = [row[0] for row in good]
    assert await ask(call_log_dsn, "SELECT count(*) FROM llm_calls WHERE call_id = ANY($1)", ids) == 20
    written = await ask(
        call_log_dsn, "SELECT count(*) FROM llm_calls WHERE call_id = ANY($1)", [row[0] for row in bad]
    )
    assert log.dropped == len(bad) - written


async def test_rows_left_by_an_outage_are_written_later(database_url: str) -> None:
    """And nothing twice: rows leave the list once they are written or rejected."""
    written: list[int] = []
    away = True

    async def write(rows: Sequence[int]) -> None:
        if 3 in rows:
            raise RowsRejected("22003", "three")
        if 6 in rows and away:
            raise DatabaseUnavailable("away", "gone")
        written.extend(rows)

    rows = list(range(8))
    with pytest.raises(DatabaseUnavailable):
        await write_rows(rows, write)
    assert sorted([*written, *rows]) == list(range(8))
    away = False
    assert await write_rows(rows, write) == [(3, "three")]
    assert (rows, sorted(written)) == ([], [0, 1, 2, 4, 5, 6, 7])
    async with asyncpg.create_pool(database_url, min_size=0) as pool:
        for statement, kind in (("SELECT pg_sleep(1)", "away"), ("SELECT * FROM nowhere", "refused")):
            with pytest.raises(DatabaseUnavailable) as fault:
                async with db_deadline(0.2):
                    await pool.execute(statement)
            assert fault.value.kind == kind
