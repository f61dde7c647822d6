"""Erases a person's text and name within one tenant, everywhere, and again when they come back.

Invariants: an erasure is on the list before anything is erased; one replica at a time works on it; an
unavailable store makes it incomplete, and it is retried until every store is done; then the name is deleted.
Sums by tenant, key and agent stay: rows and roll-ups get a pseudonym.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from llm_proxy.errors import APIError, NotFound, StoreUnavailable
from llm_proxy.identity import Actor, Person, admin_transaction, delete_person_name, record_action
from llm_proxy.json_access import Json
from llm_proxy.ledger.erasure_stores import (
    PLANNER_STATISTICS,
    ErasureFinding,
    LangfuseClient,
    LangfuseUnavailable,
    Tombstone,
    append_tombstones,
    count_waiting_records,
    is_complete,
    merge_findings,
    new_tombstone,
    pseudonymize_rejected,
    read_tombstones,
    refresh_planner_statistics,
)
from llm_proxy.ledger.record import MAX_NAME_CHARS
from llm_proxy.ledger.stored_responses import person_digest
from llm_proxy.schema.database import DatabaseUnavailable, RowsRejected, db_deadline, sanitize_text
from llm_proxy.upstream import CachePurge

log = logging.getLogger(__name__)

_DEADLINE_S, _LONG_DEADLINE_S, _RETRY_S = 5.0, 300.0, 15.0
_BATCH_ROWS = 5000
_MIN_SETTLE_S, _SETTLE_TIMEOUT_S, _POLL_S = 1.5, 5.0, 0.25
_BY_ID = "SELECT * FROM erasures WHERE id = $1"
_OPEN = "SELECT * FROM erasures WHERE tenant = $1 AND name = $2"
_INSERT = """
    INSERT INTO erasures (id, tenant, salt, digest, pseudonym, asked_at, name, finished_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $7::text IS NULL THEN now() END) ON CONFLICT DO NOTHING"""
_RETURNED = "SELECT id, min(name) AS name FROM erased_people_met() GROUP BY id"
_REOPEN = "UPDATE erasures SET name = $2, finished_at = NULL WHERE id = $1"
_REOPEN_NAMED = """
    UPDATE erasures AS e SET name = a.name, finished_at = NULL FROM audit_people AS a
    WHERE e.id = ANY($1) AND a.kind = 'user' AND a.tenant = e.tenant
      AND sha256(e.salt || convert_to(left(a.name, 128), 'UTF8')) = e.digest"""
_REMAINING = """
    SELECT * FROM person_left_in($1, $2)
    WHERE found > 0 OR place NOT IN ('table refusals', 'table notifications', 'table console_sessions')"""
"""Tables that the SQL function does not know are returned by name; three have findings of their own."""
_ROLLUPS = """
    SELECT 'usage_users' AS tab, day, key_id, agent, model_group, requests FROM usage_users
    WHERE tenant = $1 AND user_id = $2 AND requests > 0
    UNION ALL
    SELECT 'usage_user_days', day, key_id, agent, '', requests FROM usage_user_days
    WHERE tenant = $1 AND user_id = $2 AND requests > 0"""
_RENAMED_NOTIFICATIONS = "SELECT count(*) FROM notifications WHERE user_id = $1"
_SELF = Actor("erasures")
IDEMPOTENT_ANSWERS = "idempotent answers"
_ROW_STORES = ("payloads", "requests", "roll-ups", "revoked keys", "refusals", "console sessions")
"""What the SQL functions count, in their order; names in the certificate."""


@dataclass(frozen=True, slots=True)
class ErasureTargets:
    """What an erasure reaches outside the database.

    Attributes:
        purge_cache: Deletes a tenant's cached answers; without a tenant, all of them.
        langfuse: None if its URL and keys are not configured here.
        reports_to_callbacks: Whether a sidecar reports its calls to a callback such as Langfuse.
        worker_directory: The folder of the worker slots; None if records wait in memory only.
        erase_answers: Deletes the answers kept for a person's idempotency keys, by the person's digest;
            raises `StoreUnavailable`. None where none are kept.
    """

    purge_cache: Callable[[str | None, str | None], Awaitable[CachePurge]]
    langfuse: LangfuseClient | None
    reports_to_callbacks: Callable[[], bool]
    worker_directory: Path | None
    erase_answers: Callable[[bytes], Awaitable[int]] | None = None


class Erasures:
    """Erases people, and repeats erasures that are incomplete or whose person has come back."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        targets: ErasureTargets,
        *,
        settle_timeout_s: float = _SETTLE_TIMEOUT_S,
    ) -> None:
        """`settle_timeout_s` is the time that waiting records of this host get to reach the database."""
        self._pool = pool
        self._targets = targets
        self._settle_timeout_s = settle_timeout_s
        self._one_at_a_time = asyncio.Lock()  # each holds a connection, which key look-ups need too

    async def erase(self, tenant: str, user: str, actor: Actor) -> Json:
        """Erases a tenant's user and returns the certificate, which names what is left.

        Args:
            tenant: Empty for calls without a tenant.
            user: The name in the calls.
            actor: The author.

        Raises:
            StoreUnavailable: The database does not answer; the message says whether anything was erased.
        """
        tenant, user = (sanitize_text(name)[:MAX_NAME_CHARS] for name in (tenant, user))
        try:
            erasure_id = await self._add_to_list(tenant, user)
            detail = {"erasure": str(erasure_id)}
            await record_action(self._pool, actor, "people.erase", Person(user, tenant or None), detail)
        except (DatabaseUnavailable, StoreUnavailable):
            raise StoreUnavailable("The database does not answer: nothing was erased.") from None
        try:
            return await self._attempt(erasure_id, actor)
        except (DatabaseUnavailable, StoreUnavailable):
            message = (
                "The database became unavailable: the erasure is incomplete, and continues when it is back."
            )
            raise StoreUnavailable(message) from None

    async def certificate(self, erasure_id: UUID) -> Json:
        """Returns the certificate of an erasure until now; raises `NotFound`."""
        async with self._connection(_DEADLINE_S) as connection:
            row = await connection.fetchrow(_BY_ID, erasure_id)
        if row is None:
            raise NotFound("There is no such erasure.", code="erasure_not_found")
        return _certificate(row)

    async def retry_unfinished(self, actor: Actor = _SELF) -> list[Json]:
        """Continues incomplete erasures, repeats those of people with new rows; returns certificates."""
        await self._sync_list()
        try:
            await self._reopen_returned_people()
        except DatabaseUnavailable as fault:  # the next statement fails too if the database is unavailable
            log.warning("people whom a backup restored cannot be looked up", extra={"why": fault.reason})
        async with self._connection() as connection:
            unfinished = await connection.fetch(
                "SELECT id FROM erasures WHERE finished_at IS NULL ORDER BY id"
            )
        return [await self._attempt(row["id"], actor) for row in unfinished]

    async def _reopen_returned_people(self) -> None:
        async with self._connection() as connection:
            for row in await connection.fetch(_RETURNED, timeout=_LONG_DEADLINE_S):
                await connection.execute(_REOPEN, row["id"], row["name"])

    async def step(self) -> None:
        """Runs `retry_unfinished` once, and waits for a database that is unavailable or not migrated."""
        waits = False
        while True:
            try:
                tried = await self.retry_unfinished()
            except (DatabaseUnavailable, RowsRejected, APIError) as fault:
                if not waits:
                    log.info("erasures wait for the database", extra={"why": str(fault)})
                waits = True
                await asyncio.sleep(_RETRY_S)
            else:
                for certificate in tried:
                    fields = {"id": certificate["id"], "complete": certificate["complete"]}
                    log.info("an erasure was tried again", extra=fields)
                return

    async def _add_to_list(self, tenant: str, user: str) -> UUID:
        """Returns the person's incomplete erasure, extended to now, or adds a new one to the list."""
        async with self._connection(_DEADLINE_S) as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('llm-proxy erasures'))")
            row = await connection.fetchrow(_OPEN, tenant, user)
            if row is not None:
                erasure_id: UUID = row["id"]
                await connection.execute("UPDATE erasures SET asked_at = now() WHERE id = $1", erasure_id)
                return erasure_id
            asked_at: datetime = await connection.fetchval("SELECT clock_timestamp()")
            fresh = new_tombstone(tenant, user, asked_at)
            await connection.execute(_INSERT, *fresh.values, user)
        await self._sync_list()
        return fresh.values[0]

    async def _sync_list(self) -> None:
        """Copies missing entries between the database's list and the file: a restored database has fewer."""
        directory = self._targets.worker_directory
        if directory is None:
            return
        on_disk = await asyncio.to_thread(read_tombstones, directory)
        async with self._connection() as connection:
            rows = await connection.fetch(
                "SELECT id, tenant, salt, digest, pseudonym, asked_at FROM erasures"
            )
            stored = {str(row["id"]): _tombstone_from_row(row) for row in rows}
            restored = [one.values for one_id, one in on_disk.items() if one_id not in stored]
            for values in restored:
                await connection.execute(_INSERT, *values, None)
            await connection.execute(_REOPEN_NAMED, [values[0] for values in restored])
        missing = [one for one_id, one in stored.items() if one_id not in on_disk]
        try:
            await asyncio.to_thread(append_tombstones, directory, missing)
        except OSError as fault:
            log.warning("the list of erased people cannot be written", extra={"why": fault.strerror})

    async def _attempt(self, erasure_id: UUID, actor: Actor) -> Json:
        """Makes one attempt at every store; returns the old certificate if another replica works on it."""
        async with self._one_at_a_time, self._connection() as lock, lock.transaction():
            row = await lock.fetchrow(f"{_BY_ID} FOR UPDATE SKIP LOCKED", erasure_id)
            if row is None or row["name"] is None:
                return await self.certificate(erasure_id)
            findings = await self._erase_everywhere(row)
            stores = merge_findings(json.loads(row["stores"]), findings)
            complete = is_complete(stores)
            done = await lock.fetchrow(
                "UPDATE erasures SET stores = $2, finished_at = CASE WHEN $3 THEN clock_timestamp() END,"
                " name = CASE WHEN NOT $3 THEN name END WHERE id = $1 RETURNING *",
                erasure_id, json.dumps(stores), complete,
            )  # fmt: skip
        detail = {"complete": complete, "stores": {name: one["state"] for name, one in stores.items()}}
        await record_action(self._pool, actor, "people.erased", str(erasure_id), detail)
        return _certificate(done)

    async def _erase_everywhere(self, row: asyncpg.Record) -> list[ErasureFinding]:
        tenant, user = row["tenant"], row["name"]
        counts = await self._erase_rows(row)
        cached = await self._purge_cache(tenant or None)
        traced = await self._erase_traces(tenant or None, user)
        on_disk = await self._erase_on_disk(row)
        counts.update(await self._erase_rows(row))  # records that were waiting before
        database = [ErasureFinding(name, _finding_state(found), found) for name, found in counts.items()]
        return [
            *database,
            await self._find_notifications(row),
            await self._erase_audit_names(tenant, user),
            *await self._find_remaining(tenant, user),
            *on_disk,
            cached,
            await self._erase_answers(tenant or None, user),
            traced,
            await self._refresh_statistics(user),
        ]

    async def _erase_rows(self, row: asyncpg.Record) -> Counter[str]:
        """Returns the numbers of erased rows by the store's name in the certificate, zeros too."""
        total, rollups = Counter[str](), await self._count_rollups(row)
        while True:
            async with self._connection() as connection:
                done = await connection.fetchrow(
                    "SELECT * FROM erase_person($1, $2, $3, $4, $5)",
                    row["tenant"], row["name"], row["pseudonym"], row["asked_at"], _BATCH_ROWS,
                    timeout=_LONG_DEADLINE_S,
                )  # fmt: skip
                rejected = await connection.fetchval(
                    "SELECT erase_refused_person($1, $2, $3, $4)",
                    row["tenant"], row["name"], row["pseudonym"], row["asked_at"],
                )  # fmt: skip
                sessions = await connection.fetchval(
                    "SELECT erase_person_in_sessions($1, $2)", row["tenant"], row["name"]
                )
            step = dict(zip(_ROW_STORES, (*done, rejected, sessions), strict=True))
            total.update(step)
            if not any(step.values()):
                break
        left = await self._count_rollups(row)
        total["roll-ups"] = sum(left.get(at, 0) < calls for at, calls in rollups.items())
        return total

    async def _count_rollups(self, row: asyncpg.Record) -> dict[tuple[Any, ...], int]:
        """Returns the calls under this name by row of the roll-ups; a trigger changes most with requests."""
        async with self._connection() as connection:
            rows = await connection.fetch(_ROLLUPS, row["tenant"], row["name"], timeout=_LONG_DEADLINE_S)
        return {tuple(one)[:-1]: one["requests"] for one in rows}

    async def _find_notifications(self, row: asyncpg.Record) -> ErasureFinding:
        """Returns the notifications renamed by this attempt: a trigger did it when the erasure began."""
        async with self._connection() as connection:
            renamed: int = await connection.fetchval(_RENAMED_NOTIFICATIONS, row["pseudonym"])
        counted: int = json.loads(row["stores"]).get("notifications", {}).get("found", 0)
        found = max(0, renamed - counted)
        return ErasureFinding("notifications", _finding_state(found), found)

    async def _refresh_statistics(self, user: str) -> ErasureFinding:
        try:
            async with self._connection() as connection:
                return await refresh_planner_statistics(connection, user)
        except DatabaseUnavailable as fault:
            note = f"they could not be made anew: {fault.reason}"
            return ErasureFinding(PLANNER_STATISTICS, "kept", 0, note)

    async def _erase_audit_names(self, tenant: str, user: str) -> ErasureFinding:
        async with admin_transaction(self._pool) as connection:
            forgotten = await delete_person_name(connection, Person(user, tenant or None))
        return ErasureFinding("audit log", _finding_state(forgotten), forgotten)

    async def _find_remaining(self, tenant: str, user: str) -> list[ErasureFinding]:
        async with self._connection() as connection:
            rows = await connection.fetch(_REMAINING, tenant, user)
        return [_remaining_finding(row["place"], row["found"]) for row in rows]

    async def _purge_cache(self, tenant: str | None) -> ErasureFinding:
        note = "every cached answer of the tenant" if tenant else "every cached answer"
        try:
            purged = await self._targets.purge_cache(tenant, None)
        except NotFound:
            return ErasureFinding("response cache", "nothing", 0, "there is none")
        except APIError as fault:
            return ErasureFinding(
                "response cache", "incomplete", 0, f"it cannot be purged now: {fault.message}"
            )
        if not purged.complete:
            return ErasureFinding("response cache", "incomplete", purged.entries, "not all of it answered")
        return ErasureFinding("response cache", _finding_state(purged.entries), purged.entries, note)

    async def _erase_answers(self, tenant: str | None, user: str) -> ErasureFinding:
        erase, person = self._targets.erase_answers, person_digest(tenant, user)
        if erase is None or person is None:
            return ErasureFinding(IDEMPOTENT_ANSWERS, "nothing", 0, "none are kept")
        try:
            found = await erase(person)
        except StoreUnavailable as fault:
            return ErasureFinding(IDEMPOTENT_ANSWERS, "incomplete", 0, fault.message)
        return ErasureFinding(IDEMPOTENT_ANSWERS, _finding_state(found), found)

    async def _erase_traces(self, tenant: str | None, user: str) -> ErasureFinding:
        known = self._targets.langfuse
        if known is None and not self._targets.reports_to_callbacks():
            return ErasureFinding("langfuse", "nothing", 0, "no sidecar reports to it")
        if known is None:
            note = (
                "a sidecar reports to a callback, and LLM_PROXY__LANGFUSE_URL and its keys are not set here"
            )
            return ErasureFinding("langfuse", "incomplete", 0, note)
        try:
            found, left = await known.delete_traces(tenant, user)
        except LangfuseUnavailable as fault:
            return ErasureFinding("langfuse", "incomplete", 0, str(fault))
        if left:
            return ErasureFinding("langfuse", "incomplete", found - left, f"{left} traces are still listed")
        return ErasureFinding("langfuse", _finding_state(found), found)

    async def _erase_on_disk(self, row: asyncpg.Record) -> list[ErasureFinding]:
        """Waits for this host's waiting records to reach the database, then changes rejected records."""
        directory, tenant = self._targets.worker_directory, row["tenant"] or None
        await asyncio.sleep(min(_MIN_SETTLE_S, self._settle_timeout_s))
        if directory is None:
            return [ErasureFinding("spool and journal", "nothing", 0, "records wait in memory alone")]
        person = (directory, tenant, row["name"])
        until, waited = row["asked_at"], 0.0
        while (
            left := await asyncio.to_thread(count_waiting_records, *person, until)
        ) and waited < self._settle_timeout_s:
            await asyncio.sleep(_POLL_S)
            waited += _POLL_S
        changed = await asyncio.to_thread(pseudonymize_rejected, *person, row["pseudonym"], until)
        note = (
            f"{left} records still wait on this host"
            if left
            else "of this host; others' records are erased as they come"
        )
        spool = ErasureFinding("spool and journal", "incomplete" if left else "nothing", 0, note)
        return [spool, ErasureFinding("rejected records", _finding_state(changed), changed)]

    @asynccontextmanager
    async def _connection(self, within_s: float = _LONG_DEADLINE_S) -> AsyncGenerator[Any]:
        async with db_deadline(within_s), self._pool.acquire(timeout=_DEADLINE_S) as connection:
            yield connection


