"""Admin transactions and the audit log they write: one change, one audit entry, one new epoch.

Invariants: the entry is written in the transaction of the change. Entries form a chain: each contains the
SHA-256 of the one before; an advisory lock lets one transaction at a time append and is held until it ends.
The first entry of a month seals the month before. Secrets and their digests are never written; people are
written as pseudonyms, their names are in `audit_people`.
"""

import hashlib
import json
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, cast
from uuid import UUID

import asyncpg

from llm_proxy.background import BackgroundLoop
from llm_proxy.errors import APIError, BadRequest, StoreUnavailable
from llm_proxy.identity.caller import ANY, Budget, Caller
from llm_proxy.identity.postgres_store import Connection, Pool, database_errors
from llm_proxy.json_access import Json
from llm_proxy.schema.database import jsonb_text, sanitize_text
from llm_proxy.telemetry.privacy import redact

GENESIS = bytes(32)
"""The column `previous` of the chain's first entry."""
SEAL_ACTION, RETIRE_ACTION = "audit.seal", "audit.retire"
DIGEST_COLUMNS = (
    "seq", "at", "previous", "actor", "role", "client_ip", "action", "target", "status", "reason", "before",
    "after", "detail",
)  # fmt: skip
"""The columns that an entry's digest covers, in this order."""
SYSTEM_ACTORS = frozenset({"audit log", "command line", "erasures", "keys file", "loop guard", "raise"})
"""Actors that are parts of the gateway; reserved as names of admin keys."""
_COLUMNS = ", ".join((*DIGEST_COLUMNS, "digest"))
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('llm-proxy audit'))"
_HEAD = "SELECT seq, at, digest, greatest(clock_timestamp(), at) AS now FROM audit_head"
_INSERT = f"INSERT INTO audit_entries ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"  # noqa: E501, S608 -- our own column names
_MONTH = "SELECT min(seq), count(*) FROM audit_entries WHERE at >= $1 AND at < $2"
_OWN_KEY = re.compile(r"(sk-llm[a-z]{1,8}-[0-9A-Za-z]{12})-[0-9A-Za-z]{38}")
_MAX_REASON_CHARS = 500
MAX_PERSON_CHARS = 128
DEADLINE_S = 10.0
RETENTION_INTERVAL_S = 3600.0
Epochs = Mapping[str, int]
"""The new epochs after a change, by tenant; to be published to the limits store."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Person:
    """A person's name, of which an entry gets the pseudonym.

    Attributes:
        tenant: The user's tenant; None for an admin and for a user without a tenant.
    """

    name: str
    tenant: str | None = None
    kind: Literal["admin", "user"] = "user"


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of an admin action.

    Attributes:
        name: The admin key's name, or one of `SYSTEM_ACTORS`.
        role: The admin key's role; `key` for holders of keys, `command line` for commands; empty for parts of
            the gateway.
        tenant: The only tenant whose keys the actor may see and change; None for all.
        is_person: Whether `name` may be a person's name and is written as a pseudonym.
    """

    name: str
    client_ip: str | None = None
    role: str = ""
    tenant: str | None = None
    is_person: bool = False

    @classmethod
    def of_caller(cls, caller: Caller) -> "Actor":
        """Returns the holder of a key, who changes what is the key's own."""
        return cls(f"key {caller.key_prefix}", role="key")


@dataclass(frozen=True, slots=True)
class _EntryDraft:
    """An entry without pseudonyms, time and position in the chain."""

    actor: Actor
    action: str
    target: str | Person
    detail: Json
    before: Json | None = None
    after: Json | None = None
    status: int | None = None
    reason: str | None = None


