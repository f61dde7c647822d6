"""New connections of a gateway's pools: none stays open that its pool did not get."""

import asyncio

import pytest

from llm_proxy.schema.connections import PooledConnection, gateway_pools


@pytest.mark.parametrize("ended_by", [asyncio.CancelledError, TimeoutError, RuntimeError])
async def test_a_connection_whose_check_does_not_end_is_cut(
    database_url: str, ended_by: type[BaseException]
) -> None:
    """As when a gateway stops, or the deadline of a look passes, while a new connection is looked at."""
    checked: list[PooledConnection] = []
    looks = asyncio.Event()

    async def verify(connection: PooledConnection) -> None:
        checked.append(connection)
        looks.set()
        await connection.execute("SELECT pg_sleep(60)" if ended_by is asyncio.CancelledError else "SELECT 1")
        raise ended_by

    pool, _ = gateway_pools(database_url, None, "session", verify)
    async with pool:
        acquiring = asyncio.ensure_future(pool.acquire())
        await looks.wait()
        if ended_by is asyncio.CancelledError:
            acquiring.cancel()
        with pytest.raises(ended_by):
            await acquiring
        assert [connection.is_closed() for connection in checked] == [True]
