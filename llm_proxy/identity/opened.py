"""A database opened for one job of the command line and closed after it."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from llm_proxy.identity.store import available

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@asynccontextmanager
async def opened_pool(url: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Pool]:
    """A pool on the database at this address; `tls` says whom to trust there. Raises `StoreUnavailable`."""
    async with available(), asyncpg.create_pool(url, min_size=0, max_size=2, ssl=tls) as pool:
        yield pool
