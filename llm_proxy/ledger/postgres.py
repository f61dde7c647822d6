"""Postgres's many ways to fail, told apart once: away (later it may do it) or rejected (it never will).

Invariants: everything asked of Postgres by the ledger runs inside `deadline`, so nothing waits longer than
was said and no driver's exception leaves this stage.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from llm_proxy.schema import SchemaChanged

_AWAY = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection cut in the middle of a message
    OSError,
    TimeoutError,
    SchemaChanged,
)


class PostgresAway(Exception):  # noqa: N818 -- errors are named for the state they report
    """Postgres did not do it now; later it may."""


class RowsRejected(Exception):  # noqa: N818 -- the same
    """Postgres will not take at least one of these rows, ever."""


class PartitionMissing(PostgresAway):
    """A row's day has no partition, though it had."""


@asynccontextmanager
async def deadline(seconds: float) -> AsyncGenerator[None]:
    """Run the block within this time; raises `PostgresAway` or `RowsRejected` for whatever went wrong."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except asyncpg.CheckViolationError as fault:
        missing = "no partition" in str(fault)
        raise (PartitionMissing if missing else RowsRejected)(str(fault)) from fault
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        asyncpg.ProgramLimitExceededError,
    ) as fault:
        raise RowsRejected(str(fault)) from fault
    except _AWAY as fault:
        raise PostgresAway(f"{type(fault).__name__}: {fault}") from fault
