"""Virtual keys in a real Postgres: created, found, changed, rotated, revoked."""

import asyncio
import contextlib
import zlib
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from time import perf_counter

import asyncpg
import pytest

from llm_proxy import background
from llm_proxy.errors import BadRequest, NotFound, StoreUnavailable, Unauthorized
from llm_proxy.identity import (
    Actor,
    AuditLog,
    Budget,
    KeyCache,
    KeyRepository,
    KeySpec,
    KillSwitch,
    LimitPolicy,
    Limits,
    PolicyRepository,
    PolicyWatcher,
    PostgresKeyStore,
)
from llm_proxy.identity.virtual_keys import KEY_TYPE_PREFIX, generate_key

ME = Actor("test", "192.0.2.1")
LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
Pool = asyncpg.Pool  # what the fixtures hand out


@pytest.fixture
def repository(pool: "asyncpg.Pool[asyncpg.Record]") -> KeyRepository:
    """Where operators make keys."""
    return KeyRepository(pool)


def spec(**said: object) -> KeySpec:
    """A specification with everything in it."""
    whole = {
        "name": "night-shift",
        "tenant": "dao-1",
        "agent": "scout",
        "user": "u-7",
        "models": ("gpt-*", "local"),
        "limits": Limits(rpm=20, tpm=None, parallel=0),
        "budgets": (Budget(10_500_000_000, "month"), Budget(1, "total")),
        "max_tokens_cap": 256,
        "cache": False,
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        "tags": ("prod", "night"),
    }
    return KeySpec(**(whole | said))  # type: ignore[arg-type]


