"""A person's sessions at the console are erased, in one tenant, and again when a backup brings them back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from stages.ledger.test_erasure import ANNA, NAME, Outside, erasures_of

from llm_proxy.identity import AdminKeyRepository
from llm_proxy.identity.admin_keys import AdminKeySpec
from llm_proxy.identity.console_sessions import ConsoleSessions, SessionHolder
from llm_proxy.schema.connections import Pool, open_command_pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool on a database without rows."""
    async with open_command_pool(database_url, None) as opened:
        yield opened


async def test_a_persons_sessions_are_deleted_and_end(pool: Pool) -> None:
    """Those of its virtual keys and its own; in this tenant alone, and again if a backup brings them back."""
    sessions = ConsoleSessions(pool, lifetime=timedelta(hours=1), idle=timedelta(hours=1))
    holder = SessionHolder("sk-llmp-abc", "key", "acme", "key", "192.0.2.9", "Firefox", NAME)
    admin = SessionHolder(NAME, "tenant", "acme", "oidc", "192.0.2.9")
    kept = [replace(holder, tenant="zeta"), replace(holder, user="another"), replace(admin, tenant="zeta"),
            SessionHolder("admin_key", "owner", None, "link")]  # fmt: skip
    gone_cookies = [await sessions.open("key", one) for one in (holder, holder)]
    spec = AdminKeySpec(NAME, "tenant", "acme", datetime.now(UTC) + timedelta(hours=1))
    await AdminKeyRepository(pool).create(spec, ANNA, "ses_of_the_person")
    gone_cookies.append(await sessions.open("key", admin, "ses_of_the_person"))
    kept_cookies = [await sessions.open("key", one) for one in kept]
    await pool.execute(
        "CREATE TABLE saved AS SELECT c AS one FROM console_sessions AS c WHERE tenant = 'acme'"
    )
    certificate = await erasures_of(pool, Outside(cache="there")).erase("acme", NAME, ANNA)
    assert certificate["complete"], certificate
    assert certificate["stores"]["console sessions"]["found"] == 3
    assert [await sessions.find(cookie) for cookie in gone_cookies] == [None] * 3
    assert None not in [await sessions.find(cookie) for cookie in kept_cookies]
    assert not await pool.fetch("SELECT 1 FROM admin_keys WHERE name = $1", NAME)
    await pool.execute(
        "INSERT INTO console_sessions SELECT (one).* FROM saved WHERE (one).session_id NOT IN"
        " (SELECT session_id FROM console_sessions); DROP TABLE saved"
    )
    [again] = await erasures_of(pool, Outside(cache="there")).retry_unfinished()
    assert (again["id"], again["complete"]) == (certificate["id"], True)
    assert [await sessions.find(cookie) for cookie in gone_cookies] == [None] * 3
