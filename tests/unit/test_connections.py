"""How many connections a gateway's pools open."""

import pytest

from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.schema.connections import console_pool, gateway_pools


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ("", [8, 2]),
        ("?connection_limit=1", [2]),
        ("?connection_limit=2", [2]),
        ("?connection_limit=3", [2, 1]),
        ("?connection_limit=5", [3, 2]),
        ("?connection_limit=100", [8, 2]),
        ("?connection_limit=0", [8, 2]),
        ("?connection_limit=many", [8, 2]),
    ],
)
async def test_the_pools_stay_within_the_connection_limit(query: str, sizes: list[int]) -> None:
    """Together; with two connections or fewer there is one pool."""
    both = gateway_pools(parse_postgres_url(f"postgresql://u:p@h/d{query}"), None, "auto")
    pools = list(dict.fromkeys(both))
    assert [pool.get_max_size() for pool in pools] == sizes


def test_a_pool_is_made_where_its_loop_runs() -> None:
    """Elsewhere the driver takes a loop that never runs, where one is, and closes no idle connection."""
    url = parse_postgres_url("postgresql://u:p@h/d")
    with pytest.raises(RuntimeError, match="no running event loop"):
        gateway_pools(url, None, "auto")
    with pytest.raises(RuntimeError, match="no running event loop"):
        console_pool(url, None, "auto")
