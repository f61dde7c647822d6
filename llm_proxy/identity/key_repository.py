"""Creates, updates, rotates, revokes and lists virtual keys, and raises their limits for a time.

Invariants: every change is an admin transaction (see `audit`). A key's text is returned once, by `create` and
`rotate`. A key has one running raise at most; a raise ends at its time by the database's clock, whether or
not `end_due` has run.
Raises: `NotFound`, `BadRequest`, `Forbidden`, `StoreUnavailable`.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from llm_proxy.background import BackgroundLoop
from llm_proxy.errors import APIError, BadRequest, Forbidden, NotFound, StoreUnavailable
from llm_proxy.identity.admin_documents import (
    key_fields,
    limits_document,
    parse_key_spec,
    raise_document,
)
from llm_proxy.identity.audit import (
    DEADLINE_S,
    Actor,
    Epochs,
    Person,
    admin_transaction,
    bump_epochs,
    changed_fields,
    with_counting_start,
    write_audit,
)
from llm_proxy.identity.caller import MAX_NAME_CHARS, Budget, Caller
from llm_proxy.identity.key_search import KEY_CONDITIONS, KeyFilter
from llm_proxy.identity.postgres_store import (
    RAISE_COLUMNS,
    RAISE_JOIN,
    Connection,
    Pool,
    budgets_to_json,
    database_errors,
    key_spec_from_row,
    raise_from_row,
    read_keys_above,
)
from llm_proxy.identity.virtual_keys import (
    GeneratedKey,
    KeyRaise,
    KeyRecord,
    KeySpec,
    apply_raise,
    caller_from_record,
    display_prefix,
    ended_key_error,
    generate_key,
    higher_limit,
    new_key_id,
    stored_from_record,
)
from llm_proxy.json_access import Json
from llm_proxy.telemetry.privacy import redact

AGENTS_INTERVAL_S = 30.0
EVERY_KEY = KeyFilter()
LIST_KEYS = f"""
SELECT k.*, {RAISE_COLUMNS}, array(SELECT s.lookup FROM key_secrets s WHERE s.key_id = k.key_id
                  AND (s.expires_at IS NULL OR s.expires_at > now()) ORDER BY s.created_at DESC) AS lookups
FROM api_keys k {RAISE_JOIN}
"""  # noqa: S608 -- our own column names
_ONE = (
    LIST_KEYS + "WHERE k.key_id = $1 OR k.name = $1"  # noqa: S608 -- our own text
    " OR k.key_id = (SELECT s.key_id FROM key_secrets s"
    " WHERE s.lookup = right($1, 12) AND $1 = $2 || s.lookup OR s.lookup = $1 AND starts_with($1, 'sha256:'))"
)
_COLUMNS = (
    "name, tenant, agent, user_id, models, rpm, tpm, parallel, budgets, max_tokens_cap, cache, expires_at,"
    " tags"
)
_CREATE = f"""
INSERT INTO api_keys (key_id, {_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
        $14)
"""  # noqa: S608 -- our own column names
_CHANGE = f"""
UPDATE api_keys SET ({_COLUMNS}) = ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14),
    changed_at = now() WHERE key_id = $1
