"""Sessions of the console, stored in Postgres, and links that sign in once.

Invariants: a secret of 256 random bits stands in the browser's cookie or in the link and nowhere else: the
database has its SHA-256, and the credential sealed with it. An ended, expired or idle session opens nothing;
a link opens once. Sign-ins and ends of sessions stand in the audit log.
Raises: `StoreUnavailable`, `NotFound`.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import asyncpg

from llm_proxy.errors import NotFound
from llm_proxy.identity.admin_keys import RESERVED_NAMES
from llm_proxy.identity.audit import MAX_PERSON_CHARS, Actor, admin_transaction, write_audit
from llm_proxy.identity.postgres_store import Pool, database_errors
from llm_proxy.schema.database import sanitize_text
from llm_proxy.sealing import Sealer, SealingKey

ViewerRole = Literal["owner", "operator", "viewer", "tenant", "key"]
"""The roles of admin keys, and `key`: the holder of a virtual key."""
SignInMethod = Literal["key", "link", "oidc"]
READ_DEADLINE_S = 2.0
_SECRET_BYTES = 32
_MAX_SECRET_CHARS = 64
_MAX_AGENT_CHARS = 200
_KEPT_DAYS = 30
"""For which an ended session is listed."""
_SESSION, _LINK, _KEY_ID = "console.session", "console.link", "c"
_RUNNING = """
ended_at IS NULL AND expires_at > clock_timestamp()
AND last_seen_at > clock_timestamp() - make_interval(secs => $2)"""
_SINCE_RESTORE = "created_at > coalesce((SELECT locked_at FROM database_marker), '-infinity')"
"""A session from a backup may have been revoked since: it opens nothing until the restore is acknowledged."""
_FIND = (
    f"SELECT * FROM console_sessions WHERE digest = $1 AND {_RUNNING}"  # noqa: S608 -- our own text
    f" AND {_SINCE_RESTORE}"
)
_SEEN = """
UPDATE console_sessions SET last_seen_at = clock_timestamp()
WHERE session_id = $1 AND last_seen_at < clock_timestamp() - interval '30 seconds'"""
_INSERT = """
INSERT INTO console_sessions
(session_id, digest, sealed, name, role, tenant, method, client_ip, user_agent, user_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp() + make_interval(secs => $11))"""
_END = """
UPDATE console_sessions SET ended_at = clock_timestamp()
WHERE session_id = $1 AND ended_at IS NULL AND ($2::text IS NULL OR tenant = $2)
RETURNING *"""
_LIST = """
SELECT * FROM console_sessions
WHERE (created_at, session_id) < ($1, $2)
AND ($3::text IS NULL OR tenant = $3) AND ($4::text IS NULL OR name = $4)
ORDER BY created_at DESC, session_id DESC LIMIT $5"""
_FORGET = """
DELETE FROM console_sessions
WHERE least(expires_at, coalesce(ended_at, expires_at)) < clock_timestamp() - make_interval(days => $1)"""

_FORGET_KEYS = """
DELETE FROM admin_keys
WHERE session_id IS NOT NULL AND expires_at < clock_timestamp() - make_interval(days => $1)"""


@dataclass(frozen=True, slots=True)
class SessionHolder:
    """The person or key of a session, and from where it was opened.

    Attributes:
        name: The admin key's name, or the public part of a virtual key.
        tenant: Of a `tenant` admin or a virtual key.
        user: Of a virtual key.
    """

    name: str
    role: ViewerRole
    tenant: str | None
    method: SignInMethod
    client_ip: str | None = None
    user_agent: str = ""
    user: str | None = None

    @property
    def person(self) -> str | None:
        """The person of the session, as an erasure knows people; None where it has none."""
        named = self.user if self.role == "key" else self.name
        if named is None or (self.role != "key" and named in RESERVED_NAMES):
            return None
        return sanitize_text(named)[:MAX_PERSON_CHARS]

    def as_actor(self) -> Actor:
        """Returns the author of the session's entries in the audit log."""
        is_person = self.role != "key" and self.name not in RESERVED_NAMES
        return Actor(self.name, self.client_ip, self.role, self.tenant, is_person)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A stored session, as people see it."""

    session_id: str
    holder: SessionHolder
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that a cookie opened, and the credential that it acts with."""

    record: SessionRecord
    credential: str

    def __repr__(self) -> str:
        """Returns the session without its credential."""
        return f"OpenSession({self.record.session_id})"


