"""Limits and budgets from outside: what is reserved, held, left, refused and settled.

On the shared stores, and at a gateway that counts in its own memory.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from running_stack import ADMIN_KEY, say, script
from stack_processes import serve_gateway

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
COST_USD = 0.000063
"""Of one call that the provider says took 17 and 23 tokens."""


@dataclass(frozen=True, slots=True)
class Front:
    """A gateway, and what is done there."""

    client: httpx.AsyncClient

    async def make(self, **spec: object) -> Json:
        """A new key."""
        body = {"name": uuid4().hex, "tenant": uuid4().hex, "models": ["*"], **spec}
        made = await self.client.post("/admin/keys", json=body, headers=ADMIN)
        assert made.status_code == 201, made.text
        reported: Json = made.json()
        return reported

    async def ask(self, key: str, model: str = "plain", **fields: Any) -> httpx.Response:
        """One chat, that no other is like, heard to its end."""
        body = {"model": model, "messages": say(f"hello {uuid4().hex}"), **fields}
        return await self.client.post(CHAT, json=body, headers=auth(key))

    async def change(self, made: Json, **fields: object) -> None:
        """Change a key."""
        changed = await self.client.patch(f"/admin/keys/{made['id']}", json=fields, headers=ADMIN)
        assert changed.status_code == 200, changed.text

    async def lay(self, made: Json, budgets: list[Json], **said: object) -> None:
        """Lay down a rule of the key's tenant, of its agents unless another scope is said."""
        rule = {"scope": "agent", "tenant": made["tenant"], "budgets": budgets, **said}
        laid = await self.client.put("/admin/limits", json=rule, headers=ADMIN)
        assert laid.status_code == 200, laid.text

    async def drop(self, made: Json, **said: str) -> None:
        """Take such a rule away."""
        named = {"scope": "agent", "tenant": made["tenant"], **said}
        dropped = await self.client.delete("/admin/limits", params=named, headers=ADMIN)
        assert dropped.status_code == 200, dropped.text

    async def budget(self, key: str) -> Json:
        """Where a key's budget stands."""
        return await self.standing(key, "budget")

    async def standing(self, key: str, kind: str) -> Json:
        """Where its one limit of a kind stands."""
        reported = await self.client.get("/v1/limits", headers=auth(key))
        (found,) = [one for one in reported.json()["limits"] if one["kind"] == kind]
        row: Json = found
        return row

    async def used(self, key: str) -> Json:
        """What a key has used by the ledger."""
        reported = await self.client.get("/v1/usage?group_by=key", headers=auth(key))
        assert reported.status_code == 200, reported.text
        rows: list[Json] = reported.json()["data"]
        return rows[0] if rows else {"requests": 0, "cost_usd": "0"}


