"""Postgres and the Valkeys of the stack: they start, keep what they must, and go when the launcher goes."""

import asyncpg
import redis.asyncio


async def test_postgres_answers_over_tcp_with_a_password(database_url: str) -> None:
    """The address a fixture gives is all a client needs."""
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT 6 * 7") == 42
    finally:
        await connection.close()


async def test_the_limits_store_never_evicts(limits_redis_url: str) -> None:
    """A forgotten counter would be a limit nobody enforces."""
    client = redis.asyncio.from_url(limits_redis_url, decode_responses=True)
    try:
        assert await client.execute_command("CONFIG", "GET", "maxmemory-policy") == {
            "maxmemory-policy": "noeviction"
        }
    finally:
        await client.aclose()


async def test_the_cache_evicts_the_least_recently_used(cache_redis_url: str) -> None:
    """A full cache makes room instead of refusing."""
    client = redis.asyncio.from_url(cache_redis_url, decode_responses=True)
    try:
        assert await client.execute_command("CONFIG", "GET", "maxmemory-policy") == {
            "maxmemory-policy": "allkeys-lru"
        }
    finally:
        await client.aclose()
