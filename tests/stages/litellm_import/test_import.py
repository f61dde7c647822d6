"""A LiteLLM proxy's real tables, of several generations, imported into a real database of the gateway's."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from litellm_database import BASELINE, LiteLLMDatabase, StoredByLiteLLM, make_database, stored_by_litellm

from llm_proxy.errors import BadRequest, Unauthorized
from llm_proxy.identity import (
    Actor,
    Budget,
    KeyCache,
    KeyRepository,
    KeySpec,
    LimitPolicy,
    Limits,
    PolicyRepository,
    PostgresKeyStore,
)
from llm_proxy.identity.policies import KillSwitch
from llm_proxy.identity.virtual_keys import key_digest
from llm_proxy.litellm_import.apply import ImportResult, apply_import
from llm_proxy.litellm_import.config_file import build_config
from llm_proxy.litellm_import.mapping import plan_import
from llm_proxy.litellm_import.plan import ImportPlan
from llm_proxy.litellm_import.source import NoLiteLLMDatabase, read_source

Pool = asyncpg.Pool
ME = Actor("test")
KEY, SECOND, OLD = "sk-Bd8-first_key", "sk-second-key-of-alice", "sk-before-its-rotation"
SALT = "sk-salt-of-the-tests"
SECRET, MODEL = "provider-secret-1234567890", "openai/gpt-4o-mini"
NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def stored() -> StoredByLiteLLM:
    """What LiteLLM makes of this module's keys and texts."""
    return stored_by_litellm([KEY, SECOND, OLD], [SECRET, MODEL], SALT)


