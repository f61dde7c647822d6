"""A server of bare connections, on both event loops."""

from collections.abc import AsyncIterator

import pytest
from http_server import ProtocolServer, protocol_server


@pytest.fixture(params=[pytest.param(False, id="asyncio"), pytest.param(True, id="uvloop")])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Plain asyncio, and the loop the gateway runs on."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def server() -> AsyncIterator[ProtocolServer]:
    """A server."""
    async with protocol_server() as one:
        yield one
