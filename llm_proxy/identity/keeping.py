"""Background loops: `keys.yaml` is applied, agents are known, old months of the audit log are dropped.

Invariants: a file that cannot be read is said and left alone, the keys there are stay; no secret is minted
here, where nobody would see it.
"""

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from llm_proxy.background import DONE, Loop
from llm_proxy.errors import BadRequest, Refused
from llm_proxy.identity.audit import Actor, retire_months
from llm_proxy.identity.deeds import deed
from llm_proxy.identity.keys_file import apply, read
from llm_proxy.identity.registry import Registry
from llm_proxy.identity.rulings import Rulings

log = logging.getLogger(__name__)

AGAIN_S = 5.0
AGENTS_S = 30.0
RETIRE_S = 3600.0


def applying(path: Path, pool: "asyncpg.Pool[asyncpg.Record]") -> Loop:
    """A loop that brings the database to what the file says, until the database has heard."""

    async def step() -> object:
        try:
            file = read(path)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- a file's fault, no trace
            return DONE
        try:
            applied = await apply(file, Registry(pool), Rulings(pool), Actor("keys file"), mint_missing=False)
        except BadRequest as fault:
            log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- the same
            return DONE
        except Refused as fault:
            log.warning("the keys file is not applied yet", extra={"cause": fault.message})
            return None
        for missing in applied.missing:
            log.error("the keys file names a key that is not there", extra={"cause": missing})
        log.info("the keys file is applied", extra={"changes": len(applied.changes)})
        return DONE

    return Loop("keys-file", step, every_s=AGAIN_S, at_once=True)


def knowing_agents(pool: "asyncpg.Pool[asyncpg.Record]", tell: Callable[[list[str]], None]) -> Loop:
    """A loop that tells, now and every half minute, which agents some key is made out to."""
    registry = Registry(pool)

    async def step() -> None:
        with contextlib.suppress(Refused):
            tell(await registry.agents())

    return Loop("agents", step, every_s=AGENTS_S, at_once=True)


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