class ConsoleSessions:
    """Opens, finds, lists and ends the console's sessions."""

    def __init__(self, pool: Pool, *, lifetime: timedelta, idle: timedelta) -> None:
        """Takes how long a session lives, and how long without a request."""
        self._pool = pool
        self._lifetime_s = lifetime.total_seconds()
        self._idle_s = idle.total_seconds()

    @property
    def lifetime_s(self) -> int:
        """Seconds after which a session ends, however busy."""
        return int(self._lifetime_s)

    async def open(self, credential: str, holder: SessionHolder, session_id: str | None = None) -> str:
        """Opens a session, with an audit entry, and returns the cookie's secret.

        Args:
            credential: What the session acts with.
            holder: Whose it is.
            session_id: From `new_session_id`; by default a new one.
        """
        secret, named = secrets.token_urlsafe(_SECRET_BYTES), session_id or new_session_id()
        sealed = _sealer(secret).seal(_SESSION, credential.encode())
        async with admin_transaction(self._pool) as connection:
            await connection.execute(
                _INSERT, named, _digest(secret), sealed, holder.name, holder.role, holder.tenant,
                holder.method, holder.client_ip, sanitize_text(holder.user_agent)[:_MAX_AGENT_CHARS],
                holder.person, self._lifetime_s,
            )  # fmt: skip
            await connection.execute(_FORGET, _KEPT_DAYS)
            await connection.execute(_FORGET_KEYS, _KEPT_DAYS)
            await write_audit(
                connection, holder.as_actor(), "console.sign_in", named, {"method": holder.method}
            )
        return secret

    async def find(self, secret: str) -> OpenSession | None:
        """Returns the session that a cookie opens, and notes that it was used; None without one."""
        if not 0 < len(secret) <= _MAX_SECRET_CHARS:
            return None
        async with database_errors(), self._pool.acquire(timeout=READ_DEADLINE_S) as connection:
            row = await connection.fetchrow(_FIND, _digest(secret), self._idle_s, timeout=READ_DEADLINE_S)
            if row is None:
                return None
            await connection.execute(_SEEN, row["session_id"], timeout=READ_DEADLINE_S)
        opened = _sealer(secret).open(_SESSION, row["sealed"])
        return OpenSession(_record(row), opened.decode()) if opened is not None else None

    async def list_sessions(
        self, before: tuple[datetime, str], limit: int, *, tenant: str | None = None, name: str | None = None
    ) -> list[SessionRecord]:
        """Returns sessions, the latest first, those of the last 30 days' too.

        Args:
            before: Time of creation and id of the last one of the page before.
            limit: The most of them.
            tenant: Only this tenant's; None for all.
            name: Only this holder's; None for all.
        """
        async with database_errors(), self._pool.acquire(timeout=READ_DEADLINE_S) as connection:
            rows = await connection.fetch(_LIST, *before, tenant, name, limit, timeout=READ_DEADLINE_S)
        return [_record(row) for row in rows]

    async def end(self, session_id: str, actor: Actor, *, action: str = "console.revoke") -> SessionRecord:
        """Ends a session and revokes the admin key that was made for it; raises `NotFound`.

        Args:
            session_id: Its public id.
            actor: The author; one of a tenant ends sessions of this tenant alone.
            action: Its name in the audit log.
        """
        async with admin_transaction(self._pool) as connection:
            row = await connection.fetchrow(_END, session_id, actor.tenant)
            if row is None:
                raise NotFound("No such session, or it has ended.")
            await connection.execute(
                "UPDATE admin_keys SET revoked_at = now() WHERE session_id = $1 AND revoked_at IS NULL",
                session_id,
            )
            await write_audit(connection, actor, action, session_id)
        return _record(row)

    async def make_link(self, credential: str, lifetime: timedelta) -> str:
        """Returns the secret of a link that signs in once with a credential, until its time is over."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        sealed = _sealer(secret).seal(_LINK, credential.encode())
        async with database_errors(), self._pool.acquire(timeout=READ_DEADLINE_S) as connection:
            await connection.execute("DELETE FROM console_links WHERE expires_at < clock_timestamp()")
            await connection.execute(
                "INSERT INTO console_links VALUES ($1, $2, clock_timestamp() + $3::interval)",
                _digest(secret), sealed, lifetime,
            )  # fmt: skip
        return secret

    async def use_link(self, secret: str) -> str | None:
        """Returns the credential of a link, once; None for one that was used, has expired or is unknown."""
        if not 0 < len(secret) <= _MAX_SECRET_CHARS:
            return None
        async with database_errors(), self._pool.acquire(timeout=READ_DEADLINE_S) as connection:
            sealed: str | None = await connection.fetchval(
                "DELETE FROM console_links WHERE digest = $1 AND expires_at > clock_timestamp()"
                " RETURNING sealed",
                _digest(secret),
            )
        opened = _sealer(secret).open(_LINK, sealed) if sealed is not None else None
        return opened.decode() if opened is not None else None


def new_session_id() -> str:
    """Returns the public id of a new session."""
    return f"ses_{secrets.token_hex(8)}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _sealer(secret: str) -> Sealer:
    return Sealer((SealingKey(_KEY_ID, secret),))


def _record(row: asyncpg.Record) -> SessionRecord:
    holder = SessionHolder(
        row["name"], row["role"], row["tenant"], row["method"], row["client_ip"], row["user_agent"] or "",
        row["user_id"] if row["role"] == "key" else None,
    )  # fmt: skip
    return SessionRecord(
        row["session_id"],
        holder,
        row["created_at"],
        row["last_seen_at"],
        row["expires_at"],
        row["ended_at"],
    )