async def test_a_created_key_is_found_with_all_its_fields(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Its caller is bound to what the operator set."""
    made = await repository.create(spec(), ME)
    assert made.generated is not None
    caller = await KeyCache(PostgresKeyStore(pool)).find_caller(made.generated.text.encode())
    assert made.record.spec == spec()
    assert (caller.key_id, caller.tenant, caller.agent, caller.user) == (
        made.record.key_id,
        "dao-1",
        "scout",
        "u-7",
    )
    assert caller.tags == ("prod", "night")
    assert (caller.models, caller.limits, caller.budgets) == (spec().models, spec().limits, spec().budgets)
    assert (caller.max_tokens_cap, caller.cache, caller.key_prefix) == (256, False, made.record.prefixes[0])


async def test_no_table_contains_a_key_s_text(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """A reader of the complete database cannot call with it."""
    made = await repository.create(spec(), ME)
    assert made.generated is not None
    secret = made.generated.text.rpartition("-")[2]
    for table in ("api_keys", "key_secrets", "audit_entries"):
        rows = await pool.fetchval(f"SELECT string_agg(t::text, ' ') FROM {table} t")  # noqa: S608 -- our own names
        assert secret not in rows
        assert secret.encode().hex() not in rows


async def test_a_wrong_secret_with_a_right_prefix_is_rejected(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """The public part alone is worth nothing."""
    one, other = await repository.create(spec(), ME), await repository.create(spec(name="other"), ME)
    assert one.generated is not None
    assert other.generated is not None
    await pool.execute(
        "UPDATE key_secrets SET digest = $1 WHERE lookup = $2", other.generated.digest, one.generated.lookup
    )
    with pytest.raises(Unauthorized):
        await KeyCache(PostgresKeyStore(pool)).find_caller(one.generated.text.encode())


@pytest.mark.parametrize(
    "key",
    [
        b"' OR 1=1 --",
        b"sk-llmp-aaaaaaaaaaaa-'; DROP TABLE api_keys; --",
        b"sk-llmp-aaaaaaaaaaaa-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"sk-llmp-",
        b"\x00",
    ],
)
async def test_a_malformed_key_never_reaches_the_database(key: bytes) -> None:
    """It is rejected at once, even without a database."""
    async with asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/none", min_size=0) as unreachable:
        with pytest.raises(Unauthorized):
            await KeyCache(PostgresKeyStore(unreachable)).find_caller(key)


async def test_a_well_formed_key_is_503_while_the_database_is_unavailable(repository: KeyRepository) -> None:
    """The key may be valid."""
    made = await repository.create(spec(), ME)
    assert made.generated is not None
    async with asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/none", min_size=0) as unreachable:
        with pytest.raises(StoreUnavailable):
            await KeyCache(PostgresKeyStore(unreachable)).find_caller(made.generated.text.encode())


async def test_a_rotated_key_keeps_its_id_and_both_secrets_during_the_overlap(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Limits and usage stay with the key."""
    made = await repository.create(spec(), ME)
    rotated = await repository.rotate(made.record.key_id, ME, overlap=timedelta(minutes=5))
    assert made.generated is not None
    assert rotated.generated is not None
    keys = KeyCache(PostgresKeyStore(pool))
    before, after = (
        await keys.find_caller(made.generated.text.encode()),
        await keys.find_caller(rotated.generated.text.encode()),
    )
    assert before.key_id == after.key_id == made.record.key_id
    at_once = await repository.rotate(made.record.key_id, ME, overlap=timedelta(0))
    fresh = KeyCache(PostgresKeyStore(pool))
    for ended in (made, rotated):
        assert ended.generated is not None
        if ended is rotated:
            with pytest.raises(Unauthorized):
                await fresh.find_caller(ended.generated.text.encode())
    assert at_once.generated is not None
    assert (await fresh.find_caller(at_once.generated.text.encode())).key_id == made.record.key_id


async def test_a_revoked_key_is_rejected_and_revoking_is_idempotent(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """A revoked key stays in the list, with the time of its end."""
    made = await repository.create(spec(), ME)
    first = await repository.revoke("night-shift", ME)
    second = await repository.revoke(made.record.key_id, ME)
    assert made.generated is not None
    assert first.record.revoked_at == second.record.revoked_at
    with pytest.raises(Unauthorized):
        await KeyCache(PostgresKeyStore(pool)).find_caller(made.generated.text.encode())
    assert [one.key_id for one in await repository.list_keys()] == [made.record.key_id]


async def test_an_expired_key_is_rejected_even_when_it_is_cached(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Without a look-up."""
    made = await repository.create(spec(), ME)
    assert made.generated is not None
    today = [datetime.now(UTC)]
    keys = KeyCache(PostgresKeyStore(pool), now=lambda: today[0])
    await keys.find_caller(made.generated.text.encode())
    today[0] = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(Unauthorized):
        await keys.find_caller(made.generated.text.encode())


def skewed(by: timedelta) -> datetime:
    """The time on a clock that is wrong by so much."""
    return datetime.now(UTC) + by


async def test_a_key_ends_by_the_database_s_clock_on_every_replica(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """A replica whose clock is hours off neither extends nor shortens it."""
    now = datetime.now(UTC)
    past = await repository.create(spec(name="past", expires_at=now - timedelta(minutes=1)), ME)
    live = await repository.create(spec(name="live", expires_at=now + timedelta(minutes=10)), ME)
    rotated = await repository.create(spec(name="rotated"), ME)
    await repository.rotate("rotated", ME, overlap=timedelta(0))
    assert past.generated
    assert live.generated
    assert rotated.generated
    for skew in (timedelta(hours=-5), timedelta(0), timedelta(hours=5)):
        keys = KeyCache(PostgresKeyStore(pool), now=partial(skewed, skew))
        await keys.find_caller(live.generated.text.encode())
        for ended in (past, rotated):
            assert ended.generated
            with pytest.raises(Unauthorized):
                await keys.find_caller(ended.generated.text.encode())


async def test_a_name_is_unique(repository: KeyRepository) -> None:
    """Two keys of one name could not be told apart in a keys file."""
    await repository.create(spec(), ME)
    with pytest.raises(BadRequest):
        await repository.create(spec(), ME)
    with pytest.raises(NotFound):
        await repository.get("nobody")


async def test_a_value_out_of_range_is_400(repository: KeyRepository) -> None:
    """Neither 503 nor half a key."""
    with pytest.raises(BadRequest):
        await repository.create(spec(limits=Limits(rpm=-1)), ME)
    with pytest.raises(BadRequest):
        await repository.create(spec(name="nul\x00"), ME)
    assert await repository.list_keys() == []


async def test_concurrent_changes_lose_no_field(repository: KeyRepository) -> None:
    """Each changes the key as it is then, not as it was read before."""
    await repository.create(spec(), ME)
    fields = {"rpm": 1, "tpm": 2, "parallel": 3, "max_tokens_cap": 4, "agent": "night", "tags": ["t"]}
    made = (repository.update("night-shift", {name: value}, ME) for name, value in fields.items())
    await asyncio.gather(*made)
    found = (await repository.get("night-shift")).spec
    assert found.limits == Limits(1, 2, 3)
    assert (found.max_tokens_cap, found.agent, found.tags) == (4, "night", ("t",))


async def test_every_change_raises_the_epoch(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Per tenant; a change for all raises every tenant's."""
    policies, keys = PolicyRepository(pool), PostgresKeyStore(pool)
    await repository.create(spec(), ME)
    changed = await repository.update("night-shift", spec(limits=Limits(rpm=1)), ME)
    revoked = await repository.revoke("night-shift", ME)
    assert revoked.epochs["dao-1"] > changed.epochs["dao-1"] > 0
    enabled = await policies.enable_switch(KillSwitch("model", "gpt-x"), ME)
    assert enabled["dao-1"] == enabled["*"] > revoked.epochs["dao-1"]
    book = await keys.fetch_policies(0)
    assert book is not None
    assert book.epoch_of("dao-1") == book.epoch_of("another") == book.newest_epoch == enabled["*"]
    assert await keys.fetch_policies(book.newest_epoch) is None


async def test_the_watcher_knows_the_newest_epoch_of_every_tenant(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Of what it has read, and of what the limits store has said; never the one it knew before."""
    watch = PolicyWatcher(PostgresKeyStore(pool))
    assert watch.epoch_of("dao-1") == 0
    await repository.create(spec(), ME)
    changed = await repository.update("night-shift", spec(limits=Limits(rpm=1)), ME)
    await watch.refresh()
    assert watch.epoch_of("dao-1") == changed.epochs["dao-1"] > watch.epoch_of("another") == 0
    enabled = await PolicyRepository(pool).enable_switch(KillSwitch("model", "gpt-x"), ME)
    await watch.refresh()
    assert watch.epoch_of("dao-1") == watch.epoch_of("another") == enabled["*"]
    await watch.refresh("another", enabled["*"] + 5)
    assert (watch.epoch_of("dao-1"), watch.epoch_of("another")) == (enabled["*"], enabled["*"] + 5)
    await watch.refresh("another", enabled["*"] + 2)
    assert watch.epoch_of("another") == enabled["*"] + 5


async def test_policies_and_kill_switches_are_read_back(
    pool: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    """A snapshot is what operators set; a disabled switch leaves nothing in it."""
    policies, keys = PolicyRepository(pool), PostgresKeyStore(pool)
    policy = LimitPolicy(
        "agent", "dao-1", "scout", limits=Limits(tpm=5), budgets=(Budget(7, "day"),), mode="shadow"
    )
    switch = KillSwitch("agent", "scout", "dao-1")
    await policies.upsert(policy, ME)
    await policies.upsert(policy, ME)
    await policies.enable_switch(switch, ME, reason="runs in circles")
    book = await keys.fetch_policies(0)
    assert book is not None
    assert (book.policies, book.kill_switches) == ((policy,), frozenset({switch}))
    await policies.disable_switch(switch, ME)
    await policies.delete(policy, ME)
    later = await keys.fetch_policies(book.newest_epoch)
    assert later is not None
    assert (later.policies, later.kill_switches) == ((), frozenset())


async def test_every_change_is_audited_and_entries_cannot_be_changed(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Not even by the table's owner."""
    made = await repository.create(spec(), ME)
    await repository.revoke("night-shift", ME)
    rows = await AuditLog(pool).list_entries()
    assert [(row["actor"], row["action"], row["target"], row["client_ip"]) for row in rows] == [
        ("test", "keys.revoke", made.record.key_id, "192.0.2.1"),
        ("test", "keys.create", made.record.key_id, "192.0.2.1"),
    ]
    partition = await pool.fetchval("SELECT tableoid::regclass::text FROM audit_entries LIMIT 1")
    for table in ("audit_log", "audit_entries", partition):
        for forbidden in (f"UPDATE {table} SET actor = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}"):  # noqa: S608 -- ours
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(forbidden)


async def test_an_unreadable_policy_stops_neither_the_start_nor_the_watcher(
    pool: "asyncpg.Pool[asyncpg.Record]", caplog: pytest.LogCaptureFixture
) -> None:
    """Written by hand: logged once with its traceback; once it is repaired the policies hold again."""
    policies = PolicyRepository(pool)
    await policies.upsert(LimitPolicy("agent", subject="scout", limits=Limits(7)), ME)
    await pool.execute("UPDATE limit_rules SET budgets = '[7]'")
    watch = PolicyWatcher(PostgresKeyStore(pool))
    await watch.start()
    assert "rules" in background.failing_loops()
    async with asyncio.timeout(10):
        while background.failure_counts()["rules"] < 3:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    assert len([one for one in caplog.records if one.exc_info]) == 1
    await pool.execute("UPDATE limit_rules SET budgets = '[]'")
    async with asyncio.timeout(10):
        while not watch.snapshot.policies:  # noqa: ASYNC110 -- the same
            await asyncio.sleep(0.05)
    assert "rules" not in background.failing_loops()
    await watch.stop()


async def test_the_time_of_a_rejection_reveals_nothing(
    pool: "asyncpg.Pool[asyncpg.Record]", repository: KeyRepository
) -> None:
    """Unknown key, wrong secret of a cached key, revoked or expired: within noise."""
    keys = KeyCache(PostgresKeyStore(pool))
    public: dict[str, str | None] = {"unknown": None}
    for kind, ends in (("live", None), ("revoked", None), ("expired", datetime(2020, 1, 1, tzinfo=UTC))):
        made = await repository.create(spec(name=kind, expires_at=ends), ME)
        assert made.generated is not None
        public[kind] = made.generated.lookup
        if kind == "revoked":
            await repository.revoke(made.record.key_id, ME)
        with contextlib.suppress(Unauthorized):
            await keys.find_caller(made.generated.text.encode())  # it is remembered now
    took: dict[str, list[float]] = {kind: [] for kind in public}
    for _ in range(60):
        for kind, lookup in public.items():
            key = key_with(lookup)
            began = perf_counter()
            with pytest.raises(Unauthorized, match="Incorrect API key"):
                await keys.find_caller(key)
            took[kind].append(perf_counter() - began)
    medians = [median(times) for times in took.values()]
    assert max(medians) < 3 * min(medians), took


def key_with(public: str | None) -> bytes:
    """A key of the right form with a secret of its own, and that public part or a new one."""
    text = generate_key().text.encode()
    if public is None:
        return text
    text = text[: len(KEY_TYPE_PREFIX)] + public.encode() + text[len(KEY_TYPE_PREFIX) + len(public) : -6]
    number, digits = zlib.crc32(text), b""
    for _ in range(6):
        number, digit = divmod(number, len(LETTERS))
        digits += LETTERS[digit : digit + 1]
    return text + digits
