"""`llm-proxy limits` on a real Postgres; `status` and `explain` without a gateway."""

import json
from typing import TYPE_CHECKING, Any

from commands import run

from llm_proxy.identity import Actor, KeyRepository, KeySpec, PolicyRepository

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]


async def test_a_policy_is_managed_by_commands(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """Set, changed, listed, deleted; fields that a scope does not have are rejected by name."""
    tenant = ("--scope", "tenant", "--tenant", "acme")
    words = ("limits", "set", *tenant, "--rpm", "100", "--budget", "50/month", "--json")
    laid: Json = json.loads(await run(database_url, *words))
    assert (laid["rpm"], laid["budgets"][0]["limit_usd"]) == (100, "50")
    listed = await run(database_url, "limits", columns=80)
    assert "100 rpm" in listed
    assert "$50/month" in listed
    assert [policy.tenant for policy in await PolicyRepository(pool).list_policies()] == ["acme"]
    assert "'model'" in await run(
        database_url, "limits", "set", *tenant, "--model", "m", "--rpm", "1", code=2
    )
    assert "--yes" in await run(database_url, "limits", "drop", *tenant, code=2)
    await run(database_url, "limits", "drop", *tenant, "--yes")
    assert json.loads(await run(database_url, "limits", "--json")) == []
    await run(database_url, "limits", "drop", *tenant, "--yes", code=1)


async def test_an_unreachable_gateway_is_exit_code_3(database_url: str) -> None:
    """In one line, whatever the command."""
    gone = ("--url", "http://127.0.0.1:1")
    assert (await run(database_url, "status", *gone, code=3)).startswith("llm-proxy: the gateway at")
    output = await run(database_url, "explain", "--model", "m", *gone, code=2)
    assert output == "llm-proxy: LLM_PROXY__INTERNAL_API_KEY is not set; use --key NAME for a virtual key\n"


async def test_completion_offers_commands_and_keys(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str
) -> None:
    """Not revoked ones; nothing, without a message, if there is no database."""
    for name in ("demo", "dead", "other"):
        await KeyRepository(pool).create(KeySpec(name), Actor("test"))
    await KeyRepository(pool).revoke("dead", Actor("test"))

    async def offered(words: str, url: str = database_url) -> list[str]:
        place = str(len(words.split(" ")) - 1)
        output = await run(url, _LLM_PROXY_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
        return [line.partition(",")[2] for line in output.split()]

    assert await offered("llm-proxy keys show d") == ["demo"]
    assert await offered("llm-proxy adm") == ["admin-keys"]
    assert await offered("llm-proxy keys show d", "postgresql://a@127.0.0.1:1/a") == []
