"""Every scope of limits and budgets: each part of a policy rejects calls, or only counts them."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from commands import run
from prometheus_page import series
from running_stack import RunningStack, say, script

Json = dict[str, Any]
CHAT = "/v1/chat/completions"
SCOPES = ("key", "agent", "tenant", "user_model", "tenant_group", "global", "provider")
PLAIN = ("requests", "tokens", "parallel")
PARTS = (*PLAIN, "budget", "requests a month", "tokens a month")
SOMETHING_USD = Decimal("0.00005")
"""Less than one of these calls costs: the first is alone with it and goes, the next finds nothing left."""


@dataclass(frozen=True)
class Desk:
    """An operator's and a caller's view of the stack."""

    stack: RunningStack
    client: httpx.AsyncClient
    made: Json

    async def operate(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Sends a request with the admin key."""
        headers = {"Authorization": f"Bearer {self.stack.admin_key}"}
        return await self.client.request(method, f"{self.stack.url}{path}", headers=headers, **how)

    async def ask(self, model: str = "plain", *, slowly: bool = False) -> httpx.Response:
        """One call of the caller's; one made slowly is heard to its first bytes only."""
        text = script(do="slow", gap_ms=150, frames=6) if slowly else "hello"
        body = {"model": model, "messages": say(f"{text} {uuid4().hex}"), "max_tokens": 16, "stream": slowly}
        headers = {"Authorization": f"Bearer {self.made['key']}"}
        request = self.client.build_request("POST", self.stack.url + CHAT, json=body, headers=headers)
        return await self.client.send(request, stream=slowly)

    async def spent(self, scope: str, **budget: Any) -> Json:
        """Where a budget stands that all callers share: what the calls before have used of it."""
        async with self.ruled(scope, budgets=[budget]):
            status = await self.operate(
                "GET", "/v1/limits", params={"key": self.made["id"], "model": "plain"}
            )
        assert status.status_code == 200, status.text
        [found] = [one for one in status.json()["limits"] if (one["scope"], one["kind"]) == (scope, "budget")]
        row: Json = found
        return row

    def named(self, scope: str) -> Json:
        """A rule's subject in this scope, narrowed to this caller as far as the scope goes."""
        tenant, agent, user = (self.made[name] for name in ("tenant", "agent", "user"))
        named: dict[str, Json] = {
            "key": {"subject": self.made["name"]},
            "agent": {"tenant": tenant, "subject": agent},
            "tenant": {"tenant": tenant},
            "user_model": {"tenant": tenant, "subject": user, "model": "pl*"},
            "tenant_group": {"tenant": tenant, "model": "*lain"},
            "global": {},
            "provider": {"subject": "openai"},
        }
        return {"scope": scope, **named[scope]}

    async def limits(self, scope: str, part: str) -> Json:
        """A rule that lets one call pass and not the next."""
        is_shared = scope in {"global", "provider"}
        if part.endswith("month"):
            name, period = f"limit_{part.partition(' ')[0]}", {"period": "month", "zone": "Asia/Kolkata"}
            used = (await self.spent(scope, **period, **{name: 10**9}))["used"] if is_shared else 0
            return {"budgets": [{name: used + 1, **period}]}
        if part == "budget":
            shared = {"limit_usd": "1000000", "period": "total"}
            used_usd = (await self.spent(scope, **shared))["used_usd"] if is_shared else 0
            limit_usd = round(Decimal(used_usd), 9) + SOMETHING_USD
            return {"budgets": [{"limit_usd": str(limit_usd), "period": "total"}]}
        return {"requests": {"rpm": 1}, "tokens": {"tpm": 20}, "parallel": {"parallel": 1}}[part]

    @asynccontextmanager
    async def ruled(self, scope: str, **said: Any) -> AsyncGenerator[None]:
        """A rule, for as long as it takes."""
        named = self.named(scope)
        laid = await self.operate("PUT", "/admin/limits", json={**named, **said})
        assert laid.status_code == 200, laid.text
        try:
            yield
        finally:
            if scope == "key":
                named["subject"] = self.made["id"]
            assert (await self.operate("DELETE", "/admin/limits", params=named)).status_code == 200

    async def story(self, answer: httpx.Response) -> str | None:
        """What a limit in shadow mode would have done, as the call's record has it."""
        would_refuse: str | None = (await self.stack.story(answer.headers["x-request-id"]))["would_refuse"]
        return would_refuse