def _finding_state(found: int) -> Any:  # noqa: ANN401 -- a `FindingState`
    return "erased" if found else "nothing"


def _remaining_finding(place: str, found: int) -> ErasureFinding:
    if not found:
        return ErasureFinding(place, "nothing")
    if place == "old audit log":
        return ErasureFinding(place, "kept", found, "rows from before the chain: they may not be changed")
    what = {
        "live keys": "they name this person: revoke them or give them another user",
        "limit rules": "they name this person: delete them",
    }
    return ErasureFinding(
        place, "incomplete", 0, f"{found}: {what.get(place, 'this version does not erase there')}"
    )


def _tombstone_from_row(row: asyncpg.Record) -> Tombstone:
    asked_at = row["asked_at"].astimezone(UTC).isoformat()
    return Tombstone(
        str(row["id"]), row["tenant"], row["salt"].hex(), row["digest"].hex(), row["pseudonym"], asked_at
    )


def _certificate(row: asyncpg.Record) -> Json:
    finished = row["finished_at"]
    return {
        "id": str(row["id"]),
        "tenant": row["tenant"] or None,
        "pseudonym": row["pseudonym"],
        "asked_at": row["asked_at"].isoformat(),
        "complete": finished is not None,
        "finished_at": finished.isoformat() if finished is not None else None,
        "stores": json.loads(row["stores"]),
    }
