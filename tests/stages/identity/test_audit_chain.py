"""The audit log's content and chain, on a real Postgres, tampered with as its superuser."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity import (
    Actor,
    AuditFilter,
    AuditLog,
    Budget,
    KeyRepository,
    KeySpec,
    KillSwitch,
    LimitPolicy,
    Limits,
    Person,
    PolicyRepository,
    record_action,
    record_rejected_action,
)
from llm_proxy.identity.audit import admin_transaction, delete_person_name, drop_months, write_audit
from llm_proxy.identity.audit_log import verify_audit_log

if TYPE_CHECKING:
    from collections.abc import Awaitable

ANNA = Actor("anna", "192.0.2.1", "operator", is_person=True)
SPEC = KeySpec("n", tenant="acme", user="ulla", limits=Limits(rpm=3), budgets=(Budget(5, "day"),))
Pool = asyncpg.Pool


async def test_an_entry_has_author_address_action_and_changed_fields(pool: "Pool[asyncpg.Record]") -> None:
    """Of keys, limits and kill switches, and no secret."""
    repository, policies = KeyRepository(pool), PolicyRepository(pool)
    made = await repository.create(SPEC, ANNA)
    await repository.update("n", replace(SPEC, limits=Limits(rpm=9)), ANNA)
    rotated = await repository.rotate("n", ANNA, overlap=datetime.resolution)
    await repository.revoke("n", ANNA)
    policy = LimitPolicy("tenant", tenant="acme", subject="acme", limits=Limits(rpm=1))
    await policies.upsert(policy, ANNA)
    await policies.upsert(replace(policy, limits=Limits(rpm=2)), ANNA)
    await policies.delete(policy, ANNA)
    await policies.enable_switch(
        KillSwitch("model", "gpt"), ANNA, reason="key sk-abcdefghijklmnopqrst leaked"
    )
    await policies.disable_switch(KillSwitch("model", "gpt"), ANNA)
    entries = (await AuditLog(pool).list_entries())[::-1]
    assert {(one["actor"], one["role"], one["client_ip"], one["outcome"]) for one in entries} == {
        ("anna", "operator", "192.0.2.1", "done")
    }
    reported = [(one["action"], one["before"], one["after"]) for one in entries]
    limit = {"limit_usd": "0.000000005", "period": "day"}
    assert reported[0][0::2] == ("keys.create", entries[0]["after"])
    assert (entries[0]["after"]["rpm"], entries[0]["after"]["budgets"]) == (3, [limit])
    assert (reported[0][1], entries[0]["after"]["user"]) == (None, "ulla")
    assert reported[1] == ("keys.change", {"rpm": 3}, {"rpm": 9})
    assert reported[2][1] == {"prefixes": list(made.record.prefixes)}
    assert (reported[3][0], reported[3][1]) == ("keys.revoke", {"revoked_at": None})
    assert (reported[4][1], reported[4][2]["rpm"]) == (None, 1)
    assert (reported[5][1]["rpm"], reported[5][2]["rpm"]) == (1, 2)
    assert (reported[6][1]["rpm"], reported[6][2]) == (2, None)
    assert reported[7][2]["reason"] == "key sk-[redacted] leaked"
    assert reported[8][1] == reported[7][2]
    kept = str(await pool.fetch("SELECT e.* FROM audit_entries e"))
    for deed_of in (made, rotated):
        assert deed_of.generated is not None
        assert deed_of.generated.text.rpartition("-")[2] not in kept
        assert deed_of.generated.digest.hex() not in kept
    assert "ulla" not in kept
    assert "anna" not in kept


async def test_entries_are_found_by_action_actor_subject_and_time(pool: "Pool[asyncpg.Record]") -> None:
    """A key by name, prefix or id; an unknown name is 404, never an empty page."""
    repository, log = KeyRepository(pool), AuditLog(pool)
    made = await repository.create(SPEC, ANNA)
    await repository.revoke("n", Actor("keys file"))
    await PolicyRepository(pool).upsert(LimitPolicy("tenant", tenant="acme", subject="acme"), ANNA)
    await record_rejected_action(pool, ANNA, "limits.set", "acme", BadRequest("No.", param="rpm"), {})

    async def found(**wanted: Any) -> list[str]:
        return [one["action"] for one in await log.list_entries(AuditFilter(**wanted))]

    assert await found(action="keys.*") == ["keys.revoke", "keys.create"]
    assert await found(action="keys.create") == ["keys.create"]
    assert await found(actor="anna") == ["limits.set", "limits.set", "keys.create"]
    assert await found(actor="keys file") == ["keys.revoke"]
    for name in ("n", made.record.key_id, made.record.prefixes[0]):
        assert await found(subject=name) == ["keys.revoke", "keys.create"]
    assert await found(subject="acme") == ["limits.set", "limits.set"]
    assert await found(since=datetime(2020, 1, 1, tzinfo=UTC), until=datetime(2020, 2, 1, tzinfo=UTC)) == []
    for unknown in ({"actor": "otto"}, {"subject": "nobody"}, {"action": "keys.chang"}, {"action": "keys_*"}):
        with pytest.raises(NotFound, match="No audit entry has"):
            await found(**unknown)
    refused = (await log.list_entries(limit=1))[0]
    assert (refused["outcome"], refused["status"], refused["reason"], refused["detail"]) == (
        "refused", 400, "No.", {"param": "rpm"},
    )  # fmt: skip


async def test_a_person_s_name_is_deleted_and_the_chain_is_valid(pool: "Pool[asyncpg.Record]") -> None:
    """Of one tenant; another's user of the same name stays, and a name that returns is a new person."""
    repository, log = KeyRepository(pool), AuditLog(pool)
    await repository.create(SPEC, ANNA)
    await repository.create(replace(SPEC, name="m", tenant="other"), ANNA)
    async with admin_transaction(pool) as connection:
        assert await delete_person_name(connection, Person("ulla", "acme")) == 1
    others, acmes = [one["after"]["user"] for one in await log.list_entries()]
    assert others == "ulla"
    assert acmes.startswith("person:")
    assert (await verify_audit_log(pool)).faults == []
    await repository.create(replace(SPEC, name="o"), ANNA)
    assert (await log.list_entries(limit=1))[0]["after"]["user"] == "ulla"
    assert await pool.fetchval("SELECT count(*) FROM audit_people WHERE name = 'ulla'") == 2
    assert acmes not in str(await pool.fetch("SELECT * FROM audit_people"))