"""  # noqa: S608 -- our own column names
_TENANT_HAS_KEYS = "SELECT EXISTS (SELECT FROM api_keys WHERE tenant = $1)"
_AGENTS = (
    "SELECT DISTINCT agent FROM api_keys WHERE agent <> '*' AND revoked_at IS NULL AND ancestors = '{}'"
    " ORDER BY agent LIMIT 1000"
)


@dataclass(frozen=True, slots=True)
class KeyMutation:
    """The result of a change.

    Attributes:
        record: The key after the change.
        generated: The new secret, when the change made one; its text is stored nowhere.
        epochs: To be published.
    """

    record: KeyRecord
    generated: GeneratedKey | None = None
    epochs: Epochs = field(default_factory=dict[str, int])


class KeyRepository:
    """Reads and writes virtual keys.

    A key is named by its id, name or shown prefix. An actor of one tenant reads and writes that tenant's
    keys only, and may leave out `tenant/` in their names.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, spec: KeySpec, actor: Actor, secret: GeneratedKey | None = None) -> KeyMutation:
        """Creates a key, with the given secret or a generated one."""
        secret, key_id = secret or generate_key(), new_key_id()
        spec = _restrict_to_actor(spec, actor)
        async with admin_transaction(self._pool) as connection:
            await insert_key(connection, key_id, spec, secret)
            await write_audit(
                connection, actor, "keys.create", key_id, {"name": spec.name}, after=_audit_document(spec)
            )
            return KeyMutation(await fetch_record(connection, key_id), secret)

    async def list_keys(
        self,
        *,
        tenant: str | None = None,
        limit: int = 100,
        after: str = "",
        matching: KeyFilter = EVERY_KEY,
    ) -> list[KeyRecord]:
        """Returns keys ordered by name, with revoked ones; `after` is the last name of the page before.

        Raises:
            NotFound: The tenant has no key.
        """
        tenant = tenant or matching.tenant
        wanted = replace(matching, tenant=tenant)
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(
                f"{LIST_KEYS} WHERE {KEY_CONDITIONS} AND k.name > $8 ORDER BY k.name LIMIT $9",
                *wanted.arguments(), after, limit,
            )  # fmt: skip
            if tenant is not None and not rows and not await connection.fetchval(_TENANT_HAS_KEYS, tenant):
                message = f"No key belongs to a tenant '{redact(tenant)[:60]}'."
                raise NotFound(message, param="tenant", code="unknown_name")
        return [record_from_row(row) for row in rows]

    async def list_agents(self) -> list[str]:
        """Returns at most 1000 agents to which valid keys are bound, of keys that operators made."""
        async with admin_transaction(self._pool) as connection:
            rows = await connection.fetch(_AGENTS)
        return [row["agent"] for row in rows]

    async def get(self, name_or_id: str, *, tenant: str | None = None) -> KeyRecord:
        """Returns one key; with `tenant`, only a key of that tenant; raises `NotFound`."""
        async with admin_transaction(self._pool) as connection:
            return await fetch_record(connection, name_or_id, tenant=tenant)

    async def caller_of(self, record: KeyRecord) -> tuple[Caller, str | None]:
        """Returns the caller of a call with a key, within the keys above it, and why its calls are 401."""
        async with admin_transaction(self._pool) as connection:
            key = await read_keys_above(connection, stored_from_record(record), record.ancestors)
        caller = caller_from_record(record, key)
        return caller, ended_key_error(key, caller, key.ends_at, datetime.now(UTC))

    async def update(self, name_or_id: str, change: KeySpec | Mapping[str, Any], actor: Actor) -> KeyMutation:
        """Changes a key; what changes no field leaves no trace.

        Args:
            name_or_id: The key.
            change: The complete new specification, or the fields of a document that change.
            actor: The author.
        """
        async with admin_transaction(self._pool) as connection:
            before = await lock_key(connection, name_or_id, actor)
            spec = change if isinstance(change, KeySpec) else parse_key_spec(change, before.spec)
            spec = _restrict_to_actor(spec, actor, before)
            kept = before.spec.budgets if before.spec.tenant == spec.tenant else ()
            spec = replace(spec, budgets=await with_counting_start(connection, spec.budgets, kept))
            if before.revoked_at is not None:
                raise BadRequest("A revoked key cannot be changed.")
            if spec == before.spec:
                return KeyMutation(before)
            await connection.execute(_CHANGE, before.key_id, *_column_values(spec))
            epochs = await bump_epochs(connection, before.spec.tenant, spec.tenant)
            old, new = changed_fields(_audit_document(before.spec), _audit_document(spec))
            name = {"name": spec.name}
            await write_audit(connection, actor, "keys.change", before.key_id, name, before=old, after=new)
            return KeyMutation(await fetch_record(connection, before.key_id), epochs=epochs)

    async def rotate(self, name_or_id: str, actor: Actor, *, overlap: timedelta) -> KeyMutation:
        """Adds a secret to a key; its older secrets end after `overlap`."""
        secret = generate_key()
        async with admin_transaction(self._pool) as connection:
            before = await lock_key(connection, name_or_id, actor)
            if before.revoked_at is not None:
                raise BadRequest("A revoked key cannot be rotated.")
            await connection.execute(
                "UPDATE key_secrets SET expires_at = least(expires_at, now() + $2) WHERE key_id = $1",
                before.key_id, overlap,
            )  # fmt: skip
            await _add_secret(connection, before.key_id, secret)
            epochs = await bump_epochs(connection, before.spec.tenant)
            after = await fetch_record(connection, before.key_id)
            await write_audit(
                connection,
                actor,
                "keys.rotate",
                before.key_id,
                {"name": before.spec.name, "overlap_s": overlap.total_seconds()},
                before={"prefixes": before.prefixes},
                after={"prefixes": after.prefixes},
            )
            return KeyMutation(after, secret, epochs)

    async def revoke(self, name_or_id: str, actor: Actor) -> KeyMutation:
        """Revokes a key for ever, and the keys below it; revoking it again changes nothing."""
        async with admin_transaction(self._pool) as connection:
            before = await lock_key(connection, name_or_id, actor)
            await connection.execute(
                "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())"
                " WHERE key_id = $1 OR ancestors @> ARRAY[$1::text]",
                before.key_id,
            )
            epochs = await bump_epochs(connection, before.spec.tenant)
            after = await fetch_record(connection, before.key_id)
            await write_audit(
                connection,
                actor,
                "keys.revoke",
                before.key_id,
                {"name": before.spec.name},
                before={"revoked_at": before.revoked_at},
                after={"revoked_at": after.revoked_at},
            )
            return KeyMutation(after, epochs=epochs)


