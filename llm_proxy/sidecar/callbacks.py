"""The callbacks this room adds to LiteLLM, for as long as the process serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llm_proxy.sidecar import seams
from llm_proxy.sidecar.witness import witness


@asynccontextmanager
async def installed() -> AsyncIterator[None]:
    """Add the callbacks, and bring what they hold to its place at the end."""
    seams.library().callbacks.append(witness())
    yield
