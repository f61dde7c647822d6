"""What is kept up beside the calls: `keys.yaml` applied once the database answers, the agents there are.

Invariants: a file that cannot be read is said and left alone, the keys there are stay; no secret is minted
here, where nobody would see it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import asyncpg

from llm_proxy.errors import BadRequest, Refused
from llm_proxy.identity.deeds import Actor
from llm_proxy.identity.keys_file import apply, read
from llm_proxy.identity.registry import Registry
from llm_proxy.identity.rulings import Rulings

log = logging.getLogger(__name__)

AGAIN_S = 5.0
AGENTS_S = 30.0


async def keep_applying(path: Path, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Bring the database to what the file says; tries again until the database has heard."""
    try:
        file = read(path)
    except BadRequest as fault:
        log.error("the keys file is not applied", extra={"cause": fault.message})  # noqa: TRY400 -- a file's fault, no trace
        return
    while True:
        try:
            applied = await apply(file, Registry(pool), Rulings(pool), Actor("keys file"), mint_missing=False)
        except (Refused, OSError, asyncpg.PostgresError) as fault:
            why = fault.message if isinstance(fault, Refused) else type(fault).__name__
            log.warning("the keys file is not applied yet", extra={"cause": why})
            await asyncio.sleep(AGAIN_S)
            continue
        for name in applied.missing:
            log.error("the keys file names a key that is not there", extra={"key": name})
        log.info("the keys file is applied", extra={"changes": len(applied.changes)})
        return


async def keep_knowing_agents(
    pool: "asyncpg.Pool[asyncpg.Record]", tell: Callable[[list[str]], None]
) -> None:
    """Tell, now and every half minute, which agents some key is made out to."""
    registry = Registry(pool)
    while True:
        with contextlib.suppress(Refused, OSError, asyncpg.PostgresError):
            tell(await registry.agents())
        await asyncio.sleep(AGENTS_S)
