"""`llm-proxy audit` and `llm-proxy admin-keys` on a real Postgres."""

import json
from typing import TYPE_CHECKING, Any

from commands import run

from llm_proxy.identity import Actor, record_action

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]


async def test_an_admin_key_is_managed_by_commands_and_audited(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """Created, listed, revoked; the actor is the machine's user."""
    words = ("create", "--name", "anna", "--role", "operator", "--json")
    made: Json = json.loads(await run(database_url, "admin-keys", *words))
    assert made["key"].startswith(made["prefix"])
    assert made["key"] not in await run(database_url, "admin-keys", "list")
    assert "repeat the command with --yes" in await run(database_url, "admin-keys", "revoke", "anna", code=2)
    await run(database_url, "admin-keys", "revoke", "anna", "--yes")
    rows: list[Json] = json.loads(await run(database_url, "audit", "--json"))
    assert [(row["action"], row["role"], row["detail"]["name"]) for row in rows] == [
        ("admin_keys.revoke", "command line", "anna"),
        ("admin_keys.create", "command line", "anna"),
    ]
    assert await pool.fetchval("SELECT count(*) FROM audit_people") == 2
    table = await run(database_url, "audit", "--action", "*.revoke", columns=80)
    assert "revoked_at" in table
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "No audit entry has the actor 'otto'" in await run(
        database_url, "audit", "--actor", "otto", code=1
    )


async def test_verify_exits_with_its_verdict(pool: "asyncpg.Pool[asyncpg.Record]", database_url: str) -> None:
    """0 and the head; 1 and the fault."""
    for number in range(3):
        await record_action(pool, Actor("test"), "cache.purge", str(number))
    whole: Json = json.loads(await run(database_url, "audit", "verify", "--json"))
    assert (whole["ok"], whole["entries"], whole["last"]) == (True, 3, 3)
    await run(database_url, "audit", "verify", "--head", whole["head"])
    async with pool.acquire() as connection:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE audit_entries SET target = 'x' WHERE seq = 2")
    output = await run(database_url, "audit", "verify", code=1)
    assert "fault  entry 2 was changed" in output