@pytest.fixture
async def desk(stack: RunningStack) -> AsyncIterator[Desk]:
    """A caller of its own, with the admin's view."""
    async with httpx.AsyncClient(timeout=30) as client:
        fresh = {"tenant": f"t-{uuid4().hex[:8]}", "agent": "scout", "user": f"u-{uuid4().hex[:8]}"}
        body = {"name": f"n-{uuid4().hex}", **fresh}
        headers = {"Authorization": f"Bearer {stack.admin_key}"}
        made = await client.post(f"{stack.url}/admin/keys", json=body, headers=headers)
        assert made.status_code == 201, made.text
        yield Desk(stack, client, made.json())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("scope", SCOPES)
async def test_every_part_of_a_policy_in_every_scope_rejects_the_next_call(
    desk: Desk, scope: str, part: str
) -> None:
    """The first is admitted; the next is 429, with the code of its part, and never 503."""
    limits = await desk.limits(scope, part)
    async with desk.ruled(scope, **limits):
        first = await desk.ask(slowly=part == "parallel")
        assert first.status_code == 200, await first.aread()
        second = await desk.ask()
        await first.aclose()
    code = "rate_limit_exceeded" if part in PLAIN else "insufficient_quota"
    assert (second.status_code, second.json()["error"]["code"]) == (429, code)
    assert (await desk.ask()).status_code == 200


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("scope", SCOPES)
async def test_every_part_of_a_shadow_policy_admits_and_records(desk: Desk, scope: str, part: str) -> None:
    """The record names it."""
    limits = await desk.limits(scope, part)
    async with desk.ruled(scope, mode="shadow", **limits):
        first, reported = await desk.ask(slowly=part == "parallel"), None
        for _ in range(8):  # a budget that only watches is read beside the first calls
            second = await desk.ask()
            assert second.status_code == 200, second.text
            if reported := await desk.story(second):
                break
        await first.aclose()
    assert reported == f"{scope}:{part if part in PLAIN else 'budget'}"
    assert first.status_code == 200


