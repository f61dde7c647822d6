"""GETs of a real Valkey on one connection: own answers, lost connections, a server that stands still."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis import asyncio as redis_py

from llm_proxy.sidecar.redis_gets import RedisGets


@pytest.fixture
async def redis(cache_redis_url: str) -> AsyncIterator[Any]:
    """A client with a name, by which its connections are found."""
    client: Any = redis_py.from_url(cache_redis_url, client_name=f"gets-{uuid4()}")
    yield client
    await client.aclose()


@pytest.fixture
async def gets(redis: Any) -> AsyncIterator[RedisGets]:
    """What is tested."""
    made = RedisGets(lambda: redis)
    yield made
    made.close()
    await asyncio.sleep(0)


async def kill_connections(redis: Any) -> None:
    """Closes every connection of this client's name, at the server."""
    name = redis.connection_pool.connection_kwargs["client_name"]
    other: Any = redis_py.from_url(f"redis://{address(redis)}")
    for one in await other.client_list():
        if one["name"] == name:
            await other.client_kill_filter(_id=one["id"])
    await other.aclose()


def address(redis: Any) -> str:
    """Credentials, host and port of a client's server."""
    given = redis.connection_pool.connection_kwargs
    return f":{given.get('password') or ''}@{given['host']}:{given['port']}"


async def test_each_of_many_gets_its_own_value(redis: Any, gets: RedisGets) -> None:
    """Missing keys and a value of a megabyte among them, each a few bytes off its neighbours."""
    mark = str(uuid4())
    values = {f"{mark}-{at}": b"x" * (at * 37 if at else 2**20) + str(at).encode() for at in range(200)}
    await redis.mset(values)
    found = await asyncio.gather(*(gets.get(key) for key in [*values, f"{mark}-none"]))
    assert found == [*values.values(), None]


async def test_gets_of_one_turn_leave_together(redis: Any, gets: RedisGets) -> None:
    """The server reads its sockets fewer times than it gets requests."""
    assert await gets.get(str(uuid4())) is None
    before = (await redis.info("stats"))["total_reads_processed"]
    assert await asyncio.gather(*(gets.get(str(uuid4())) for _ in range(100))) == [None] * 100
    assert (await redis.info("stats"))["total_reads_processed"] - before < 20


async def test_gets_that_did_not_leave_fail_with_their_connection(gets: RedisGets) -> None:
    """The next one has a connection of its own."""
    assert await gets.get(str(uuid4())) is None
    tasks = [asyncio.create_task(gets.get(str(uuid4()))) for _ in range(3)]
    await asyncio.sleep(0)
    gets.close()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [ConnectionError] * 3
    assert await gets.get(str(uuid4())) is None


async def test_a_get_that_is_given_up_leaves_the_others_their_values(redis: Any, gets: RedisGets) -> None:
    """Its reply is handed to no other request."""
    mark = str(uuid4())
    await redis.mset({f"{mark}-{at}": str(at) for at in range(20)})
    assert await gets.get(f"{mark}-0") == b"0"
    tasks = [asyncio.create_task(gets.get(f"{mark}-{at}")) for at in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[at] for at in range(20) if at % 3] == [str(at).encode() for at in range(20) if at % 3]


async def test_a_connection_that_the_server_closes_is_opened_anew(redis: Any, gets: RedisGets) -> None:
    """At most the first request after it fails."""
    key = str(uuid4())
    await redis.set(key, "kept")
    assert await gets.get(key) == b"kept"
    await kill_connections(redis)
    await asyncio.sleep(0.05)
    assert await gets.get(key) == b"kept"


async def test_a_server_that_stands_still_is_given_up(redis: Any, gets: RedisGets) -> None:
    """All that wait on it fail together, and the next request finds it again."""
    key = str(uuid4())
    await redis.set(key, "kept")
    assert await gets.get(key) == b"kept"
    await redis.client_pause(900)
    found = await asyncio.gather(*(gets.get(key) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in found] == [TimeoutError] * 5
    await asyncio.sleep(0.6)
    assert await gets.get(key) == b"kept"


async def test_an_error_reply_is_an_error(redis: Any, gets: RedisGets) -> None:
    """A key that holds no string; the connection that follows is sound."""
    key = str(uuid4())
    await redis.rpush(key, "a")
    with pytest.raises(ConnectionError, match="WRONGTYPE"):
        await gets.get(key)
    await redis.set(f"{key}-2", "kept")
    assert await gets.get(f"{key}-2") == b"kept"