async def write_audit(
    connection: Connection,
    actor: Actor,
    action: str,
    target: str | Person,
    detail: Json | None = None,
    *,
    before: Json | None = None,
    after: Json | None = None,
) -> None:
    """Appends an entry for a completed action, in the transaction of the action.

    Call it after the change itself: it takes the chain's lock, which is held until the transaction ends.

    Args:
        connection: Within a transaction.
        actor: The author.
        action: A noun and a verb, such as `keys.change`.
        target: The id, name or person that the action changes.
        detail: Further facts, such as the name of an id, or a count.
        before: The changed fields with their old values; None for a new object. People are `Person` objects.
        after: The changed fields with their new values; None for a deleted object.
    """
    await _append(connection, _EntryDraft(actor, action, target, detail or {}, before, after))


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Json, Json]:
    """Returns the fields that differ between two documents: their old values, and their new values."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


async def lock_chain(connection: Connection) -> None:
    """Takes the chain's lock until the transaction ends.

    It must be taken before the lock of the epochs, which every admin action takes too: the same order
    everywhere prevents deadlocks.
    """
    await connection.execute(_LOCK)


async def delete_person_name(connection: Connection, person: Person) -> int:
    """Deletes a person's name and returns the number of rows; entries keep the pseudonym, the chain is valid.

    Names that begin with the same `MAX_PERSON_CHARS` characters are one person, as in the ledger's rows.
    """
    status = await connection.execute(
        "DELETE FROM audit_people WHERE kind = $1 AND tenant = $2 AND left(name, $4) = left($3, $4)",
        person.kind, person.tenant or "", sanitize_text(person.name), MAX_PERSON_CHARS,
    )  # fmt: skip
    return int(status.rpartition(" ")[2])


async def drop_months(connection: Connection, actor: Actor, *, before: date) -> list[str]:
    """Drops the sealed months that ended before a date and appends an entry that names them.

    The month of the chain's last entry is never dropped. Returns the months, such as `2026-10`.
    """
    await lock_chain(connection)
    rows = await connection.fetch(
        "SELECT right(c.relname, 6) AS month FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'audit_entries'::regclass ORDER BY 1"
    )
    head = await connection.fetchrow(_HEAD)
    if head is None or head["at"] is None:
        return []
    months = [date(int(row["month"][:4]), int(row["month"][4:]), 1) for row in rows]
    ended = [month for month in months if _next_month(month) <= min(before, _month_of(head["at"]))]
    if not ended:
        return []
    last = await connection.fetchrow(
        "SELECT seq, digest FROM audit_entries WHERE at < $1 ORDER BY seq DESC LIMIT 1",
        _midnight(_next_month(ended[-1])),
    )
    dropped = [f"{month:%Y-%m}" for month in ended]
    if last is not None:
        detail = {"months": dropped, "last": last["seq"], "digest": last["digest"].hex()}
        await write_audit(connection, actor, RETIRE_ACTION, f"{dropped[0]} to {dropped[-1]}", detail)
    for month in ended:
        await connection.execute("SELECT retire_audit_month($1)", month)
    return dropped


def entry_digest(entry: Mapping[str, Any] | asyncpg.Record) -> bytes:
    """Returns SHA-256 over an entry's columns as a JSON list, times in UTC, bytes as hex."""
    columns = [_canonical(entry[name]) for name in DIGEST_COLUMNS]
    return hashlib.sha256(json.dumps(columns, separators=(",", ":")).encode()).digest()


def pseudonym_of(person: Person, salt: bytes) -> str:
    """Returns a person's pseudonym: a salted hash, which no other name has."""
    identity = json.dumps([person.kind, person.tenant or "", person.name]).encode()
    return f"person:{hashlib.sha256(salt + identity).hexdigest()[:32]}"


async def _append(connection: Connection, draft: _EntryDraft) -> None:
    await lock_chain(connection)
    names = await _pseudonyms(connection, draft)
    head = await connection.fetchrow(_HEAD)
    assert head is not None  # noqa: S101 -- the migration writes this row
    seq, now, digest = head["seq"], head["now"], head["digest"]
    if head["at"] is None or _month_of(head["at"]) != _month_of(now):
        await connection.execute("SELECT audit_partition($1)", _month_of(now))
    if head["at"] is not None and (closed := _month_of(head["at"])) != _month_of(now):
        first, count = await _month_extent(connection, closed)
        seal = {"first": first, "last": seq, "entries": count, "digest": digest.hex()}
        sealing = _EntryDraft(Actor("audit log"), SEAL_ACTION, f"{closed:%Y-%m}", seal)
        seq, digest = await _insert(connection, sealing, {}, (seq + 1, now, digest))
    seq, digest = await _insert(connection, draft, names, (seq + 1, now, digest))
    await connection.execute("UPDATE audit_head SET seq = $1, at = $2, digest = $3", seq, now, digest)


