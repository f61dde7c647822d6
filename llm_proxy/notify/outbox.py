"""Events and their deliveries in Postgres: one event over all replicas, one replica at a delivery.

Invariants: an event is stored together with its deliveries. A claimed delivery that is not reported within
`CLAIM_TIMEOUT_S` is claimed again: each arrives at least once, always under the same id. After
`GIVE_UP_AFTER` it is tried no more. No webhook's address is stored. Every method raises
`DatabaseUnavailable` or `RowsRejected`.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from llm_proxy.json_access import Json
from llm_proxy.notify.event import REPEAT_AFTER, RETENTION, Notification
from llm_proxy.notify.webhook import StoredNotification
from llm_proxy.schema.database import db_deadline, jsonb_text, sanitize_text

CLAIM_TIMEOUT_S = 30.0
GIVE_UP_AFTER = timedelta(hours=24)
FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 3600.0
MAX_PER_KIND = 10
"""Events of one kind, outside budgets, within `REPEAT_AFTER`: a thousand addresses are no news."""
CLAIM_BATCH = 2
_DEADLINE_S = 5.0
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('llm-proxy notifications'), hashtext($1))"
_RAISE = """
    WITH made AS (
        INSERT INTO notifications (event_id, subject_id, kind, tenant, user_id, facts, keep_until)
        SELECT $1, $2, $3, $4, $5, $6, now() + $7::interval
        ON CONFLICT DO NOTHING RETURNING event_id
    ), sent AS (
        INSERT INTO notification_deliveries (event_id, webhook)
        SELECT made.event_id, webhook FROM made, unnest($8::text[]) AS webhook
    )
    SELECT count(*) FROM made"""
_LATELY = """
    SELECT count(*) >= $3 OR bool_or(subject_id = $2) FROM notifications
    WHERE kind = $1 AND created_at > now() - $4::interval"""
_CLAIM = """
    UPDATE notification_deliveries AS d
    SET attempts = d.attempts + 1, next_try_at = now() + $2::interval
    FROM notifications AS n
    WHERE n.event_id = d.event_id AND (d.event_id, d.webhook) IN (
        SELECT event_id, webhook FROM notification_deliveries
        WHERE delivered_at IS NULL AND given_up_at IS NULL AND next_try_at <= now() AND webhook = $1
        ORDER BY next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING d.webhook, d.attempts, n.event_id, n.kind, n.created_at, n.facts, n.tenant, n.user_id"""
_DELIVERED = """
    UPDATE notification_deliveries SET delivered_at = now(), last_failure = NULL
    WHERE event_id = $1 AND webhook = $2"""
_FAILED = """
    UPDATE notification_deliveries AS d
    SET last_failure = $3, next_try_at = now() + $4::interval,
        given_up_at = CASE WHEN n.created_at + $5::interval < now() + $4::interval THEN now() END
    FROM notifications AS n
    WHERE n.event_id = d.event_id AND d.event_id = $1 AND d.webhook = $2
    RETURNING d.given_up_at IS NOT NULL"""
_RETIRE = """
    DELETE FROM notifications WHERE event_id IN (
        SELECT event_id FROM notifications WHERE keep_until < now() LIMIT 5000)"""
_PAGE = """
    SELECT n.*, coalesce((
        SELECT json_agg(json_build_object(
            'webhook', d.webhook, 'attempts', d.attempts, 'delivered_at', d.delivered_at,
            'given_up_at', d.given_up_at, 'last_failure', d.last_failure,
            'next_try_at', CASE WHEN d.delivered_at IS NULL AND d.given_up_at IS NULL THEN d.next_try_at END
        ) ORDER BY d.webhook) FROM notification_deliveries AS d WHERE d.event_id = n.event_id), '[]'
    ) AS deliveries
    FROM notifications AS n WHERE $1::timestamptz IS NULL OR n.created_at < $1
    ORDER BY n.created_at DESC FETCH FIRST ($2) ROWS WITH TIES"""
_KEY = "SELECT name, tenant FROM api_keys WHERE key_id = $1"
_REFUSED = """
    SELECT client_ip, sum(times)::bigint AS times FROM refused_credentials
    WHERE at > now() - interval '1 hour' GROUP BY client_ip HAVING sum(times) >= $1
    ORDER BY times DESC LIMIT $2"""


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that is this replica's for `CLAIM_TIMEOUT_S`."""

    webhook: str
    attempts: int
    message: StoredNotification


class Outbox:
    """The events of one database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def add(self, event: Notification, webhooks: Sequence[str]) -> bool:
        """Keep an event to be delivered to these webhooks; whether it is a new one."""
        now = datetime.now(UTC)
        keep = RETENTION if event.ends_at is None else max(RETENTION, event.ends_at - now)
        facts, tenant = await self._with_key_name(event)
        async with self._connection() as connection, connection.transaction():
            if event.ends_at is None:
                await connection.execute(_LOCK, event.kind)
                if await connection.fetchval(
                    _LATELY, event.kind, event.subject_id, MAX_PER_KIND, REPEAT_AFTER
                ):
                    return False
            user = sanitize_text(event.user) if event.user is not None else None
            made: int = await connection.fetchval(
                _RAISE, event.event_id(now), event.subject_id, event.kind, tenant, user,
                jsonb_text(facts), keep, list(webhooks),
            )  # fmt: skip
        return made > 0

    async def claim(self, webhook: str) -> list[ClaimedDelivery]:
        """Up to `CLAIM_BATCH` deliveries to a webhook that are due, which nobody else has now."""
        async with self._connection() as connection:
            rows = await connection.fetch(_CLAIM, webhook, timedelta(seconds=CLAIM_TIMEOUT_S), CLAIM_BATCH)
        return [ClaimedDelivery(row["webhook"], row["attempts"], _message(row)) for row in rows]

    async def mark_delivered(self, one: ClaimedDelivery) -> None:
        """The webhook took it."""
        async with self._connection() as connection:
            await connection.execute(_DELIVERED, one.message.event_id, one.webhook)

    async def mark_failed(self, one: ClaimedDelivery, why: str) -> bool:
        """The webhook did not take it; whether it is given up."""
        pause = timedelta(seconds=min(FIRST_PAUSE_S * 2 ** min(one.attempts - 1, 20), MAX_PAUSE_S))
        async with self._connection() as connection:
            given_up = await connection.fetchval(
                _FAILED, one.message.event_id, one.webhook, why, pause, GIVE_UP_AFTER
            )
        return bool(given_up)

    async def delete_expired(self) -> None:
        """Forget what is past its time."""
        async with self._connection() as connection:
            await connection.execute(_RETIRE)

    async def refused_addresses(self, at_least: int) -> list[tuple[str, int]]:
        """Addresses from which so many credentials were refused within an hour, and how many."""
        async with self._connection() as connection:
            rows = await connection.fetch(_REFUSED, at_least, MAX_PER_KIND)
        return [(row["client_ip"], row["times"]) for row in rows]

    async def list_notifications(self, *, limit: int, before: datetime | None = None) -> list[Json]:
        """The newest events with their deliveries; those of the last moment all, whatever the limit."""
        async with self._connection() as connection:
            rows = await connection.fetch(_PAGE, before, limit)
        return [{**_message(row).as_json, "deliveries": json.loads(row["deliveries"])} for row in rows]

    async def _with_key_name(self, event: Notification) -> tuple[Json, str | None]:
        """The facts, with a key's name and its tenant."""
        if event.facts.get("scope") != "key":
            return event.facts, event.tenant
        async with self._connection() as connection:
            row = await connection.fetchrow(_KEY, event.facts["subject"])
        if row is None:
            return event.facts, event.tenant
        return event.facts | {"name": row["name"]}, row["tenant"]

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        async with db_deadline(_DEADLINE_S), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            yield connection


def _message(row: asyncpg.Record) -> StoredNotification:
    facts: Json = json.loads(row["facts"])
    return StoredNotification(
        row["event_id"], row["kind"], row["created_at"], facts, row["tenant"], row["user_id"]
    )