def agents_loop(pool: Pool, receive: Callable[[list[str]], None]) -> BackgroundLoop:
    """Returns a loop that passes the agents of valid keys to `receive`, now and every 30 seconds."""
    keys = KeyRepository(pool)

    async def step() -> None:
        with contextlib.suppress(APIError):
            receive(await keys.list_agents())

    return BackgroundLoop("agents", step, every_s=AGENTS_INTERVAL_S, at_once=True)


async def find_key_id(connection: Connection, name_or_id: str, *, tenant: str | None = None) -> str:
    """Returns the id of a key, with `tenant` only of that tenant; raises `NotFound`."""
    return (await fetch_record(connection, name_or_id, tenant=tenant)).key_id


def _restrict_to_actor(spec: KeySpec, actor: Actor, before: KeyRecord | None = None) -> KeySpec:
    """Returns the specification as the actor may write it: an actor of one tenant writes that tenant's keys.

    The names of such keys begin with the tenant: a name that is taken reveals nothing of other tenants.

    Raises:
        Forbidden: The specification names another tenant.
        BadRequest: The name contains another `/`, or is too long.
    """
    if actor.tenant is None:
        return spec
    if spec.tenant not in ({actor.tenant} if before else {actor.tenant, None}):
        raise Forbidden("This admin key manages the keys of its own tenant only.", param="tenant")
    name, prefix = spec.name, f"{actor.tenant}/"
    if before is None or name != before.spec.name:
        rest = name.removeprefix(prefix)
        if "/" in rest or not rest or len(prefix + rest) > MAX_NAME_CHARS:
            raise BadRequest(f"Invalid 'name': expected a name without '/' behind {prefix!r}.", param="name")
        name = prefix + rest
    return replace(spec, name=name, tenant=actor.tenant)


async def lock_key(connection: Connection, name_or_id: str, actor: Actor) -> KeyRecord:
    """Returns the key, locked against other transactions until this one ends; raises `NotFound`."""
    return await fetch_record(connection, name_or_id, _ONE + " FOR UPDATE OF k", tenant=actor.tenant)


async def fetch_record(
    connection: Connection, name_or_id: str, query: str = _ONE, *, tenant: str | None = None
) -> KeyRecord:
    """Returns the key; with `tenant` only of that tenant, `tenant/` optional in its name; or `NotFound`."""
    row = await connection.fetchrow(query, name_or_id, display_prefix(""))
    if tenant is not None and (row is None or row["tenant"] != tenant):
        row = await connection.fetchrow(query, f"{tenant}/{name_or_id}", display_prefix(""))
    if row is None or (tenant is not None and row["tenant"] != tenant):
        raise NotFound(f"No such key: '{redact(name_or_id)[:60]}'.", param="key")
    return record_from_row(row)


async def insert_key(connection: Connection, key_id: str, spec: KeySpec, secret: GeneratedKey) -> None:
    """Writes a new key and its secret."""
    await connection.execute(_CREATE, key_id, *_column_values(spec))
    await _add_secret(connection, key_id, secret)


