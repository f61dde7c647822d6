"""The registry of a database, opened for one job of the command line and closed after it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from llm_proxy.identity.registry import Registry
from llm_proxy.identity.rulings import Rulings


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[tuple[Registry, Rulings]]:
    """Keys and rules of the database at this address."""
    async with asyncpg.create_pool(url, min_size=0, max_size=2) as pool:
        yield Registry(pool), Rulings(pool)
