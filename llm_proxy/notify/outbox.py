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
"""Events of one kind, outside budgets, within `REPEAT_AFTER`: a thousand addresses would be a flood."""
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
    """A delivery claimed by this replica for `CLAIM_TIMEOUT_S`."""

    webhook: str
    attempts: int
    message: StoredNotification


class Outbox:
    """The notifications and deliveries in one database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def add(self, event: Notification, webhooks: Sequence[str]) -> bool:
        """Stores a notification with its deliveries; returns whether it is new."""
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
        """Claims and returns up to `CLAIM_BATCH` due deliveries of a webhook."""
        async with self._connection() as connection:
            rows = await connection.fetch(_CLAIM, webhook, timedelta(seconds=CLAIM_TIMEOUT_S), CLAIM_BATCH)
        return [ClaimedDelivery(row["webhook"], row["attempts"], _message(row)) for row in rows]

    async def mark_delivered(self, delivery: ClaimedDelivery) -> None:
        """Records that the webhook accepted the notification."""
        async with self._connection() as connection:
            await connection.execute(_DELIVERED, delivery.message.event_id, delivery.webhook)

    async def mark_failed(self, delivery: ClaimedDelivery, reason: str) -> bool:
        """Records a failed attempt; returns whether the delivery is given up."""
        pause = timedelta(seconds=min(FIRST_PAUSE_S * 2 ** min(delivery.attempts - 1, 20), MAX_PAUSE_S))
        async with self._connection() as connection:
            given_up = await connection.fetchval(
                _FAILED, delivery.message.event_id, delivery.webhook, reason, pause, GIVE_UP_AFTER
            )
        return bool(given_up)

    async def delete_expired(self) -> None:
        """Deletes notifications past their retention, at most 5000."""
        async with self._connection() as connection:
            await connection.execute(_RETIRE)

    async def refused_addresses(self, at_least: int) -> list[tuple[str, int]]:
        """Returns addresses with at least so many rejected credentials within an hour, with the number."""
        async with self._connection() as connection:
            rows = await connection.fetch(_REFUSED, at_least, MAX_PER_KIND)
        return [(row["client_ip"], row["times"]) for row in rows]

    async def list_notifications(self, *, limit: int, before: datetime | None = None) -> list[Json]:
        """Returns the newest notifications with their deliveries; above `limit` those of one moment."""
        async with self._connection() as connection:
            rows = await connection.fetch(_PAGE, before, limit)
        return [{**_message(row).as_json, "deliveries": json.loads(row["deliveries"])} for row in rows]

    async def _with_key_name(self, event: Notification) -> tuple[Json, str | None]:
        """Returns the facts with the key's name, and the key's tenant."""
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