def record_from_row(row: asyncpg.Record) -> KeyRecord:
    """Decodes a key from a row of `LIST_KEYS`."""
    prefixes = tuple(display_prefix(lookup) for lookup in row["lookups"])
    return KeyRecord(
        row["key_id"],
        key_spec_from_row(row),
        row["created_at"],
        row["changed_at"],
        row["revoked_at"],
        prefixes,
        raise_from_row(row),
        tuple(row["ancestors"]),
        row["run_id"],
    )


def _audit_document(spec: KeySpec) -> Json:
    return key_fields(spec) | {"user": Person(spec.user, spec.tenant) if spec.user else None}


async def _add_secret(connection: Connection, key_id: str, secret: GeneratedKey) -> None:
    await connection.execute(
        "INSERT INTO key_secrets (lookup, key_id, digest) VALUES ($1, $2, $3)",
        secret.lookup, key_id, secret.digest,
    )  # fmt: skip


def _column_values(spec: KeySpec) -> tuple[Any, ...]:
    models = list(spec.models) if spec.models is not None else None
    limits = spec.limits
    return (
        spec.name, spec.tenant, spec.agent, spec.user, models, limits.rpm, limits.tpm, limits.parallel,
        budgets_to_json(spec.budgets), spec.max_tokens_cap, spec.cache, spec.expires_at,
        list(spec.tags) or None,
    )  # fmt: skip


MAX_RAISE = timedelta(days=366)
DUE_INTERVAL_S, MAX_KNOWN_S = 1.0, 60.0
DUE_BATCH = 100

_BEGIN = """
INSERT INTO key_raises (key_id, rpm, tpm, parallel, budgets, until) VALUES ($1, $2, $3, $4, $5, $6)
"""
_END = "UPDATE key_raises SET ended_at = now() WHERE key_id = $1 AND ended_at IS NULL"
_NEXT_END_S = "SELECT extract(epoch FROM min(until) - now())::float8 FROM key_raises WHERE ended_at IS NULL"
_END_DUE = f"""
WITH due AS (
    SELECT raise_id FROM key_raises WHERE ended_at IS NULL AND until <= now()
    ORDER BY until LIMIT {DUE_BATCH} FOR UPDATE SKIP LOCKED
)
UPDATE key_raises r SET ended_at = now() FROM due, api_keys k
WHERE r.raise_id = due.raise_id AND k.key_id = r.key_id
RETURNING r.key_id, k.name, k.tenant, r.rpm AS raised_rpm, r.tpm AS raised_tpm,
          r.parallel AS raised_parallel, r.budgets AS raised_budgets, r.until AS raised_until
"""  # noqa: S608 -- a constant of ours


class KeyRaiseRepository:
    """Begins and ends raises of keys; every change is an entry of the audit log."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, name_or_id: str, wanted: KeyRaise, actor: Actor) -> KeyMutation:
        """Raises a key's limits until the stated time; replaces a running raise."""
        async with admin_transaction(self._pool) as connection:
            before = await lock_key(connection, name_or_id, actor)
            wanted = _validate_raise(before, wanted)
            await connection.execute(_END, before.key_id)
            limits = wanted.limits
            await connection.execute(
                _BEGIN,
                before.key_id,
                limits.rpm,
                limits.tpm,
                limits.parallel,
                budgets_to_json(wanted.budgets),
                wanted.until,
            )
            return await self._audit_raise(connection, before, "keys.raise", wanted, actor)

    async def end(self, name_or_id: str, actor: Actor) -> KeyMutation:
        """Ends a key's running raise now; raises `NotFound` when there is none."""
        async with admin_transaction(self._pool) as connection:
            before = await lock_key(connection, name_or_id, actor)
            if before.running_raise is None:
                raise NotFound(f"The key '{before.spec.name}' has no running raise.")
            await connection.execute(_END, before.key_id)
            return await self._audit_raise(connection, before, "keys.raise_ended", None, actor)

    async def end_due(self, actor: Actor) -> Epochs:
        """Marks expired raises as ended, each by one replica only; returns the epochs to publish."""
        async with admin_transaction(self._pool) as connection:
            ended = await connection.fetch(_END_DUE)
            epochs = await bump_epochs(connection, *(row["tenant"] for row in ended))
            for row in ended:
                key_raise = raise_from_row(row)
                before = raise_document(key_raise) if key_raise is not None else None
                await write_audit(
                    connection, actor, "keys.raise_ended", row["key_id"], {"name": row["name"]},
                    before={"raise": before}, after={"raise": None},
                )  # fmt: skip
            return epochs

    async def _audit_raise(
        self, connection: Connection, before: KeyRecord, action: str, wanted: KeyRaise | None, actor: Actor
    ) -> KeyMutation:
        """Writes the audit entry of a change and returns the key after it."""
        epochs = await bump_epochs(connection, before.spec.tenant)
        await write_audit(
            connection,
            actor,
            action,
            before.key_id,
            {"name": before.spec.name, "own": limits_document(before.spec.limits, before.spec.budgets)},
            before={"raise": raise_document(before.running_raise) if before.running_raise else None},
            after={"raise": raise_document(wanted) if wanted else None},
        )
        return KeyMutation(await fetch_record(connection, before.key_id), epochs=epochs)


