"""A deed of an operator: one transaction, one audit entry, one new epoch, or none of them.

Invariants: every value is a bound parameter; what Postgres finds wrong with a value is the asker's fault
(400), what keeps it from answering is ours (503). The epochs a deed returns are for the limits store, so
that every replica hears at once.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from llm_proxy.background import Loop
from llm_proxy.errors import BadRequest, Refused, StoreUnavailable
from llm_proxy.identity.audit import Actor, Person, audit, audit_refusal, lock_chain, retire_months
from llm_proxy.identity.caller import ANY, Budget
from llm_proxy.identity.store import Connection, available

log = logging.getLogger(__name__)

Epochs = Mapping[str, int]
DEADLINE_S = 10.0
RETIRE_S = 3600.0


@asynccontextmanager
async def deed(pool: "asyncpg.Pool[asyncpg.Record]") -> AsyncGenerator[Connection]:
    """A transaction; raises `StoreUnavailable`, and `BadRequest` for values that cannot be."""
    async with available(), pool.acquire(timeout=DEADLINE_S) as connection, connection.transaction():
        try:
            yield connection
        except asyncpg.UniqueViolationError as error:
            raise BadRequest("A key of that name exists already.", param="name") from error
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError) as error:
            raise BadRequest("A value is out of its range.") from error


@asynccontextmanager
async def on_record(
    pool: "asyncpg.Pool[asyncpg.Record]", actor: Actor, action: str, target: str | Person
) -> AsyncGenerator[dict[str, Any]]:
    """Record a change of something outside the database: an entry before it, and one with its result.

    The caller fills in the detail of the second entry. No connection is held while the change runs.

    Raises:
        StoreUnavailable: The first entry could not be written; nothing was changed.
    """
    await note(pool, actor, f"{action} begun", target)
    detail: dict[str, Any] = {}
    try:
        yield detail
    except BaseException as error:
        detail["failed"] = type(error).__name__
        raise
    finally:
        try:
            await note(pool, actor, action, target, detail)
        except StoreUnavailable as fault:
            # The change is made, so its result goes to the caller all the same.
            log.warning(
                "the result of a change is not in the audit log",
                extra={"action": action, "why": fault.message, **detail},
            )


async def note(
    pool: "asyncpg.Pool[asyncpg.Record]",
    actor: Actor,
    action: str,
    target: str | Person,
    detail: dict[str, Any] | None = None,
) -> None:
    """Record an action that changes nothing in the database, such as reading a payload."""
    async with deed(pool) as connection:
        await audit(connection, actor, action, target, detail)


async def note_refusal(
    pool: "asyncpg.Pool[asyncpg.Record]",
    actor: Actor,
    action: str,
    target: str,
    refused: Refused,
    detail: dict[str, Any] | None = None,
) -> None:
    """Record an action that was refused."""
    async with deed(pool) as connection:
        await audit_refusal(connection, actor, action, target, refused, detail)


def retiring_audit_months(pool: "asyncpg.Pool[asyncpg.Record]", retention_days: int) -> Loop:
    """A loop that drops, now and every hour, the months of the audit log that ended so many days ago."""

    async def step() -> None:
        before = (datetime.now(UTC) - timedelta(days=retention_days)).date()
        try:
            async with deed(pool) as connection:
                dropped = await retire_months(connection, Actor("audit log"), before=before)
        except Refused as fault:
            log.warning("old months of the audit log are not dropped yet", extra={"cause": fault.message})
            return
        if dropped:
            log.info("old months of the audit log are dropped", extra={"months": dropped})

    return Loop("audit-retention", step, every_s=RETIRE_S, at_once=True)


async def laid(
    connection: Connection, budgets: tuple[Budget, ...], before: tuple[Budget, ...]
) -> tuple[Budget, ...]:
    """Budgets as they are laid down now; one that was there `before`, with any limit, goes on counting."""
    counting = {(one.unit, one.period, one.zone): one.laid_us for one in before}
    now_us: int = await connection.fetchval(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    )
    return tuple(
        replace(one, laid_us=counting.get((one.unit, one.period, one.zone), now_us)) for one in budgets
    )


async def raise_epochs(connection: Connection, *tenants: str | None) -> Epochs:
    """New epochs of these tenants; `ANY` raises everybody's."""
    await lock_chain(connection)  # always before the epochs' lock, whatever the order of the calls
    raised: dict[str, int] = {}
    for tenant in {tenant or "" for tenant in tenants}:
        raised[tenant] = await connection.fetchval("SELECT next_epoch($1)", tenant)
    if ANY in raised:
        rows = await connection.fetch("SELECT tenant FROM tenant_epochs")
        raised |= {row["tenant"]: raised[ANY] for row in rows}
    return raised