async def _month_extent(connection: Connection, month: date) -> tuple[int | None, int]:
    row = await connection.fetchrow(_MONTH, _midnight(month), _midnight(_next_month(month)))
    assert row is not None  # noqa: S101 -- an aggregate has a row
    return row[0], row[1]


async def _insert(
    connection: Connection,
    draft: _EntryDraft,
    names: Mapping[Person, str],
    position: tuple[int, datetime, bytes],
) -> tuple[int, bytes]:
    """Inserts an entry at a position (number, time, previous digest); returns its number and digest."""
    actor, target = draft.actor, draft.target
    seq, at, previous = position
    entry: Json = {
        "seq": seq,
        "at": at,
        "previous": previous,
        "actor": names.get(_admin_person(actor), sanitize_text(actor.name))
        if actor.is_person
        else actor.name,
        "role": actor.role,
        "client_ip": sanitize_text(actor.client_ip) if actor.client_ip else None,
        "action": draft.action,
        "target": names[target] if isinstance(target, Person) else _without_key_secrets(target),
        "status": draft.status,
        "reason": sanitize_text(draft.reason) if draft.reason else None,
        "before": _document_text(draft.before, names),
        "after": _document_text(draft.after, names),
        "detail": _document_text(draft.detail, names),
    }
    digest = entry_digest(entry)
    await connection.execute(_INSERT, *entry.values(), digest)
    return seq, digest


async def _pseudonyms(connection: Connection, draft: _EntryDraft) -> dict[Person, str]:
    people = set(_find_people([draft.before, draft.after, draft.detail, draft.target]))
    if draft.actor.is_person:
        people.add(_admin_person(draft.actor))
    return {person: await _pseudonym(connection, person) for person in people}


async def _pseudonym(connection: Connection, person: Person) -> str:
    person = replace(person, name=sanitize_text(person.name), tenant=person.tenant or "")
    pseudonym: str | None = await connection.fetchval(
        "SELECT pseudonym FROM audit_people WHERE kind = $1 AND tenant = $2 AND name = $3",
        person.kind, person.tenant, person.name,
    )  # fmt: skip
    if pseudonym is None:
        salt = secrets.token_bytes(16)
        pseudonym = pseudonym_of(person, salt)
        await connection.execute(
            "INSERT INTO audit_people (pseudonym, kind, tenant, name, salt) VALUES ($1, $2, $3, $4, $5)",
            pseudonym, person.kind, person.tenant, person.name, salt,
        )  # fmt: skip
    return pseudonym


def _admin_person(actor: Actor) -> Person:
    return Person(actor.name, kind="admin")


def _find_people(value: object) -> Iterator[Person]:
    if isinstance(value, Person):
        yield value
    elif isinstance(value, dict):
        for item in cast("Json", value).values():
            yield from _find_people(item)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from _find_people(item)


def _document_text(document: Json | None, names: Mapping[Person, str]) -> str | None:
    return None if document is None else _without_key_secrets(jsonb_text(_as_json_value(document, names)))


def _as_json_value(value: object, names: Mapping[Person, str]) -> object:
    """Returns the value in types of JSON, with pseudonyms for people."""
    if isinstance(value, Person):
        return names[value]
    if isinstance(value, dict):
        return {name: _as_json_value(item, names) for name, item in cast("Json", value).items()}
    if isinstance(value, list | tuple):
        return [_as_json_value(item, names) for item in cast("list[object]", value)]
    if isinstance(value, date):  # a `datetime` is one
        return value.isoformat()
    return f"{value:f}" if isinstance(value, Decimal) else str(value) if isinstance(value, UUID) else value


def _without_key_secrets(text: str) -> str:
    """Returns the text; of every gateway key in it only the public part is left."""
    return _OWN_KEY.sub(r"\1", sanitize_text(text))


