"""Admin keys, stored in Postgres: the name and role under which an admin uses the admin API.

Invariants: only a key's SHA-256 is stored; digests are compared in constant time. Every request reads its
key from Postgres, so that all replicas reject a revoked key at once. The keys of the settings (`ADMIN_KEY`,
`ADMIN_READ_KEY`) are not stored here: they are valid without a database.
Raises: `Unauthorized`, `NotFound`, `BadRequest`, `StoreUnavailable`.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

import asyncpg

from llm_proxy.errors import BadRequest, NotFound, Unauthorized
from llm_proxy.identity.audit import DEADLINE_S, SYSTEM_ACTORS, Actor, Person, admin_transaction, write_audit
from llm_proxy.identity.postgres_store import Connection, Pool, database_errors
from llm_proxy.identity.virtual_keys import GeneratedKey, generate_key, key_digest, lookup_from_key

ADMIN_KEY_TYPE_PREFIX = "sk-llma-"
"""The beginning of every admin key; an admin key is never valid as a virtual key, or the reverse."""
Role = Literal["owner", "operator", "viewer", "tenant"]
ROLES: tuple[Role, ...] = get_args(Role)
RESERVED_NAMES = SYSTEM_ACTORS | {"admin_key", "admin_read_key"}
"""Names that no admin key may have: the audit log uses them for other actors."""
_FIND = """
SELECT *, expires_at <= clock_timestamp() AS expired FROM admin_keys WHERE lookup = $1
"""
_ONE = """
SELECT * FROM admin_keys WHERE key_id = $1 OR (name = $1 AND session_id IS NULL) OR $2 || lookup = $1"""


@dataclass(frozen=True, slots=True)
class Admin:
    """An authenticated user of the admin API.

    Attributes:
        name: The key's name; `admin_key` or `admin_read_key` for the keys of the settings.
        tenant: The only tenant that a key of the role `tenant` may see; None for the other roles.
        is_person: Whether the name may be a person's; true for stored keys.
    """

    name: str
    role: Role
    tenant: str | None = None
    is_person: bool = False

    def as_actor(self, client_ip: str | None) -> Actor:
        """Returns the actor for the audit log."""
        return Actor(self.name, client_ip, self.role, self.tenant, self.is_person)


@dataclass(frozen=True, slots=True)
class AdminKeySpec:
    """An admin key's specification, as an owner sets it."""

    name: str
    role: Role
    tenant: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AdminKeyRecord:
    """A stored admin key."""

    key_id: str
    spec: AdminKeySpec
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


class AdminKeyRepository:
    """Creates, lists, revokes and authenticates admin keys."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find_admin(self, key: bytes) -> Admin | None:
        """Returns the admin of a key; None when the key is unknown or has not the format of an admin key.

        Raises:
            Unauthorized: The key was revoked or has expired.
            StoreUnavailable: Postgres does not answer.
        """
        lookup = lookup_from_key(key, ADMIN_KEY_TYPE_PREFIX)
        if lookup is None:
            return None
        async with database_errors(), self._pool.acquire(timeout=DEADLINE_S) as connection:
            row = await connection.fetchrow(_FIND, lookup)  # one statement only: every caller can cause it
        if row is None or not hmac.compare_digest(row["digest"], key_digest(key)):
            return None
        if row["revoked_at"] is not None:
            raise Unauthorized("This admin key was revoked.")
        if row["expired"]:
            raise Unauthorized("This admin key has expired.")
        return Admin(row["name"], row["role"], row["tenant"], is_person=True)

    async def create(
        self, spec: AdminKeySpec, actor: Actor, session_id: str | None = None
    ) -> tuple[AdminKeyRecord, GeneratedKey]:
        """Creates a key and returns its record and its text, which is not stored.

        Args:
            spec: Its specification; its name is unique, unless it is the key of a session.
            actor: The author.
            session_id: The session of the console that alone uses it.
        """
        key, key_id = generate_key(ADMIN_KEY_TYPE_PREFIX), f"adm_{secrets.token_hex(8)}"
        async with admin_transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO admin_keys (key_id, name, role, tenant, lookup, digest, expires_at, session_id)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                key_id, spec.name, spec.role, spec.tenant, key.lookup, key.digest, spec.expires_at,
                session_id,
            )  # fmt: skip
            record = await _fetch_record(connection, key_id)
            name = {"name": Person(spec.name, kind="admin")}
            after = name | {"role": spec.role, "tenant": spec.tenant, "expires_at": spec.expires_at}
            await write_audit(connection, actor, "admin_keys.create", key_id, name, after=after)
        return record, key

    async def list_keys(self, *, after: str = "", limit: int = 100) -> list[AdminKeyRecord]:
        """Returns keys ordered by name, with revoked ones, without those of the console's sessions.

        `after` is the last name of the page before.
        """
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT * FROM admin_keys WHERE name > $1 AND session_id IS NULL ORDER BY name LIMIT $2",
                after,
                limit,
            )
        return [_record_from_row(row) for row in rows]

    async def revoke(self, name_or_id: str, actor: Actor) -> AdminKeyRecord:
        """Revokes a key for ever; revoking it again changes nothing."""
        async with admin_transaction(self._pool) as connection:
            before = await _fetch_record(connection, name_or_id, lock=True)
            await connection.execute(
                "UPDATE admin_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1",
                before.key_id,
            )
            after = await _fetch_record(connection, before.key_id)
            await write_audit(
                connection,
                actor,
                "admin_keys.revoke",
                before.key_id,
                {"name": Person(before.spec.name, kind="admin")},
                before={"revoked_at": before.revoked_at},
                after={"revoked_at": after.revoked_at},
            )
        return after


def validate_admin_key(spec: AdminKeySpec) -> AdminKeySpec:
    """Returns the specification; raises `BadRequest` for a reserved name or a wrong tenant."""
    if spec.name in RESERVED_NAMES or spec.name.startswith(("adm_", "sk-", "person:")):
        raise BadRequest(f"The name {spec.name!r} is reserved, or looks like an id or a key.", param="name")
    if (spec.role == "tenant") != (spec.tenant is not None):
        raise BadRequest("The role `tenant` needs a tenant, and no other role has one.", param="tenant")
    return spec


async def _fetch_record(connection: Connection, name_or_id: str, *, lock: bool = False) -> AdminKeyRecord:
    row = await connection.fetchrow(_ONE + (" FOR UPDATE" if lock else ""), name_or_id, ADMIN_KEY_TYPE_PREFIX)
    if row is None:
        raise NotFound("No such admin key.")
    return _record_from_row(row)


def _record_from_row(row: asyncpg.Record) -> AdminKeyRecord:
    spec = AdminKeySpec(row["name"], row["role"], row["tenant"], row["expires_at"])
    return AdminKeyRecord(
        row["key_id"], spec, f"{ADMIN_KEY_TYPE_PREFIX}{row['lookup']}", row["created_at"], row["revoked_at"]
    )