def raise_expiry_loop(
    pool: Pool, publish: Callable[[Epochs], Awaitable[None]], newest_epoch: Callable[[], int]
) -> BackgroundLoop:
    """Returns a loop that audits the end of each raise and publishes its epoch, within about a second.

    It reads the next end when `newest_epoch` has changed, as each raise changes it, and every `MAX_KNOWN_S`.
    """
    raises, known_epoch, due_at = KeyRaiseRepository(pool), -1, 0.0

    async def step() -> None:
        nonlocal known_epoch, due_at
        epoch, now = newest_epoch(), time.monotonic()
        if epoch == known_epoch and now < due_at:
            return
        with contextlib.suppress(StoreUnavailable):  # the state of the database says so
            async with database_errors():
                end_s: float | None = await pool.fetchval(_NEXT_END_S, timeout=DEADLINE_S)
            if end_s is None or end_s > 0:
                known_epoch, due_at = epoch, now + min(end_s or MAX_KNOWN_S, MAX_KNOWN_S)
            elif epochs := await raises.end_due(Actor("raise")):
                await publish(epochs)

    return BackgroundLoop("raises", step, every_s=DUE_INTERVAL_S, at_once=True)


def _validate_raise(record: KeyRecord, wanted: KeyRaise) -> KeyRaise:
    """Returns the raise with the own budgets' time zones; raises `BadRequest` if it is invalid."""
    if record.revoked_at is not None:
        raise BadRequest("A revoked key cannot be raised.")
    now = datetime.now(UTC)
    if not now < wanted.until <= now + MAX_RAISE:
        raise BadRequest(
            f"Invalid 'until': expected a time from now to {MAX_RAISE.days} days ahead.", param="until"
        )
    spec = record.spec
    for name in ("rpm", "tpm", "parallel"):
        _require_higher(name, getattr(spec.limits, name), getattr(wanted.limits, name))
    budgets = tuple(_validate_raised_budget(spec, budget) for budget in wanted.budgets)
    wanted = KeyRaise(wanted.limits, budgets, wanted.until)
    if apply_raise(spec, wanted) == spec:
        raise BadRequest("A raise needs a limit or a budget.", param="rpm")
    return wanted


def _require_higher(field: str, own: int | None, wanted: int | None) -> None:
    if wanted is None:
        return
    if not own:
        raise BadRequest(f"The key has no '{field}' of its own that could be raised.", param=field)
    if higher_limit(own, wanted) == own:
        raise BadRequest(
            f"Invalid '{field}': expected more than the key's own {own}, or 0 for no limit.", param=field
        )


def _validate_raised_budget(spec: KeySpec, wanted: Budget) -> Budget:
    kind = (wanted.unit, wanted.period)
    own = next((budget for budget in spec.budgets if (budget.unit, budget.period) == kind), None)
    if own is None:
        budget = f"budget in {wanted.unit} of its own for the period '{wanted.period}'"
        raise BadRequest(f"The key has no {budget} that could be raised.", param="budgets")
    if wanted.zone not in {own.zone, "UTC"}:
        raise BadRequest(f"The key's own budget begins its period in {own.zone}.", param="zone")
    if wanted.limit <= own.limit:
        raise BadRequest(
            "Invalid 'budgets': a raised budget must be higher than the key's own.", param="budgets"
        )
    return Budget(wanted.limit, own.period, own.zone, own.unit)
