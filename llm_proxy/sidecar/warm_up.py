"""The first calls, made by the process to itself before anybody waits for them: they cost LiteLLM about a second.

Invariant: they go to a responder of our own on the loopback and leave no deployment behind.
"""

from llm_proxy.sidecar.doors import Doors


async def warm_up(doors: Doors) -> None:
    """Make one call of each kind through the doors."""