@pytest.fixture(params=[BASELINE, "20251023141814", "~"], ids=["first", "middle", "newest"])
async def litellm_url(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[str]:
    """The database of a LiteLLM proxy, of three generations."""
    async for url in _made(postgres_url, request.param):
        yield url


@pytest.fixture
async def newest_url(postgres_url: str) -> AsyncIterator[str]:
    """The database of a LiteLLM proxy of the newest generation."""
    async for url in _made(postgres_url, "~"):
        yield url


async def _made(postgres_url: str, until: str) -> AsyncIterator[str]:
    name = f"litellm_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    url = f"{postgres_url.rpartition('/')[0]}/{name}"
    await make_database(url, until)
    yield url
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


class Source:
    """A LiteLLM database that a test fills, and imports of it."""

    def __init__(self, url: str, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.url = url
        self.write = LiteLLMDatabase(connection)

    async def plan(self) -> ImportPlan:
        """Reads and maps."""
        return plan_import(await read_source(self.url, None))

    async def apply(self, pool: "asyncpg.Pool[asyncpg.Record]", *, dry_run: bool = False) -> ImportResult:
        """Imports."""
        return await apply_import(pool, await self.plan(), "litellm", ME, dry_run=dry_run)


@pytest.fixture
async def source(newest_url: str) -> AsyncIterator[Source]:
    """An empty one of the newest generation."""
    connection = await asyncpg.connect(newest_url)
    yield Source(newest_url, connection)
    await connection.close()


def changes(result: ImportResult) -> list[tuple[str, str, str]]:
    """What was done, without what was left as it was."""
    return [(one.kind, one.change, one.name) for one in result.changes if one.change != "unchanged"]


async def test_keys_of_every_generation_of_the_schema_work_by_their_digest(
    litellm_url: str, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """The caller has the team as its tenant, and the limits, budget and models of the row."""
    connection = await asyncpg.connect(litellm_url)
    source = Source(litellm_url, connection)
    await source.write.insert(
        "TeamTable", team_id="t-1", team_alias="Search", models=["gpt-4o", "local"], rpm_limit=100
    )
    await source.write.insert(
        "VerificationToken",
        token=stored.digests[KEY],
        key_name="sk-...key",
        key_alias="ci",
        team_id="t-1",
        models=["gpt-4o", "claude"],
        rpm_limit=60,
        tpm_limit=9000,
        max_parallel_requests=3,
        max_budget=12.5,
        budget_duration="30d",
        expires=datetime(2030, 1, 1),  # noqa: DTZ001 -- as Prisma stores it
        metadata={"tags": ["prod"]},
    )
    await source.apply(pool)
    await connection.close()
    caller = await KeyCache(PostgresKeyStore(pool)).find_caller(KEY.encode())
    assert (caller.tenant, caller.models, caller.tags) == ("Search", ("gpt-4o",), ("prod",))
    assert caller.limits == Limits(60, 9000, 3)
    assert caller.budgets == (Budget(12_500_000_000, "month"),)
    assert caller.key_prefix == f"sha256:{stored.digests[KEY][:16]}"
    [key] = await KeyRepository(pool).list_keys()
    assert (key.spec.name, key.spec.expires_at) == ("ci", datetime(2030, 1, 1, tzinfo=UTC))
    [policy] = await PolicyRepository(pool).list_policies()
    assert (policy.scope, policy.tenant, policy.limits) == ("tenant", "Search", Limits(rpm=100))


async def test_a_wrong_key_of_litellm_s_form_is_rejected(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """Also one whose digest begins as an imported key's: the whole digest is compared."""
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="ci")
    await source.apply(pool)
    keys = KeyCache(PostgresKeyStore(pool))
    assert (await keys.find_caller(KEY.encode())).tenant is None
    for wrong in (
        b"sk-Bd8-first_kez",
        b"sk-",
        b"x",
        KEY.encode() + b" ",
        key_digest(KEY.encode()).hex().encode(),
    ):
        with pytest.raises(Unauthorized):
            await keys.find_caller(wrong)
    await pool.execute("UPDATE key_secrets SET digest = sha256('another')")
    with pytest.raises(Unauthorized):
        await KeyCache(PostgresKeyStore(pool)).find_caller(KEY.encode())


async def test_a_second_run_changes_nothing_and_takes_up_what_changed(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """An operator's change here stays while the row there is the same; a deleted key is revoked."""
    await source.write.insert(
        "TeamTable", team_id="t-1", team_alias="Search", max_budget=5, budget_duration="1d"
    )
    for name, key in (("a", KEY), ("b", SECOND)):
        await source.write.insert(
            "VerificationToken", token=stored.digests[key], key_alias=name, team_id="t-1", rpm_limit=5
        )
    assert changes(await source.apply(pool, dry_run=True)) == changes(await source.apply(pool))
    assert changes(await source.apply(pool)) == []
    await KeyRepository(pool).update("b", {"rpm": 50}, ME)
    await source.write.execute(
        """UPDATE "LiteLLM_VerificationToken" SET rpm_limit = 7 WHERE key_alias = 'a'"""
    )
    assert changes(await source.apply(pool)) == [("key", "changed", "a")]
    limits = {one.spec.name: one.spec.limits.rpm for one in await KeyRepository(pool).list_keys()}
    assert limits == {"a": 7, "b": 50}
    await source.write.execute("""DELETE FROM "LiteLLM_VerificationToken" WHERE key_alias = 'a'""")
    await source.write.execute("""UPDATE "LiteLLM_TeamTable" SET max_budget = NULL""")
    assert changes(await source.apply(pool)) == [
        ("key", "removed", "a"),
        ("policy", "removed", "tenant Search Search *"),
    ]
    with pytest.raises(Unauthorized, match="revoked"):
        await KeyCache(PostgresKeyStore(pool)).find_caller(KEY.encode())
    assert changes(await source.apply(pool)) == []


async def test_an_emptied_source_revokes_nothing_unless_the_operator_accepts(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """It may be another database; a dry run shows what would be."""
    for name, key in (("a", KEY), ("b", SECOND)):
        await source.write.insert("VerificationToken", token=stored.digests[key], key_alias=name)
    await source.apply(pool)
    await source.write.execute("""DELETE FROM "LiteLLM_VerificationToken" """)
    assert {one[1] for one in changes(await source.apply(pool, dry_run=True))} == {"removed"}
    with pytest.raises(BadRequest, match="2 of 2 keys"):
        await source.apply(pool)
    assert {one.revoked_at for one in await KeyRepository(pool).list_keys()} == {None}
    await apply_import(pool, await source.plan(), "litellm", ME, dry_run=False, revokes_most=True)
    assert None not in {one.revoked_at for one in await KeyRepository(pool).list_keys()}


async def test_what_was_spent_is_taken_over_again_and_counts_at_once(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """The budget gets another counter, which is rebuilt with the new beginning."""
    write = source.write
    await write.insert(
        "VerificationToken", token=stored.digests[KEY], key_alias="a", max_budget=5.0, spend=1.0
    )
    await write.insert("TeamTable", team_id="t-1", team_alias="Search", max_budget=7.0, spend=2.0)
    await source.apply(pool)
    first = await _budgets(pool)
    await source.write.execute("""UPDATE "LiteLLM_VerificationToken" SET spend = 3.5""")
    await source.write.execute("""UPDATE "LiteLLM_TeamTable" SET spend = 4""")
    await source.apply(pool)
    second = await _budgets(pool)
    assert await _openings(pool) == [3.5, 4.0]
    assert all(after > before for before, after in zip(first, second, strict=True))
    await source.write.execute("""UPDATE "LiteLLM_VerificationToken" SET spend = 0""")
    await source.apply(pool)
    assert await _openings(pool) == [4.0]


async def _budgets(pool: "asyncpg.Pool[asyncpg.Record]") -> list[int]:
    [key], [policy] = await KeyRepository(pool).list_keys(), await PolicyRepository(pool).list_policies()
    return [one.counting_since_us for one in (*key.spec.budgets, *policy.budgets)]


async def _openings(pool: "asyncpg.Pool[asyncpg.Record]") -> list[float]:
    return [float(row[0]) for row in await pool.fetch("SELECT cost_usd FROM opening_spend ORDER BY 1")]


async def test_a_dry_run_and_a_failed_import_leave_nothing(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """Everything is one transaction, the audit log too."""
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="a")
    await source.apply(pool, dry_run=True)
    plan = await source.plan()
    plan.switches.append(None)  # type: ignore[arg-type]  # an import that fails at its end
    with pytest.raises(AttributeError):
        await apply_import(pool, plan, "litellm", ME, dry_run=False)
    for table in ("api_keys", "key_secrets", "litellm_imports", "opening_spend", "audit_entries"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608 -- of this test


async def test_the_gateway_s_own_keys_and_policies_are_left_alone(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """A name that is taken gets a suffix; a policy that is there is reported as kept."""
    await source.write.insert("TeamTable", team_id="t-1", team_alias="Search", rpm_limit=5)
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="ci", team_id="t-1")
    await KeyRepository(pool).create(KeySpec("ci"), ME)
    await PolicyRepository(pool).upsert(LimitPolicy("tenant", "Search", "Search", limits=Limits(rpm=9)), ME)
    assert ("policy", "kept", "tenant Search") in changes(await source.apply(pool))
    names = [one.spec.name for one in await KeyRepository(pool).list_keys()]
    assert names == ["ci", f"ci (litellm {stored.digests[KEY][:8]})"]
    assert (await PolicyRepository(pool).list_policies())[0].limits.rpm == 9


async def test_a_rotated_key_s_old_secret_ends_when_litellm_said(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """Both work until then."""
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="a")
    await source.write.insert(
        "DeprecatedVerificationToken",
        id="1",
        token=stored.digests[OLD],
        active_token_id=stored.digests[KEY],
        revoke_at=NOW + timedelta(hours=1),
    )
    await source.apply(pool)
    keys = KeyCache(PostgresKeyStore(pool))
    assert (await keys.find_caller(OLD.encode())).key_id == (await keys.find_caller(KEY.encode())).key_id
    await pool.execute("UPDATE key_secrets SET expires_at = now() WHERE expires_at IS NOT NULL")
    with pytest.raises(Unauthorized, match="expired"):
        await KeyCache(PostgresKeyStore(pool)).find_caller(OLD.encode())


async def test_blocked_keys_and_teams_become_kill_switches_and_are_unblocked(
    source: Source, pool: "asyncpg.Pool[asyncpg.Record]", stored: StoredByLiteLLM
) -> None:
    """Not revoked: an unblocking there is taken up by the next run."""
    await source.write.insert("TeamTable", team_id="t-1", team_alias="Search", blocked=True)
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="a", blocked=True)
    await source.apply(pool)
    [key] = await KeyRepository(pool).list_keys()
    rows = await PolicyRepository(pool).list_kill_switches()
    switches = {KillSwitch(row["kind"], row["subject"], row["tenant"]) for row in rows}
    assert switches == {KillSwitch("key", key.key_id), KillSwitch("tenant", "Search")}
    await source.write.execute("""UPDATE "LiteLLM_TeamTable" SET blocked = false""")
    await source.write.execute("""UPDATE "LiteLLM_VerificationToken" SET blocked = false""")
    await source.apply(pool)
    assert await PolicyRepository(pool).list_kill_switches() == []


async def test_what_has_no_counterpart_is_named(source: Source, stored: StoredByLiteLLM) -> None:
    """By the row's own name; what protects is called lost."""
    write = source.write
    await write.insert("BudgetTable", budget_id="b-1", max_budget=100.0)
    await write.insert("OrganizationTable", organization_id="o-1", organization_alias="Acme", budget_id="b-1")
    await write.insert("TagTable", tag_name="batch", budget_id="b-1")
    await write.insert("UserTable", user_id="root", user_role="proxy_admin")
    await write.insert(
        "VerificationToken",
        token=stored.digests[KEY],
        key_alias="ci",
        model_max_budget={"gpt-4o": {"budget_limit": 1, "time_period": "1d"}},
        metadata={"guardrails": ["pii"]},
        aliases={"fast": "gpt-4o-mini"},
        max_budget=1.0,
        budget_duration="1h",
    )
    await write.insert(
        "VerificationToken", token=stored.digests[SECOND], key_alias="ops", allowed_routes=["/key/*"]
    )
    plan = await source.plan()
    notes = {(one.kind, one.subject) for one in plan.notes}
    assert {
        ("lost", "organisation Acme"),
        ("lost", "tag batch"),
        ("lost", "key ci"),
        ("changed", "key ci"),
        ("changed", "alias fast"),
        ("note", "user root"),
        ("note", "key ops"),
    } <= notes
    [key] = plan.keys
    assert key.spec.budgets == (Budget(24_000_000_000, "day"),)
    assert plan.aliases == {"fast": "gpt-4o-mini"}


async def test_a_limit_of_nothing_admits_nothing(source: Source, stored: StoredByLiteLLM) -> None:
    """0 is no limit here, and no call there."""
    await source.write.insert("VerificationToken", token=stored.digests[KEY], key_alias="a", rpm_limit=0)
    await source.write.insert("EndUserTable", user_id="eve", blocked=True)
    plan = await source.plan()
    assert plan.keys[0].spec.budgets == (Budget(0, "total", unit="requests"),)
    assert (plan.policies[0].policy.subject, plan.policies[0].policy.budgets) == (
        "eve",
        (Budget(0, "total", unit="requests"),),
    )


async def test_a_member_s_budget_is_its_key_s_or_its_keys_together(
    source: Source, stored: StoredByLiteLLM
) -> None:
    """With one key it is the key's; with several they are bound to the user, who has a policy."""
    write = source.write
    await write.insert("TeamTable", team_id="t-1", team_alias="Search")
    await write.insert("BudgetTable", budget_id="b-1", max_budget=3.0, budget_duration="7d")
    await write.insert("TeamMembership", team_id="t-1", user_id="alice", budget_id="b-1", spend=1.0)
    await write.insert(
        "VerificationToken", token=stored.digests[KEY], key_alias="a", team_id="t-1", user_id="alice"
    )
    [key] = (await source.plan()).keys
    assert (key.spec.user, key.spec.budgets) == (None, (Budget(3_000_000_000, "week"),))
    assert key.opening is not None
    assert key.opening.cost_nano_usd == 1_000_000_000
    await write.insert(
        "VerificationToken", token=stored.digests[SECOND], key_alias="b", team_id="t-1", user_id="alice"
    )
    plan = await source.plan()
    assert {(one.spec.user, one.spec.budgets) for one in plan.keys} == {("alice", ())}
    [policy] = plan.policies
    assert (policy.policy.scope, policy.policy.tenant, policy.policy.subject) == (
        "user_model",
        "Search",
        "alice",
    )


async def test_access_groups_and_special_names_become_models(source: Source, stored: StoredByLiteLLM) -> None:
    """A key's list is intersected with its team's."""
    write = source.write
    await write.insert(
        "ProxyModelTable",
        model_id="m-1",
        model_name="gpt-4o",
        litellm_params={},
        model_info={"access_groups": ["beta"]},
    )
    await write.insert("TeamTable", team_id="t-1", team_alias="Search", models=["beta", "claude-*"])
    await write.insert(
        "VerificationToken",
        token=stored.digests[KEY],
        key_alias="a",
        team_id="t-1",
        models=["all-team-models"],
    )
    await write.insert(
        "VerificationToken",
        token=stored.digests[SECOND],
        key_alias="b",
        team_id="t-1",
        models=["claude-3", "gpt-5"],
    )
    await write.insert("VerificationToken", token=stored.digests[OLD], key_alias="c")
    models = {one.spec.name: one.spec.models for one in (await source.plan()).keys}
    assert models == {"a": ("gpt-4o", "claude-*"), "b": ("claude-3",), "c": ("*",)}


@pytest.mark.parametrize("algorithm", ["xsalsa20", "aes"])
async def test_models_become_a_file_without_a_secret(
    source: Source, stored: StoredByLiteLLM, algorithm: str
) -> None:
    """Each secret is a variable, once; settings, credentials and variables come along."""
    encrypted: dict[str, str] = getattr(stored, algorithm)
    params = {"model": encrypted[MODEL], "api_key": encrypted[SECRET], "rpm": 5}
    for number in ("1", "2"):
        await source.write.insert(
            "ProxyModelTable",
            model_id=f"m-{number}",
            model_name="gpt-4o mini",
            litellm_params=params,
            model_info={"db_model": True, "access_groups": ["beta"], "mode": "chat"},
        )
    await source.write.insert(
        "CredentialsTable",
        credential_id="c",
        credential_name="azure",
        credential_values={"api_key": encrypted[SECRET]},
    )
    await source.write.insert("Config", param_name="router_settings", param_value={"num_retries": 3})
    await source.write.insert(
        "Config", param_name="environment_variables", param_value={"LANGFUSE_SECRET_KEY": encrypted[SECRET]}
    )
    await source.write.insert(
        "ProxyModelTable", model_id="m-3", model_name="lost", litellm_params={"model": "v2:gcm:AAAA"}
    )
    rows = await read_source(source.url, None)
    plain = {encrypted[one]: one for one in (SECRET, MODEL)}
    plan = plan_import(rows)
    made = build_config(rows, plan, lambda values: [plain.get(value) for value in values])
    assert made.document["model_list"][0] == {
        "model_name": "gpt-4o mini",
        "litellm_params": {"model": MODEL, "api_key": "os.environ/GPT_4O_MINI_API_KEY", "rpm": 5},
        "model_info": {"access_groups": ["beta"], "mode": "chat", "id": "m-1"},
    }
    assert len(made.document["model_list"]) == 2
    assert made.document["credential_list"][0]["credential_values"] == {
        "api_key": "os.environ/GPT_4O_MINI_API_KEY"
    }
    assert made.document["router_settings"] == {"num_retries": 3}
    assert made.variables == {"GPT_4O_MINI_API_KEY": SECRET, "LANGFUSE_SECRET_KEY": SECRET}
    assert SECRET not in made.yaml_text()
    assert made.env_text().startswith(f"GPT_4O_MINI_API_KEY={SECRET}\n")
    assert ("lost", "model lost") in {(one.kind, one.subject) for one in plan.notes}


async def test_another_database_is_no_source(database_url: str) -> None:
    """It says so."""
    with pytest.raises(NoLiteLLMDatabase, match="no table LiteLLM_VerificationToken"):
        await read_source(database_url, None)
