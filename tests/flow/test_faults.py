"""Sidecars that die, freeze and come back, while callers go on calling."""

import asyncio
import time
from pathlib import Path

import httpx
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway

STEADY_S = 0.05


async def steadily(
    made: GatewayOverSidecars, client: httpx.AsyncClient, seconds: float
) -> list[tuple[int, float, float]]:
    """Calls one after the other's time, whatever becomes of them: status, when it began, how long it took."""

    async def one() -> tuple[int, float, float]:
        began = time.monotonic()
        answer = await made.chat(client)
        return answer.status_code, began, time.monotonic() - began

    tasks: list[asyncio.Task[tuple[int, float, float]]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(STEADY_S)
    return list(await asyncio.gather(*tasks))


async def states(made: GatewayOverSidecars) -> dict[str, float]:
    """The sidecars in each state, as the metrics have them."""
    named = ("live", "away", "ejected", "unknown")
    return {state: await made.metric("llm_proxy_sidecars", f'state="{state}"') for state in named}


async def until_all_live(made: GatewayOverSidecars) -> None:
    """Waits until both sidecars are live again; fails after 5 s."""
    async with asyncio.timeout(5):
        while await states(made) != {"live": 2, "away": 0, "ejected": 0, "unknown": 0}:  # noqa: ASYNC110 -- no event
            await asyncio.sleep(0.1)


async def test_a_sidecar_killed_is_noticed_by_nobody_but_the_calls_that_ran_in_it(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """Refused connections go to the other at once; a call that was cut is 502 and never sent again."""
    with run_gateway(tmp_path, two_sidecars) as made:
        async with httpx.AsyncClient(timeout=20) as client:
            slow = [
                asyncio.create_task(made.chat(client, made.body(do="slow-first", first_ms=4000)))
                for _ in range(4)
            ]
            loading = asyncio.create_task(steadily(made, client, 3))
            await asyncio.sleep(1)
            killed_at = time.monotonic()
            two_sidecars.kill(0)
            calls = await loading
            answers = [await task for task in slow]
            assert {one.status_code for one in answers} == {200, 502}
            cut = next(one for one in answers if one.status_code == 502)
            assert cut.json()["error"]["code"] == "upstream_unreachable"
            wrong = [call for call in calls if call[0] != 200]
            assert all(began < killed_at < began + took_s for _, began, took_s in wrong)  # they ran then
            assert max((await made.seen()).values()) == 1
            assert await made.metric("llm_proxy_upstream_failures_total", "broke") >= 1
            assert await states(made) == {"live": 1, "away": 1, "ejected": 0, "unknown": 0}

            two_sidecars.revive(0)
            await until_all_live(made)
            before = two_sidecars.answered(0)
            assert {status for status, _, _ in await steadily(made, client, 1)} == {200}
            assert two_sidecars.answered(0) > before


async def test_a_frozen_sidecar_holds_its_calls_for_seconds_and_gets_no_others(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """Two checks unanswered take it out; after ten seconds its calls end as 502; thawed, it is back."""
    with run_gateway(tmp_path, two_sidecars) as made:
        async with httpx.AsyncClient(timeout=40) as client:
            await steadily(made, client, 0.5)
            two_sidecars.freeze(0)
            frozen_at = time.monotonic()
            calls = await steadily(made, client, 9)
            held = [call for call in calls if call[0] != 200]
            assert {status for status, _, _ in held} <= {502}
            assert all(began - frozen_at < 8 for _, began, _ in held)
            assert max(seconds for _, _, seconds in held) < 20
            well = [seconds for status, _, seconds in calls if status == 200]
            assert len(well) > len(calls) * 0.7
            assert max(well) < 6  # not the ten seconds of those that are held

            two_sidecars.thaw(0)
            await until_all_live(made)
            assert {status for status, _, _ in await steadily(made, client, 1)} == {200}
            assert max((await made.seen()).values()) == 1


async def test_an_address_where_nobody_listens_costs_no_caller_anything(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """From the very first call on."""
    with run_gateway(tmp_path, two_sidecars, sidecars=1, dead_ports=2) as made:
        async with httpx.AsyncClient(timeout=20) as client:
            assert {status for status, _, _ in await steadily(made, client, 1)} == {200}
            ready = await client.get(f"{made.url}/health/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"


async def test_with_no_sidecar_left_the_answer_is_a_quick_502_and_not_ready(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """And all is well again as soon as one is back."""
    with run_gateway(tmp_path, two_sidecars, sidecars=1) as made:
        two_sidecars.kill(0)
        async with httpx.AsyncClient(timeout=20) as client:
            began = time.monotonic()
            refused = await made.chat(client)
            assert refused.status_code == 502
            assert time.monotonic() - began < 2
            assert int(refused.headers["retry-after"]) >= 1
            async with asyncio.timeout(5):
                while (await client.get(f"{made.url}/health/ready")).status_code != 503:  # noqa: ASYNC110 -- no event
                    await asyncio.sleep(0.05)
            two_sidecars.revive(0)
            assert (await made.chat(client)).status_code == 200
