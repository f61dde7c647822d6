"""A database opened for one job of the command line and closed after it."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from llm_proxy.identity.registry import Registry
from llm_proxy.identity.rulings import Rulings
from llm_proxy.identity.store import available


@asynccontextmanager
async def opened_pool(
    url: str, tls: ssl.SSLContext | None = None
) -> AsyncGenerator["asyncpg.Pool[asyncpg.Record]"]:
    """A pool on the database at this address; `tls` says whom to trust there. Raises `StoreUnavailable`."""
    async with available(), asyncpg.create_pool(url, min_size=0, max_size=2, ssl=tls) as pool:
        yield pool


@asynccontextmanager
async def opened(url: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[tuple[Registry, Rulings]]:
    """Keys and rules of the database at this address; `tls` says whom to trust there."""
    async with opened_pool(url, tls) as pool:
        yield Registry(pool), Rulings(pool)
