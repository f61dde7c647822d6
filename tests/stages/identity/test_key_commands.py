"""The commands for keys, on a real Postgres."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import commands
import pytest
from usage_records import add_child_keys

from llm_proxy.identity import KeyCache, Limits, PolicyRepository, PostgresKeyStore
from llm_proxy.identity.virtual_keys import generate_key, lookup_from_key

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]


async def run(database_url: str, *words: str, code: int = 0) -> str:
    """What a command for keys prints."""
    return await commands.run(database_url, "keys", *words, code=code)


async def test_a_key_is_managed_by_commands(pool: "asyncpg.Pool[asyncpg.Record]", database_url: str) -> None:
    """Created, listed, shown, changed, rotated, revoked, straight in the database."""
    words = ("--name", "n", "--tenant", "t", "--rpm", "3", "--budget", "5/day", "--json")
    made: Json = json.loads(await run(database_url, "create", *words))
    keys = KeyCache(PostgresKeyStore(pool))
    assert (await keys.find_caller(made["key"].encode())).limits == Limits(rpm=3)
    assert [one["name"] for one in json.loads(await run(database_url, "list", "--json"))] == ["n"]
    assert made["key"] not in await run(database_url, "show", "n")
    changed: Json = json.loads(await run(database_url, "change", "n", "--tpm", "9", "--json"))
    assert (changed["rpm"], changed["tpm"], changed["tenant"]) == (3, 9, "t")
    kept = await run(database_url, "rotate", "n", "--overlap", "3600")
    until = datetime.fromisoformat(re.findall(r"(?m)^old_secret_valid_until +(\S+)$", kept)[0])
    assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1)
    rotated: Json = json.loads(await run(database_url, "rotate", "n", "--overlap", "0", "--yes", "--json"))
    assert rotated["key"] != made["key"]
    assert "--yes" in await run(database_url, "revoke", "n", code=2)
    await run(database_url, "revoke", "n", "--yes")
    await run(database_url, "revoke", "nobody", "--yes", code=1)
    table = await run(database_url, "list")
    assert "revoked" in table
    assert "a revoked key keeps its name" in await run(database_url, "create", "--name", "n", code=2)
    assert rotated["prefixes"][0] in table


async def test_a_change_without_an_option_is_a_mistake(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """The key stays as it is, to the time of its last change."""
    await run(database_url, "create", "--name", "n", "--rpm", "3")
    before = await pool.fetchrow("SELECT * FROM api_keys")
    for words in ((), ("--json",), ("--force",)):
        assert "Nothing to change" in await run(database_url, "change", "n", *words, code=2)
    await run(database_url, "change", "n", "--rpm", "3")
    assert await pool.fetchrow("SELECT * FROM api_keys") == before
    assert await pool.fetchval("SELECT count(*) FROM audit_entries WHERE action = 'keys.change'") == 0
    await run(database_url, "change", "n", "--no-cache")
    await run(database_url, "change", "n", "--unset", "rpm")
    assert await pool.fetchval("SELECT count(*) FROM audit_entries WHERE action = 'keys.change'") == 2


async def test_the_keys_below_a_key_are_listed(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """Below the key of an id, name or prefix; none below one without any; an unknown one is an error."""
    made: Json = json.loads(await run(database_url, "create", "--name", "n", "--json"))
    await add_child_keys(pool, {"child": [made["id"]], "deep": [made["id"], "child"], "other": ["else"]})
    for named in ("n", made["id"], made["prefixes"][0]):
        listed = json.loads(await run(database_url, "list", "--above", named, "--json"))
        assert [one["name"] for one in listed] == ["child", "deep"]
    assert json.loads(await run(database_url, "list", "--above", "deep", "--json")) == []
    assert "No such key" in await run(database_url, "list", "--above", "nobody", code=1)


async def test_a_budget_without_a_period_is_rejected_with_its_format(database_url: str) -> None:
    """Naming the option."""
    for said in ("5", "5/year", "five/day", "-5/day"):
        output = await run(database_url, "create", "--name", "n", f"--budget={said}", code=2)
        assert "'--budget'" in output
        assert "5/day" in output


async def test_limits_and_kill_switches_may_name_a_key_by_name(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """They are stored by its id; a missing key is reported, and the rest of a file is applied."""
    made: Json = json.loads(await run(database_url, "create", "--name", "n", "--json"))
    await run(database_url, "switch-off", "key", "n")
    assert [one["subject"] for one in await PolicyRepository(pool).list_kill_switches()] == [made["id"]]
    await run(database_url, "switch-on", "key", made["prefixes"][0])
    assert await PolicyRepository(pool).list_kill_switches() == []
    assert "No such key" in await run(database_url, "switch-off", "key", "nobody", code=1)
    file = tmp_path / "keys.yaml"
    missing, there = "{scope: key, subject: nobody, rpm: 1}", "{scope: key, subject: n, rpm: 2}"
    file.write_text(f"limits:\n  - {missing}\n  - {there}\n")
    assert "limit of key n set" in await run(database_url, "apply", str(file), code=1)
    assert [(one.subject, one.limits.rpm) for one in await PolicyRepository(pool).list_policies()] == [
        (made["id"], 2)
    ]
    again = await run(database_url, "apply", str(file), code=1)
    assert "nothing to change" in again
    assert "no key has the name nobody" in again


async def test_a_kill_switch_is_enabled_and_disabled_by_command(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """A missing switch cannot be disabled."""
    await run(database_url, "switch-off", "agent", "scout", "--tenant", "t", "--reason", "loops")
    assert [(one["kind"], one["reason"]) for one in await PolicyRepository(pool).list_kill_switches()] == [
        ("agent", "loops")
    ]
    await run(database_url, "switch-on", "agent", "scout", "--tenant", "t")
    await run(database_url, "switch-on", "agent", "scout", code=1)
    assert lookup_from_key((await run(database_url, "mint")).strip().encode()) is not None


async def test_a_keys_file_applied_twice_is_applied_once(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """Keys, limits and kill switches; a changed entry changes, an unchanged one does not."""
    brought = generate_key()
    (tmp_path / "scout.key").write_text(brought.text + "\n")
    file = tmp_path / "keys.yaml"
    file.write_text(
        "keys:\n"
        "  - name: scout\n    tenant: t\n    agent: scout\n    key_file: scout.key\n"
        "    budgets: [{limit_usd: 2.5, period: month}]\n    tags: [prod, night shift]\n"
        "  - {name: minted, tenant: t, expires_at: 2040-01-01T00:00:00}\n"
        "limits:\n  - {scope: agent, subject: scout, rpm: 30}\n"
        "kills:\n  - {kind: model, subject: old-model}\n"
    )
    first: Json = json.loads(await run(database_url, "apply", str(file), "--json"))
    assert len(first["changes"]) == 4
    assert [one["name"] for one in first["made"]] == ["scout", "minted"]
    scout = await KeyCache(PostgresKeyStore(pool)).find_caller(brought.text.encode())
    assert (scout.agent, scout.tags) == ("scout", ("prod", "night shift"))
    again: Json = json.loads(await run(database_url, "apply", str(file), "--json"))
    assert again == {"changes": [], "made": [], "missing": []}
    file.write_text(
        file.read_text().replace("2.5", "3").replace("name: minted", "name: minted, revoked: true")
    )
    third: Json = json.loads(await run(database_url, "apply", str(file), "--json"))
    assert third["changes"] == ["key scout changed", "key minted revoked"]
    file.write_text("keys: [{name: x, colour: red}]")
    await run(database_url, "apply", str(file), code=2)


@pytest.mark.parametrize(
    "said",
    [
        "keys: [{name: x, budgets: [{limit_usd: 1E+999999999, period: day}]}]",
        "keys: [{name: x, budgets: [{limit_usd: .nan, period: day}]}]",
        "keys: [{name: x, budgets: [{limit_usd: 1e-30, period: day}]}]",
        "keys: [{name: x, budgets: [{limit_usd: 1.0e-400, period: day}]}]",
        f"keys: [{{name: x, tpm: {'9' * 5000}}}]",
        "keys: [{name: x, expires_at: 2026-13-45}]",
        "keys: [{name: x, revoked: 'no'}]",
        "&a [*a]",
    ],
    ids=lambda one: one[:60],
)
async def test_a_file_with_an_invalid_number_or_date_is_rejected_in_one_line(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, tmp_path: Path, said: str
) -> None:
    """Nothing of it is applied."""
    file = tmp_path / "keys.yaml"
    file.write_text(said)
    assert "Traceback" not in await run(database_url, "apply", str(file), code=2)
    assert await pool.fetchval("SELECT count(*) FROM api_keys") == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("create --name x --expires-in nan", 2),
        ("create --name x --expires-in 1e300", 2),
        ("create --name x --expires-in -1", 2),
        (f"create --name x --budget {'9' * 400}/day", 2),
        ("create --name x --budget 0.0000000000001/day", 2),
        ("create --name x --budget none --budget 1/day", 2),
        ("create --name x --rpm -1", 2),
        ("create --name x --expires-at 9999-12-31T23:59:59-14:00", 2),
        ("create --name x --expires-at 2020-01-01", 2),
        ("rotate x --overlap 99999999999999999999", 2),
    ],
    ids=lambda one: str(one)[:60],
)
async def test_an_invalid_number_on_the_command_line_is_rejected_without_a_traceback(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, words: str, code: int
) -> None:
    """By the name of the option or field."""
    assert "Traceback" not in await run(database_url, *words.split(), code=code)
    assert await pool.fetchval("SELECT count(*) FROM api_keys") == 0