REST = "actor, role, client_ip, action, target, status, reason, before, after, detail"
TAMPERED = {
    "a word changed": ("UPDATE {0} SET actor = 'keys file' WHERE seq = 3", "entry 3 was changed"),
    "a word changed and its digest taken away": (
        "UPDATE {0} SET after = NULL, digest = previous WHERE seq = 3",
        "entry 3 was changed",
    ),
    "an empty text for none": ("UPDATE {0} SET reason = '' WHERE seq = 3", "entry 3 was changed"),
    "a space in JSON": ("UPDATE {0} SET detail = '{{ }}' WHERE seq = 3", "entry 3 was changed"),
    "a time": ("UPDATE {0} SET at = at + interval '1 us' WHERE seq = 3", "entry 3 was changed"),
    "two numbers swapped": (
        "UPDATE {0} SET seq = CASE seq WHEN 2 THEN 3 ELSE 2 END WHERE seq IN (2, 3)",
        "entry 2 was changed",
    ),
    "one removed": ("DELETE FROM {0} WHERE seq = 3", "entry 3 is missing"),
    "one removed and its number closed": (
        "DELETE FROM {0} WHERE seq = 3; UPDATE {0} SET seq = seq - 1 WHERE seq > 3",
        "entry 3 was changed",
    ),
    "the first removed": ("DELETE FROM {0} WHERE seq = 1", "the entries before 2 are missing"),
    "the last removed": ("DELETE FROM {0} WHERE seq = 5", "the chain ends at entry 4"),
    "all removed": ("DELETE FROM {0}", "every entry is missing"),
    "the end forgotten": ("DELETE FROM audit_head", "the record of the chain's end is missing"),
    "one doubled": (
        f"INSERT INTO {{0}} SELECT seq, at + '1 us', previous, digest, {REST} FROM {{0}} WHERE seq = 3",  # noqa: S608 -- ours
        "there are two entries 3",
    ),
    "one added": (
        f"INSERT INTO {{0}} SELECT 6, at, digest, digest, {REST} FROM {{0}} WHERE seq = 5",  # noqa: S608 -- ours
        "entry 6 was changed",
    ),
    "a name swapped": ("UPDATE audit_people SET name = 'otto' WHERE name = 'anna'", "was changed"),
}


