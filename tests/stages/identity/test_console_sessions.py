"""Sessions of the console and links in Postgres: what opens them, what the database holds, when they end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from llm_proxy.errors import NotFound
from llm_proxy.identity import Actor
from llm_proxy.identity.console_sessions import ConsoleSessions, SessionHolder
from llm_proxy.schema import migrate
from llm_proxy.schema.connections import Pool, open_command_pool

SECRET = "sk-llma-a-credential-of-a-person"
OWNER = Actor("admin_key", None, "owner")
ANN = SessionHolder("ann", "operator", None, "key", "10.0.0.1", "Firefox")
LATEST = (datetime(9999, 1, 1, tzinfo=UTC), "")


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[Pool]:
    """A migrated database."""
    await migrate(postgres_url)
    async with open_command_pool(postgres_url, None) as opened:
        yield opened


def sessions(pool: Pool, *, lifetime_s: float = 60, idle_s: float = 60) -> ConsoleSessions:
    """The sessions."""
    return ConsoleSessions(pool, lifetime=timedelta(seconds=lifetime_s), idle=timedelta(seconds=idle_s))


async def test_only_the_cookie_opens_a_session(pool: Pool) -> None:
    """The database has neither it nor the credential."""
    known = sessions(pool)
    cookie = await known.open(SECRET, ANN)
    opened = await known.find(cookie)
    assert opened is not None
    assert (opened.credential, opened.record.holder) == (SECRET, ANN)
    assert SECRET not in repr(opened)
    for wrong in ("", "x", cookie[:-1], cookie + "x", opened.record.session_id, "\ud800", "\0"):
        assert await known.find(wrong) is None
    stored = str([dict(row) for row in await pool.fetch("SELECT * FROM console_sessions")])
    assert cookie not in stored
    assert SECRET not in stored


async def test_a_session_ends_by_its_time_without_use_and_by_hand(pool: Pool) -> None:
    """In each case for ever."""
    known = sessions(pool)
    ended = await known.open(SECRET, ANN)
    opened = await known.find(ended)
    assert opened is not None
    await known.end(opened.record.session_id, OWNER)
    assert await known.find(ended) is None
    with pytest.raises(NotFound):
        await known.end(opened.record.session_id, OWNER)
    assert await known.find(await sessions(pool, lifetime_s=0).open(SECRET, ANN)) is None
    idle = await known.open(SECRET, ANN)
    assert await sessions(pool, idle_s=0).find(idle) is None
    assert await known.find(idle) is not None


async def test_a_tenants_admin_ends_and_sees_sessions_of_its_tenant(pool: Pool) -> None:
    """Others do not exist for it."""
    known, tenant = sessions(pool), f"t{datetime.now(UTC).timestamp()}"
    mine = SessionHolder("sk-llmp-mine", "key", tenant, "key")
    cookies = [await known.open(SECRET, one) for one in (ANN, mine)]
    others, own = [found.record for cookie in cookies if (found := await known.find(cookie))]
    admin = Actor("boss", None, "tenant", tenant)
    with pytest.raises(NotFound):
        await known.end(others.session_id, admin)
    assert [one.session_id for one in await known.list_sessions(LATEST, 10, tenant=tenant)] == [
        own.session_id
    ]
    assert (await known.end(own.session_id, admin)).session_id == own.session_id


async def test_lists_are_read_page_by_page(pool: Pool) -> None:
    """Each session once."""
    known = sessions(pool)
    for _ in range(5):
        await known.open(SECRET, ANN)
    position, seen = LATEST, list[str]()
    while page := await known.list_sessions(position, 2):
        seen += [one.session_id for one in page]
        position = (page[-1].created_at, page[-1].session_id)
    assert len(seen) == len(set(seen)) >= 5


async def test_a_link_opens_once_before_its_time_is_over(pool: Pool) -> None:
    """Whoever comes first; a link that is late is none."""
    known = sessions(pool)
    link = await known.make_link(SECRET, timedelta(minutes=1))
    tries = await asyncio.gather(*(known.use_link(link) for _ in range(4)))
    assert sorted(tries, key=str) == [None, None, None, SECRET]
    assert await known.use_link(await known.make_link(SECRET, timedelta(0))) is None
    assert await known.use_link("\ud800") is None


async def test_what_happened_is_in_the_audit_log(pool: Pool) -> None:
    """By the person's pseudonym, without cookie or credential."""
    known = sessions(pool)
    cookie = await known.open(SECRET, ANN)
    opened = await known.find(cookie)
    assert opened is not None
    await known.end(opened.record.session_id, OWNER)
    rows = await pool.fetch(
        "SELECT * FROM audit_entries WHERE target = $1 ORDER BY seq", opened.record.session_id
    )
    assert [row["action"] for row in rows] == ["console.sign_in", "console.revoke"]
    text = str([dict(row) for row in rows])
    assert not any(secret in text for secret in (cookie, SECRET, "'ann'"))


async def test_ended_sessions_are_forgotten_after_a_month(pool: Pool) -> None:
    """With the keys that were made for them."""
    known = sessions(pool)
    opened = await known.find(await known.open(SECRET, ANN))
    assert opened is not None
    session_id = opened.record.session_id
    await pool.execute(
        "UPDATE console_sessions SET expires_at = now() - interval '31 days' WHERE session_id = $1",
        session_id,
    )
    await known.open(SECRET, ANN)
    assert await pool.fetchval("SELECT count(*) FROM console_sessions WHERE session_id = $1", session_id) == 0


async def test_a_name_is_taken_by_one_lasting_admin_key_alone(pool: Pool) -> None:
    """Keys of sessions share their person's name; the others do not."""
    insert = (
        "INSERT INTO admin_keys (key_id, name, role, lookup, digest, session_id)"
        " VALUES ($1, 'shared-name', 'viewer', $1, sha256(convert_to($1, 'UTF8')), $2)"
    )
    await pool.execute(insert, "one", None)
    await pool.execute(insert, "two", "ses_1")
    await pool.execute(insert, "three", "ses_2")
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.execute(insert, "four", None)
    await pool.execute("DELETE FROM admin_keys WHERE name = 'shared-name'")
