"""What the alarms at calls and at stores have in common, and the shell of docs/runbooks/README.md."""

from collections.abc import AsyncIterator

import httpx
import pytest
from loopback import NO_TLS


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Calls the gateway."""
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as made:
        yield made
