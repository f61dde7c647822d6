"""Reads the audit log: pages of entries, filtered, with names for pseudonyms.

Invariants: read only. Entries of the chain come first, newest first, then the rows written before the chain
(`chained` false); refused credentials among those are not shown, they are no admin's actions. A filter on an
actor, action or subject that nothing knows raises NotFound, never an empty page.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from llm_proxy.errors import NotFound
from llm_proxy.identity.deeds import deed
from llm_proxy.identity.store import Connection
from llm_proxy.json_access import Json

_PSEUDONYM = re.compile(r"person:[0-9a-f]{32}")
_WHERE = """
    ($1::bigint IS NULL OR id < $1)
    AND ($2::text IS NULL OR action LIKE $2)
    AND ($3::text[] IS NULL OR actor = ANY ($3))
    AND ($4::text[] IS NULL OR target = ANY ($4) OR string_to_array(target, ' ') && $4 OR name = ANY ($4))
    AND ($5::timestamptz IS NULL OR at >= $5) AND ($6::timestamptz IS NULL OR at < $6)
    ORDER BY id DESC LIMIT $7
"""
_CHAINED = """
SELECT * FROM (SELECT seq AS id, true AS chained, at, actor, role, client_ip, action, target, status, reason,
                      before::text, after::text, detail::text, detail ->> 'name' AS name,
                      encode(digest, 'hex') AS digest
               FROM audit_entries) AS entries WHERE
"""
_UNCHAINED = """
SELECT * FROM (SELECT id, false AS chained, at, actor, NULL AS role, client_ip, action, target,
                      NULL::integer AS status, NULL AS reason, NULL AS before, NULL AS after, detail::text,
                      detail ->> 'name' AS name, NULL AS digest
               FROM audit_log WHERE action <> 'credential.refused') AS entries WHERE
"""
_KEY_IDS = """
SELECT key_id FROM api_keys WHERE name = $1
    OR key_id = (SELECT key_id FROM key_secrets WHERE lookup = right($1, 12) AND left($1, 8) = 'sk-llmp-')
"""
_ABOUT = """
target = ANY ($1::text[]) OR string_to_array(target, ' ') && $1::text[]
OR detail ->> 'name' = ANY ($1::text[])
"""
_KNOWN = """
SELECT EXISTS (SELECT FROM audit_entries WHERE {0}) OR EXISTS (SELECT FROM audit_log WHERE {0})
"""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; None means all.

    Attributes:
        action: `keys.change`, or `keys.*` for all that begin so.
        actor: An admin key's name, a pseudonym, or a part of the gateway.
        subject: A key's id, name or prefix; a tenant, agent, user or model; or a whole target.
        since: At this time or later.
        until: Before this time.
    """

    action: str | None = None
    actor: str | None = None
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditLog:
    """Pages of the audit log."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def page(
        self, wanted: AuditFilter | None = None, *, limit: int = 100, before: int | None = None
    ) -> list[Json]:
        """The newest entries, or those before an id.

        Raises:
            NotFound: No entry at all has this action, actor or subject.
            StoreUnavailable: Postgres does not answer.
        """
        asked = wanted or AuditFilter()
        async with deed(self._pool) as connection:
            arguments = await _arguments(connection, asked, before)
            rows = await connection.fetch(_CHAINED + _WHERE, *arguments, limit)
            if len(rows) < limit:
                rows += await connection.fetch(_UNCHAINED + _WHERE, *arguments, limit - len(rows))
            if not rows and before is None:
                await _require_known(connection, asked, arguments)
            names = await _names(connection, rows)
        return [_entry(row, names) for row in rows]


async def _arguments(connection: Connection, asked: AuditFilter, before: int | None) -> list[Any]:
    action = _pattern(asked.action) if asked.action else None
    actors = [asked.actor, *await _pseudonyms(connection, asked.actor)] if asked.actor else None
    subjects: list[str] | None = None
    if asked.subject:
        keys = [row["key_id"] for row in await connection.fetch(_KEY_IDS, asked.subject)]
        subjects = [asked.subject, *keys, *await _pseudonyms(connection, asked.subject)]
    return [before, action, actors, subjects, asked.since, asked.until]


def _pattern(action: str) -> str:
    escaped = action.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


async def _pseudonyms(connection: Connection, name: str) -> list[str]:
    rows = await connection.fetch("SELECT pseudonym FROM audit_people WHERE name = $1", name)
    return [row["pseudonym"] for row in rows]


async def _require_known(connection: Connection, asked: AuditFilter, arguments: list[Any]) -> None:
    _, action, actors, subjects, *_ = arguments
    for param, condition, argument in (
        ("action", "action LIKE $1", action),
        ("actor", "actor = ANY ($1::text[])", actors),
        ("subject", _ABOUT, subjects),
    ):
        if argument is not None and not await connection.fetchval(_KNOWN.format(condition), argument):
            raise NotFound(f"The audit log knows no {param} {getattr(asked, param)!r}.", param=param)


async def _names(connection: Connection, rows: Iterable[asyncpg.Record]) -> dict[str, str]:
    """The names behind the pseudonyms in these rows, as far as they are not erased."""
    texts = (str(row[name]) for row in rows for name in ("actor", "target", "before", "after", "detail"))
    found = {one for text in texts for one in _PSEUDONYM.findall(text)}
    if not found:
        return {}
    people = await connection.fetch(
        "SELECT pseudonym, name FROM audit_people WHERE pseudonym = ANY ($1)", sorted(found)
    )
    return {row["pseudonym"]: row["name"] for row in people}


def _entry(row: asyncpg.Record, names: dict[str, str]) -> Json:
    entry = dict(row)
    del entry["name"]
    entry["outcome"] = "refused" if entry["status"] is not None else "done"
    for name in ("before", "after", "detail"):
        entry[name] = _named(json.loads(entry[name]), names) if entry[name] is not None else None
    return entry | {name: _named(entry[name], names) for name in ("actor", "target")}


def _named(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401 -- JSON
    if isinstance(value, str):
        return _PSEUDONYM.sub(lambda found: names.get(found[0], found[0]), value)
    if isinstance(value, dict):
        return {key: _named(one, names) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_named(one, names) for one in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]