def auth(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {key}"}


def a_day(limit_usd: str) -> list[Json]:
    """A daily budget."""
    return [{"limit_usd": limit_usd, "period": "day"}]


@pytest.fixture(scope="module")
def alone(stack_ports: dict[str, int], service_folder: Path, postgres_url: str) -> Iterator[int]:
    """A gateway that counts in its own memory; its port."""
    sidecar_url = f"http://127.0.0.1:{stack_ports['sidecar']}"
    settings = {"DATABASE_URL": postgres_url}
    with serve_gateway(service_folder / "alone", [sidecar_url], settings) as gateway:
        yield gateway.port


@pytest.fixture(params=["shared", "memory"])
async def front(
    request: pytest.FixtureRequest, stack_ports: dict[str, int], alone: int
) -> AsyncIterator[Front]:
    """Both."""
    port = alone if request.param == "memory" else stack_ports["gateway"]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield Front(client)


@pytest.mark.parametrize("limit", [{"tpm": 2000}, {"parallel": 1}, {"budgets": a_day("0.01")}])
async def test_a_sequential_caller_never_meets_its_own_previous_call(front: Front, limit: Json) -> None:
    """At no limit, after answers and streams, refusals of the provider, its failures and cut streams."""
    key = (await front.make(**limit))["key"]
    ways: list[tuple[Json, int]] = [
        ({}, 200),
        ({"stream": True}, 200),
        ({"model": "p/status-400"}, 400),
        ({"stream": True, "model": "p/status-500"}, 502),
        ({"stream": True, "model": "p/cut"}, 200),
        ({"max_tokens": 100_000}, 200),
    ]
    fared = [((await front.ask(key, **fields)).status_code, owed) for fields, owed in 3 * ways]
    assert [status for status, _ in fared] == [owed for _, owed in fared]


async def test_a_call_that_is_alone_goes_whatever_it_may_cost_and_held_money_may_be_waited_for(
    front: Front,
) -> None:
    """4,096 tokens would cost more than the budget; a second call waits for the first."""
    key = (await front.make(budgets=a_day("0.005")))["key"]
    first = asyncio.create_task(
        front.ask(key, "p/waits", messages=say(script(do="slow-first", first_ms=700)))
    )
    while (standing := await front.budget(key))["held_usd"] == "0.000000000":  # noqa: ASYNC110 -- nothing tells
        await asyncio.sleep(0.02)
    assert standing["used_usd"] == "0.000000000"
    second = await front.ask(key, "p/waits")
    assert second.status_code == 429
    error = second.json()["error"]
    assert (error["code"], second.headers["x-should-retry"]) == ("rate_limit_exceeded", "true")
    assert second.headers["retry-after"] == "2"
    assert second.headers["x-llm-proxy-refused-by"] == "budget"
    for words in ("needs about $0.0083", "answer up to 4,096 tokens", "$0.00 of $0.005 a day spent",
                  "$0.00 left", "held by 1 running call", "It resets at 20", " 00:00 UTC"):  # fmt: skip
        assert words in error["message"]
    assert (await first).status_code == 200
    assert (await front.ask(key)).status_code == 200
    assert float((await front.budget(key))["used_usd"]) == pytest.approx(2 * COST_USD)


async def test_callers_who_leave_cost_what_was_used_and_the_ledger_says_the_same(front: Front) -> None:
    """Three of them, while the model thinks; nothing stays reserved."""
    key = (await front.make(budgets=a_day("5")))["key"]

    async def leave() -> None:
        text = script(do="slow-first", first_ms=5_000)
        asking = asyncio.create_task(front.ask(key, "p/left", messages=say(f"{text} {'x' * 4_000}")))
        await asyncio.wait([asking], timeout=0.5)
        asking.cancel()

    await asyncio.gather(*(leave() for _ in range(3)))
    async with asyncio.timeout(10):
        while (await front.used(key))["requests"] < 3:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    standing, used = await front.budget(key), await front.used(key)
    assert standing["held_usd"] == "0.000000000"
    assert float(used["cost_usd"]) == pytest.approx(3 * 0.00102, rel=0.05)
    assert float(standing["used_usd"]) == pytest.approx(float(used["cost_usd"]), abs=1e-8)


async def test_a_budget_of_nothing_lets_nothing_pass_and_says_so(front: Front) -> None:
    """Beside a window that is full, too."""
    full = (await front.make(rpm=1))["key"]
    assert [(await front.ask(full)).status_code for _ in range(2)] == [200, 429]
    key = (await front.make(rpm=9, budgets=a_day("0")))["key"]
    for _ in range(2):
        refused = await front.ask(key)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert "$0.00 a day: nothing may be spent" in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-llm-proxy-budget-reset"].endswith("T00:00:00+00:00")


@pytest.mark.parametrize("usd", ["1e-10", "0.0000000001", "1e-400", 1e-10])
async def test_less_than_a_nano_dollar_is_no_budget_of_nothing(front: Front, usd: object) -> None:
    """It is refused by name."""
    body = {"name": uuid4().hex, "budgets": [{"limit_usd": usd, "period": "day"}]}
    refused = await front.client.post("/admin/keys", json=body, headers=ADMIN)
    assert refused.status_code == 400
    assert "0.000000001" in refused.json()["error"]["message"]


async def test_a_large_call_that_waits_is_not_overtaken_for_ever(front: Front) -> None:
    """Smaller ones come all the time; after its second try they wait for it."""
    key = (await front.make(budgets=a_day("0.004")))["key"]
    over = asyncio.Event()
    fared: list[int] = []

    async def small(number: int) -> None:
        await asyncio.sleep(number * 0.05)
        while not over.is_set():
            text = say(script(do="slow-first", first_ms=300, key=uuid4().hex))
            answer = await front.ask(key, "p/small", max_tokens=400, messages=text)
            fared.append(answer.status_code)
            await asyncio.sleep(0.02)

    others = [asyncio.create_task(small(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    large: list[int] = []
    text = say(f"large {uuid4().hex}")
    async with asyncio.timeout(10):
        while 200 not in large:
            large.append((await front.ask(key, "plain", max_tokens=2_000, messages=text)).status_code)
            await asyncio.sleep(0.2)
    over.set()
    await asyncio.gather(*others)
    assert 429 in large
    assert len(large) <= 6
    assert fared.count(200) > 2


OWED_USD = "0.00018"
"""Three calls cost more."""
OTHERS: dict[str, list[Json]] = {
    "none": [],
    "of a month": [{"limit_usd": "9", "period": "month"}],
    "in another zone": [{"limit_usd": "9", "period": "day", "zone": "Asia/Kolkata"}],
    "of calls": [{"limit_requests": 99, "period": "day"}],
}
"""What a budget is replaced by for a while."""
Lay = Callable[[Front, Json, list[Json] | None], Awaitable[None]]
"""Lays down the budget of `OWED_USD`, or, when it is given one, another in its place."""


async def _key_has(front: Front, made: Json, other: list[Json] | None) -> None:
    await front.change(made, budgets=a_day(OWED_USD) if other is None else other)


async def _rule_has(front: Front, made: Json, other: list[Json] | None) -> None:
    if other == []:
        await front.drop(made)
    else:
        await front.lay(made, a_day(OWED_USD) if other is None else other)


async def _rule_is(mode: str, front: Front, made: Json, other: list[Json] | None) -> None:
    await front.lay(made, a_day(OWED_USD), **({} if other is None else {"mode": mode}))


async def _lies_under(front: Front, made: Json, other: list[Json] | None) -> None:
    """A default that a rule of one agent replaces for a while."""
    if other is None:
        await front.lay(made, a_day(OWED_USD), subject="scout")
        await front.drop(made, subject="scout")
        await front.lay(made, a_day(OWED_USD))
    else:
        await front.lay(made, a_day("9"), subject="scout")


async def _key_is_moved(front: Front, made: Json, other: list[Json] | None) -> None:
    if other is None:
        await front.change(made, budgets=a_day(OWED_USD), tenant=made["tenant"])
    else:
        await front.change(made, tenant=uuid4().hex)


LIFTED: dict[str, tuple[Lay, list[Json]]] = {
    **{f"key: {name}": (_key_has, other) for name, other in OTHERS.items()},
    **{f"rule: {name}": (_rule_has, other) for name, other in OTHERS.items()},
    **{f"rule: {mode}": (partial(_rule_is, mode), []) for mode in ("off", "shadow")},
    "rule: under another": (_lies_under, []),
    "key: in another tenant": (_key_is_moved, []),
}


@pytest.mark.parametrize("way", LIFTED)
async def test_a_budget_that_is_laid_again_within_its_period_counts_what_was_spent_in_between(
    front: Front, way: str
) -> None:
    """However it was lifted."""
    laid, other = LIFTED[way]
    made = await front.make(agent="scout")
    key = made["key"]
    await laid(front, made, None)
    assert (await front.ask(key)).status_code == 200
    await laid(front, made, other)
    assert [(await front.ask(key)).status_code for _ in range(2)] == [200, 200]
    await laid(front, made, None)
    assert float((await front.budget(key))["used_usd"]) == pytest.approx(3 * COST_USD)
    refused = await front.ask(key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    async with asyncio.timeout(5):
        while (await front.used(key))["requests"] < 3:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)
    assert float((await front.used(key))["cost_usd"]) == pytest.approx(3 * COST_USD)


@pytest.mark.parametrize("way", ["key: none", "rule: none"])
async def test_a_call_that_runs_while_a_budget_is_laid_down_is_counted_when_it_ends(
    front: Front, way: str
) -> None:
    """Once, and by the next look already."""
    made = await front.make(agent="scout", parallel=5)
    key = made["key"]
    text = say(script(do="slow-first", first_ms=600, key=uuid4().hex))
    running = asyncio.create_task(front.ask(key, "p/runs", messages=text))
    async with asyncio.timeout(5):
        while (await front.standing(key, "parallel"))["used"] != 1:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    await LIFTED[way][0](front, made, None)
    assert (await front.budget(key))["used_usd"] == "0.000000000"
    assert (await running).status_code == 200
    assert float((await front.budget(key))["used_usd"]) == pytest.approx(COST_USD)
    assert (await front.ask(key)).status_code == 200
    assert float((await front.budget(key))["used_usd"]) == pytest.approx(2 * COST_USD)


async def test_a_changed_limit_goes_on_with_what_was_counted_and_what_is_held(front: Front) -> None:
    """A call that runs meanwhile holds its money on, and is counted once."""
    made = await front.make(budgets=a_day("5"))
    key = made["key"]
    text = say(script(do="slow-first", first_ms=600, key=uuid4().hex))
    running = asyncio.create_task(front.ask(key, "p/runs", messages=text))
    async with asyncio.timeout(5):
        while (await front.budget(key))["held_usd"] == "0.000000000":  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)
    await front.change(made, budgets=a_day("6"), tags=["spring"])
    standing = await front.budget(key)
    assert standing["held_usd"] != "0.000000000"
    assert (await running).status_code == 200
    assert float((await front.budget(key))["used_usd"]) == pytest.approx(COST_USD)
