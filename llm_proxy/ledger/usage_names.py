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
from llm_proxy.ledger.key_families import OF_VIEWER, of_family
from llm_proxy.ledger.usage_query import UsageQuery
from llm_proxy.telemetry.privacy import redact

_MAX_SHOWN_CHARS = 60
_KEYS = (
    "SELECT 1 FROM api_keys WHERE {column} = $1 AND $2::text IS NULL AND ($3::text IS NULL OR tenant = $3)"
)
_RULED = (
    "SELECT 1 FROM limit_rules WHERE scope = '{name}' AND subject = $1 AND $2::text IS NULL"
    " AND ($3::text IS NULL OR tenant = $3)"
)
_TAGGED = f"SELECT 1 FROM requests WHERE tags @> ARRAY[$1::text] AND {OF_VIEWER}"  # noqa: S608 -- own text
_KEYS_TAGGED = (
    "SELECT 1 FROM api_keys WHERE tags @> ARRAY[$1::text] AND $2::text IS NULL"
    " AND ($3::text IS NULL OR tenant = $3)"
)


def _used(table: str, column: str) -> str:
    return f"SELECT 1 FROM {table} WHERE {column} = $1 AND {OF_VIEWER}"  # noqa: S608 -- own text


_SOURCES = {
    "agent": (_used("usage_daily", "agent"), _KEYS.format(column="agent")),
    "tenant": (
        _used("usage_daily", "tenant"),
        _KEYS.format(column="tenant"),
        _RULED.format(name="tenant"),
    ),
    "model": (_used("usage_daily", "model_group"),),
    "provider": (_used("usage_daily", "provider"),),
    "user": (_used("usage_user_days", "user_id"), _KEYS.format(column="user_id")),
    "session": (_used("requests", "session_id"),),
    "run": (_used("requests", "run_id"),),
    "would_refuse": (_used("requests", "would_refuse"),),
    "tag": (_TAGGED, _KEYS_TAGGED),
}
_KEY_IN_ROLLUP = (
    "SELECT key_id FROM usage_daily WHERE key_id = $1 AND ($2::text IS NULL OR tenant = $2) LIMIT 1"
)
_IN_FAMILY = f"SELECT {of_family('$1::text', '$2')}"
_ROOT_OF = "SELECT ancestors[1] FROM api_keys WHERE key_id = $1"
_NAMES_OF_KEYS = "SELECT key_id, name FROM api_keys WHERE key_id = ANY($1)"


def unknown_name_error(name: str, value: str) -> NotFound:
    """Returns the 404 for a name that is recorded nowhere."""
    shown = redact(value)[:_MAX_SHOWN_CHARS]
    message = f"No {name} called '{shown}' is on record."
    return NotFound(message, param=name, code="unknown_name")


async def resolve_key_filter(connection: Connection, query: UsageQuery) -> UsageQuery:
    """Returns the query with the ids of the keys in its filters; raises `NotFound`."""
    root, name, only_key = query.filters.get("root_key"), query.filters.get("key"), query.only_key
    filters = dict(query.filters)
    if root is not None:
        root_id = await find_key(connection, root, query.only_tenant)
        if root_id is None or (
            only_key is not None and root_id != (await connection.fetchval(_ROOT_OF, only_key) or only_key)
        ):
            raise unknown_name_error("root_key", root)
        filters["root_key"] = root_id
    if name is not None:
        filters["key"] = await resolve_key(connection, name, only_key, query.only_tenant)
    return replace(query, filters=filters)


async def resolve_key(
    connection: Connection, name: str, only_key: str | None = None, only_tenant: str | None = None
) -> str:
    """Returns the id of a key by its id, name or shown prefix; raises `NotFound`.

    Args:
        connection: To the database.
        name: The key's id, name or shown prefix.
        only_key: The id of the one key that may be named, beside the keys below it; None for any.
        only_tenant: The one tenant whose keys may be named; None for any.
    """
    key_id = name if name == only_key else await find_key(connection, name, only_tenant)
    if key_id is None or (
        only_key is not None and not await connection.fetchval(_IN_FAMILY, key_id, only_key)
    ):
        raise unknown_name_error("key", name)
    return key_id


async def find_key(connection: Connection, name: str, tenant: str | None = None) -> str | None:
    """Returns the id of a stored key, or of a key that only the roll-up has; None if neither exists."""
    try:
        return await find_key_id(connection, name, tenant=tenant)
    except NotFound:
        key_id: str | None = await connection.fetchval(_KEY_IN_ROLLUP, name, tenant)
        return key_id


async def require_known_names(
    connection: Connection,
    filters: Mapping[str, str],
    only_key: str | None = None,
    only_tenant: str | None = None,
) -> None:
    """Raises `NotFound` for the first filter whose name is recorded nowhere that the viewer may see."""
    for name, value in filters.items():
        if not value or name not in _SOURCES or (name == "tenant" and value == only_tenant):
            continue
        known = " UNION ALL ".join(f"({source} LIMIT 1)" for source in _SOURCES[name])
        if not await connection.fetchval(f"SELECT EXISTS ({known})", value, only_key, only_tenant):
            raise unknown_name_error(name, value)


async def key_names(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """Returns the names of keys by id; internal keys have none."""
    return {row["key_id"]: row["name"] for row in await connection.fetch(_NAMES_OF_KEYS, list(ids))}


def add_key_name(group: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row's group with `key_name` behind `key`."""
    named: dict[str, Any] = {}
    for name, value in group.items():
        named[name] = value
        if name == "key":
            named["key_name"] = names.get(value)
    return named


def group_columns(by: Iterable[str]) -> list[str]:
    """Returns the columns of a row's group."""
    return list(add_key_name(dict.fromkeys(by), {}))
