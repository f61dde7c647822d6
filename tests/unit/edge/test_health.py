"""Since when a part has been as it is, whoever asks and whenever."""

import asyncio

from llm_proxy.edge.routes.health import ComponentHealth, HealthReport


async def aged(health: HealthReport, state: list[str], *changes: tuple[str, float]) -> float:
    """What the report says of a part that went through these states, each for so many seconds."""
    for name, seconds in changes:
        state[0] = name
        health.observe()
        await asyncio.sleep(seconds)
    _, body = health.report()
    [part] = body["parts"]
    since_s: float = part["since_s"]
    return since_s


async def test_an_outage_is_as_old_as_it_is_though_nobody_asked() -> None:
    """Not as old as the process, and not new because it is asked about for the first time."""
    state = ["ok"]
    health = HealthReport(lambda: [ComponentHealth("sidecars", state[0])], "1", "litellm")
    assert 0.25 < await aged(health, state, ("ok", 1.5), ("down", 0.3)) < 1.2
    assert 0.25 < await aged(health, state, ("ok", 1.5), ("down", 0.3)) < 1.2
