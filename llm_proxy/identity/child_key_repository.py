"""Creates, lists and revokes the keys below a key.

Invariants: every change is an admin transaction (see `audit`), and its author is the parent; a key's text is
returned once; a root has at most `MAX_LIVING` living keys below it, and `MAX_A_MINUTE` new ones a minute.
What is created while its parent ends has ended too: the keys above are read with a key.
Raises: `NotFound`, `BadRequest`, `Forbidden`, `RateLimited`, `Unauthorized`, `StoreUnavailable`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from llm_proxy.errors import Forbidden, NotFound, RateLimited
from llm_proxy.identity.admin_documents import key_fields
from llm_proxy.identity.audit import Actor, Person, admin_transaction, bump_epochs, write_audit
from llm_proxy.identity.authenticator import invalid_key_error
from llm_proxy.identity.caller import MAX_NAME_CHARS, Caller
from llm_proxy.identity.child_keys import ServedNames, child_spec
from llm_proxy.identity.key_repository import (
    LIST_KEYS,
    KeyMutation,
    fetch_record,
    insert_key,
    record_from_row,
)
from llm_proxy.identity.postgres_store import Connection, Pool, read_key
from llm_proxy.identity.virtual_keys import (
    KEY_TYPE_PREFIX,
    KeyRecord,
    StoredKey,
    caller_from_key,
    ended_key_error,
    generate_key,
    new_key_id,
)

MAX_LIVING, MAX_A_MINUTE = 200, 60
_COUNTS = """
SELECT count(*) FILTER (WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())) AS living,
       count(*) FILTER (WHERE created_at > now() - interval '1 minute') AS latest
FROM api_keys WHERE ancestors @> ARRAY[$1::text]
"""
_LINK = "UPDATE api_keys SET ancestors = $2, parent_lookup = $3, run_id = $4 WHERE key_id = $1"
_FIND = """
SELECT key_id, name, tenant FROM api_keys WHERE (key_id = $1 OR name = $1) AND ancestors @> ARRAY[$2::text]
FOR UPDATE
"""
_REVOKE = """
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
WHERE key_id = $1 OR ancestors @> ARRAY[$1::text]
"""
_LIVING = """
WHERE k.ancestors @> ARRAY[$1::text] AND k.revoked_at IS NULL
  AND (k.expires_at IS NULL OR k.expires_at > now())
  AND NOT EXISTS (SELECT FROM api_keys AS a WHERE a.key_id = ANY(k.ancestors)
                  AND (a.revoked_at IS NOT NULL OR a.expires_at <= now()))
ORDER BY k.created_at DESC, k.key_id LIMIT $2
"""


class ChildKeyRepository:
    """Reads and writes the keys below the key of a caller."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, caller: Caller, requested: Mapping[str, Any], served: ServedNames) -> KeyMutation:
        """Creates a key below the caller's."""
        require_virtual(caller)
        lookup = caller.key_prefix.removeprefix(KEY_TYPE_PREFIX)
        async with admin_transaction(self._pool) as connection:
            now: datetime = await connection.fetchval(
                "SELECT clock_timestamp() FROM api_keys WHERE key_id = $1 FOR UPDATE", caller.root_key_id
            )
            stored, parent = await _require_living(connection, lookup, now)
            await _require_room(connection, parent.root_key_id)
            spec, run = child_spec(parent, stored.ends_at, requested, now, served)
            key_id, secret = new_key_id(), generate_key()
            end = f"/{spec.name}-{key_id[-8:]}"
            spec = replace(spec, name=stored.spec.name[: MAX_NAME_CHARS - len(end)] + end[-MAX_NAME_CHARS:])
            await insert_key(connection, key_id, spec, secret)
            ancestors = [*(one.key_id for one in parent.above), parent.key_id]
            await connection.execute(_LINK, key_id, ancestors, lookup, run)
            person = {"user": Person(spec.user, spec.tenant) if spec.user else None}
            above = {"ancestors": ancestors, "run": run}
            await write_audit(
                connection,
                Actor.of_caller(caller),
                "keys.create_child",
                key_id,
                {"name": spec.name},
                after=key_fields(spec) | person | above,
            )
            return KeyMutation(await fetch_record(connection, key_id), secret)

    async def list_living(self, caller: Caller) -> list[KeyRecord]:
        """Returns the living keys below the caller's, the newest first."""
        require_virtual(caller)
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(LIST_KEYS + _LIVING, caller.key_id, MAX_LIVING)
        return [record_from_row(row) for row in rows]

    async def revoke(self, caller: Caller, name_or_id: str) -> KeyMutation:
        """Revokes a key below the caller's, and with it those below that."""
        require_virtual(caller)
        async with admin_transaction(self._pool) as connection:
            row = await connection.fetchrow(_FIND, name_or_id, caller.key_id)
            if row is None:
                raise NotFound("No such key below this one.")
            await connection.execute(_REVOKE, row["key_id"])
            epochs = await bump_epochs(connection, row["tenant"])
            after = await fetch_record(connection, row["key_id"])
            await write_audit(
                connection,
                Actor.of_caller(caller),
                "keys.revoke",
                row["key_id"],
                {"name": row["name"]},
                after={"revoked_at": after.revoked_at},
            )
            return KeyMutation(after, epochs=epochs)


def require_virtual(caller: Caller) -> None:
    """Raises `Forbidden` for an internal key: it is bound to nothing that a child could be held to."""
    if caller.kind != "virtual":
        raise Forbidden("Child keys are made with a virtual key; operators make keys by the admin API.")


async def _require_living(connection: Connection, lookup: str, now: datetime) -> tuple[StoredKey, Caller]:
    """Returns the parent as it is now, and its caller; raises `Unauthorized` when it has ended."""
    stored = await read_key(connection, lookup)
    if stored is None:
        raise invalid_key_error()
    parent = caller_from_key(stored, lookup)
    if ended_key_error(stored, parent, stored.ends_at, now) is not None:
        raise invalid_key_error()
    return stored, parent


async def _require_room(connection: Connection, root: str) -> None:
    counts = await connection.fetchrow(_COUNTS, root)
    if counts is not None and counts["living"] >= MAX_LIVING:
        message = f"At most {MAX_LIVING} keys below a key can live at once; revoke some, or let them end."
        raise RateLimited(message, code="too_many_child_keys", retry_after_s=60)
    if counts is not None and counts["latest"] >= MAX_A_MINUTE:
        message = f"At most {MAX_A_MINUTE} keys below a key can be made in a minute."
        raise RateLimited(message, code="too_many_child_keys", retry_after_s=60)
