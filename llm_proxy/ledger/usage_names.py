"""Checks the names in a usage query: keys by name, prefix or id, and every other recorded name.

Invariants: an unknown name raises `NotFound`, never gives an empty answer; a caller restricted to one key or
tenant learns of no other name; an error repeats what the client sent without anything that looks like a key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llm_proxy.errors import NotFound
from llm_proxy.identity.key_repository import find_key_id
from llm_proxy.identity.postgres_store import Connection
from llm_proxy.ledger.usage_query import UsageQuery
from llm_proxy.telemetry.privacy import redact

_SHOWN = 60
_KEYS = (
    "SELECT 1 FROM api_keys WHERE {column} = $1 AND $2::text IS NULL AND ($3::text IS NULL OR tenant = $3)"
)
_USED = (
    "SELECT 1 FROM {table} WHERE {column} = $1 AND ($2::text IS NULL OR key_id = $2)"
    " AND ($3::text IS NULL OR tenant = $3)"
)
_RULED = (
    "SELECT 1 FROM limit_rules WHERE scope = '{name}' AND subject = $1 AND $2::text IS NULL"
    " AND ($3::text IS NULL OR tenant = $3)"
)
_TAGGED = (
    "SELECT 1 FROM requests WHERE tags @> ARRAY[$1::text] AND ($2::text IS NULL OR key_id = $2)"
    " AND ($3::text IS NULL OR tenant = $3)"
)
_KEYS_TAGGED = (
    "SELECT 1 FROM api_keys WHERE tags @> ARRAY[$1::text] AND $2::text IS NULL"
    " AND ($3::text IS NULL OR tenant = $3)"
)
_PLACES = {
    "agent": (_USED.format(table="usage_daily", column="agent"), _KEYS.format(column="agent")),
    "tenant": (
        _USED.format(table="usage_daily", column="tenant"),
        _KEYS.format(column="tenant"),
        _RULED.format(name="tenant"),
    ),
    "model": (_USED.format(table="usage_daily", column="model_group"),),
    "provider": (_USED.format(table="usage_daily", column="provider"),),
    "user": (_USED.format(table="usage_user_days", column="user_id"), _KEYS.format(column="user_id")),
    "session": (_USED.format(table="requests", column="session_id"),),
    "run": (_USED.format(table="requests", column="run_id"),),
    "would_refuse": (_USED.format(table="requests", column="would_refuse"),),
    "tag": (_TAGGED, _KEYS_TAGGED),
}
_SPENT = "SELECT key_id FROM usage_daily WHERE key_id = $1 AND ($2::text IS NULL OR tenant = $2) LIMIT 1"
_NAMES_OF_KEYS = "SELECT key_id, name FROM api_keys WHERE key_id = ANY($1)"


def unknown_name_error(name: str, value: str) -> NotFound:
    """The refusal of a name that nobody knows."""
    shown = redact(value)[:_SHOWN]
    message = f"No {name} called '{shown}' is on record."
    return NotFound(message, param=name, code="unknown_name")


async def resolve_key_filter(connection: Connection, question: UsageQuery) -> UsageQuery:
    """The question with the id of the key it names; raises `NotFound`."""
    given, owner = question.filters.get("key"), question.only_key
    if given is None and owner is None:
        return question
    found = owner if given is None else await _find_key(connection, given, question.only_tenant)
    if found is None or (owner is not None and found != owner):
        raise unknown_name_error("key", given or "")
    return replace(question, filters={**question.filters, "key": found})


async def resolve_key(connection: Connection, given: str) -> str:
    """The id of a key by its id, name or shown prefix; raises `NotFound`."""
    found = await _find_key(connection, given)
    if found is None:
        raise unknown_name_error("key", given)
    return found


async def _find_key(connection: Connection, given: str, tenant: str | None = None) -> str | None:
    """The id of a key by its id, name or shown prefix; also of one that is only on record, of a tenant."""
    try:
        return await find_key_id(connection, given, tenant=tenant)
    except NotFound:
        found: str | None = await connection.fetchval(_SPENT, given, tenant)
        return found


async def require_known_names(
    connection: Connection, where: Mapping[str, str], owner: str | None = None, within: str | None = None
) -> None:
    """Raises `NotFound` for the first of these names that is nowhere on record (of one key, or tenant)."""
    for name, value in where.items():
        if not value or name not in _PLACES or (name == "tenant" and value == within):
            continue
        known = " UNION ALL ".join(f"({place} LIMIT 1)" for place in _PLACES[name])
        if not await connection.fetchval(f"SELECT EXISTS ({known})", value, owner, within):
            raise unknown_name_error(name, value)


async def key_names(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """The names of keys by their ids; secrets of trusted services have none."""
    return {row["key_id"]: row["name"] for row in await connection.fetch(_NAMES_OF_KEYS, list(ids))}


def add_key_name(group: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A line's group, a key's name beside its id."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        found[name] = value
        if name == "key":
            found["key_name"] = names.get(value)
    return found


def group_columns(by: Iterable[str]) -> list[str]:
    """The columns of a line's group."""
    return list(add_key_name(dict.fromkeys(by), {}))
