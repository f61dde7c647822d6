"""`since_s`: for how long a component has been in its state."""

import asyncio

from llm_proxy.edge.routes.health import ComponentHealth, HealthReport


async def aged(health: HealthReport, state: list[str], *changes: tuple[str, float]) -> float:
    """Returns `since_s` of a component that went through these states, each for so many seconds."""
    for name, seconds in changes:
        state[0] = name
        health.observe()
        await asyncio.sleep(seconds)
    _, body = health.report()
    [part] = body["parts"]
    since_s: float = part["since_s"]
    return since_s


async def test_since_s_counts_from_the_change_though_no_request_saw_it() -> None:
    """Neither the age of the process nor the time since the first request for it."""
    state = ["ok"]
    health = HealthReport(lambda: [ComponentHealth("sidecars", state[0])], "1", "litellm")
    assert 0.25 < await aged(health, state, ("ok", 1.5), ("down", 0.3)) < 1.2
    assert 0.25 < await aged(health, state, ("ok", 1.5), ("down", 0.3)) < 1.2


async def test_since_s_of_a_component_that_comes_again_counts_from_then() -> None:
    """As `restored` does, which is listed only while it is down."""
    listed = [ComponentHealth("restored", "down")]
    health = HealthReport(lambda: list(listed), "1", "litellm")
    health.observe()
    away = listed.pop()
    await asyncio.sleep(1.2)
    health.observe()
    listed.append(away)
    [part] = health.report()[1]["parts"]
    assert part["since_s"] < 1