async def test_a_shadow_policy_leaves_enforced_limits_and_is_counted(desk: Desk) -> None:
    """A key's own limit and budget are enforced; the shadow default is in record, sum and metric."""
    own = {"rpm": 3, "tpm": 9_000, "budgets": [{"limit_usd": 5, "period": "day"}]}
    path = f"/admin/keys/{desk.made['id']}"
    assert (await desk.operate("PATCH", path, json=own)).status_code == 200
    shadow = {"scope": "key", "tenant": desk.made["tenant"], "rpm": 2, "mode": "shadow"}
    assert (await desk.operate("PUT", "/admin/limits", json=shadow)).status_code == 200
    before = await counted(desk)
    answers = [await desk.ask() for _ in range(5)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    assert [await desk.story(one) for one in answers[:3]] == [None, None, "key:requests"]
    headers = {"Authorization": f"Bearer {desk.made['key']}"}
    standing = (await desk.client.get(f"{desk.stack.url}/v1/limits", headers=headers)).json()["limits"]
    assert {(one["kind"], one["enforced"]) for one in standing if one["scope"] == "key"} == {
        ("requests", True),
        ("requests", False),
        ("tokens", True),
        ("budget", True),
    }
    [full] = [
        one for one in standing if one["enforced"] and one["kind"] == "requests" and one["scope"] == "key"
    ]
    assert (full["used"], full["would_refuse"], full["wait_ms"] > 0) == (3, True, True)
    by_the_store, from_memory = (
        {name: value for name, value in one.headers.items() if name.startswith("x-ratelimit-")}
        for one in answers[3:]
    )
    del by_the_store["x-ratelimit-reset-requests"], from_memory["x-ratelimit-reset-requests"]
    assert by_the_store == from_memory
    asked = {"group_by": "would_refuse", "tenant": desk.made["tenant"], "since": "1h"}
    lines = (await desk.operate("GET", "/v1/usage", params=asked)).json()["data"]
    assert {one["would_refuse"]: one["requests"] for one in lines} == {None: 2, "key:requests": 1}
    assert await counted(desk) == before + 1


async def counted(desk: Desk) -> float:
    """Returns the calls that a key's shadow limit on requests would have rejected."""
    counted = series((await desk.operate("GET", "/metrics")).text, "llm_proxy_would_refuse_total")
    return counted.get(frozenset({("scope", "key"), ("kind", "requests")}), 0)


async def test_a_wildcard_covers_each_of_its_models_and_no_other(desk: Desk) -> None:
    """Each is counted separately."""
    tenant = desk.made["tenant"]
    rule = {"scope": "tenant_group", "tenant": tenant, "model": "p/*", "rpm": 1}
    path = f"/admin/keys/{desk.made['id']}"
    assert (await desk.operate("PATCH", path, json={"models": ["*"]})).status_code == 200
    assert (await desk.operate("PUT", "/admin/limits", json=rule)).status_code == 200
    models = ["p/ok", "p/ok", "p/fine", "plain", "plain"]
    assert [(await desk.ask(model)).status_code for model in models] == [200, 429, 200, 200, 200]


@pytest.mark.parametrize(
    ("rule", "param"),
    [
        ({"scope": "tenant", "tenant": "t", "model": "dear", "rpm": 1}, "model"),
        ({"scope": "tenant", "subject": "t", "rpm": 1}, "subject"),
        ({"scope": "global", "tenant": "t", "rpm": 1}, "tenant"),
        ({"scope": "provider", "subject": "openai", "model": "plain", "rpm": 1}, "model"),
        ({"scope": "agent", "mode": "shadow"}, "mode"),
    ],
)
async def test_a_field_that_its_scope_does_not_have_is_rejected_by_name(
    desk: Desk, rule: Json, param: str
) -> None:
    """And nothing is stored."""
    answer = await desk.operate("PUT", "/admin/limits", json=rule)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_parallel_calls_do_not_exceed_a_shared_limit(desk: Desk) -> None:
    """Of several tenants, named by an internal key."""
    async with desk.ruled("global", rpm=0, parallel=2):
        headers = [{**desk.stack.auth, "X-Tenant-Id": uuid4().hex} for _ in range(6)]
        body = {"model": "plain", "messages": say(script(do="slow-first", first_ms=300)), "max_tokens": 5}
        asking = [desk.client.post(desk.stack.url + CHAT, json=body, headers=one) for one in headers]
        fared = sorted(one.status_code for one in await asyncio.gather(*asking))
    assert fared == [200, 200, 429, 429, 429, 429]


async def test_an_admin_sees_a_key_s_limits_and_their_use(desk: Desk) -> None:
    """By its name: spent, held and left, reset and forecast, its policies, a call's verdict."""
    name, tenant = desk.made["name"], desk.made["tenant"]
    own = {"rpm": 5, "budgets": [{"limit_usd": "0.01", "period": "month", "zone": "Europe/Berlin"}]}
    assert (await desk.operate("PATCH", f"/admin/keys/{name}", json=own)).status_code == 200
    assert (await desk.operate("PUT", "/admin/limits", json=desk.named("tenant") | {"tpm": 9_000})).is_success
    async with desk.ruled("global", parallel=40):
        assert (await desk.ask()).status_code == 200
        shown = (await desk.operate("GET", f"/admin/keys/{name}")).json()
        looked = await desk.operate("GET", "/v1/limits", params={"key": name})
        headers = {"Authorization": f"Bearer {desk.made['key']}"}
        own_look = (await desk.client.get(f"{desk.stack.url}/v1/limits", headers=headers)).json()
    laid = {one["scope"]: one for one in shown["rules"]}
    assert (laid["tenant"]["tpm"], laid["global"]["parallel"]) == (9_000, 40)
    assert {one["scope"] for one in shown["limits"]} == {"key", "agent", "tenant", "global"}
    [budget] = [one for one in shown["limits"] if one["kind"] == "budget"]
    assert (budget["used_usd"], budget["held_usd"]) == ("0.000063000", "0.000000000")
    assert budget["remaining_usd"] == "0.009937000"
    assert budget["zone"] == "Europe/Berlin"
    assert "-01T00:00:00+0" in budget["resets_at"]
    assert budget["exhausted_at"] is None or budget["exhausted_at"] < budget["resets_at"]
    assert [still(one) for one in looked.json()["limits"]] == [still(one) for one in shown["limits"]]
    of_all = [
        next(one for one in rows if one["scope"] == "global")
        for rows in (shown["limits"], own_look["limits"])
    ]
    assert ["used" in one for one in of_all] == [True, False]
    explained = await desk.operate(
        "POST", "/v1/explain", params={"key": name}, json={"model": "plain", "messages": say("x")}
    )
    assert (explained.json()["verdict"], explained.json()["caller"]["tenant"]) == ("admitted", tenant)
    for stranger in (headers, desk.stack.auth):
        looking = desk.client.get(f"{desk.stack.url}/v1/limits", params={"key": name}, headers=stranger)
        assert (await looking).status_code == 401
    assert (await desk.operate("GET", "/v1/limits", params={"key": "nobody"})).status_code == 404


@pytest.mark.parametrize(
    ("end", "why"),
    [({"expires_at": "2020-01-01"}, "has expired"), (None, "was revoked")],
    ids=["expired", "revoked"],
)
async def test_a_call_of_an_inactive_key_is_explained_as_it_is_answered(
    desk: Desk, end: Json | None, why: str
) -> None:
    """Its limits are still shown."""
    name = desk.made["name"]
    path = f"/admin/keys/{name}"
    done = await desk.operate("PATCH", path, json=end) if end else await desk.operate("DELETE", path)
    assert done.is_success
    body = {"model": "plain", "messages": say("x")}
    explained = (await desk.operate("POST", "/v1/explain", params={"key": name}, json=body)).json()
    assert (explained["verdict"], explained["refusal"]["status"]) == ("refused", 401)
    assert why in explained["refusal"]["message"]
    answered = await desk.ask()
    assert (answered.status_code, answered.json()["error"]["message"]) == (
        401,
        explained["refusal"]["message"],
    )
    assert (await desk.operate("GET", "/v1/limits", params={"key": name})).json()["limits"]


async def test_a_rejection_names_the_key_by_its_prefix(desk: Desk) -> None:
    """Not by its id, which the owner does not know."""
    own = {"rpm": 1}
    assert (await desk.operate("PATCH", f"/admin/keys/{desk.made['name']}", json=own)).is_success
    answered = [await desk.ask() for _ in range(2)]
    assert [one.status_code for one in answered] == [200, 429]
    assert f"for key {desk.made['prefixes'][0]} on requests" in answered[1].json()["error"]["message"]


async def test_the_command_shows_a_key_with_its_spend_and_policies(desk: Desk, postgres_url: str) -> None:
    """As the gateway returns it; without a gateway the key only, with a note."""
    name = desk.made["name"]
    own = {"budgets": [{"limit_usd": "0.01", "period": "month", "zone": "Europe/Berlin"}]}
    assert (await desk.operate("PATCH", f"/admin/keys/{name}", json=own)).status_code == 200
    assert (await desk.operate("PUT", "/admin/limits", json=desk.named("tenant") | {"tpm": 9_000})).is_success
    assert (await desk.ask()).status_code == 200
    near = partial(
        run,
        postgres_url,
        LLM_PROXY__ADMIN_READ_KEY=desk.stack.admin_key,
        LLM_PROXY__PORT=desk.stack.url.rpartition(":")[2],
    )
    reported: Json = json.loads(await near("keys", "show", name, "--json"))
    [budget] = [one for one in reported["limits"] if one["kind"] == "budget"]
    assert (reported["name"], budget["used_usd"]) == (name, "0.000063000")
    assert [one["tpm"] for one in reported["rules"] if one["scope"] == "tenant"] == [9_000]
    shown = await near("keys", "show", name, columns=120)
    for part in ("0.009937000", "9000 tpm", budget["resets_at"][:10]):
        assert part in shown
    rules: list[Json] = json.loads(await near("limits", "--json"))
    assert [one["idle"] for one in rules if one["tenant"] == desk.made["tenant"]] == [None]
    words = ("limits", "set", "--scope", "provider", "--subject", "acmecluod", "--rpm", "1")
    laid = await near(*words)
    assert "no model is served by this provider" in laid
    await run(postgres_url, "limits", "drop", "--scope", "provider", "--subject", "acmecluod", "--yes")
    alone: Json = json.loads(await run(postgres_url, "keys", "show", name, "--json"))
    assert (alone["name"], alone["limits"], alone["rules"]) == (name, None, None)


def still(row: Json) -> Json:
    """A row of limits without what moves with time."""
    return {name: value for name, value in row.items() if name not in {"reset_ms", "exhausted_at"}}


async def test_a_policy_that_covers_no_call_says_why(desk: Desk) -> None:
    """When it is set, and in the list."""
    rules: list[tuple[Json, str | None]] = [
        ({"scope": "key", "subject": desk.made["name"], "tenant": "another"}, "another tenant"),
        ({"scope": "tenant_group", "tenant": desk.made["tenant"], "model": "no-such"}, "no model"),
        ({"scope": "provider", "subject": "nobody"}, "no model is served"),
        ({"scope": "tenant_group", "tenant": desk.made["tenant"], "model": "nickname"}, None),
        ({"scope": "tenant_group", "tenant": desk.made["tenant"], "model": "p/anything"}, None),
    ]
    for named, why in rules:
        laid = (await desk.operate("PUT", "/admin/limits", json=named | {"rpm": 1})).json()
        assert (why or "None") in str(laid["idle"])
        listed = (await desk.operate("GET", "/admin/limits")).json()["data"]
        assert laid in listed
        names = ("scope", "tenant", "subject", "model")
        params = {name: laid[name] for name in names if laid[name] is not None}
        dropped = await desk.operate("DELETE", "/admin/limits", params=params)
        assert dropped.status_code == 200, dropped.text