def _canonical(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value.hex() if isinstance(value, bytes) else value


def _month_of(at: datetime) -> date:
    return at.astimezone(UTC).date().replace(day=1)


def _next_month(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@asynccontextmanager
async def admin_transaction(pool: Pool) -> AsyncGenerator[Connection]:
    """Opens a transaction; raises `StoreUnavailable`, or `BadRequest` for values that Postgres rejects."""
    async with database_errors(), pool.acquire(timeout=DEADLINE_S) as connection, connection.transaction():
        try:
            yield connection
        except asyncpg.UniqueViolationError as error:
            taken = "A key of that name exists already; a revoked key keeps its name."
            raise BadRequest(taken, param="name") from error
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError) as error:
            raise BadRequest("A value is out of its range.") from error


@asynccontextmanager
async def audited_external_change(
    pool: Pool, actor: Actor, action: str, target: str | Person
) -> AsyncGenerator[Json]:
    """Records a change outside the database: one entry before it, one with its result after it.

    Yields the detail of the second entry, to be filled in. No connection is held during the change.

    Raises:
        StoreUnavailable: The first entry could not be written; nothing was changed.
    """
    await record_action(pool, actor, f"{action} begun", target)
    detail: Json = {}
    try:
        yield detail
    except BaseException as error:
        detail["failed"] = type(error).__name__
        raise
    finally:
        try:
            await record_action(pool, actor, action, target, detail)
        except StoreUnavailable as fault:
            # The change was made, so its result is returned all the same.
            log.warning(
                "the result of a change is not in the audit log",
                extra={"action": action, "why": fault.message, **detail},
            )


async def record_action(
    pool: Pool, actor: Actor, action: str, target: str | Person, detail: Json | None = None
) -> None:
    """Appends an entry for an action that changes nothing in the database, such as reading a payload."""
    async with admin_transaction(pool) as connection:
        await write_audit(connection, actor, action, target, detail)


async def record_rejected_action(
    pool: Pool, actor: Actor, action: str, target: str, error: APIError, detail: Json
) -> None:
    """Appends an entry for an action that was rejected with `error`: its status, message and parameter."""
    reason = redact(error.message)[:_MAX_REASON_CHARS]
    detail = detail | ({"param": error.param} if error.param else {})
    draft = _EntryDraft(actor, action, target, detail, status=error.status, reason=reason)
    async with admin_transaction(pool) as connection:
        await _append(connection, draft)


def audit_retention_loop(pool: Pool, retention_days: int) -> BackgroundLoop:
    """Returns a loop that drops, now and hourly, the months that ended `retention_days` days ago."""

    async def step() -> None:
        before = (datetime.now(UTC) - timedelta(days=retention_days)).date()
        try:
            async with admin_transaction(pool) as connection:
                dropped = await drop_months(connection, Actor("audit log"), before=before)
        except APIError as error:
            log.warning("old months of the audit log are not dropped yet", extra={"cause": error.message})
            return
        if dropped:
            log.info("old months of the audit log are dropped", extra={"months": dropped})

    return BackgroundLoop("audit-retention", step, every_s=RETENTION_INTERVAL_S, at_once=True)


async def with_counting_start(
    connection: Connection, budgets: tuple[Budget, ...], before: tuple[Budget, ...]
) -> tuple[Budget, ...]:
    """Returns the budgets with the time since which they count: now, or as in `before` if they were there.

    Budgets of the same unit, period and zone are the same budget, whatever their limits.
    """
    counting = {(budget.unit, budget.period, budget.zone): budget.counting_since_us for budget in before}
    now_us: int = await connection.fetchval(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    )
    return tuple(
        replace(budget, counting_since_us=counting.get((budget.unit, budget.period, budget.zone), now_us))
        for budget in budgets
    )


async def bump_epochs(connection: Connection, *tenants: str | None) -> Epochs:
    """Raises the epochs of these tenants, of all tenants for `ANY`, and returns the new ones."""
    await lock_chain(connection)  # always before the epochs' lock, whatever the order of the calls
    epochs: dict[str, int] = {}
    for tenant in {tenant or "" for tenant in tenants}:
        epochs[tenant] = await connection.fetchval("SELECT next_epoch($1)", tenant)
    if ANY in epochs:
        rows = await connection.fetch("SELECT tenant FROM tenant_epochs")
        epochs |= {row["tenant"]: epochs[ANY] for row in rows}
    return epochs
