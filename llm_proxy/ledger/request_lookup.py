"""Finds requests by any id of them, also inside a pasted text: ours, the caller's, the provider's.

Invariants: nothing is written; a look-up ends within a few seconds; a caller finds only what it may see.
Raises: `DatabaseUnavailable`.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from llm_proxy.identity.postgres_store import Connection
from llm_proxy.json_access import Json
from llm_proxy.ledger.key_families import OF_VIEWER
from llm_proxy.ledger.record import PARTITION_MARGIN
from llm_proxy.ledger.request_search import time_of
from llm_proxy.ledger.usage_store import rejected_as_dict, row_as_dict
from llm_proxy.schema.database import db_deadline
from llm_proxy.telemetry import timestamp_of

MAX_TEXT_CHARS = 20_000
MAX_IDS = 40
MAX_FOUND = 20
_MIN_CHARS, _MAX_CHARS = 6, 200
_UUID = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(?![0-9a-f])",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+=@-]*")
_MESSAGE_PREFIX = "msg_"
"""Of an answer that was translated for Anthropic's clients; the provider's own id stands behind it."""
_DEADLINE_S = 5.0
_BY_ID = f"request_id = ANY($1::uuid[]) AND {OF_VIEWER}"
_CALLS_BY_ID = f"SELECT * FROM requests WHERE {_BY_ID} AND started_at BETWEEN $4 AND $5"  # noqa: S608 -- own text
_REJECTED_BY_ID = f"SELECT * FROM refusals WHERE {_BY_ID} AND refused_at BETWEEN $4 AND $5"  # noqa: S608 -- the same
_BY_CLIENT_ID = (
    f"SELECT * FROM requests WHERE client_request_id = ANY($1::text[]) AND {OF_VIEWER}"  # noqa: S608 -- the same
    f" ORDER BY started_at DESC LIMIT {MAX_FOUND}"
)
_OF_PROVIDER = (
    "SELECT DISTINCT call_id FROM llm_calls"  # noqa: S608 -- a number of ours
    " WHERE answer_id = ANY($1::text[]) OR provider_request_id = ANY($1::text[])"
    f" ORDER BY call_id DESC LIMIT {MAX_FOUND}"
)


@dataclass(frozen=True, slots=True)
class PastedIds:
    """What may be ids in a text: UUIDs, and other words, each once, in order."""

    uuids: tuple[UUID, ...]
    words: tuple[str, ...]


def ids_in(text: str) -> PastedIds:
    """Returns what may be ids in a text; a text without spaces may be one as a whole."""
    text = text[:MAX_TEXT_CHARS].replace("\0", "")
    uuids = dict.fromkeys(UUID(found) for found in _UUID.findall(text))
    words = dict.fromkeys([text.strip()] if len(text.split()) == 1 else [])
    for found in _WORD.findall(text):
        word = found.rstrip(".:/=")
        if "_" in word or any(sign.isdigit() for sign in word):
            words[word] = None
            words[word.removeprefix(_MESSAGE_PREFIX)] = None
    usable = [word for word in words if _MIN_CHARS <= len(word) <= _MAX_CHARS]
    return PastedIds(tuple(uuids)[:MAX_IDS], tuple(usable[:MAX_IDS]))


class RequestLookup:
    """Finds requests by ids."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find(self, pasted: PastedIds, only_key: str | None, only_tenant: str | None) -> list[Json]:
        """Returns the requests, newest first, at most `MAX_FOUND`; an id of ours goes before all others.

        Args:
            pasted: The ids.
            only_key: The one key (its id) whose requests may be seen, and those of keys below it; or None.
            only_tenant: The one tenant whose requests may be seen; None for any.
        """
        scope = (only_key, only_tenant)
        async with db_deadline(_DEADLINE_S), self._pool.acquire() as connection:
            found = await _with_ids(connection, pasted.uuids, scope)
            if not found and pasted.words:
                rows = await connection.fetch(_BY_CLIENT_ID, list(pasted.words), *scope)
                found = [row_as_dict(row) for row in rows]
                calls = await connection.fetch(_OF_PROVIDER, list(pasted.words))
                known = {row["request_id"] for row in found}
                further = tuple(row["call_id"] for row in calls if row["call_id"] not in known)
                found += await _with_ids(connection, further, scope)
        return sorted(found, key=time_of, reverse=True)[:MAX_FOUND]


async def _with_ids(
    connection: Connection, ids: tuple[UUID, ...], scope: tuple[str | None, ...]
) -> list[Json]:
    """Returns the calls and rejections with these ids of ours."""
    if not ids:
        return []
    span: tuple[datetime, ...] = (
        min(map(timestamp_of, ids)) - PARTITION_MARGIN,
        max(map(timestamp_of, ids)) + PARTITION_MARGIN,
    )
    arguments: tuple[Any, ...] = (list(ids), *scope, *span)
    calls = await connection.fetch(_CALLS_BY_ID, *arguments)
    rejected = await connection.fetch(_REJECTED_BY_ID, *arguments)
    return [*map(row_as_dict, calls), *map(rejected_as_dict, rejected)]
