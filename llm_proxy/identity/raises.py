"""Raises: higher limits and budgets of a key until a stated time.

Invariants: the key's own specification is never changed by a raise; a key has one running raise at most; a
raise ends at its time by the database's clock in every replica, whether or not `end_due` has run; its
beginning and its end are audit entries.
Errors: `NotFound`, `BadRequest` (nothing to raise, not higher), `StoreUnavailable`.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg

from llm_proxy.background import Loop
from llm_proxy.errors import BadRequest, NotFound
from llm_proxy.identity.audit import Actor, audit
from llm_proxy.identity.caller import Budget
from llm_proxy.identity.deeds import Epochs, deed, raise_epochs
from llm_proxy.identity.keys import KeyRecord, KeySpec, Raise, higher, raised
from llm_proxy.identity.registry import Deed, locked, record_of
from llm_proxy.identity.spoken import limits_document, raise_document
from llm_proxy.identity.store import Connection, budgets_text, raise_of

LONGEST = timedelta(days=366)
DUE_EVERY_S = 1.0
MOST_AT_ONCE = 100

_BEGIN = """
INSERT INTO key_raises (key_id, rpm, tpm, parallel, budgets, until) VALUES ($1, $2, $3, $4, $5, $6)
"""
_END = "UPDATE key_raises SET ended_at = now() WHERE key_id = $1 AND ended_at IS NULL"
_DUE = "SELECT EXISTS (SELECT FROM key_raises WHERE ended_at IS NULL AND until <= now())"
_END_DUE = f"""
WITH due AS (
    SELECT raise_id FROM key_raises WHERE ended_at IS NULL AND until <= now()
    ORDER BY until LIMIT {MOST_AT_ONCE} FOR UPDATE SKIP LOCKED
)
UPDATE key_raises r SET ended_at = now() FROM due, api_keys k
WHERE r.raise_id = due.raise_id AND k.key_id = r.key_id
RETURNING r.key_id, k.name, k.tenant, r.rpm AS raised_rpm, r.tpm AS raised_tpm,
          r.parallel AS raised_parallel, r.budgets AS raised_budgets, r.until AS raised_until
"""  # noqa: S608 -- a constant of ours


class Raises:
    """Begins and ends raises of keys."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    async def begin(self, name_or_id: str, wanted: Raise, actor: Actor) -> Deed:
        """Raise a key until the stated time; replaces the raise that runs."""
        async with deed(self._pool) as connection:
            before = await locked(connection, name_or_id, actor)
            wanted = _checked(before, wanted)
            await connection.execute(_END, before.key_id)
            limits = wanted.limits
            await connection.execute(
                _BEGIN,
                before.key_id,
                limits.rpm,
                limits.tpm,
                limits.parallel,
                budgets_text(wanted.budgets),
                wanted.until,
            )
            return await self._told(connection, before, "keys.raise", wanted, actor)

    async def end(self, name_or_id: str, actor: Actor) -> Deed:
        """End a key's running raise before its time."""
        async with deed(self._pool) as connection:
            before = await locked(connection, name_or_id, actor)
            if before.raised is None:
                raise NotFound("The key has no running raise.")
            await connection.execute(_END, before.key_id)
            return await self._told(connection, before, "keys.raise_ended", None, actor)

    async def end_due(self, actor: Actor) -> Epochs:
        """End the raises whose time is over, each by one replica; returns the epochs to announce."""
        async with deed(self._pool) as connection:
            if not await connection.fetchval(_DUE):
                return {}
            ended = await connection.fetch(_END_DUE)
            epochs = await raise_epochs(connection, *(row["tenant"] for row in ended))
            for row in ended:
                over = raise_of(row)
                before = raise_document(over) if over is not None else None
                await audit(
                    connection, actor, "keys.raise_ended", row["key_id"], {"name": row["name"]},
                    before={"raise": before}, after={"raise": None},
                )  # fmt: skip
            return epochs

    async def _told(
        self, connection: Connection, before: KeyRecord, action: str, wanted: Raise | None, actor: Actor
    ) -> Deed:
        """Audit a change of a key's raise, and return the key as it is now."""
        epochs = await raise_epochs(connection, before.spec.tenant)
        await audit(
            connection,
            actor,
            action,
            before.key_id,
            {"name": before.spec.name, "own": limits_document(before.spec.limits, before.spec.budgets)},
            before={"raise": raise_document(before.raised) if before.raised else None},
            after={"raise": raise_document(wanted) if wanted else None},
        )
        return Deed(await record_of(connection, before.key_id), epochs=epochs)


def ending_raises(
    pool: "asyncpg.Pool[asyncpg.Record]", announce: Callable[[Epochs], Awaitable[None]]
) -> Loop:
    """A loop that puts the end of each raise on record, and announces it, within about a second."""
    raises = Raises(pool)

    async def step() -> None:
        epochs = await raises.end_due(Actor("raise"))
        if epochs:
            await announce(epochs)

    return Loop("raises", step, every_s=DUE_EVERY_S, at_once=True)


def _checked(record: KeyRecord, wanted: Raise) -> Raise:
    """The raise, with the calendars of the key's own budgets."""
    if record.revoked_at is not None:
        raise BadRequest("A revoked key cannot be raised.")
    now = datetime.now(UTC)
    if not now < wanted.until <= now + LONGEST:
        raise BadRequest(
            f"Invalid 'until': expected a time from now to {LONGEST.days} days ahead.", param="until"
        )
    spec = record.spec
    for name in ("rpm", "tpm", "parallel"):
        _check_higher(name, getattr(spec.limits, name), getattr(wanted.limits, name))
    budgets = tuple(_checked_budget(spec, budget) for budget in wanted.budgets)
    wanted = Raise(wanted.limits, budgets, wanted.until)
    if raised(spec, wanted) == spec:
        raise BadRequest("A raise needs a limit or a budget.", param="rpm")
    return wanted


def _check_higher(field: str, own: int | None, wanted: int | None) -> None:
    if wanted is None:
        return
    if not own:
        raise BadRequest(f"The key has no '{field}' of its own that could be raised.", param=field)
    if higher(own, wanted) == own:
        raise BadRequest(f"Invalid '{field}': a raise is above the key's own {own}, or 0.", param=field)


def _checked_budget(spec: KeySpec, wanted: Budget) -> Budget:
    own = next((one for one in spec.budgets if (one.unit, one.period) == (wanted.unit, wanted.period)), None)
    if own is None:
        kind = f"budget in {wanted.unit} of its own for the period '{wanted.period}'"
        raise BadRequest(f"The key has no {kind} that could be raised.", param="budgets")
    if wanted.zone not in {own.zone, "UTC"}:
        raise BadRequest(f"The key's own budget begins its period in {own.zone}.", param="zone")
    if wanted.limit <= own.limit:
        raise BadRequest("A raised budget is above the key's own.", param="budgets")
    return Budget(wanted.limit, own.period, own.zone, own.unit)