@pytest.mark.parametrize("done", TAMPERED)
async def test_tampering_is_found(pool: "Pool[asyncpg.Record]", done: str) -> None:
    """By a superuser, past the triggers."""
    for number in range(5):
        await record_action(pool, ANNA, "cache.purge", f"tenant={number}")
    assert (await verify_audit_log(pool)).faults == []
    statements, fault = TAMPERED[done]
    partition = await pool.fetchval("SELECT tableoid::regclass::text FROM audit_entries LIMIT 1")
    async with pool.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(statements.format(partition))
    faults = (await verify_audit_log(pool)).faults
    assert any(fault in one for one in faults), faults


async def test_a_head_kept_elsewhere_finds_a_rewritten_chain(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """Also a hidden cut at the end; and it stays valid while the chain grows."""
    await record_action(pool, ANNA, "cache.purge", "one")
    await record_action(pool, ANNA, "cache.purge", "two")
    head = (await verify_audit_log(pool)).head
    await record_action(pool, ANNA, "cache.purge", "three")
    assert (await verify_audit_log(pool, head)).faults == []
    async with pool.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(
            "DELETE FROM audit_entries WHERE seq > 1;"
            " UPDATE audit_head SET (seq, digest) = (SELECT seq, digest FROM audit_entries)"
        )
    assert (await verify_audit_log(pool)).faults == []
    assert "is not in the chain" in (await verify_audit_log(pool, head)).faults[0]


async def test_a_closed_month_is_sealed_and_can_be_dropped(pool: "Pool[asyncpg.Record]") -> None:
    """The entry that says so replaces the month; a month dropped otherwise is missed."""
    await _back(pool, "cache.purge", "2026-08-30")
    await _back(pool, "cache.purge", "2026-09-30")
    await record_action(pool, ANNA, "cache.purge", "now")
    seals = [
        (one["target"], one["detail"]["entries"])
        for one in await AuditLog(pool).list_entries(AuditFilter("audit.seal"))
    ]
    assert seals == [("2026-09", 2), ("2026-08", 1)]
    assert (await verify_audit_log(pool)).faults == []
    async with pool.acquire() as connection, connection.transaction():
        assert await drop_months(connection, Actor("audit log"), before=date(2026, 9, 15)) == ["2026-08"]
    report = await verify_audit_log(pool)
    assert (report.faults, report.retired) == ([], ["2026-08"])
    await pool.execute("DROP TABLE audit_entries_202609")
    assert any("are missing, and no retirement" in one for one in (await verify_audit_log(pool)).faults)


async def test_concurrent_actions_make_one_chain(pool: "Pool[asyncpg.Record]", database_url: str) -> None:
    """On two pools, as two replicas have them: every entry is there, once."""
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as other:
        doings: list[Awaitable[object]] = []
        for number in range(12):
            first, second, policies = KeyRepository(pool), KeyRepository(other), PolicyRepository(other)
            policy = LimitPolicy(
                "tenant", tenant=f"t{number % 3}", subject=f"t{number % 3}", limits=Limits(rpm=number)
            )
            doings += [
                first.create(KeySpec(f"a{number}", tenant="t0"), ANNA),
                second.create(KeySpec(f"b{number}", user="ulla"), ANNA),
                policies.upsert(policy, ANNA),
                record_action(pool, ANNA, "cache.purge", str(number)),
            ]
        await asyncio.gather(*doings)
        await asyncio.gather(*(KeyRepository(one).revoke("a1", ANNA) for one in (pool, other)))
    report = await verify_audit_log(pool)
    assert (report.faults, report.entries) == ([], 12 * 4 + 2)


async def _back(pool: "Pool[asyncpg.Record]", action: str, day: str) -> None:
    """An entry as it would have been written on a day, by moving the log's clock, which is the database's."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
            f" AS $$ SELECT '{day}T12:00Z'::timestamptz $$; SET LOCAL search_path = public, pg_catalog"
        )
        await write_audit(connection, ANNA, action, "then")
        await connection.execute("DROP FUNCTION public.clock_timestamp()")
